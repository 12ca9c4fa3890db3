//! Which subnet is a node in? Felix and the BGP speaker both ask here, so that CrossSubnet means one thing.

use ipnet::IpNet;

/// The subnet of a node with this address: that of the address's own prefix length or, where the length says nothing
/// (`10.0.0.1`, `10.0.0.1/32`), that of the interface that holds it, one of `held`. Several: the smallest.
///
/// Departs from Calico, where an address without a length puts every other node into another subnet (calico#2380, #3003).
pub fn of(address: IpNet, held: &[IpNet]) -> Option<IpNet> {
    let is_wider = |net: &IpNet| net.prefix_len() < net.max_prefix_len();
    if is_wider(&address) {
        return Some(address.trunc());
    }
    let same = held.iter().filter(|net| net.addr() == address.addr() && is_wider(net));
    same.max_by_key(|net| net.prefix_len()).map(IpNet::trunc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, held: &[&str], expected: Option<&str>) {
        let held: Vec<IpNet> = held.iter().map(|text| text.parse().unwrap()).collect();
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(of(address.parse().unwrap(), &held), expected, "{address} among {held:?}");
    }

    #[test]
    fn the_length_of_the_address_counts_and_where_it_says_nothing_that_of_the_interface() {
        check("10.0.0.1/24", &["10.0.0.1/16"], Some("10.0.0.0/24"));
        check("10.0.0.1/32", &["10.0.0.2/24", "10.0.0.1/16"], Some("10.0.0.0/16"));
        check("10.0.0.1/32", &["10.0.0.1/32", "10.0.0.1/16", "10.0.0.1/24"], Some("10.0.0.0/24"));
        check("10.0.0.1/32", &["10.0.0.1/32"], None);
        check("10.0.0.1/32", &[], None);
        check("fd00::1/128", &["10.0.0.1/24", "fd00::1/64"], Some("fd00::/64"));
        check("fd00:0:0:1::1/48", &[], Some("fd00::/48"));
    }
}
