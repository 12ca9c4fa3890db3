//! A file of the endpoint status folder: it says nothing, or which workload is a peer, and is the same after writing.
#![no_main]

use bgp_plan::workloads::EndpointStatus;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Ok(status) = serde_json::from_slice::<EndpointStatus>(octets) else { return };
    if let Some(workload) = status.peer() {
        assert!(!workload.peer.is_empty() && (workload.ipv4.is_some() || workload.ipv6.is_some()), "{workload:?}");
    }
    let written = serde_json::to_vec(&status).expect("it has nothing that JSON cannot hold");
    assert_eq!(serde_json::from_slice::<EndpointStatus>(&written).ok(), Some(status));
});
