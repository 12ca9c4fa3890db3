//! The real felix follows the pools' modes while it runs: devices, addresses, routes, what lies behind them, packet rules.

mod addresses;
mod last_good;

use std::fs;
use std::process::Command;

use calico_agent::{Reply, Request};
use calico_api::{
    BGPConfigurationSpec, EncapMode, FelixConfigurationSpec, IPAMBlock, IPAMBlockSpec, IPAMHandleSpec, IPPoolSpec, Key,
    Kind, Node, NodeBGPSpec, NodeSpec, ObjectMeta,
};
use calico_netlink::{Monitor, namespace};

use crate::bed::{Bed, pod};

const POOL: (&str, &str) = ("CALICO_IPV4POOL_CIDR", "10.65.0.0/16");
const NO_BGP: (&str, &str) = ("CALICO_NETWORKING_BACKEND", "vxlan");
/// The block of the node `west`.
const BLOCK: &str = "10.65.99.0/26";

/// What a program says in the node's namespace; another witness than our own netlink.
fn say(bed: &Bed, program: &str, arguments: &str) -> String {
    let output =
        namespace::inside(&bed.namespace, || Command::new(program).args(arguments.split(' ')).output().unwrap());
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

fn node(bed: &Bed, name: &str) -> Node {
    bed.stored::<NodeSpec>(&Key::named(Kind::Node, name)).unwrap()
}

/// Another node, with a block, whose VXLAN is ready.
fn west(bed: &Bed, address: &str) {
    let address = address.to_owned();
    bed.on_store(async |store| {
        let key = Key::named(Kind::Node, "west");
        let bgp = NodeBGPSpec { ipv4_address: Some(address), ..NodeBGPSpec::default() };
        let spec = NodeSpec {
            bgp: Some(bgp),
            ipv4_vxlan_tunnel_addr: Some("10.65.99.0".to_owned()),
            vxlan_tunnel_mac_addr: Some("66:00:00:00:00:99".to_owned()),
            ..NodeSpec::default()
        };
        match store.get::<NodeSpec>(&key).await {
            Ok(before) => drop(store.update(&Node { spec, ..before }).await.unwrap()),
            Err(_) => drop(store.create(&Node::new(ObjectMeta::named("west"), spec)).await.unwrap()),
        }
        let key = Key::Block(BLOCK.parse().unwrap());
        if store.get::<IPAMBlockSpec>(&key).await.is_err() {
            let spec = serde_json::json!({"cidr": BLOCK, "affinity": "host:west", "strictAffinity": false,
                "allocations": vec![serde_json::Value::Null; 64], "unallocated": (0..64).collect::<Vec<_>>(),
                "attributes": []});
            let spec: IPAMBlockSpec = serde_json::from_value(spec).unwrap();
            store.create(&IPAMBlock::new(ObjectMeta::named("10-65-99-0-26"), spec)).await.unwrap();
        }
    });
}

fn pool_mode(bed: &Bed, change: impl Fn(&mut IPPoolSpec)) {
    bed.on_store(async |store| {
        let key = Key::named(Kind::IPPool, "default-ipv4-ippool");
        let mut pool = store.get::<IPPoolSpec>(&key).await.unwrap();
        change(&mut pool.spec);
        store.update(&pool).await.unwrap();
    });
}

fn route(bed: &Bed) -> String {
    say(bed, "ip", &format!("route show {BLOCK}")).trim().to_owned()
}

const PLAIN: &str = "10.65.99.0/26 via 192.0.2.2 dev eth0 proto 80 metric 1024";

fn is_plain(bed: &mut Bed) -> bool {
    route(bed).starts_with(PLAIN)
}

fn is_vxlan(bed: &mut Bed) -> bool {
    let route = route(bed);
    route.starts_with("10.65.99.0/26 via 10.65.99.0 dev vxlan.calico proto 80 metric 1024") && route.contains("onlink")
}

fn tunnel_address(bed: &Bed) -> Option<String> {
    node(bed, "east").spec.ipv4_vxlan_tunnel_addr
}

fn status(bed: &Bed) -> calico_agent::NodeStatus {
    match bed.call(&Request::NodeStatus) {
        Reply::NodeStatus(status) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_changes_its_mode_under_a_running_felix_and_a_restart_writes_nothing() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    bed.start();
    west(&bed, "192.0.2.2/24");
    bed.until("felix programs plain routes without BGP", is_plain);
    let (mtu, wired) = (fs::read_to_string(bed.path("mtu")).unwrap(), bed.add(&pod("web-0", "c1")).unwrap());
    assert_eq!(mtu, "1500");
    assert_eq!(status(&bed).tunnels, []);
    bed.until("what leaves the pool is masqueraded", |bed| {
        let rules = say(bed, "nft", "list table ip calico");
        rules.contains("masquerade") && rules.contains("10.65.0.0/16")
    });

    // Always.
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    bed.until("the device is there and the Node says so", |bed| tunnel_address(bed).is_some());
    let address = tunnel_address(&bed).unwrap();
    bed.until("the route goes through it", is_vxlan);
    bed.until("it has the address", |bed| {
        say(bed, "ip", "addr show dev vxlan.calico").contains(&format!("inet {address}/32"))
    });
    let link = say(&bed, "ip", "-d link show dev vxlan.calico");
    for part in ["vxlan id 4096 local 192.0.2.1 dev eth0", "dstport 4789", "nolearning", "mtu 1450"] {
        assert!(link.contains(part), "no {part:?} in {link}");
    }
    bed.until("frames to the other end find their way", |bed| {
        let fdb = say(bed, "bridge", "fdb show dev vxlan.calico");
        let neighbour = say(bed, "ip", "neigh show dev vxlan.calico");
        fdb.contains("66:00:00:00:00:99 dst 192.0.2.2")
            && neighbour.contains("10.65.99.0 lladdr 66:00:00:00:00:99 PERMANENT")
    });
    bed.until("only nodes may send to it", |bed| {
        let rules = say(bed, "nft", "list table ip calico");
        rules.contains("192.0.2.2") && rules.contains("4789")
    });
    bed.until("new pods get what is left", |bed| fs::read_to_string(bed.path("mtu")).unwrap() == "1450");
    let handle = bed.stored::<IPAMHandleSpec>(&Key::Handle("vxlan-tunnel-addr-east".to_owned())).unwrap();
    let own: Key = Key::Block(handle.spec.block.keys().next().unwrap().parse().unwrap());
    let block = bed.stored::<IPAMBlockSpec>(&own).unwrap().spec;
    let attribute = block.attributes.iter().find(|one| one.handle_id.as_deref() == Some("vxlan-tunnel-addr-east"));
    let secondary = serde_json::to_value(&attribute.unwrap().secondary).unwrap();
    assert_eq!(secondary, serde_json::json!({"node": "east", "type": "vxlanTunnelAddress"}));
    bed.reaches(&wired);
    bed.until("the agent tells of the device", |bed| {
        let tunnels = status(bed).tunnels;
        matches!(&tunnels[..], [one] if one.up && one.wanted && one.device == "vxlan.calico" && one.mtu == 1450
            && one.address.map(|found| found.to_string()).as_ref() == Some(&address))
    });

    // A restart finds all of it.
    bed.kill();
    let rules = say(&bed, "nft", "list ruleset");
    let stored = node(&bed, "east").metadata.resource_version;
    let mut witness = namespace::inside(&bed.namespace, || Monitor::open().unwrap()).unwrap();
    bed.start();
    bed.until("felix knows the device again", |bed| {
        status(bed).tunnels.iter().any(|one| one.up && one.address.is_some())
    });
    assert_eq!(witness.receive().unwrap(), []);
    assert_eq!(say(&bed, "nft", "list ruleset"), rules);
    assert_eq!(node(&bed, "east").metadata.resource_version, stored);

    // Only between subnets: the other node is on this link, then it moves, then it is back.
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::CrossSubnet));
    bed.until("the route is plain", is_plain);
    west(&bed, "198.51.100.2/24");
    bed.until("beyond the router it goes through the device", is_vxlan);
    bed.until("frames go to the new address", |bed| {
        say(bed, "bridge", "fdb show dev vxlan.calico").contains("66:00:00:00:00:99 dst 198.51.100.2")
    });
    west(&bed, "192.0.2.2/24");
    bed.until("the route is plain again", is_plain);

    // Never: what others still send is understood for a while, and so the address stays.
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Never));
    bed.until("new pods get all", |bed| fs::read_to_string(bed.path("mtu")).unwrap() == "1500");
    bed.until("nobody wants the device", |bed| status(bed).tunnels.iter().all(|one| !one.wanted));
    assert!(status(&bed).tunnels.iter().any(|one| one.up), "it lingers");
    assert_eq!(tunnel_address(&bed).as_ref(), Some(&address));
    assert!(is_plain(&mut bed));

    // So it is after a restart.
    bed.kill();
    bed.start();
    bed.until("the device lingers on", |bed| status(bed).tunnels.iter().any(|one| one.up && !one.wanted));
    assert_eq!(tunnel_address(&bed).as_ref(), Some(&address));

    // In time it is wanted again: nothing has changed.
    pool_mode(&bed, |pool| pool.vxlan_mode = Some(EncapMode::Always));
    bed.until("the route goes through it again", is_vxlan);
    assert_eq!(tunnel_address(&bed).as_ref(), Some(&address));
    bed.reaches(&wired);

    // Another network identifier: felix has to be started again, and makes the device anew.
    configure(&bed, |spec| spec.vxlan_vni = Some(4097));
    assert_eq!(bed.ends(), Some(129));
    bed.start();
    bed.until("the device has the other identifier", |bed| {
        say(bed, "ip", "-d link show dev vxlan.calico").contains("vxlan id 4097 ")
    });
    bed.until("what hangs on it is there again", |bed| {
        is_vxlan(bed) && say(bed, "bridge", "fdb show dev vxlan.calico").contains("66:00:00:00:00:99 dst 192.0.2.2")
    });
    assert_eq!(tunnel_address(&bed), Some(address));
    bed.reaches(&wired);
    assert!(bed.stop());
}

