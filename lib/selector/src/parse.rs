//! Parsing, by recursive descent:
//!
//! ```text
//! selector := blank | or
//! or       := and { "||" and }
//! and      := unary { "&&" unary }
//! unary    := { "!" } ( "(" or ")" | "all()" | "global()" | "has(" label ")" | label operation )
//! ```
//!
//! Words are operators only right behind a label and functions only right before a parenthesis, so `in in {'x'}` is a
//! selector. Blanks are space and tab.

use std::collections::BTreeSet;

use crate::Expression;

/// The longest label, in characters.
pub const MAX_LABEL: usize = 512;

/// The longest selector, in octets.
pub const MAX_LENGTH: usize = 1 << 20;

/// How deep parentheses may nest.
pub const MAX_DEPTH: usize = 200;

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Something else should stand there.
    #[error("expected {expected} at character {position}, found {found}")]
    Unexpected {
        /// The character, from 1.
        position: usize,
        /// What could have stood there.
        expected: &'static str,
        /// What stands there, or `the end`.
        found: String,
    },
    /// A text opens with a quote that does not come again.
    #[error("the text that opens with {quote} at character {position} is not closed")]
    Unclosed {
        /// The character, from 1.
        position: usize,
        /// The quote.
        quote: char,
    },
    /// A label of more than [`MAX_LABEL`] characters.
    #[error("the label at character {position} is longer than {MAX_LABEL} characters")]
    LongLabel {
        /// The character, from 1.
        position: usize,
    },
    /// More than [`MAX_DEPTH`] parentheses within each other.
    #[error("parentheses nest deeper than {MAX_DEPTH} levels at character {position}")]
    Deep {
        /// The character, from 1.
        position: usize,
    },
    /// More than [`MAX_LENGTH`] octets.
    #[error("the selector is longer than {MAX_LENGTH} octets")]
    Long,
}

pub(crate) fn parse(text: &str) -> Result<Expression, SelectorError> {
    if text.len() > MAX_LENGTH {
        return Err(SelectorError::Long);
    }
    let mut parser = Parser { text, rest: text, depth: 0 };
    parser.blanks();
    if parser.rest.is_empty() {
        return Ok(Expression::All);
    }
    let expression = parser.or()?;
    if parser.rest.is_empty() { Ok(expression) } else { Err(parser.unexpected("\"&&\", \"||\" or the end")) }
}

