//! How are addresses, times and lists put into words?

use std::net::SocketAddr;

use calico_api::BGPConfigurationSpec;

/// An address with its port where that is not BGP's, as `node status` has it.
pub(super) fn peer(peer: SocketAddr) -> String {
    if peer.port() == BGPConfigurationSpec::DEFAULT_PORT { peer.ip().to_string() } else { peer.to_string() }
}

/// The same of a text that the speaker wrote.
pub(super) fn peer_text(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), peer)
}

/// Whether a user means this session: by its name, its address, or its address and port.
pub(super) fn is_meant(wanted: &str, name: &str, peer: &str) -> bool {
    let address = peer.parse::<SocketAddr>().ok();
    let same_address =
        || wanted.parse().is_ok_and(|wanted: std::net::IpAddr| address.is_some_and(|it| it.ip() == wanted));
    let same_socket = || wanted.parse().is_ok_and(|wanted: SocketAddr| address == Some(wanted));
    wanted == name || same_address() || same_socket()
}

/// A length of time by its two largest units: `2d3h`, `5m7s`.
pub(super) fn age(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(length, _)| seconds >= *length).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut text = String::new();
    for (length, unit) in units.iter().skip(first).take(2) {
        let count = rest / length;
        rest %= length;
        if count > 0 || text.is_empty() {
            text += &format!("{count}{unit}");
        }
    }
    text
}

/// Joined by commas; a dash if there is none.
pub(super) fn list(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

/// A dash for what is not there.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `yes` or `no`.
pub(super) fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// Lines of a name and a value each, the values in one column; lines without a value are left out.
pub(super) fn facts(indent: usize, facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 1;
    let there = facts.iter().filter(|(_, value)| !value.is_empty());
    there.map(|(name, value)| format!("{:indent$}{:width$} {value}\n", "", format!("{name}:"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (67, "1m7s"), (3600, "1h"), (7_384, "2h3m"), (187_200, "2d4h")]
        {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_session_is_meant_by_name_address_or_socket() {
        let meant = |wanted: &str| is_meant(wanted, "Global_fd00__1_port_1790", "[fd00::1]:1790");
        assert!(meant("Global_fd00__1_port_1790") && meant("fd00::1") && meant("fd00:0::1") && meant("[fd00::1]:1790"));
        assert!(!meant("fd00::2") && !meant("[fd00::1]:179") && !meant("Global"));
    }

    #[test]
    fn a_port_is_shown_where_it_is_not_the_usual_one() {
        assert_eq!(peer_text("10.0.0.1:179"), "10.0.0.1");
        assert_eq!(peer_text("[fd00::1]:179"), "fd00::1");
        assert_eq!(peer_text("[fd00::1]:1790"), "[fd00::1]:1790");
        assert_eq!(peer_text("somewhere"), "somewhere");
    }
}
