//! A key of etcd and the octets behind it, a line of the key and the rest: what is understood is written, read
//! again under the same key, and written the same.
#![no_main]

use calico_datastore::etcd::read_anything;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((path, octets)) = text.split_once('\n') else { return };
    for (entry, written) in read_anything(path, octets.as_bytes()) {
        assert!(!entry.key.to_string().is_empty());
        let Ok(written) = written else { continue };
        // Fields that may be absent are written all the same, so it is the second time that must be like the first.
        let again = read_anything(path, &written);
        let same = again.iter().any(|(again, anew)| again.key == entry.key && anew.as_ref().ok() == Some(&written));
        assert!(same, "{entry:?} is written as {} and read as {again:?}", String::from_utf8_lossy(&written));
    }
});
