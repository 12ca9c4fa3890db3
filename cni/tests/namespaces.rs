//! The plugins' programs in network namespaces of our own, with an agent that is a few lines of this file.
//!
//! What the real agent does with it all is tested in `integration/`.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use calico_agent::{Assigned, AssignedAddress, Del, Failure, Pod, Reply, Request, Sandbox, spool};
use calico_netlink::{LinkChange, NextHop, Route, RouteFilter, Socket, namespace, sysctl};
use serde_json::{Value, json};

const HOST: &str = "cali0d7763386da";

/// A node: a network namespace, a directory for the agent's socket and the spool.
struct Node {
    network: OwnedFd,
    directory: tempfile::TempDir,
    /// `CNI_PATH`.
    plugins: Option<PathBuf>,
    /// What the agent was asked.
    asked: Arc<Mutex<Vec<Request>>>,
}

/// What a plugin said.
#[derive(Debug)]
struct Answer {
    succeeded: bool,
    output: Value,
    took: Duration,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { network: namespace::create().unwrap(), directory, plugins: None, asked: Arc::default() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    /// An agent that answers as `reply` says; `None` hangs up.
    fn agent(self, reply: impl Fn(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let asked = Arc::clone(&self.asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines() {
                    let request: Request = serde_json::from_str(&line.unwrap()).unwrap();
                    asked.lock().unwrap().push(request.clone());
                    let Some(reply) = reply(&request) else { break };
                    writer.write_all(format!("{}\n", serde_json::to_string(&reply).unwrap()).as_bytes()).unwrap();
                }
            }
        });
        self
    }

    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Work on the node.
    fn run<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        namespace::inside(&self.network, || work(&mut Socket::open().unwrap())).unwrap()
    }

    /// Runs a plugin on the node for a pod's namespace.
    fn call(&self, program: &str, verb: &str, netns: &Path, patch: Value) -> Answer {
        let mut netconf = json!({
            "cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "calico", "ipam": { "type": "calico-ipam" },
            "agent_socket": self.socket(), "agent_spool": self.spool(), "policy": { "type": "k8s" },
            "log_file_path": self.directory.path().join("cni.log"),
        });
        for (key, value) in patch.as_object().unwrap() {
            netconf[key] = value.clone();
        }
        let start = Instant::now();
        let output = namespace::inside(&self.network, || {
            let mut child = Command::new(program)
                .env_clear()
                .env("CNI_COMMAND", verb)
                .env("CNI_CONTAINERID", "c0ffee")
                .env("CNI_IFNAME", "eth0")
                .env("CNI_NETNS", netns)
                .env("CNI_PATH", self.plugins.as_deref().unwrap_or("/nowhere".as_ref()))
                .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // A plugin that refuses its verb may have ended before it reads.
            let _ = child.stdin.take().unwrap().write_all(netconf.to_string().as_bytes());
            child.wait_with_output().unwrap()
        })
        .unwrap();
        let took = start.elapsed();
        let output_json =
            if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() };
        Answer { succeeded: output.status.success(), output: output_json, took }
    }

    fn calico(&self, verb: &str, pod: &PodNetwork) -> Answer {
        self.call(env!("CARGO_BIN_EXE_calico"), verb, &pod.path(), json!({}))
    }
}

impl Answer {
    #[track_caller]
    fn succeeds(self) -> Value {
        assert!(self.succeeded, "{self:?}");
        self.output
    }

    #[track_caller]
    fn fails(self, code: u32) -> String {
        assert!(!self.succeeded, "{self:?}");
        assert_eq!(self.output["code"], code, "{self:?}");
        assert_eq!(self.output["cniVersion"], "1.1.0");
        self.output.to_string()
    }
}

/// A pod's network namespace.
struct PodNetwork(OwnedFd);

impl PodNetwork {
    fn new() -> Self {
        Self(namespace::create().unwrap())
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    fn run<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        namespace::inside(&self.0, || work(&mut Socket::open().unwrap())).unwrap()
    }

    fn has_interface(&self) -> bool {
        self.run(|socket| socket.link("eth0").unwrap().is_some())
    }
}

