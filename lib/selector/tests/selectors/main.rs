//! What selectors mean, by example and by property.

mod examples;

use std::collections::BTreeMap;

use calico_selector::{MAX_DEPTH, MAX_LENGTH, Selector, SelectorError};
use proptest::prelude::*;

use crate::examples::{CANONICAL, ERRORS, MATCHES};

/// The labels that the examples are tried on.
fn labels(name: char) -> BTreeMap<String, String> {
    let labels: &[(&str, &str)] = match name {
        'A' => &[],
        'B' => &[("app", "web"), ("env", "prod"), ("tier", "front-end")],
        'C' => &[("app", "db"), ("empty", "")],
        'D' => &[
            ("projectcalico.org/namespace", "shop"),
            ("projectcalico.org/orchestrator", "k8s"),
            ("pcns.team", "blue"),
            ("pcsa.role", "ci"),
            ("app", "web"),
        ],
        'E' => &[
            ("in", "x"),
            ("all", "y"),
            ("has", "z"),
            ("not", "n"),
            ("global", "g"),
            ("contains", "contains"),
            ("starts", "s"),
        ],
        'F' => &[("q", "it's"), ("dq", "say \"hi\""), ("k", "v w"), ("a.b/c-d_e", "1"), ("9", "nine"), ("-", "dash")],
        _ => unreachable!("the examples use A to F"),
    };
    labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn every_example_means_what_it_should() {
    for (text, on, expected) in MATCHES {
        let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(selector.matches(&labels(*on)), *expected, "{text} on {on}");
        // The canonical form means the same, and is its own.
        let again = Selector::parse(&selector.to_string()).unwrap();
        assert_eq!(again, selector, "{text}");
        assert_eq!(again.to_string(), selector.to_string());
    }
    for text in ERRORS {
        assert!(Selector::parse(text).is_err(), "{text}");
    }
}

#[test]
fn canonical_forms_are_those_of_calico() {
    for (text, expected) in CANONICAL {
        assert_eq!(Selector::parse(text).unwrap().to_string(), *expected, "{text}");
    }
    assert_eq!(Selector::parse("!(!has(a))").unwrap().to_string(), "has(a)");
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    assert_eq!(Selector::parse(text).expect_err("the text must be refused").to_string(), expected);
}

#[test]
fn errors_say_where_and_what_was_expected() {
    check_error("app == web", "expected a text in quotes at character 8, found \"web\"");
    check_error("(has(app)", "expected \"&&\", \"||\" or \")\" at character 10, found the end");
    check_error("has(app))", "expected \"&&\", \"||\" or the end at character 9, found \")\"");
    check_error("a in {'\u{e4}' 'b'}", "expected \",\" or \"}\" at character 11, found \"'b'}\"");
    check_error("app == 'web", "the text that opens with ' at character 8 is not closed");
    check_error(
        "app is 'x'",
        "expected \"==\", \"!=\", \"in\", \"not in\", \"contains\", \"starts with\" or \"ends with\" behind the label at \
         character 5, found \"is 'x'\"",
    );
    check_error(
        "has(a) && ",
        "expected a label, \"all()\", \"global()\", \"has(\", \"!\" or \"(\" at character 11, found the end",
    );
}

#[test]
fn length_and_nesting_are_bounded() {
    assert!(Selector::parse(&format!("has({})", "x".repeat(512))).is_ok());
    assert_eq!(Selector::parse(&format!("has({})", "x".repeat(513))), Err(SelectorError::LongLabel { position: 5 }));
    let nested = |depth: usize| format!("{}all(){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(MAX_DEPTH)).is_ok());
    assert!(matches!(Selector::parse(&nested(MAX_DEPTH + 1)), Err(SelectorError::Deep { .. })));
    assert!(matches!(Selector::parse(&"(".repeat(MAX_LENGTH)), Err(SelectorError::Deep { .. })));
    assert_eq!(Selector::parse(&" ".repeat(MAX_LENGTH + 1)), Err(SelectorError::Long));
    assert!(Selector::parse(&format!("{}all()", "!".repeat(MAX_LENGTH - 5))).is_ok());
    // Closed ones do not count.
    assert!(Selector::parse(&vec!["(has(a))"; 1000].join("||")).is_ok());
}

#[test]
fn labels_of_the_endpoint_hide_those_it_inherits() {
    let selector = Selector::parse("app == 'web' && team == 'blue'").unwrap();
    let own = labels('B');
    let inherited = [("app", "db"), ("team", "blue")];
    assert!(selector.matches(&(&own, inherited.as_slice())));
    assert!(!selector.matches(&(inherited.as_slice(), &own)));
    let both = Selector::parse("has(a)").unwrap().and(Selector::all()).and(Selector::parse("has(b)").unwrap());
    assert_eq!(both.to_string(), "(has(a) && has(b))");
}

/// A text of a selector, made by the grammar, with blanks where they are allowed.
fn selector_text() -> impl Strategy<Value = String> {
    let label = "(in|not|all|has|global|contains|starts|[A-Za-z0-9_./-]{1,6})";
    let value = prop_oneof!["'[^']{0,4}'", "\"[^\"]{0,4}\""];
    let set = prop::collection::vec(value.clone(), 0..4).prop_map(|values| format!("{{{}}}", values.join(" , ")));
    let leaf = prop_oneof![
        Just("all( )".to_owned()),
        Just("global()".to_owned()),
        label.prop_map(|label| format!("has( {label})")),
        (label, "(( |\t)?(==|!=)| contains| startswith| starts \t with| endswith| ends with)( |\t){0,2}", value)
            .prop_map(|(label, operator, value)| format!("{label}{operator}{value}")),
        (label, " (in|not in|notin) ?", set).prop_map(|(label, operator, set)| format!("{label}{operator}{set}")),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            ("!{1,3} ?", inner.clone()).prop_map(|(not, inner)| format!("{not}{inner}")),
            (prop::collection::vec(inner.clone(), 2..4), " ?(&&|\\|\\|)\t?")
                .prop_map(|(parts, operator)| parts.join(&operator)),
            inner.prop_map(|inner| format!("( {inner})")),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_the_same_selector(text in selector_text()) {
        let selector = Selector::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn no_text_makes_parsing_panic(text in any::<String>(), like in "[(){}!&|='\" \tahslingobct,\u{e4}]{0,40}") {
        let _ = Selector::parse(&text);
        if let Ok(selector) = Selector::parse(&like) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
