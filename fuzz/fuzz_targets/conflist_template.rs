//! A template of a network configuration, and a value for its placeholders behind the first line: what comes out is JSON
//! that names our plugin, or is refused; no value can leave the text that it stands in.
#![no_main]

use std::collections::BTreeMap;

use calico_node::install::conflist::make;
use calico_node::install::settings::TEMPLATE;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let (value, template) = text.split_once('\n').unwrap_or((text, ""));
    let values = |value: &str| {
        let names = ["LOG_LEVEL", "LOG_FILE_PATH", "DATASTORE_TYPE", "KUBERNETES_NODE_NAME"];
        let mut values: BTreeMap<_, _> = names.into_iter().map(|name| (name, value.to_owned())).collect();
        values.insert("CNI_MTU", "1500".to_owned());
        values
    };
    for is_list in [true, false] {
        match make(template, &values(value), is_list) {
            Ok(made) => {
                let read: Value = serde_json::from_str(&made.text).expect("it was checked to be JSON");
                assert!(read["name"].as_str().is_some_and(|name| !name.is_empty()), "{read}");
                assert_eq!(read["plugins"].is_array(), is_list, "{read}");
            }
            Err(error) => assert!(error.to_string().contains("CNI_NETWORK_CONFIG"), "{error}"),
        }
    }
    // In our own template every text stays where it was put.
    let made = make(TEMPLATE, &values(value), true).expect("any text is one in JSON");
    let read: Value = serde_json::from_str(&made.text).expect("it was checked to be JSON");
    assert_eq!(read["plugins"][0]["nodename"].as_str(), Some(value));
    assert_eq!(read["plugins"].as_array().map(Vec::len), Some(2));
});