/// An agent that assigns one address of each family, finds everything well and has the plugin remove interfaces.
fn content(request: &Request) -> Option<Reply> {
    Some(match request {
        Request::Add(_) | Request::Assign(_) => Reply::Assigned(Assigned {
            addresses: vec![
                AssignedAddress { address: "10.244.0.5".parse().unwrap(), block_length: 26 },
                AssignedAddress { address: "fd00:10:244::5".parse().unwrap(), block_length: 122 },
            ],
            host_interface: HOST.into(),
            mtu: 1450,
            mac: None,
        }),
        Request::Del(Del { gone: false, .. }) => Reply::Detach,
        _ => Reply::Done,
    })
}

fn sandbox() -> Sandbox {
    Sandbox {
        container_id: "c0ffee".into(),
        interface: "eth0".into(),
        network: "k8s-pod-network".into(),
        pod: Some(Pod { namespace: "default".into(), name: "web-0".into() }),
    }
}

#[test]
fn add_makes_a_pod_that_the_node_can_talk_to_and_del_unmakes_it() {
    let (node, pod) = (Node::new().agent(content), PodNetwork::new());
    // As some runtimes and nodes leave it.
    pod.run(|_| {
        sysctl::write(&["net", "ipv6", "conf", "all", "disable_ipv6"], "1").unwrap();
        sysctl::write(&["net", "ipv4", "ip_forward"], "1").unwrap();
    });
    let result = node.calico("ADD", &pod).succeeds();

    let (link, addresses, routes, forwarding) = pod.run(|socket| {
        let link = socket.link("eth0").unwrap().unwrap();
        let addresses = socket.addresses().unwrap();
        let index = link.index;
        let mine = addresses.into_iter().filter(|address| address.index == index && address.scope == 0);
        let routes = socket.routes(&RouteFilter { protocol: Some(3), ..RouteFilter::default() }).unwrap();
        let forwarding = ["ipv4", "ipv6"].map(|f| sysctl::read(&["net", f, "conf", "all", "forwarding"]).unwrap());
        (
            link,
            mine.map(|address| (address.network.to_string(), address.is_usable())).collect::<Vec<_>>(),
            routes,
            forwarding,
        )
    });
    assert!(link.up);
    assert_eq!((link.mtu, forwarding), (1450, ["0".to_owned(), "0".to_owned()]));
    assert_eq!(addresses, [("10.244.0.5/32".into(), true), ("fd00:10:244::5/128".into(), true)]);
    let dev = |to: &str| Route::unicast(to.parse().unwrap(), [NextHop::dev(link.index)], 3).normalized();
    let via = |to: &str, gateway: &str| {
        let hop = NextHop::via(gateway.parse().unwrap()).on(link.index);
        Route::unicast(to.parse().unwrap(), [hop], 3).normalized()
    };
    let expected = [via("0.0.0.0/0", "169.254.1.1"), dev("169.254.1.1/32"), via("::/0", "fe80::ecee:eeff:feee:eeee")];
    assert_eq!(routes, expected);

    let host = node.run(|socket| socket.link(HOST).unwrap().unwrap());
    assert_eq!(host.mac.unwrap().to_string(), "ee:ee:ee:ee:ee:ee");
    assert_eq!((host.mtu, host.up), (1450, false));

    let mac = link.mac.unwrap().to_string();
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0", "dns": {},
            "interfaces": [{ "name": HOST }, { "name": "eth0", "mac": mac, "mtu": 1450, "sandbox": pod.path() }],
            "ips": [{ "address": "10.244.0.5/32", "interface": 1 }, { "address": "fd00:10:244::5/128", "interface": 1 }],
        })
    );
    let asked = node.asked();
    let [Request::Add(add), Request::Attached(attached)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((&add.sandbox, add.ipv4, add.ipv6), (&sandbox(), true, false));
    assert_eq!((&attached.mac, attached.host_index), (&mac, host.index));

    // What the agent does then, in short; after it packets pass.
    node.run(|socket| {
        sysctl::write(&["net", "ipv6", "conf", HOST, "accept_dad"], "0").unwrap();
        for interface in [socket.link("lo").unwrap().unwrap().index, host.index] {
            socket.change_link(interface, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        }
        let lo = socket.link("lo").unwrap().unwrap().index;
        for address in ["10.0.0.1/32", "fd00::1/128"] {
            let address = calico_netlink::Address::new(lo, address.parse().unwrap());
            socket.add_address(&address.without_duplicate_detection()).unwrap();
        }
        for address in ["10.244.0.5/32", "fd00:10:244::5/128"] {
            socket.add_route(&Route::unicast(address.parse().unwrap(), [NextHop::dev(host.index)], 80)).unwrap();
        }
    });
    for (of_pod, of_node) in [("10.244.0.5", "10.0.0.1"), ("fd00:10:244::5", "fd00::1")] {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let server = pod.run(|_| UdpSocket::bind((address(of_pod), 7)).unwrap());
        let client = node.run(|_| UdpSocket::bind((address(of_node), 0)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"ping", (address(of_pod), 7)).unwrap();
        let (length, from) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!((length, from.ip()), (4, address(of_node)));
        // Back through the pod's default route.
        server.send_to(b"pong!", from).unwrap();
        assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (5, (address(of_pod), 7).into()));
    }

    // It is as it was made, until it is not.
    let check = |previous: &Value| {
        node.call(env!("CARGO_BIN_EXE_calico"), "CHECK", &pod.path(), json!({ "prevResult": previous }))
    };
    assert_eq!(check(&result).succeeds(), Value::Null);
    assert!(check(&Value::Null).fails(7).contains("prevResult is missing"));
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.244.0.6/32".into();
    let text = check(&other).fails(999);
    assert!(text.contains("the node has no route to 10.244.0.6 through cali0d7763386da"), "{text}");
    other["ips"][0]["interface"] = 0.into();
    check(&other).succeeds();
    assert!(check(&json!({ "ips": [] })).fails(7).contains("does not name eth0 and the node's side"));
    assert!(check(&json!({ "ips": [{ "address": "x" }] })).fails(7).contains("x"));
    other = result.clone();
    other["interfaces"][1]["mac"] = "02:00:00:00:00:01".into();
    assert!(check(&other).fails(999).contains("instead of 02:00:00:00:00:01"));
    other = result.clone();
    other["interfaces"][1]["mtu"] = 1400.into();
    assert!(check(&other).fails(999).contains("has the MTU 1450 instead of 1400"));
    let asked = node.asked();
    let Some(Request::Check(asked)) = asked.last() else { panic!("{asked:?}") };
    let expected = ["10.244.0.5", "fd00:10:244::5"].map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!((&asked.sandbox, &asked.addresses[..], asked.assigned), (&sandbox(), &expected[..], true));
    assert_eq!(asked.host_interface.as_deref(), Some(HOST));
    // One thing after the other is taken away, in the pod and on the node.
    let off = |socket: &mut Socket, name: &str| {
        let index = socket.link(name).unwrap().unwrap().index;
        socket.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
    };
    let default = via("::/0", "fe80::ecee:eeff:feee:eeee");
    pod.run(|socket| socket.delete_route(&default).unwrap());
    assert!(check(&result).fails(999).contains("no route to ::/0 through fe80::ecee:eeff:feee:eeee"));
    pod.run(|socket| {
        let address = calico_netlink::Address::new(link.index, "10.244.0.5/32".parse().unwrap());
        socket.delete_address(&address).unwrap();
    });
    assert!(check(&result).fails(999).contains("eth0 lacks the address 10.244.0.5"));
    pod.run(|socket| off(socket, "eth0"));
    assert!(check(&result).fails(999).contains("eth0 is switched off"));
    node.run(|socket| off(socket, HOST));
    assert!(check(&result).fails(999).contains("cali0d7763386da, the node's side of it, is switched off"));
    node.asked();

    for _ in 0..2 {
        assert_eq!(node.calico("DEL", &pod).succeeds(), Value::Null);
        assert!(!pod.has_interface());
        assert_eq!(node.run(|socket| socket.link(HOST).unwrap()), None);
        assert_eq!(node.asked(), [false, true].map(|gone| Request::Del(Del { sandbox: sandbox(), gone })));
    }
    assert!(check(&result).fails(999).contains("is not there"));
    assert!(!node.spool().exists());
    let log = std::fs::read_to_string(node.directory.path().join("cni.log")).unwrap();
    assert!(log.lines().next().unwrap().contains("[INFO] calico ADD c0ffee: done in "), "{log}");
}

#[test]
fn a_repeated_add_replaces_what_the_earlier_one_left() {
    let (node, pod) = (Node::new().agent(content), PodNetwork::new());
    let first = node.calico("ADD", &pod).succeeds();
    let second = node.calico("ADD", &pod).succeeds();
    assert_ne!(first["interfaces"][1]["mac"], second["interfaces"][1]["mac"]);
    // The same pod in a new sandbox, while the old one's interface is still there; and a strange one in the new.
    let renewed = PodNetwork::new();
    renewed.run(|socket| {
        let veth = calico_netlink::Veth { name: "eth0", peer_name: "other", ..Default::default() };
        socket.add_veth(&veth).unwrap();
    });
    node.calico("ADD", &renewed).succeeds();
    assert!(renewed.has_interface());
    assert!(!pod.has_interface());
}

#[test]
fn options_of_the_configuration_reach_the_pod_and_the_agent() {
    let (node, pod) = (Node::new().agent(content), PodNetwork::new());
    let patch = json!({
        "cniVersion": "0.3.1", "nodename": "node-1", "mtu": 1300, "container_settings": { "allow_ip_forwarding": true },
        "ipam": { "type": "calico-ipam", "assign_ipv6": "true", "ipv4_pools": ["a"], "ipv6_pools": ["b"] },
        "prevResult": { "ips": "whatever" }, "args": { "labels": [] },
    });
    let result = node.call(env!("CARGO_BIN_EXE_calico"), "ADD", &pod.path(), patch).succeeds();
    assert_eq!((&result["cniVersion"], &result["ips"][1]["version"]), (&json!("0.3.1"), &json!("6")));
    let asked = node.asked();
    let Request::Add(add) = &asked[0] else { panic!("{asked:?}") };
    assert_eq!((add.node.as_deref(), add.ipv4, add.ipv6), (Some("node-1"), true, true));
    assert_eq!((&add.ipv4_pools[..], &add.ipv6_pools[..]), (&["a".to_owned()][..], &["b".to_owned()][..]));
    pod.run(|socket| {
        assert_eq!(socket.link("eth0").unwrap().unwrap().mtu, 1300);
        for family in ["ipv4", "ipv6"] {
            assert_eq!(sysctl::read(&["net", family, "conf", "all", "forwarding"]).unwrap(), "1");
        }
    });
}

#[test]
fn without_an_agent_add_fails_at_once_and_says_what_to_check() {
    let (node, pod) = (Node::new(), PodNetwork::new());
    let answer = node.calico("ADD", &pod);
    assert!(answer.took < Duration::from_secs(1));
    let text = answer.fails(11);
    assert!(text.contains("no agent answers on") && text.contains("check that felix runs on this node"), "{text}");
    assert!(!pod.has_interface());
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(node.socket()).unwrap());
    node.calico("ADD", &pod).fails(11);
}

