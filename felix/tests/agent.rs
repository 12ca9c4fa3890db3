//! The real felix on a node in a namespace: bring-up, conversations, repair, restarts.

mod bed;
mod bring_up;
mod peers;
mod tunnels;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use bed::{Bed, Refused, endpoint_key, pod};
use calico_agent::client::{Client, ClientError};
use calico_agent::{Add, Attached, Del, Reply, Request, Sandbox};
use calico_api::{
    ClusterInformationSpec, IPAMBlockSpec, IPAMHandleSpec, IPPoolSpec, Key, Kind, NodeSpec, WorkloadEndpointSpec,
};
use calico_datastore::Filter;
use calico_netlink::{Monitor, RouteFilter, Socket, namespace};

const POOL: (&str, &str) = ("CALICO_IPV4POOL_CIDR", "10.65.0.0/16");

#[test]
fn a_node_comes_up_its_pods_are_connected_repaired_and_survive_a_kill() {
    let mut bed = Bed::new(&[POOL, ("CALICO_IPV6POOL_CIDR", "fd00:65::/48")]);
    bed.start();

    // What bring-up leaves.
    let node = bed.stored::<NodeSpec>(&Key::named(Kind::Node, "east")).unwrap();
    assert_eq!(node.spec.bgp.unwrap().ipv4_address.as_deref(), Some("192.0.2.1/24"));
    let pool = bed.stored::<IPPoolSpec>(&Key::named(Kind::IPPool, "default-ipv4-ippool")).unwrap();
    assert_eq!((pool.spec.cidr.as_str(), pool.spec.nat_outgoing), ("10.65.0.0/16", Some(true)));
    assert_eq!(fs::read_to_string(bed.path("nodename")).unwrap(), "east");
    assert_eq!(fs::read_to_string(bed.path("mtu")).unwrap(), "1500");
    assert!(bed.probe("/liveness").unwrap().contains("FelixStartup"));

    // A pod of both families.
    let wired = bed.add(&Add { ipv6: true, ..pod("web-0", "c1") }).unwrap();
    assert_eq!(wired.assigned.host_interface, "cali0d7763386da");
    assert_eq!((wired.assigned.mtu, wired.assigned.addresses.len()), (1500, 2));
    bed.reaches(&wired);
    let endpoint = bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")).unwrap();
    let networks: Vec<String> =
        wired.assigned.addresses.iter().map(|one| ipnet::IpNet::from(one.address).to_string()).collect();
    assert_eq!(endpoint.spec.ip_networks, networks);
    assert_eq!((endpoint.spec.container_id.as_str(), endpoint.spec.profiles.len()), ("c1", 1));
    let mut expected: Vec<String> = networks.iter().map(|network| format!("{network} cali0d7763386da")).collect();
    for assigned in &wired.assigned.addresses {
        let block = ipnet::IpNet::new(assigned.address, assigned.block_length).unwrap().trunc();
        expected.push(format!("{block} blackhole"));
    }
    expected.sort();
    let as_expected = |bed: &mut Bed| {
        let mut routes = bed.routes();
        routes.sort();
        routes == expected
    };
    bed.until("routes and black holes stand", as_expected);

    // Somebody flushes them.
    namespace::inside(&bed.namespace, || {
        let mut socket = Socket::open().unwrap();
        let filter = RouteFilter { table: Some(254), protocol: Some(80), ..RouteFilter::default() };
        for route in socket.routes(&filter).unwrap() {
            socket.delete_route(&route).unwrap();
        }
    })
    .unwrap();
    bed.until("the flushed routes are back", as_expected);
    bed.reaches(&wired);

    // Killed and started again: the kernel is not touched, and the next pod is served.
    bed.kill();
    let mut witness = namespace::inside(&bed.namespace, || Monitor::open().unwrap()).unwrap();
    bed.start();
    assert_eq!(witness.receive().unwrap(), []);
    bed.reaches(&wired);
    let second = bed.add(&pod("web-1", "c2")).unwrap();
    assert_ne!(second.assigned.addresses[0], wired.assigned.addresses[0]);
    bed.reaches(&second);

    // Deleted: route, endpoint, addresses; and once more, which is no error.
    for _ in 0..2 {
        assert_eq!(bed.del(&wired.sandbox), Reply::Done);
        assert!(!bed.routes().iter().any(|route| route.ends_with("cali0d7763386da")));
        assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
        assert_eq!(bed.stored::<IPAMHandleSpec>(&Key::Handle(wired.sandbox.handle())), None);
    }
    bed.reaches(&second);
    assert!(bed.probe("/metrics").unwrap().contains("felix_active_local_endpoints 1"));

    // Told to stop, it leaves the kernel as it is.
    assert!(bed.stop());
    assert!(!bed.path("agent.sock").exists());
    bed.reaches(&second);
}

