//! Label selectors: parsing, printing in the canonical form, and evaluation.
//!
//! The crate is pure and foreign text cannot harm it: length and nesting are bounded, and nothing panics.
//!
//! ```
//! use std::collections::BTreeMap;
//! use calico_selector::Selector;
//!
//! let selector = Selector::parse("app in {'web', 'api'} && !has(legacy)")?;
//! let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
//! assert!(selector.matches(&labels));
//! assert_eq!(selector.to_string(), r#"(app in {"api", "web"} && !has(legacy))"#);
//! # Ok::<(), calico_selector::SelectorError>(())
//! ```

mod expression;
mod labels;
mod parse;

use std::fmt;
use std::str::FromStr;

pub use expression::Expression;
pub use labels::Labels;
pub use parse::{MAX_DEPTH, MAX_LABEL, MAX_LENGTH, SelectorError};

/// A condition on labels. Two selectors are equal if their canonical forms are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(Expression);

impl Selector {
    /// Reads a selector; blank text is [`all`](Self::all).
    ///
    /// # Errors
    /// If the text is not a selector: the error says where, and what could have stood there.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self)
    }

    /// The selector `all()`, which everything matches.
    pub fn all() -> Self {
        Self(Expression::All)
    }

    /// What both match. `all()` adds nothing, so the other is returned as it is.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Expression::All, one) | (one, Expression::All) => Self(one),
            (one, other) => Self(Expression::And(vec![one, other])),
        }
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        self.0.matches(labels)
    }

    /// The condition itself.
    pub fn expression(&self) -> &Expression {
        &self.0
    }

    /// Whether it is `all()`.
    pub fn is_all(&self) -> bool {
        self.0 == Expression::All
    }

    /// Whether it is `global()`.
    pub fn is_global(&self) -> bool {
        self.0 == Expression::Global
    }

    /// Whether `global()` occurs anywhere in it.
    pub fn mentions_global(&self) -> bool {
        self.0.mentions_global()
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self::all()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    /// The canonical form: what hashes and identifiers are made of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
