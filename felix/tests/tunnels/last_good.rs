//! What cannot be, and stands in the store anyway: the last good state holds, and the operator is told.

use super::*;

/// Writes a resource as somebody does who checks nothing.
fn scribble(bed: &Bed, kind: Kind, name: &str, fields: serde_json::Value) {
    bed.on_store(async |store| {
        let entry = store.backend().get(&Key::named(kind, name)).await.unwrap();
        let mut value = entry.value;
        for (field, written) in fields.as_object().unwrap() {
            value["spec"][field] = written.clone();
        }
        store.backend().update(&entry.key, value, &entry.revision).await.unwrap();
    });
}

fn is_told(bed: &Bed, object: &str, text: &str) -> bool {
    status(bed).findings.iter().any(|finding| finding.object == object && finding.text.contains(text))
}

#[test]
fn a_pool_that_cannot_be_goes_on_as_it_was() {
    let mut bed = Bed::new(&[POOL, ("CALICO_IPV6POOL_CIDR", "fd00:65::/48"), ("IP6", "autodetect"), NO_BGP]);
    bed.start();
    let v6 = "default-ipv6-ippool";
    scribble(&bed, Kind::IPPool, v6, serde_json::json!({"vxlanMode": "Always"}));
    bed.until("IPv6 has its tunnel", |bed| node(bed, "east").spec.ipv6_vxlan_tunnel_addr.is_some());
    let address = node(&bed, "east").spec.ipv6_vxlan_tunnel_addr;

    // IPIP carries no IPv6.
    scribble(&bed, Kind::IPPool, v6, serde_json::json!({"vxlanMode": "Never", "ipipMode": "Always"}));
    bed.until("it is told", |bed| is_told(bed, &format!("IPPool/{v6}"), "IPIP carries no IPv6"));
    // What follows is later than that, so the tunnel would be known to linger.
    let v4 = "default-ipv4-ippool";
    scribble(&bed, Kind::IPPool, v4, serde_json::json!({"cidr": "10.65.0.0/27", "natOutgoing": false}));
    bed.until("that a pool is smaller than its block is told, too", |bed| {
        is_told(bed, &format!("IPPool/{v4}"), "no room for a block")
    });
    let tunnels = status(&bed).tunnels;
    assert!(matches!(&tunnels[..], [one] if one.wanted && one.up && one.device == "vxlan-v6.calico"), "{tunnels:?}");
    assert_eq!(node(&bed, "east").spec.ipv6_vxlan_tunnel_addr, address);
    let rules = say(&bed, "nft", "list table ip calico");
    assert!(rules.contains("masquerade") && rules.contains("10.65.0.0/16"), "{rules}");
    let wired = bed.add(&calico_agent::Add { ipv6: true, ..pod("web-0", "c1") }).unwrap();
    bed.reaches(&wired);

    // Nobody can say what this one is.
    scribble(&bed, Kind::IPPool, v4, serde_json::json!({"cidr": "10.65.0.0/16", "ipipMode": "Sometimes"}));
    bed.until("what cannot even be read is told", |bed| is_told(bed, &format!("IPPool/{v4}"), "ipipMode"));
    bed.reaches(&bed.add(&pod("web-1", "c2")).unwrap());

    scribble(&bed, Kind::IPPool, v4, serde_json::json!({"ipipMode": "Never"}));
    scribble(&bed, Kind::IPPool, v6, serde_json::json!({"vxlanMode": "Always", "ipipMode": "Never"}));
    bed.until("nothing is to be told", |bed| status(bed).findings.is_empty());
}

#[test]
fn numbers_out_of_range_in_the_configuration_are_not_taken() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    bed.start();
    let felix = |bed: &Bed, fields| scribble(bed, Kind::FelixConfiguration, "default", fields);
    let good = serde_json::json!({"vxlanVNI": 5000, "vxlanPort": 4790, "vxlanMTU": 1400, "ipipMTU": 1400});
    felix(&bed, good.clone());
    assert_eq!(bed.ends(), Some(129));
    bed.start();
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    let is_as_it_was = |bed: &Bed| {
        let link = say(bed, "ip", "-d link show dev vxlan.calico");
        ["vxlan id 5000", "dstport 4790", "mtu 1400"].iter().all(|part| link.contains(part))
    };
    bed.until("the device is as it should be", |bed| is_as_it_was(bed) && tunnel_address(bed).is_some());
    for (field, bad) in [("vxlanVNI", 16_777_216), ("vxlanPort", 70_000), ("vxlanMTU", 1000), ("ipipMTU", 65_536)] {
        felix(&bed, serde_json::json!({ field: bad }));
        bed.until("the field is named", |bed| is_told(bed, "configuration", &format!("{field} of FelixConfiguration")));
        assert!(is_as_it_was(&bed), "{field}");
        felix(&bed, good.clone());
        bed.until("it is not named any more", |bed| status(bed).findings.is_empty());
    }
    assert!(bed.stop(), "it is the same felix");
}

#[test]
fn who_programs_which_routes_is_heard_though_the_rest_cannot_be_read() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    west(&bed, "192.0.2.2/24");
    let bgp = serde_json::json!({"programClusterRoutes": "Disabled", "listenPort": "none"});
    scribble(&bed, Kind::BGPConfiguration, "default", bgp);
    bed.until("it is told that nobody programs plain routes", |bed| {
        is_told(bed, "FelixConfiguration/default", "neither of them programs routes without encapsulation")
            && is_told(bed, "BGPConfiguration/default", "listenPort")
    });
    let own = serde_json::json!({"programClusterRoutes": "Enabled", "vxlanVNI": "many"});
    scribble(&bed, Kind::FelixConfiguration, "default", own);
    bed.until("felix does", is_plain);
    bed.until("only what cannot be read is told", |bed| {
        let objects: Vec<String> = status(bed).findings.into_iter().map(|finding| finding.object).collect();
        objects == ["FelixConfiguration/default", "BGPConfiguration/default"]
    });
    // So it is after a restart, which finds nothing else.
    bed.kill();
    bed.start();
    bed.until("that is told again", |bed| status(bed).findings.len() == 2);
    assert!(is_plain(&mut bed));

    // Another node's Node is unusable: its route stays.
    west(&bed, "192.0.2.300/24");
    bed.until("it is told", |bed| is_told(bed, "Node/west", "192.0.2.300/24"));
    assert!(is_plain(&mut bed));
    west(&bed, "192.0.2.2/24");
    bed.until("it is told no more", |bed| !is_told(bed, "Node/west", ""));
}

#[test]
fn a_tunnel_that_is_forbidden_is_not_made_and_its_pool_is_named() {
    let mut bed = Bed::new(&[POOL, NO_BGP, ("FELIX_VXLANENABLED", "false")]);
    bed.start();
    west(&bed, "192.0.2.2/24");
    bed.until("felix programs plain routes without BGP", is_plain);
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    bed.until("the pool is named", |bed| is_told(bed, "IPPool/default-ipv4-ippool", "vxlanEnabled: false"));
    assert_eq!((status(&bed).tunnels, tunnel_address(&bed)), (Vec::new(), None));
    assert!(is_plain(&mut bed), "there is no other way");
    pool_mode(&bed, |pool| pool.vxlan_mode = None);
    bed.until("nothing is to be told", |bed| status(bed).findings.is_empty());
}