#[test]
fn an_add_that_fails_half_way_leaves_nothing() {
    let failure = || Reply::Error(Failure { code: 11, message: "no store".into(), details: "start it".into() });
    // The agent refuses the second round; what was made is unmade before the addresses are given back.
    let pod = PodNetwork::new();
    let node = Node::new().agent(move |request| match request {
        Request::Attached(_) => Some(failure()),
        other => content(other),
    });
    assert!(node.calico("ADD", &pod).fails(11).contains("start it"));
    assert!(!pod.has_interface());
    let asked = node.asked();
    assert!(matches!(asked.as_slice(), [Request::Add(_), Request::Attached(_), Request::Del(_)]), "{asked:?}");

    // A later ADD of the pod has made its own interface meanwhile: that one stays.
    let node = Node::new();
    let theirs = node.network.try_clone().unwrap();
    let node = node.agent(move |request| match request {
        Request::Attached(_) => {
            let replace = || {
                let mut socket = Socket::open().unwrap();
                socket.delete_link_by_name(HOST).unwrap();
                let veth = calico_netlink::Veth { name: HOST, peer_name: "other", ..Default::default() };
                socket.add_veth(&veth).unwrap();
            };
            namespace::inside(&theirs, replace).unwrap();
            Some(failure())
        }
        other => content(other),
    });
    node.calico("ADD", &pod).fails(11);
    assert!(node.run(|socket| socket.link(HOST).unwrap().is_some()));

    // It dies instead: the release is remembered.
    let node = Node::new().agent(|request| match request {
        Request::Add(_) => content(request),
        _ => None,
    });
    node.calico("ADD", &pod).fails(11);
    assert!(!pod.has_interface());
    assert_eq!(node.run(|socket| socket.link(HOST).unwrap()), None);
    let pending = spool::pending(&node.spool()).unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].del, Ok(Del { sandbox: sandbox(), gone: true }));

    // It dies before it has said which addresses it took.
    for program in [env!("CARGO_BIN_EXE_calico"), env!("CARGO_BIN_EXE_calico-ipam")] {
        let node = Node::new().agent(|_| None);
        node.call(program, "ADD", &pod.path(), json!({})).fails(11);
        let pending = spool::pending(&node.spool()).unwrap();
        assert_eq!(pending.len(), 1);
        assert_eq!(pending[0].del, Ok(Del { sandbox: sandbox(), gone: true }));
    }

    // The kernel refuses: an MTU that no interface has.
    let node = Node::new().agent(content);
    let patch = json!({ "mtu": 100_000_000 });
    let text = node.call(env!("CARGO_BIN_EXE_calico"), "ADD", &pod.path(), patch).fails(999);
    assert!(text.contains("add veth pair cali0d7763386da and eth0: "), "{text}");
    assert!(matches!(node.asked().as_slice(), [Request::Add(_), Request::Del(_)]));
}