/// Where reading stands. Every method leaves it behind the blanks that follow what it read.
struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Expression, SelectorError> {
        let mut parts = vec![self.and()?];
        while self.take("||") {
            parts.push(self.and()?);
        }
        Ok(joined(parts, Expression::Or))
    }

    fn and(&mut self) -> Result<Expression, SelectorError> {
        let mut parts = vec![self.unary()?];
        while self.take("&&") {
            parts.push(self.unary()?);
        }
        Ok(joined(parts, Expression::And))
    }

    fn unary(&mut self) -> Result<Expression, SelectorError> {
        let mut negated = false;
        while self.take("!") {
            negated = !negated;
        }
        let operand = self.operand()?;
        Ok(match (negated, operand) {
            (false, operand) => operand,
            // Departs from Calico, which keeps `!(!x)` apart from `x`, although its own canonical form of the former
            // reads back as the latter.
            (true, Expression::Not(inner)) => *inner,
            (true, operand) => Expression::Not(Box::new(operand)),
        })
    }

    fn operand(&mut self) -> Result<Expression, SelectorError> {
        if self.rest.starts_with('(') {
            if self.depth >= MAX_DEPTH {
                return Err(SelectorError::Deep { position: self.position(self.rest) });
            }
            self.depth += 1;
            self.take("(");
            let inner = self.or()?;
            self.expect(")", "\"&&\", \"||\" or \")\"")?;
            self.depth -= 1;
            return Ok(inner);
        }
        let start = self.rest;
        let word = self.word();
        if word.is_empty() {
            return Err(self.unexpected("a label, \"all()\", \"global()\", \"has(\", \"!\" or \"(\""));
        }
        if self.rest.starts_with('(')
            && let Some(function) = self.function(word)?
        {
            return Ok(function);
        }
        let label = self.label(start, word)?;
        self.operation(label)
    }

    /// `all()`, `global()` or `has(label)`, of which the word has been read.
    fn function(&mut self, word: &str) -> Result<Option<Expression>, SelectorError> {
        let expression = match word {
            "all" => Expression::All,
            "global" => Expression::Global,
            "has" => {
                self.take("(");
                let start = self.rest;
                let word = self.word();
                if word.is_empty() {
                    return Err(self.unexpected("a label"));
                }
                let label = self.label(start, word)?;
                self.expect(")", "\")\"")?;
                return Ok(Some(Expression::Has(label)));
            }
            _ => return Ok(None),
        };
        self.take("(");
        self.expect(")", "\")\"")?;
        Ok(Some(expression))
    }

    /// The comparison behind a label.
    fn operation(&mut self, label: String) -> Result<Expression, SelectorError> {
        const EXPECTED: &str =
            "\"==\", \"!=\", \"in\", \"not in\", \"contains\", \"starts with\" or \"ends with\" behind the label";
        if self.take("==") {
            return Ok(Expression::Equal(label, self.value()?));
        }
        if self.take("!=") {
            return Ok(Expression::NotEqual(label, self.value()?));
        }
        let start = self.rest;
        if self.take_word("contains") {
            return Ok(Expression::Contains(label, self.value()?));
        }
        if self.take_words("starts", "with") {
            return Ok(Expression::StartsWith(label, self.value()?));
        }
        if self.take_words("ends", "with") {
            return Ok(Expression::EndsWith(label, self.value()?));
        }
        if self.take_word("in") {
            return Ok(Expression::In(label, self.set()?));
        }
        if self.take_words("not", "in") {
            return Ok(Expression::NotIn(label, self.set()?));
        }
        self.rest = start;
        Err(self.unexpected(EXPECTED))
    }

    fn set(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        self.expect("{", "\"{\"")?;
        let mut values = BTreeSet::new();
        while !self.take("}") {
            values.insert(self.value()?);
            if !self.take(",") {
                self.expect("}", "\",\" or \"}\"")?;
                break;
            }
        }
        Ok(values)
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        let start = self.rest;
        let Some(quote) = self.rest.chars().next().filter(|quote| matches!(quote, '\'' | '"')) else {
            return Err(self.unexpected("a text in quotes"));
        };
        self.rest = self.rest.strip_prefix(quote).unwrap_or(self.rest);
        let Some((value, rest)) = self.rest.split_once(quote) else {
            return Err(SelectorError::Unclosed { position: self.position(start), quote });
        };
        self.rest = rest;
        self.blanks();
        Ok(value.to_owned())
    }

    /// Takes the characters of a label, and no blanks behind them.
    fn word(&mut self) -> &'a str {
        let of_a_label = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '/' | '-');
        let end = self.rest.find(|char| !of_a_label(char)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn label(&mut self, start: &str, word: &str) -> Result<String, SelectorError> {
        if word.len() > MAX_LABEL {
            return Err(SelectorError::LongLabel { position: self.position(start) });
        }
        self.blanks();
        Ok(word.to_owned())
    }

    /// Takes a word that ends where it ends.
    fn take_word(&mut self, word: &str) -> bool {
        let of_a_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
        match self.rest.strip_prefix(word) {
            Some(rest) if !rest.starts_with(of_a_word) => {
                self.rest = rest;
                self.blanks();
                true
            }
            _ => false,
        }
    }

    /// Takes two words, with or without blanks between them.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let start = self.rest;
        if self.take(first) && self.take_word(second) {
            return true;
        }
        self.rest = start;
        false
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                self.blanks();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), SelectorError> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// The number of the character at which `rest`, an end of the text, starts.
    fn position(&self, rest: &str) -> usize {
        let before = self.text.strip_suffix(rest).unwrap_or(self.text);
        before.chars().count() + 1
    }

    fn unexpected(&self, expected: &'static str) -> SelectorError {
        let found = if self.rest.is_empty() {
            "the end".to_owned()
        } else {
            format!("{:?}", self.rest.chars().take(16).collect::<String>())
        };
        SelectorError::Unexpected { position: self.position(self.rest), expected, found }
    }
}

/// The one part, or all of them under their operator.
fn joined(mut parts: Vec<Expression>, operator: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            operator(parts)
        }
    }
}
