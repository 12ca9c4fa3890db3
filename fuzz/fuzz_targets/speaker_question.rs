//! A line that a client of bgp.sock sends: it is a question, or the client is told what would be one.
#![no_main]

use bgp_speaker::sockets::understand_anything;
use bgp_speaker::status::Question;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    match understand_anything(&String::from_utf8_lossy(octets)) {
        Err(error) => {
            assert!(error.contains("status") || error.contains("prefix") || error.contains("routes"), "{error:?}")
        }
        Ok(Question::Routes(selection)) => {
            if let Some(prefix) = selection.prefix {
                assert_eq!(prefix, prefix.trunc(), "host bits select nothing");
                assert!(selection.admits(&prefix), "{selection:?}");
            }
        }
        Ok(_) => {}
    }
});