#[test]
fn addresses_that_others_were_given_are_asked_for_again() {
    let refusals = std::sync::atomic::AtomicUsize::new(2);
    let node = Node::new().agent(move |request| match request {
        Request::Attached(_) if refusals.load(std::sync::atomic::Ordering::Relaxed) > 0 => {
            refusals.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            Some(Reply::Again)
        }
        other => content(other),
    });
    let pod = PodNetwork::new();
    node.calico("ADD", &pod).succeeds();
    assert!(pod.has_interface());
    let asked = node.asked();
    let added = asked.iter().filter(|request| matches!(request, Request::Add(_))).count();
    assert_eq!((added, asked.len()), (3, 6), "{asked:?}");

    // But not for ever.
    let node = Node::new().agent(|request| match request {
        Request::Attached(_) => Some(Reply::Again),
        other => content(other),
    });
    let pod = PodNetwork::new();
    assert!(node.calico("ADD", &pod).fails(11).contains("5 times in a row"));
    assert!(!pod.has_interface());
    assert_eq!(node.run(|socket| socket.link(HOST).unwrap()), None);
}

#[test]
fn an_agent_that_knows_the_interface_is_left_to_remove_it() {
    let node = Node::new().agent(|request| match request {
        Request::Del(_) => Some(Reply::Done),
        other => content(other),
    });
    let pod = PodNetwork::new();
    node.calico("ADD", &pod).succeeds();
    node.asked();
    node.calico("DEL", &pod).succeeds();
    assert_eq!(node.asked(), [Request::Del(Del { sandbox: sandbox(), gone: false })]);
    assert!(pod.has_interface(), "the namespace was not entered");
    // Unless another IPAM plugin gives the address to others as soon as DEL is over.
    let patch = json!({ "ipam": { "type": "gone" }, "prevResult": {} });
    node.call(env!("CARGO_BIN_EXE_calico"), "DEL", &pod.path(), patch);
    assert!(!pod.has_interface());
}

