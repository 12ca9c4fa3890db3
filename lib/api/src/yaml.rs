//! YAML and JSON text: reading into values with bounds on what it may cost, and printing.
//!
//! The only module that knows `serde_yaml`, and it only reads with it: what it prints is YAML 1.2, where `on` needs no
//! quotes, and those who read our output read YAML 1.1, where `on` is true.

use std::cell::Cell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

mod print;

pub use print::{to_json, to_yaml};

/// What the values of one document may take: octets of text, and [`NODE_COST`] for each value.
///
/// The library bounds depth and the number of values that aliases make, but not the text that they repeat.
const BUDGET: usize = 64 << 20;

/// What one value costs beside its text.
const NODE_COST: usize = 16;

/// How deep brackets may nest. Beyond, the library would refuse too, but only after a time that grows with the square.
const MAX_DEPTH: usize = 1000;

/// Why a text is not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// The line of the text, from 1, where it is known.
    pub line: Option<usize>,
}

/// Reads one document, YAML or JSON. Empty text is null. Keys that occur twice are refused, and so are texts that
/// grow by aliases beyond any sensible size.
///
/// # Errors
/// [`SyntaxError`] with the line at which reading stopped.
pub fn parse(text: &str) -> Result<Value, SyntaxError> {
    let budget = Cell::new(BUDGET);
    // JSON is YAML all but for its tabs and escapes, so what looks like it is read as JSON first.
    if text.trim_start().starts_with(['{', '[']) {
        let mut json = serde_json::Deserializer::from_str(text);
        if let Ok(value) = (Node { budget: &budget }).deserialize(&mut json)
            && json.end().is_ok()
        {
            return Ok(value);
        }
        budget.set(BUDGET);
    }
    if bracket_depth(text) > MAX_DEPTH {
        return Err(SyntaxError { message: format!("brackets nest deeper than {MAX_DEPTH} levels"), line: None });
    }
    if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    (Node { budget: &budget }).deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let mut message = error.to_string();
        // The line is told apart, since the caller may know that the text starts further down.
        if let Some(end) = message.find(" at line ") {
            message.truncate(end);
        }
        SyntaxError { message, line: error.location().map(|location| location.line()) }
    })
}

/// How deep brackets nest, those in quotes counted like the others.
fn bracket_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for octet in text.bytes() {
        match octet {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Reads a value and pays for it.
#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Cell<usize>,
}

impl Node<'_> {
    fn pay<E: serde::de::Error>(self, octets: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(octets.saturating_add(NODE_COST));
        self.budget.set(left.ok_or_else(|| E::custom("the document grows too large: use fewer aliases"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a list, a text, a number, true, false or null")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.pay(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.pay(0).map(|()| value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.pay(0).map(|()| value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.pay(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.pay(value.len()).map(|()| value.into())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.pay(0).map(|()| Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut list = Vec::new();
        while let Some(element) = access.next_element_seed(self)? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(TextKey(self))? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("key \"{key}\" is there twice")));
            }
            let value = access.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Reads a key; a number or a boolean counts as the text it is written as.
struct TextKey<'a>(Node<'a>);

impl<'de> DeserializeSeed<'de> for TextKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TextKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        self.0.pay(key.len()).map(|()| key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let error = parse(text).expect_err("the text must be refused");
        assert!(error.message.contains(expected), "{error:?}");
    }

    #[test]
    fn yaml_and_json_are_read_alike() {
        let expected = json!({"a": [1, -2, 1.5, true, null, "yes"], "5": {"b": "x"}});
        assert_eq!(parse("a:\n- 1\n- -2\n- 1.5\n- true\n- ~\n- yes\n5: {b: x}\n").unwrap(), expected);
        assert_eq!(parse("{\"a\":[1,-2,1.5,true,null,\"yes\"],\n\t\"5\":{\"b\":\"x\"}}").unwrap(), expected);
        assert_eq!(parse("{a: [1, -2, 1.5, true, ~, yes], 5: {b: x}}").unwrap(), expected);
        assert_eq!(parse("# nothing\n\n").unwrap(), Value::Null);
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        check_refused("a: 1\nb: 2\na: 3\n", "key \"a\" is there twice");
        check_refused("{\"a\": 1, \"a\": 2}", "key \"a\" is there twice");
        check_refused("1: x\n\"1\": y\n", "key \"1\" is there twice");
    }

    #[test]
    fn texts_that_grow_or_nest_without_end_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..30 {
            let previous = vec![format!("*a{}", level - 1); 10].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        check_refused(&laughs, "");
        // Few values, but each repeats a megabyte.
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100_000].join(", "));
        check_refused(&long, "use fewer aliases");
        check_refused(&"[".repeat(100_000), "");
        check_refused(&"- ".repeat(100_000), "");
        check_refused(&"{a: ".repeat(100_000), "");
    }
}
