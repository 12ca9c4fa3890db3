//! A file of the plugin host-local, its name in the first line: it stands for nothing, or for an address and a container
//! whose id can be part of a handle.
#![no_main]

use ipam::host_local::Lease;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let (name, content) = octets.split_at(end);
    let content = content.get(1..).unwrap_or_default();
    match Lease::read(&String::from_utf8_lossy(name), content) {
        Ok(Some(lease)) => {
            assert!(!lease.container_id.is_empty() && !lease.container_id.contains(['/', ' ', '\r']), "{lease:?}");
            let written = format!("{}\r\neth0", lease.container_id);
            assert_eq!(Lease::read(&lease.address.to_string(), written.as_bytes()), Ok(Some(lease)));
        }
        Ok(None) => {}
        Err(reason) => assert!(!reason.is_empty()),
    }
});