#[test]
fn del_succeeds_in_every_order_and_remembers_what_it_cannot_release() {
    let (node, pod) = (Node::new().agent(content), PodNetwork::new());
    let added = node.calico("ADD", &pod).succeeds();
    assert!(added.is_object());
    // The agent goes away.
    std::fs::remove_file(node.socket()).unwrap();
    let file = node.directory.path().join("unmounted");
    std::fs::write(&file, "").unwrap();
    let calico = env!("CARGO_BIN_EXE_calico");
    for path in [pod.path(), pod.path(), file, "/nowhere/at/all".into(), PathBuf::new()] {
        assert_eq!(node.call(calico, "DEL", &path, json!({})).succeeds(), Value::Null);
        assert!(!pod.has_interface());
        let pending = spool::pending(&node.spool()).unwrap();
        assert_eq!(pending.len(), 1);
        assert_eq!(pending[0].del, Ok(Del { sandbox: sandbox(), gone: true }));
    }
    // Nowhere to remember it: the runtime must try again.
    let patch = json!({ "agent_spool": "/proc/nowhere" });
    let text = node.call(calico, "DEL", &pod.path(), patch).fails(11);
    assert!(text.contains("nor remember to do so") && text.contains("/proc/nowhere"), "{text}");
    // A configuration that ADD would refuse does not keep a pod from being removed.
    node.call(calico, "DEL", &pod.path(), json!({ "ipam": { "type": "gone" } })).succeeds();
    // Unless ADD did not: then the IPAM plugin was there, and knows what nobody else does.
    let patch = json!({ "ipam": { "type": "gone" }, "prevResult": added });
    let text = node.call(calico, "DEL", &pod.path(), patch).fails(11);
    assert!(text.contains("there is no IPAM plugin gone") && text.contains("install it there"), "{text}");
}

