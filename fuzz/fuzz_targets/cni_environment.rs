//! A plugin's environment, one `KEY=VALUE` a line: reading ends, and nothing of it can leave a path or a name.
#![no_main]

use cni::environment::{Environment, Verb};
use cni::netconf::is_plain;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let get = |name: &str| {
        let values = text.lines().filter_map(|line| line.split_once('='));
        values.rev().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    let verb = match Verb::read(&get) {
        Ok(verb) => verb,
        Err(error) => return assert_eq!(error.code.number(), 4, "{error}"),
    };
    match Environment::read(verb, &get) {
        Ok(environment) => {
            assert!(is_plain(&environment.container_id), "{environment:?}");
            let interface = &environment.interface;
            assert!(!interface.is_empty() && interface.len() < 16 && !interface.contains(['/', ':']), "{interface:?}");
            assert!(environment.sandbox("net").handle().starts_with("net."));
        }
        Err(error) => assert_eq!(error.code.number(), 4, "{error}"),
    }
});
