//! Octets that the kernel might send: reading them ends, whatever they are taken for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| calico_netlink::read_anything(octets));
