//! A network configuration on a plugin's standard input: reading ends, and every refusal can be told to the runtime.
#![no_main]

use cni::netconf::{Netconf, decode};
use cni::version::{self, Version};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// What a runtime reads of an error.
fn check(error: &cni::Error) {
    let told = error.to_json(Version::NEWEST);
    assert!(told["code"].as_u64().is_some_and(|code| code > 0), "{told}");
    assert!(told["msg"].as_str().is_some_and(|message| !message.is_empty()), "{told}");
    assert_eq!(serde_json::from_str::<Value>(&told.to_string()).ok(), Some(told));
}

fuzz_target!(|input: &[u8]| {
    let value = match decode(input) {
        Ok(value) => value,
        Err(error) => return check(&error),
    };
    assert!(value.is_object(), "{value}");
    assert!(version::answer(&value)["supportedVersions"].as_array().is_some_and(|list| !list.is_empty()));
    match Netconf::read(&value) {
        Ok(netconf) => {
            assert!(cni::netconf::is_plain(&netconf.name) && netconf.queues > 0, "{netconf:?}");
            match &netconf.ipam {
                Ok(ipam) => assert!(ipam.program.is_some() || ipam.ipv4 || ipam.ipv6, "{ipam:?}"),
                Err(error) => check(error),
            }
        }
        Err(error) => check(&error),
    }
});
