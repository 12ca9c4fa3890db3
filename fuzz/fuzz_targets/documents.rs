//! A file of resources: reading ends, and what is read, given its defaults, printed and read again is the same.
#![no_main]

use calico_api::{AnyResource, default_on_write, documents, to_json, to_yaml, validate, yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Any text is a value or none, and a value is the same after printing.
    if let Ok(value) = yaml::parse(text) {
        for printed in [to_yaml(&value), to_json(&value)] {
            match yaml::parse(&printed) {
                Ok(again) => assert_eq!(again, value, "printed as\n{printed}"),
                Err(error) => panic!("printed as\n{printed}\n{error}"),
            }
        }
    }
    let resources = match documents(text) {
        Ok(resources) => resources,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for mut resource in resources {
        let _ = (validate(&resource), resource.key().to_string());
        default_on_write(&mut resource);
        let value = resource.to_value();
        let again = AnyResource::strict_from_value(value.clone());
        assert_eq!(again.as_ref().ok(), Some(&resource), "{value} is read as {again:?}");
        let mut again = resource.clone();
        default_on_write(&mut again);
        assert_eq!(again, resource, "defaults are given once");
    }
});