/// The reference plugins of the CNI project.
const PLUGINS: &str = "/usr/lib/cni";

/// A configuration with `host-local`, in a folder of the test's own.
fn host_local(node: &Node, more: Value) -> Value {
    let mut ipam = json!({ "type": "host-local", "dataDir": node.directory.path().join("networks") });
    for (key, value) in more.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    json!({ "ipam": ipam })
}

/// The addresses that `host-local` has given.
fn given(node: &Node) -> Vec<String> {
    let folder = node.directory.path().join("networks/k8s-pod-network");
    let files = std::fs::read_dir(folder).into_iter().flatten();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("10.") || name.starts_with("fd")).collect()
}

/// An agent that takes what another IPAM plugin gave.
fn takes_what_is_given(request: &Request) -> Option<Reply> {
    Some(match request {
        Request::Add(add) => {
            let whole = |address: &IpAddr| AssignedAddress { address: *address, block_length: 32 };
            let addresses = add.given.iter().map(whole).collect();
            Reply::Assigned(Assigned { addresses, host_interface: HOST.into(), mtu: 1450, mac: None })
        }
        Request::PodNetworks => {
            let networks = vec!["10.65.3.0/24".to_owned(), "fd00:65::/64".to_owned()];
            Reply::PodNetworks(calico_agent::PodNetworks { networks })
        }
        _ => Reply::Done,
    })
}

#[test]
fn another_ipam_plugin_gives_the_addresses_and_takes_them_back_after_the_interface_is_gone() {
    let mut node = Node::new().agent(takes_what_is_given);
    node.plugins = Some(PLUGINS.into());
    let (pod, calico) = (PodNetwork::new(), env!("CARGO_BIN_EXE_calico"));
    let more = json!({ "ranges": [[{ "subnet": "usePodCidr" }], [{ "subnet": "usePodCidrIPv6" }]],
        "routes": [{ "dst": "10.0.0.0/8", "gw": "10.65.3.1" }] });
    let patch = host_local(&node, more);
    // Debian's host-local is older than 1.1.0, and is asked as it understands.
    let result = node.call(calico, "ADD", &pod.path(), patch.clone()).succeeds();
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(
        result["ips"],
        json!([{ "address": "10.65.3.2/32", "interface": 1 }, { "address": "fd00:65::2/128", "interface": 1 }])
    );
    assert_eq!(given(&node).len(), 2);
    let destinations = pod.run(|socket| {
        let routes = socket.routes(&RouteFilter { protocol: Some(3), ..RouteFilter::default() }).unwrap();
        routes.into_iter().map(|route| route.destination.to_string()).collect::<Vec<_>>()
    });
    assert_eq!(destinations, ["10.0.0.0/8", "169.254.1.1/32"], "its routes instead of the default routes");
    let asked = node.asked();
    let [Request::PodNetworks, Request::Add(add), Request::Attached(_)] = asked.as_slice() else { panic!("{asked:?}") };
    let addresses = ["10.65.3.2", "fd00:65::2"].map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!((&add.given[..], add.ipv4, add.ipv6), (&addresses[..], false, false));

    // The agent need not be there to give them back.
    std::fs::remove_file(node.socket()).unwrap();
    for _ in 0..2 {
        node.call(calico, "DEL", &pod.path(), patch.clone()).succeeds();
        assert!(!pod.has_interface() && given(&node).is_empty());
    }
}

