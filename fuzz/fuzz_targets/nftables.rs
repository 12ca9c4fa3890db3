//! What the kernel might tell of packet rules: reading ends, whatever it is taken for, and makes nothing of nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| calico_netlink::nftables::read_anything(octets));
