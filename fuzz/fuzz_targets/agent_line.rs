//! A line on the agent's socket, in either direction: what is understood is said again in one line and means the same.
#![no_main]

use std::fmt::Debug;

use calico_agent::{Reply, Request};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(octets: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(octets) else { return };
    let line = serde_json::to_vec(&value).expect("it has nothing that JSON cannot hold");
    assert!(!line.contains(&b'\n'), "{value:?} takes more than a line");
    assert_eq!(serde_json::from_slice::<T>(&line).ok(), Some(value));
}

fuzz_target!(|octets: &[u8]| {
    check::<Request>(octets);
    check::<Reply>(octets);
});