#[test]
fn what_another_ipam_plugin_gave_is_given_back_when_the_rest_fails() {
    let mut node = Node::new().agent(|request| match request {
        Request::Attached(_) => {
            Some(Reply::Error(Failure { code: 11, message: "no store".into(), details: "start it".into() }))
        }
        other => takes_what_is_given(other),
    });
    node.plugins = Some(PLUGINS.into());
    let (pod, calico) = (PodNetwork::new(), env!("CARGO_BIN_EXE_calico"));
    let patch = host_local(&node, json!({ "subnet": "10.65.4.0/29" }));
    assert!(node.call(calico, "ADD", &pod.path(), patch.clone()).fails(11).contains("start it"));
    assert!(!pod.has_interface() && given(&node).is_empty());
    // It has none left: its words, and that they are its.
    let patch = host_local(&node, json!({ "subnet": "10.65.4.0/29", "rangeStart": "10.65.4.9" }));
    let answer = node.call(calico, "ADD", &pod.path(), patch);
    let text = answer.output.to_string();
    assert!(!answer.succeeded && text.contains("IPAM plugin host-local failed to ADD"), "{text}");
    // One that needs a daemon which does not run, as dhcp does.
    let path = json!({ "ipam": { "type": "dhcp", "daemonSocketPath": node.directory.path().join("dhcp.sock") } });
    let answer = node.call(calico, "ADD", &pod.path(), path);
    let text = answer.output.to_string();
    assert!(
        !answer.succeeded && text.contains("IPAM plugin dhcp failed to ADD") && text.contains("dhcp.sock"),
        "{text}"
    );
    // What is no plugin, and what says nothing that makes sense.
    let folder = node.directory.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    for (name, script, code, expected) in [
        ("silent", "#!/bin/sh\nexit 3\n", 999, "exit status: 3: it said nothing"),
        ("babbling", "#!/bin/sh\necho hello\n", 999, "answered no JSON to ADD"),
        ("empty", "#!/bin/sh\necho '{}'\n", 999, "there is no address in it"),
        ("later", "#!/bin/sh\necho '{\"code\":11,\"msg\":\"busy\"}'; exit 1\n", 11, "busy"),
        ("binary", "\u{1}", 5, "could not run IPAM plugin binary"),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        node.plugins = Some(folder.clone());
        let text = node.call(calico, "ADD", &pod.path(), json!({ "ipam": { "type": name } })).fails(code);
        assert!(text.contains(expected), "{name}: {text}");
    }
    let text = node.call(calico, "ADD", &pod.path(), json!({ "ipam": { "type": "gone" } })).fails(7);
    assert!(text.contains("there is no IPAM plugin gone") && text.contains("CNI_PATH"), "{text}");
    assert!(!pod.has_interface());
}

#[test]
fn the_nodes_own_namespace_is_never_taken_for_a_pods() {
    let node = Node::new().agent(content);
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), node.network.as_raw_fd()));
    for verb in ["ADD", "DEL", "CHECK"] {
        let patch = json!({ "prevResult": {} });
        let text = node.call(env!("CARGO_BIN_EXE_calico"), verb, &path, patch).fails(8);
        assert!(text.contains("the plugin itself runs in"), "{text}");
    }
    assert_eq!(node.asked(), []);
    node.call(env!("CARGO_BIN_EXE_calico"), "ADD", Path::new("/dev/null"), json!({})).fails(8);
    node.call(env!("CARGO_BIN_EXE_calico"), "ADD", Path::new("/nowhere"), json!({})).fails(8);
}

#[test]
fn ipam_alone_tells_addresses_in_their_blocks_with_a_route_for_each() {
    let (node, pod) = (Node::new().agent(content), PodNetwork::new());
    let ipam = env!("CARGO_BIN_EXE_calico-ipam");
    let result = node.call(ipam, "ADD", &pod.path(), json!({})).succeeds();
    assert_eq!(result["ips"], json!([{ "address": "10.244.0.5/26" }, { "address": "fd00:10:244::5/122" }]));
    assert_eq!(result["routes"], json!([{ "dst": "10.244.0.0/26" }, { "dst": "fd00:10:244::/122" }]));
    node.call(ipam, "CHECK", &pod.path(), json!({})).fails(7);
    node.call(ipam, "CHECK", &pod.path(), json!({ "prevResult": result })).succeeds();
    node.call(ipam, "DEL", &pod.path(), json!({})).succeeds();
    let asked = node.asked();
    let [Request::Assign(_), Request::Check(check), Request::Release(_)] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    assert_eq!((check.addresses.len(), check.assigned, &check.host_interface), (2, true, &None));
    assert!(!pod.has_interface());
    std::fs::remove_file(node.socket()).unwrap();
    node.call(ipam, "ADD", &pod.path(), json!({})).fails(11);
    node.call(ipam, "DEL", &pod.path(), json!({})).succeeds();
    assert_eq!(spool::pending(&node.spool()).unwrap().len(), 1);
}