#[test]
fn a_plugin_that_hangs_up_leaves_nothing_behind() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let (client, assigned) = bed.first_round(&pod("web-0", "c1")).unwrap();
    let handle = Key::Handle("k8s-pod-network.c1".to_owned());
    bed.until("the address is written down", |bed| bed.stored::<IPAMHandleSpec>(&handle).is_some());
    drop(client);
    bed.until("the address is released", |bed| bed.stored::<IPAMHandleSpec>(&handle).is_none());
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
    let block = ipnet::IpNet::new(assigned.addresses[0].address, assigned.addresses[0].block_length).unwrap();
    let block = bed.stored::<IPAMBlockSpec>(&Key::Block(block.trunc())).unwrap();
    assert!(block.spec.allocations.iter().all(Option::is_none));

    // Attached to an interface that is not there: an error, and nothing left either.
    let (mut client, _) = bed.first_round(&pod("web-0", "c2")).unwrap();
    let attached = calico_agent::Attached { mac: String::new(), host_index: 99 };
    let Reply::Error(failure) = client.call(&Request::Attached(attached)).unwrap() else { panic!("it was attached") };
    assert!(failure.code == 11 && failure.details.contains("cali0d7763386da (number 99)"), "{failure:?}");
    assert_eq!(bed.stored::<IPAMHandleSpec>(&Key::Handle("k8s-pod-network.c2".to_owned())), None);
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
}

#[test]
fn the_del_of_an_old_sandbox_leaves_its_successor_alone() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let old = bed.add(&pod("web-0", "c1")).unwrap();
    let new = bed.add(&pod("web-0", "c2")).unwrap();
    assert_ne!(old.assigned.addresses, new.assigned.addresses);
    bed.reaches(&new);
    assert_eq!(bed.del(&old.sandbox), Reply::Done);
    bed.reaches(&new);
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")).unwrap().spec.container_id, "c2");
    assert_eq!(bed.stored::<IPAMHandleSpec>(&Key::Handle(old.sandbox.handle())), None);
    assert_eq!(bed.del(&new.sandbox), Reply::Done);
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
}

#[test]
fn a_plugin_that_dies_before_it_hears_done_leaves_nothing_behind() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let stream = UnixStream::connect(bed.path("agent.sock")).unwrap();
    let send = |request: &Request| {
        (&stream).write_all(format!("{}\n", serde_json::to_string(request).unwrap()).as_bytes()).unwrap();
    };
    send(&Request::Add(pod("web-0", "c1")));
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut answer).unwrap();
    let Reply::Assigned(assigned) = serde_json::from_str(&answer).unwrap() else { panic!("{answer}") };
    let (_pod, host_index) = bed.wire(&assigned);
    // From here on no answer can be delivered.
    stream.shutdown(std::net::Shutdown::Read).unwrap();
    send(&Request::Attached(Attached { host_index, ..Attached::default() }));
    let handle = Key::Handle("k8s-pod-network.c1".to_owned());
    bed.until("the address is released", |bed| bed.stored::<IPAMHandleSpec>(&handle).is_none());
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
    assert!(!bed.routes().iter().any(|route| route.ends_with("cali0d7763386da")));
}

