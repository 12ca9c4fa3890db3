//! Printing: how a value is written so that every reader of YAML 1.1, YAML 1.2 or JSON reads the same value.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Prints JSON with keys in alphabetical order, indented by two blanks, and no newline at the end.
pub fn to_json(value: &Value) -> String {
    serde_json::to_string_pretty(&Sorted(value)).expect("a JSON value can be written as JSON")
}

/// Prints YAML with keys in alphabetical order and no newline at the end. Lists stand under their key unindented.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

/// A value whose maps are printed in alphabetical order, however the map type of this build orders them.
struct Sorted<'a>(&'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                serializer.collect_map(sorted(map).into_iter().map(|(key, value)| (key, Sorted(value))))
            }
            Value::Array(list) => serializer.collect_seq(list.iter().map(Sorted)),
            scalar => scalar.serialize(serializer),
        }
    }
}

fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

/// Writes a value whose first line already has its indentation; its further lines are indented by `indent`.
fn write(value: &Value, indent: usize, out: &mut String) {
    let next_line = |out: &mut String| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent));
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_text(text, indent, out),
        Value::Array(list) if list.is_empty() => out.push_str("[]"),
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                if index > 0 {
                    next_line(out);
                }
                out.push_str("- ");
                write(element, indent + 2, out);
            }
        }
        Value::Object(map) => {
            for (index, (key, value)) in sorted(map).into_iter().enumerate() {
                if index > 0 {
                    next_line(out);
                }
                write_line(key, out);
                out.push(':');
                match value {
                    Value::Array(list) if !list.is_empty() => {
                        next_line(out);
                        write(value, indent, out);
                    }
                    Value::Object(map) if !map.is_empty() => {
                        next_line(out);
                        out.push_str("  ");
                        write(value, indent + 2, out);
                    }
                    scalar => {
                        out.push(' ');
                        write(scalar, indent, out);
                    }
                }
            }
        }
    }
}

/// A text, as a block of lines if it has several and does not end in a newline: at the very end there is none to keep.
fn write_text(text: &str, indent: usize, out: &mut String) {
    let fits_a_block = text.contains('\n')
        && !text.starts_with([' ', '\n'])
        && !text.ends_with('\n')
        && text.split('\n').all(|line| !line.ends_with(' ') && !line.contains(is_special));
    if !fits_a_block {
        return write_line(text, out);
    }
    out.push_str("|-");
    for line in text.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent + 2));
            out.push_str(line);
        }
    }
}

/// A text on one line: plain where every reader takes it for this very text, else in quotes.
fn write_line(text: &str, out: &mut String) {
    if text.contains(is_special) {
        out.push('"');
        for char in text.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                char if is_special(char) => out.push_str(&format!("\\u{:04x}", u32::from(char))),
                char => out.push(char),
            }
        }
        out.push('"');
    } else if is_ambiguous(text) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else if is_plain(text) {
        out.push_str(text);
    } else {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}

/// What can only stand in a text by an escape.
fn is_special(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether a text of no special characters can stand without quotes.
fn is_plain(text: &str) -> bool {
    let mut chars = text.chars();
    let (Some(first), second) = (chars.next(), chars.next()) else { return false };
    let starts_well = match first {
        '-' | '?' | ':' => second.is_some_and(|second| second != ' '),
        _ => !",[]{}#&*!|>'\"%@`".contains(first),
    };
    starts_well
        && !text.starts_with("---")
        && !text.starts_with("...")
        && !text.starts_with(' ')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
}

/// Whether a reader of either version of YAML might take the plain text for something else than a text.
fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 13] = ["", "~", "null", "true", "false", "y", "n", "yes", "no", "on", "off", "<<", "="];
    if WORDS.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return true;
    }
    let number = text.strip_prefix(['+', '-']).unwrap_or(text).replace('_', "").to_ascii_lowercase();
    if number == ".inf" || number == ".nan" {
        return true;
    }
    if !number.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return false;
    }
    let radix = |prefix, radix| {
        number.strip_prefix(prefix).is_some_and(|digits| digits.chars().all(|digit| digit.is_digit(radix)))
    };
    // Base 60, as in 1:30:00; and dates.
    let sexagesimal = number.contains(':') && number.chars().all(|char| char.is_ascii_digit() || ":.".contains(char));
    let mut parts = text.splitn(3, '-');
    let is_date = parts.next().is_some_and(|year| year.len() == 4 && digits(year))
        && parts.next().is_some_and(|month| month.len() <= 2 && digits(month))
        && parts.next().is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    number.parse::<f64>().is_ok() || radix("0x", 16) || radix("0o", 8) || radix("0b", 2) || sexagesimal || is_date
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::yaml::parse;

    #[test]
    fn printing_is_alphabetical_and_without_a_newline_at_the_end() {
        let value = json!({
            "kind": "Tier",
            "apiVersion": "v",
            "spec": {"b": [1, {"d": 1.5, "c": "on"}, ["x", []]], "a": "0123", "e": {}, "t": "one\ntwo", "f": null},
        });
        let yaml = "apiVersion: v\nkind: Tier\nspec:\n  a: \"0123\"\n  b:\n  - 1\n  - c: \"on\"\n    d: 1.5\n  - - x\n    \
                    - []\n  e: {}\n  f: null\n  t: |-\n    one\n    two";
        assert_eq!(to_yaml(&value), yaml);
        assert_eq!(parse(&to_yaml(&value)).unwrap(), value);
        assert_eq!(to_json(&json!({"b": [], "a": 1})), "{\n  \"a\": 1,\n  \"b\": []\n}");
    }

    #[track_caller]
    fn check_text(text: &str, expected: &str) {
        assert_eq!(to_yaml(&json!({ "k": text })), format!("k: {expected}"));
    }

    #[test]
    fn texts_are_quoted_where_a_reader_could_take_them_for_something_else() {
        for plain in
            ["10.0.0.0/16", "fd00::/64", "ee:ee:ee:ee:ee:ee", "all()", "10.0.0.1", "8f3c1d52-7a64", "-x", "a#b", "-"]
        {
            check_text(plain, if plain == "-" { "'-'" } else { plain });
        }
        for double in [
            "",
            "null",
            "Yes",
            "off",
            "123",
            "-1.5",
            "1e3",
            "0x1f",
            "017",
            "1_000",
            "1:30",
            "2026-08-22T13:00:00Z",
            ".5",
            "~",
        ] {
            check_text(double, &format!("\"{double}\""));
        }
        for single in ["*", "a: b", "a #b", "[x", " x", "x ", "!has(a)", "--- a", "x:", "has(a) && b == \"c\": "] {
            check_text(single, &format!("'{single}'"));
        }
        check_text("it's: 'x'", "'it''s: ''x'''");
        check_text("a\tb", "\"a\\tb\"");
        check_text("a\n\nb", "|-\n  a\n\n  b");
        check_text(" a\nb", "\" a\\nb\"");
        check_text("a\n", "\"a\\n\"");
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![any::<String>(), "[-?:,\\[\\]{}#&*!|>'\"%@` \n\t.~0-9a-fnosyx]{0,8}"];
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(value in value()) {
            let printed = to_yaml(&value);
            prop_assert_eq!(parse(&printed).unwrap_or_else(|error| panic!("{error:?} in {printed:?}")), value.clone());
            prop_assert_eq!(serde_yaml::from_str::<Value>(&printed).unwrap(), value);
        }
    }
}
