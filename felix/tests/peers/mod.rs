//! The real felix on a node in a namespace: workloads that become BGP peers, and cease to be.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use calico_agent::{Add, Reply};
use calico_api::{
    BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec, Key, Kind, ObjectMeta, Profile, ProfileSpec,
    WorkloadEndpointSpec,
};
use calico_netlink::{Event, Monitor, Socket, namespace};

use crate::bed::{Bed, PATIENCE, Wired, endpoint_key, pod};

/// `RT_TABLE_LOCAL`.
const LOCAL: u32 = 255;

/// The file of a pod, if there is one.
fn file(bed: &Bed, name: &str) -> Option<serde_json::Value> {
    let text = fs::read(bed.path("status/endpoint-status").join(format!("k8s default%2F{name} eth0"))).ok()?;
    Some(serde_json::from_slice(&text).expect("readers never see half a file"))
}

fn label(bed: &Bed, pod: &str, value: &str) {
    bed.on_store(async |store| {
        let mut endpoint = store.get::<WorkloadEndpointSpec>(&endpoint_key(pod)).await.unwrap();
        endpoint.metadata.labels.insert("app".to_owned(), value.to_owned());
        store.update(&endpoint).await.unwrap();
    });
}

fn peer(bed: &Bed, name: &str, selector: &str) {
    let spec = BGPPeerSpec {
        local_workload_selector: Some(selector.to_owned()),
        as_number: "65100".parse().ok(),
        ..BGPPeerSpec::default()
    };
    let peer = BGPPeer::new(ObjectMeta::named(name), spec);
    bed.on_store(async |store| store.create(&peer).await.unwrap());
}

fn delete(bed: &Bed, kind: Kind, name: &str) {
    bed.on_store(async |store| store.delete_key(&Key::named(kind, name)).await.unwrap());
}

/// Sets the addresses that peers dial.
fn configure(bed: &Bed, ipv4: Option<&str>, ipv6: Option<&str>) {
    bed.on_store(async |store| {
        let key = Key::named(Kind::BGPConfiguration, "default");
        let mut configuration = store.get::<BGPConfigurationSpec>(&key).await.unwrap(); // bring-up made it
        configuration.spec.local_workload_peering_ipv4 = ipv4.map(str::to_owned);
        configuration.spec.local_workload_peering_ipv6 = ipv6.map(str::to_owned);
        store.update(&configuration).await.unwrap();
    });
}

/// Whether the node has this address on its side of the pod's interface.
fn has_address(bed: &Bed, pod: &Wired, address: &str) -> bool {
    let held =
        |found: &calico_netlink::Address, index| found.index == index && found.network.addr().to_string() == address;
    namespace::inside(&bed.namespace, || {
        let mut socket = Socket::open().unwrap();
        let Some(link) = socket.link(&pod.assigned.host_interface).unwrap() else { return false };
        socket.addresses().unwrap().iter().any(|found| held(found, link.index))
    })
    .unwrap()
}

