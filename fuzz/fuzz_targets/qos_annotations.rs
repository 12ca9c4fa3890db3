//! The limits in a pod's annotations, one `KEY=VALUE` a line: whatever stands there, the pod gets an endpoint, and what is
//! in it is within its bounds.
#![no_main]

use std::collections::BTreeMap;

use calico_api::QosControls;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let pairs: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let (controls, faults) = QosControls::read(|name| pairs.get(name).copied());
    assert!(faults.iter().all(|fault| !fault.is_empty()));
    let Some(controls) = controls else { return };
    assert!(controls.ingress_bandwidth.is_none_or(|bits| (1_000..=1_000_000_000_000_000).contains(&bits)));
    assert_eq!(controls.egress_bandwidth.is_some(), controls.egress_burst.is_some());
    assert_eq!(controls.egress_packet_rate.is_some(), controls.egress_packet_burst.is_some());
    let written = serde_json::to_string(&controls).expect("it has nothing that JSON cannot hold");
    assert_eq!(serde_json::from_str::<QosControls>(&written).ok(), Some(controls));
});
