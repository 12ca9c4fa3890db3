//! Standard output and error, and the two kinds of table.

mod boxes;
mod columns;

use std::io::{self, Write};

pub(crate) use boxes::{Align, boxed};
pub(crate) use columns::columns;

/// Prints; a closed pipe means that whoever reads has seen enough.
pub(crate) fn print(text: &str) -> io::Result<()> {
    forgiving(io::stdout().lock().write_all(text.as_bytes()))
}

/// The same on standard error.
pub(crate) fn errors(text: &str) -> io::Result<()> {
    forgiving(io::stderr().lock().write_all(text.as_bytes()))
}

fn forgiving(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