/// Whether a TCP connection from the pod to that address of the node works, both ways.
#[track_caller]
fn dials(bed: &Bed, pod: &Wired, address: &str) {
    let target = namespace::inside(&bed.namespace, || TcpListener::bind((address, 179))).unwrap().unwrap();
    let to = target.local_addr().unwrap();
    let mut near = namespace::inside(&pod.namespace, || TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
    let (mut far, from) = target.accept().unwrap();
    assert!(pod.assigned.addresses.iter().any(|assigned| assigned.address == from.ip()), "{from}");
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_pod_that_a_bgp_peer_selects_finds_the_node_on_its_interface_and_the_speaker_finds_its_file() {
    let mut bed = Bed::new(&[("CALICO_IPV4POOL_CIDR", "10.65.0.0/16"), ("CALICO_IPV6POOL_CIDR", "fd00:65::/48")]);
    fs::create_dir_all(bed.path("status/endpoint-status")).unwrap();
    fs::write(bed.path("status/endpoint-status/k8s default%2Fgone eth0"), "{}").unwrap();
    bed.start();
    bed.until("the file of a pod that is gone is removed", |bed| file(bed, "gone").is_none());

    // A pod that is no peer has a file, too.
    let router = bed.add(&Add { ipv6: true, ..pod("router", "c1") }).unwrap();
    let other = bed.add(&pod("other", "c2")).unwrap();
    bed.until("both have a file", |bed| file(bed, "router").is_some() && file(bed, "other").is_some());
    let [v4, v6] = [0, 1].map(|which| ipnet::IpNet::from(router.assigned.addresses[which].address).to_string());
    let plain = serde_json::json!({"ifaceName": router.assigned.host_interface, "ipv4Nets": [v4], "ipv6Nets": [v6]});
    assert_eq!(file(&bed, "router"), Some(plain.clone()));

    // Selected, it is a peer; without an address to dial that is a warning.
    label(&bed, "router", "r");
    peer(&bed, "lw", "app == 'r' && inherited == 'yes'");
    let spec = ProfileSpec {
        labels_to_apply: Some([("inherited".to_owned(), "yes".to_owned())].into()),
        ..ProfileSpec::default()
    };
    let profile = Profile::new(ObjectMeta::named("kns.default"), spec);
    bed.on_store(async |store| store.create(&profile).await.unwrap());
    let mut selected = plain.clone();
    selected["bgpPeerName"] = "lw".into();
    bed.until("the file names the BGPPeer", |bed| file(bed, "router").as_ref() == Some(&selected));
    bed.until("felix says what is missing", |bed| {
        let log = fs::read_to_string(bed.path("felix.log")).unwrap();
        log.contains("set localWorkloadPeeringIPV4 in BGPConfiguration default")
    });
    configure(&bed, Some("169.254.0.179"), Some("fd12:3456::1"));
    for address in ["169.254.0.179", "fd12:3456::1"] {
        bed.until("the node has the address", |bed| has_address(bed, &router, address));
        dials(&bed, &router, address);
        assert!(!has_address(&bed, &other, address));
    }
    bed.reaches(&router);

    // A restart changes neither files nor kernel.
    bed.kill();
    let mut witness = namespace::inside(&bed.namespace, || Monitor::open().unwrap()).unwrap();
    bed.start();
    assert_eq!(witness.receive().unwrap(), []);
    assert_eq!(file(&bed, "router").as_ref(), Some(&selected));
    label(&bed, "other", "r");
    bed.until("after the restart others become peers", |bed| has_address(bed, &other, "169.254.0.179"));
    let events = witness.receive().unwrap();
    let expected = |event: &Event| match event {
        Event::Address(_) => true,
        Event::Route(route) => route.table == LOCAL,
        _ => false,
    };
    assert!(events.len() == 2 && events.iter().all(expected), "an address and its local route: {events:?}");
    dials(&bed, &router, "169.254.0.179");

    // What goes while felix is away is found at the start.
    bed.kill();
    label(&bed, "other", "web");
    bed.start();
    bed.until("the former peer's address is gone", |bed| !has_address(bed, &other, "169.254.0.179"));
    bed.until("its file names no BGPPeer", |bed| {
        file(bed, "other").is_some_and(|file| file.get("bgpPeerName").is_none())
    });
    assert!(has_address(&bed, &router, "169.254.0.179") && has_address(&bed, &router, "fd12:3456::1"));

    // Without the configuration, and without the BGPPeer.
    delete(&bed, Kind::BGPConfiguration, "default");
    bed.until("the address goes with the configuration", |bed| !has_address(bed, &router, "169.254.0.179"));
    assert_eq!(file(&bed, "router").as_ref(), Some(&selected));
    let configuration = BGPConfiguration::new(ObjectMeta::named("default"), BGPConfigurationSpec::default());
    bed.on_store(async |store| store.create(&configuration).await.unwrap());
    configure(&bed, Some("169.254.0.180"), Some("fd12:3456::1"));
    bed.until("the node has the other address", |bed| has_address(bed, &router, "169.254.0.180"));
    delete(&bed, Kind::BGPPeer, "lw");
    bed.until("the pod is no peer any more", |bed| file(bed, "router").as_ref() == Some(&plain));
    for address in ["169.254.0.180", "fd12:3456::1"] {
        assert!(!has_address(&bed, &router, address), "{address}");
    }
    bed.reaches(&router);

    // When DEL returns the file is gone.
    assert_eq!(bed.del(&router.sandbox), Reply::Done);
    assert_eq!(file(&bed, "router"), None);
    assert!(file(&bed, "other").is_some());
}