#[test]
fn pods_leave_together_and_whatever_happens_completely() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let leave = |bed: &Bed, sandbox: &Sandbox| bed.call(&Request::Del(Del { sandbox: sandbox.clone(), gone: false }));
    assert_eq!(leave(&bed, &pod("web-0", "c0").sandbox), Reply::Detach, "nothing is known of it");

    let is_off = |bed: &Bed, name: &str| {
        let link = namespace::inside(&bed.namespace, || Socket::open().unwrap().link(name).unwrap()).unwrap();
        link.is_none_or(|link| !link.up)
    };
    let nothing_left = |bed: &mut Bed| {
        // A note goes last of all.
        if fs::read_dir(bed.path("spool")).map_or(0, Iterator::count) > 0 {
            return false;
        }
        let links = namespace::inside(&bed.namespace, || Socket::open().unwrap().links().unwrap()).unwrap();
        let interfaces = links.iter().filter(|link| link.name.starts_with("cali")).count();
        let (endpoints, handles, blocks) = bed.on_store(async |store| {
            let endpoints = store.list::<WorkloadEndpointSpec>(&Filter::All).await.unwrap().items.len();
            let handles = store.list::<IPAMHandleSpec>(&Filter::All).await.unwrap().items.len();
            (endpoints, handles, store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap().items)
        });
        let taken = blocks.iter().flat_map(|block| &block.spec.allocations).flatten().count();
        assert_eq!(
            [interfaces, endpoints, handles, taken],
            [0; 4],
            "forgotten interfaces, endpoints, handles, addresses"
        );
        true
    };
    let wired: Vec<_> = (0..20).map(|n| bed.add(&pod(&format!("web-{n}"), &format!("c{n}"))).unwrap()).collect();
    for one in &wired {
        assert_eq!(leave(&bed, &one.sandbox), Reply::Done);
        let name = &one.assigned.host_interface;
        assert!(is_off(&bed, name), "its pod sends no more");
        assert!(!bed.routes().iter().any(|route| route.ends_with(name.as_str())));
    }
    bed.until("nothing is left", nothing_left);

    // The pod's next sandbox comes at once: it waits for the one before, and is not touched by what is left of it.
    let old = bed.add(&pod("web-0", "c1")).unwrap();
    assert_eq!(leave(&bed, &old.sandbox), Reply::Done);
    let new = bed.add(&pod("web-0", "c2")).unwrap();
    bed.reaches(&new);
    assert_eq!(leave(&bed, &old.sandbox), Reply::Detach);
    bed.reaches(&new);

    // Killed with some of it done: the next felix does the rest.
    for round in 0..5 {
        let names = ["a", "b", "c"].map(|name| format!("killed-{name}{round}"));
        let wired = names.map(|name| bed.add(&pod(&name, &name)).unwrap());
        for one in &wired {
            assert_eq!(leave(&bed, &one.sandbox), Reply::Done);
        }
        bed.kill();
        bed.start();
    }
    bed.reaches(&new);
    assert_eq!(leave(&bed, &new.sandbox), Reply::Done);
    bed.until("nothing is left", nothing_left);
}

#[test]
fn the_last_address_goes_from_a_pod_that_left_to_one_that_comes() {
    let mut bed = Bed::new(&[("CALICO_IPV4POOL_CIDR", "10.65.0.0/32"), ("CALICO_IPV4POOL_BLOCK_SIZE", "32")]);
    bed.start();
    for number in 0..3 {
        let wired = bed.add(&pod(&format!("web-{number}"), &format!("c{number}"))).unwrap();
        assert_eq!(wired.assigned.addresses[0].address.to_string(), "10.65.0.0");
        refused(&bed, &pod("other", "c9"), 11, "pool");
        bed.reaches(&wired);
        assert_eq!(bed.call(&Request::Del(Del { sandbox: wired.sandbox.clone(), gone: false })), Reply::Done);
    }
}

#[test]
fn requests_for_one_pod_are_served_one_after_the_other() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let socket = bed.path("agent.sock");
    let impatient = |request: Request| {
        let mut client = Client::connect(&socket, Duration::from_millis(500)).unwrap();
        client.call(&request)
    };
    // A DEL does not overtake the ADD of its sandbox.
    let (mut first, assigned) = bed.first_round(&pod("web-0", "c1")).unwrap();
    let answer = impatient(Request::Del(Del { sandbox: pod("web-0", "c1").sandbox, gone: true }));
    assert!(matches!(answer, Err(ClientError::Silent { .. })), "{answer:?}");
    let (_pod, host_index) = bed.wire(&assigned);
    let attached = Attached { host_index, ..Attached::default() };
    assert_eq!(first.call(&Request::Attached(attached.clone())).unwrap(), Reply::Done);
    let handle = |container: &str| Key::Handle(format!("k8s-pod-network.{container}"));
    bed.until("the DEL is done after all", |bed| bed.stored::<IPAMHandleSpec>(&handle("c1")).is_none());
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
    assert!(!bed.routes().iter().any(|route| route.ends_with("cali0d7763386da")));

    // The pod's next sandbox waits until the agent has let go of the one before, which dies half-way.
    let (dying, _) = bed.first_round(&pod("web-0", "c2")).unwrap();
    let mut next = bed.client();
    let answer = impatient(Request::Add(pod("web-0", "c3")));
    assert!(matches!(answer, Err(ClientError::Silent { .. })), "{answer:?}");
    drop(dying);
    let Reply::Assigned(assigned) = next.call(&Request::Add(pod("web-0", "c4"))).unwrap() else { panic!("refused") };
    assert_eq!(bed.stored::<IPAMHandleSpec>(&handle("c2")), None);
    assert_eq!(bed.stored::<IPAMHandleSpec>(&handle("c3")), None);
    // And what is said of an interface that is another's by now touches nothing.
    let (_pod, host_index) = bed.wire(&assigned);
    assert_ne!(host_index, attached.host_index);
    let Reply::Error(failure) = next.call(&Request::Attached(attached)).unwrap() else { panic!("it was attached") };
    assert!(failure.details.contains("is not in the node's network namespace"), "{failure:?}");
    let link = namespace::inside(&bed.namespace, || Socket::open().unwrap().link("cali0d7763386da").unwrap()).unwrap();
    assert!(link.is_some_and(|link| link.index == host_index && !link.up));
}

