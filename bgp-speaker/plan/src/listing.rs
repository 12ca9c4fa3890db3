//! How is a list of names put into a sentence? The first few, and how many more there are.

use std::fmt;

/// How many names are printed.
const SHOWN: usize = 5;

/// `a, b, c, d, e and 7 others`.
pub(crate) struct Listing<'a>(pub(crate) &'a [String]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            1 => f.write_str(" and 1 other"),
            more => write!(f, " and {more} others"),
        }
    }
}
