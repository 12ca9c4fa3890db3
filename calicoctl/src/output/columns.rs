//! Tables without lines, as Go's tabwriter makes them: every cell, the last too, is padded by three blanks.

/// The least width of a column, padding included.
const LEAST: usize = 5;

/// What stands between a cell and the next.
const PADDING: usize = 3;

/// The header, the rows, and an empty line.
pub(crate) fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let header = header.get(column).map(|cell| cell.chars().count());
        (cells.chain(header).max().unwrap_or(0) + PADDING).max(LEAST)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<String>() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_padded_by_three() {
        let rows = [vec!["worker-1".to_owned(), "(64512)".to_owned(), "10.0.0.11/24".to_owned(), String::new()]];
        let text = columns(&["NAME", "ASN", "IPV4", "IPV6"], &rows);
        let expected = "NAME       ASN       IPV4           IPV6   \nworker-1   (64512)   10.0.0.11/24          \n\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_column_has_at_least_five() {
        assert_eq!(columns(&["A"], &[]), "A    \n\n");
    }
}