#[test]
fn pods_that_start_together_get_addresses_of_their_own() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let bed = &bed;
    let mut addresses: Vec<_> = std::thread::scope(|scope| {
        let adds: Vec<_> = (0..20)
            .map(|number| {
                let (add, socket) = (pod(&format!("web-{number}"), &format!("c{number}")), bed.path("agent.sock"));
                scope.spawn(move || {
                    let mut client = calico_agent::client::Client::connect(&socket, bed::PATIENCE).unwrap();
                    match client.call(&Request::Assign(add)).unwrap() {
                        Reply::Assigned(assigned) => assigned.addresses[0].address,
                        other => panic!("{other:?}"),
                    }
                })
            })
            .collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20);
    for number in 0..20 {
        let sandbox = pod(&format!("web-{number}"), &format!("c{number}")).sandbox;
        assert_eq!(bed.call(&Request::Release(Del { sandbox, gone: true })), Reply::Done);
    }
    let left = bed.on_store(async |store| store.list::<IPAMHandleSpec>(&calico_datastore::Filter::All).await.unwrap());
    assert_eq!(left.items, []);
}

#[test]
fn remembered_releases_are_done_at_the_start_and_unreadable_ones_set_aside() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let wired = bed.add(&pod("web-0", "c1")).unwrap();
    bed.kill();
    let spool = bed.path("spool");
    calico_agent::spool::remember(&spool, &Del { sandbox: wired.sandbox.clone(), gone: true }).unwrap();
    fs::write(spool.join("broken.json"), "{").unwrap();
    bed.start();
    bed.until("the address is released", |bed| {
        bed.stored::<IPAMHandleSpec>(&Key::Handle(wired.sandbox.handle())).is_none()
    });
    bed.until("the spool is worked off", |bed| {
        let names = fs::read_dir(bed.path("spool")).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<Vec<_>>() == ["broken.json.bad"]
    });
    assert_eq!(bed.stored::<WorkloadEndpointSpec>(&endpoint_key("web-0")), None);
    assert!(!bed.routes().iter().any(|route| route.ends_with("cali0d7763386da")));
}

#[test]
fn a_remembered_release_that_cannot_be_done_does_not_hold_up_the_others() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let names = ["web-0", "web-1", "web-2", "web-3", "web-4"];
    let wired: Vec<_> = names.iter().map(|name| bed.add(&pod(name, name)).unwrap()).collect();
    bed.kill();
    for pod in &wired {
        calico_agent::spool::remember(&bed.path("spool"), &Del { sandbox: pod.sandbox.clone(), gone: true }).unwrap();
    }
    // Somebody spoils the endpoint of the first that is found.
    let found = calico_agent::spool::pending(&bed.path("spool")).unwrap();
    let stuck = found[0].del.as_ref().unwrap().sandbox.container_id.clone();
    let store = rusqlite::Connection::open(bed.path("store.db")).unwrap();
    let spoil = "UPDATE log SET value = '[]' WHERE current = 1 AND kind = 'WorkloadEndpoint' AND key LIKE ?1";
    let name = endpoint_key(&stuck).name().to_owned();
    assert_eq!(store.execute(spoil, [format!("%{name}%")]).unwrap(), 1);
    drop(store);
    bed.start();
    bed.until("the others are released", |bed| {
        let left = calico_agent::spool::pending(&bed.path("spool")).unwrap();
        let left: Vec<_> = left.iter().map(|one| one.del.as_ref().unwrap().sandbox.container_id.as_str()).collect();
        left == [stuck.as_str()]
    });
    assert!(bed.stored::<IPAMHandleSpec>(&Key::Handle(format!("k8s-pod-network.{stuck}"))).is_some());
}