#[test]
fn the_other_verbs_answer_as_the_specification_says() {
    let (node, pod) = (Node::new(), PodNetwork::new());
    let calico = env!("CARGO_BIN_EXE_calico");
    let version = node.calico("VERSION", &pod).succeeds();
    assert_eq!(version["supportedVersions"], json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert!(node.calico("STATUS", &pod).fails(50).contains("no agent answers"));
    let keep = json!({ "cni.dev/valid-attachments": [{ "containerID": "c0ffee", "ifname": "eth0" }] });
    assert!(node.call(calico, "GC", &pod.path(), keep.clone()).fails(11).contains("no agent answers"));
    node.calico("JUMP", &pod).fails(4);
    for (verb, version) in [("STATUS", "1.0.0"), ("GC", "0.4.0"), ("CHECK", "0.3.1")] {
        let answer = node.call(calico, verb, &pod.path(), json!({ "cniVersion": version }));
        assert!(!answer.succeeded);
        assert_eq!((&answer.output["code"], &answer.output["cniVersion"]), (&json!(1), &json!(version)));
    }
    let node = node.agent(content);
    node.calico("STATUS", &pod).succeeds();
    let wrong = json!({ "cni.dev/valid-attachments": "all" });
    assert!(node.call(calico, "GC", &pod.path(), wrong).fails(7).contains("cni.dev/valid-attachments"));
    // Without a list the agent is not even asked.
    node.asked();
    node.calico("GC", &pod).succeeds();
    assert_eq!(node.asked(), []);
    for program in [calico, env!("CARGO_BIN_EXE_calico-ipam")] {
        node.asked();
        node.call(program, "GC", &pod.path(), keep.clone()).succeeds();
        let asked = node.asked();
        let [Request::Gc(gc)] = asked.as_slice() else { panic!("{asked:?}") };
        assert_eq!((gc.network.as_str(), gc.valid.len(), gc.endpoints), ("k8s-pod-network", 1, program == calico));
    }
    let limited = || Reply::Error(Failure { code: 51, message: "starting".into(), details: String::new() });
    let starting = Node::new().agent(move |_| Some(limited()));
    assert!(starting.calico("STATUS", &pod).fails(51).contains("starting"));
    let printed = Command::new(calico).arg("--version").output().unwrap();
    assert!(
        String::from_utf8(printed.stdout)
            .unwrap()
            .starts_with(&format!("calico {} (commit ", env!("CARGO_PKG_VERSION")))
    );
}

/// Runs a plugin with one flag, as people and old init containers do.
fn flag(program: &str, flag: &str, input: &Value) -> (bool, String) {
    let mut child = Command::new(program).arg(flag).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Of one that ends before it has read, the output says why.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_flags_test_the_agent_and_leave_the_upgrade_to_it() {
    let node = Node::new();
    let calico = env!("CARGO_BIN_EXE_calico");
    let netconf = json!({ "name": "net", "type": "calico", "agent_socket": node.socket() });
    let (well, said) = flag(calico, "-t", &netconf);
    let error: Value = serde_json::from_str(&said).unwrap();
    assert!(!well && error["code"] == 100 && said.contains("no agent answers"), "{said}");
    let limited = || Reply::Error(Failure { code: 51, message: "starting".into(), details: String::new() });
    let serves = Arc::new(Mutex::new(false));
    let answer = Arc::clone(&serves);
    let _node = node.agent(move |_| Some(if *answer.lock().unwrap() { Reply::Done } else { limited() }));
    let (well, said) = flag(calico, "-t", &netconf);
    assert!(!well && said.contains("starting") && said.contains("100"), "{said}");
    *serves.lock().unwrap() = true;
    assert_eq!(flag(calico, "-t", &netconf), (true, String::new()));
    assert!(flag(calico, "-t", &json!({ "name": "net", "mtu": "x" })).1.contains("mtu is"));
    let (well, said) = flag(env!("CARGO_BIN_EXE_calico-ipam"), "-upgrade", &Value::Null);
    assert!(well && said.contains("felix takes over"), "{said}");
}

#[test]
fn a_pod_waits_for_gates_and_an_unsuitable_caller_is_told() {
    let (node, pod) = (Node::new().agent(content), PodNetwork::new());
    let calico = env!("CARGO_BIN_EXE_calico");
    let refused = json!({ "readiness_gates": ["https://localhost/ready"] });
    assert!(node.call(calico, "ADD", &pod.path(), refused).fails(7).contains("readiness_gates"));
    let ipam = env!("CARGO_BIN_EXE_calico-ipam");
    let of_ptp = json!({ "type": "ptp" });
    assert!(node.call(ipam, "ADD", &pod.path(), of_ptp.clone()).fails(7).contains("ptp needs a gateway"));
    node.call(ipam, "DEL", &pod.path(), of_ptp).succeeds();
    let asked = node.asked();
    assert!(matches!(asked.as_slice(), [Request::Release(_)]), "{asked:?}");
}
