//! One BGP message of a peer, under any negotiated facts: decoding ends, and what is understood can be said again.
//!
//! The first octet chooses the facts, the rest is the message.
#![no_main]

use bgp_proto::{Context, Families, Family, Message, Notification, frame};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, octets)) = data.split_first() else { return };
    let chosen = |bit: u8| choice & 1 << bit != 0;
    let add_path = if chosen(0) { Families::ALL } else { Families::NONE };
    let cx = Context {
        four_octet_as: !chosen(1),
        internal: !chosen(2),
        families: if chosen(3) { Family::Ipv4Unicast.into() } else { Families::ALL },
        add_path_receive: add_path,
        add_path_send: add_path,
        extended_messages: chosen(4),
        enhanced_refresh: chosen(5),
    };
    let _ = frame(octets, cx.maximum());
    let message = match Message::decode(octets, &cx) {
        Ok((message, _)) => message,
        Err(error) => {
            let notification = Notification::from(error);
            assert!(!notification.to_string().starts_with("Unknown"), "a code that no one has heard of");
            return;
        }
    };
    // Said again it means the same, however many messages it takes. Attributes may have become too long: AS numbers
    // that came in AS_PATH alone go out in AS4_PATH as well.
    let mut again = BytesMut::new();
    if message.encode(&cx, &mut again).is_err() || again.is_empty() {
        return;
    }
    let Ok(Some(length)) = frame(&again, cx.maximum()) else { panic!("our own octets cannot be framed") };
    let (_, faults) = Message::decode(&again[..length], &cx).expect("our own octets are well-formed");
    assert!(faults.is_empty(), "{faults:?} in our own octets");
});