#[test]
fn a_store_that_does_not_answer_is_named_in_time_and_what_it_owes_is_done_later() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let wired = bed.add(&pod("web-0", "c1")).unwrap();
    let handle = Key::Handle(wired.sandbox.handle());
    let spooled = |bed: &Bed| fs::read_dir(bed.path("spool")).map_or(0, |entries| entries.count());

    // Somebody holds the store: nothing can be written.
    let holder = rusqlite::Connection::open(bed.path("store.db")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    refused(&bed, &pod("web-1", "c2"), 11, "store.db");
    assert_eq!(bed.del(&wired.sandbox), Reply::Done);
    assert!(!bed.routes().iter().any(|route| route.ends_with("cali0d7763386da")), "the route goes at once");
    assert_eq!(spooled(&bed), 2);
    assert!(bed.stored::<IPAMHandleSpec>(&handle).is_some());

    // It answers again. The sandbox itself may come back first, and keeps what it is given then.
    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    let again = bed.add(&pod("web-0", "c1")).unwrap();
    bed.until("the spool is worked off", |bed| spooled(bed) == 0);
    bed.reaches(&again);
    assert!(bed.stored::<IPAMHandleSpec>(&handle).is_some());
    let left = bed.on_store(async |store| store.list::<IPAMHandleSpec>(&calico_datastore::Filter::All).await.unwrap());
    assert_eq!(left.items.len(), 1);
}

#[track_caller]
fn refused(bed: &Bed, add: &Add, code: u32, text: &str) {
    match bed.add(add).map(|wired| wired.assigned) {
        Err(Refused::Failed(failure)) => {
            let all = format!("{} {}", failure.message, failure.details);
            assert!(failure.code == code && all.contains(text), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let mut bed = Bed::new(&[("NO_DEFAULT_POOLS", "true")]);
    bed.start();
    assert_eq!(bed.call(&Request::Status), Reply::Done);
    let other = Add { node: Some("west".to_owned()), ..pod("web-0", "c1") };
    refused(&bed, &other, 7, "is for node west, but this is east");
    refused(&bed, &pod("web-0", ""), 7, "CNI_CONTAINERID");
    refused(&bed, &pod("web-0", "c1"), 999, "no address for pod default/web-0");

    // The store is locked.
    let key = Key::named(Kind::ClusterInformation, "default");
    bed.on_store(async |store| {
        let mut cluster = store.get::<ClusterInformationSpec>(&key).await.unwrap();
        cluster.spec.datastore_ready = Some(false);
        store.update(&cluster).await.unwrap();
    });
    bed.until("felix knows", |bed| bed.call(&Request::Status) != Reply::Done);
    refused(&bed, &pod("web-0", "c1"), 11, "datastoreReady");

    // What is no request.
    let mut stream = UnixStream::connect(bed.path("agent.sock")).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut answer).unwrap();
    assert!(matches!(serde_json::from_str(&answer).unwrap(), Reply::Error(failure) if failure.code == 7), "{answer}");
}

#[test]
fn a_second_felix_another_name_and_a_bad_parameter_are_refused() {
    let mut bed = Bed::new(&[POOL]);
    bed.start();
    let run = |bed: &Bed, change: fn(&mut Command)| {
        let mut command = bed.command();
        command.env("FELIX_HEALTHENABLED", "false");
        change(&mut command);
        command.stderr(Stdio::piped());
        let output = namespace::inside(&bed.namespace, || command.output().unwrap()).unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run(&bed, |_| {});
    assert!(text.contains("another agent listens on"), "{text}");
    let text = run(&bed, |command| {
        command.env("NODENAME", "west");
    });
    assert!(text.contains("NODENAME is \"west\", but"), "{text}");
    let text = run(&bed, |command| {
        command.env("AS", "many");
    });
    assert!(text.contains("environment variable AS is \"many\""), "{text}");
    let text = run(&bed, |command| {
        command.args(["--config-file", "/nowhere/felix.cfg"]);
    });
    assert!(text.contains("cannot read /nowhere/felix.cfg"), "{text}");
    // And the first goes on.
    let wired = bed.add(&pod("web-0", "c1")).unwrap();
    bed.reaches(&wired);
}