fn configure(bed: &Bed, change: impl Fn(&mut FelixConfigurationSpec)) {
    bed.on_store(async |store| {
        let key = Key::named(Kind::FelixConfiguration, "default");
        let mut configuration = store.get::<FelixConfigurationSpec>(&key).await.unwrap(); // bring-up made it
        change(&mut configuration.spec);
        store.update(&configuration).await.unwrap();
    });
}

#[test]
fn routes_that_change_their_owner_are_left_standing() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    west(&bed, "192.0.2.2/24");
    bed.on_store(async |store| {
        let key = Key::named(Kind::BGPConfiguration, "default");
        let mut configuration = store.get::<BGPConfigurationSpec>(&key).await.unwrap();
        configuration.spec.program_cluster_routes = Some("Disabled".to_owned());
        store.update(&configuration).await.unwrap();
    });
    bed.until("it is told that nobody programs plain routes", |bed| {
        status(bed).findings.iter().any(|finding| finding.text.contains("programClusterRoutes"))
    });
    assert_eq!(route(&bed), "", "until somebody says otherwise they are the speaker's");

    configure(&bed, |spec| spec.program_cluster_routes = Some("Enabled".to_owned()));
    assert_eq!(bed.ends(), Some(129));
    bed.start();
    bed.until("they are felix's", is_plain);
    assert_eq!(status(&bed).findings, []);

    configure(&bed, |spec| spec.program_cluster_routes = None);
    assert_eq!(bed.ends(), Some(129));
    bed.start();
    bed.until("felix knows that they are not its own", |bed| !status(bed).findings.is_empty());
    assert!(is_plain(&mut bed), "the speaker replaces them when it has its own");
    bed.on_store(async |store| {
        let key = Key::Block(BLOCK.parse().unwrap());
        let revision = store.get::<IPAMBlockSpec>(&key).await.unwrap();
        store.delete(&revision).await.unwrap();
    });
    bed.until("without the block there is no route", |bed| route(bed).is_empty());
}

