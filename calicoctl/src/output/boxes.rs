//! Tables in boxes of `+`, `-` and `|`, never wrapped.

/// To which side cells of a column go. Headers go to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// The table, header in capitals.
pub(crate) fn boxed(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize, name: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([name.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = header.iter().enumerate().map(|(column, (name, _))| width(column, name)).collect();
    let rule = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let mut text = rule.clone();
    for ((name, _), width) in header.iter().zip(&widths) {
        text += &format!("| {name:width$} ");
    }
    text += "|\n";
    text += &rule;
    for row in rows {
        for ((cell, (_, align)), width) in row.iter().zip(header).zip(&widths) {
            text += &match align {
                Align::Left => format!("| {cell:width$} "),
                Align::Right => format!("| {cell:>width$} "),
            };
        }
        text += "|\n";
    }
    text + &rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_right_and_words_left() {
        let rows = [vec!["IP Pool".to_owned(), "65536".to_owned()], vec!["Block".to_owned(), "64".to_owned()]];
        let text = boxed(&[("GROUPING", Align::Left), ("IPS TOTAL", Align::Right)], &rows);
        let expected = "\
+----------+-----------+
| GROUPING | IPS TOTAL |
+----------+-----------+
| IP Pool  |     65536 |
| Block    |        64 |
+----------+-----------+
";
        assert_eq!(text, expected);
    }
}
