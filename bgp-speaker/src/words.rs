//! How is a session's condition put into words? As BIRD does it, since people and scripts know those words.

use std::io;

/// The text of a failed connection: the errno's words, without the number that Rust appends.
pub fn socket(error: &io::Error) -> String {
    match error.raw_os_error() {
        // What strerror says differs between C libraries; these are the words of glibc, which Calico's status shows.
        Some(libc::ECONNREFUSED) => "Connection refused".to_owned(),
        Some(libc::EHOSTUNREACH) => "No route to host".to_owned(),
        Some(libc::EHOSTDOWN) => "Host is down".to_owned(),
        Some(libc::ENETUNREACH) => "Network is unreachable".to_owned(),
        Some(libc::ETIMEDOUT) => "Connection timed out".to_owned(),
        Some(libc::ECONNRESET) => "Connection reset by peer".to_owned(),
        Some(libc::EADDRNOTAVAIL) => "Cannot assign requested address".to_owned(),
        Some(libc::EPIPE) => "Broken pipe".to_owned(),
        Some(libc::EADDRINUSE) => "Address already in use".to_owned(),
        Some(_) => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => "Connection closed".to_owned(),
        None if error.kind() == io::ErrorKind::TimedOut => "Connection timed out".to_owned(),
        None => error.to_string(),
    }
}

/// What an operator may look at when a session went down so; `password` is whether it has one.
pub fn remedy(reason: &str, password: bool) -> Option<&'static str> {
    if password && ["Connection timed out", "Connection reset by peer"].iter().any(|words| reason.ends_with(words)) {
        return Some(
            "no answer from the peer: is its password the same? What is not signed with it is dropped without a word",
        );
    }
    let table = [
        (
            "Connection refused",
            "no BGP speaker listens on the peer's port: is it running, and is its listenPort the one dialled?",
        ),
        (
            "Connection timed out",
            "no answer from the peer: does a firewall drop TCP to its BGP port, and is the node up?",
        ),
        (
            "Connection reset by peer",
            "the peer ended the connection at once: has it a session with this node's address, and on this port?",
        ),
        (
            "Connection closed",
            "the peer ended the connection without a word: has it a session with this node's address?",
        ),
        (
            "No route to host",
            "the peer's address does not answer on its link: is the node up, and is its BGP address right?",
        ),
        ("Network is unreachable", "this node has no route to the peer's address"),
        ("Cannot assign requested address", "this node does not have the BGP address that its Node resource names"),
        (
            "Bad peer AS",
            "the two sides disagree about an AS number: compare asNumber of BGPConfiguration, Node and BGPPeer",
        ),
        ("Bad BGP identifier", "both sides have one router ID: look for equal node addresses or CALICO_ROUTER_ID"),
        (
            "Hold timer expired",
            "nothing arrived for the hold time: look for packet loss, an MTU black hole, or an overloaded peer",
        ),
        ("Peer de-configured", "the peer's configuration has no session with this node any more"),
        ("Administrative shutdown", "an operator stopped the session at the peer"),
        (
            "Required capability missing",
            "the peer insists on a capability that this speaker does not offer; relax its configuration",
        ),
        ("Connection rejected", "the peer does not know this node's address, or does not accept connections now"),
    ];
    table.iter().find(|(words, _)| reason.ends_with(words)).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use bgp_proto::Notification;
    use bgp_proto::iana::ErrorCode;

    use super::*;

    #[test]
    fn socket_errors_are_the_words_that_calicoctl_shows() {
        for (errno, words) in [
            (libc::ECONNREFUSED, "Connection refused"),
            (libc::EHOSTUNREACH, "No route to host"),
            (libc::ETIMEDOUT, "Connection timed out"),
            (libc::EADDRNOTAVAIL, "Cannot assign requested address"),
        ] {
            assert_eq!(socket(&io::Error::from_raw_os_error(errno)), words);
        }
        assert_eq!(socket(&io::ErrorKind::UnexpectedEof.into()), "Connection closed");
        let other = socket(&io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(other, "Permission denied", "no number behind the words");
    }

    #[test]
    fn every_remedy_belongs_to_words_that_can_occur() {
        for errno in [libc::ECONNREFUSED, libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            let words = socket(&io::Error::from_raw_os_error(errno));
            assert!(remedy(&format!("Socket: {words}"), false).is_some(), "{words}");
        }
        let bad_as = Notification::new(ErrorCode::OpenMessage, 2);
        assert!(remedy(&format!("Received: {bad_as}"), false).is_some());
        assert!(remedy(&format!("BGP Error: {}", Notification::HOLD_TIMER_EXPIRED), false).is_some());
        assert!(remedy(&format!("Received: {}", Notification::CONNECTION_REJECTED), false).is_some());
        assert_eq!(remedy("Received: Cease", false), None);
        let [without, with] = [false, true].map(|password| remedy("Socket: Connection timed out", password).unwrap());
        assert!(without.contains("firewall") && with.contains("password"));
    }
}