#[test]
fn a_pool_that_cannot_be_changes_nothing_and_is_named_and_a_full_one_leaves_the_node_as_it_is() {
    // One block of one address, which the pod has.
    let mut bed = Bed::new(&[("CALICO_IPV4POOL_CIDR", "10.65.0.0/32"), ("CALICO_IPV4POOL_BLOCK_SIZE", "32"), NO_BGP]);
    bed.start();
    let wired = bed.add(&pod("web-0", "c1")).unwrap();

    pool_mode(&bed, |pool| (pool.ipip_mode, pool.vxlan_mode) = (Some(EncapMode::Always), Some(EncapMode::Always)));
    bed.until("the bad pool is named", |bed| {
        status(bed).findings.iter().any(|finding| finding.object == "IPPool/default-ipv4-ippool")
    });
    assert_eq!(status(&bed).tunnels, []);
    assert_eq!(fs::read_to_string(bed.path("mtu")).unwrap(), "1500");

    pool_mode(&bed, |pool| (pool.ipip_mode, pool.vxlan_mode) = (None, Some(EncapMode::Always)));
    bed.until("the tunnel without an address is named", |bed| {
        let findings = status(bed).findings;
        let named =
            findings.iter().any(|finding| finding.object == "Interface/vxlan.calico" && finding.text.contains("IPAM"));
        named && !findings.iter().any(|finding| finding.object == "IPPool/default-ipv4-ippool")
    });
    assert_eq!(tunnel_address(&bed), None);
    bed.reaches(&wired);
    assert!(bed.probe("/readiness").unwrap().starts_with("HTTP/1.1 200"));

    // The pod goes, and its address is the tunnel's.
    bed.del(&wired.sandbox);
    bed.until("the tunnel has the address", |bed| tunnel_address(bed).as_deref() == Some("10.65.0.0"));
    bed.until("nothing is to be told", |bed| status(bed).findings.is_empty());

    // Somebody takes it off the Node: it is written again.
    bed.on_store(async |store| {
        let mut node = store.get::<NodeSpec>(&Key::named(Kind::Node, "east")).await.unwrap();
        node.spec.ipv4_vxlan_tunnel_addr = None;
        store.update(&node).await.unwrap();
    });
    bed.until("the address is written again", |bed| tunnel_address(bed).as_deref() == Some("10.65.0.0"));
}
