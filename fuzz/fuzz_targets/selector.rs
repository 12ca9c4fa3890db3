//! A selector that somebody wrote: parsing ends, and the canonical form is read as the same selector again.
#![no_main]

use std::collections::BTreeMap;

use calico_selector::Selector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let selector = match Selector::parse(text) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let printed = selector.to_string();
    let again = match Selector::parse(&printed) {
        Ok(again) => again,
        Err(error) => panic!("{text:?} is printed as {printed:?}, which is none: {error}"),
    };
    assert_eq!(again, selector, "{text:?} is printed as {printed:?}");
    assert_eq!(again.to_string(), printed, "the canonical form is its own");
    // The labels are made of the text's own words, so that they are likely to be asked for.
    let mut words = text.split(|c: char| !c.is_alphanumeric() && !"-_./".contains(c)).filter(|word| !word.is_empty());
    let mut labels = BTreeMap::new();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        labels.insert(key.to_owned(), value.to_owned());
    }
    assert_eq!(selector.matches(&labels), again.matches(&labels), "{text:?} on {labels:?}");
});
