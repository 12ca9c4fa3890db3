//! A node in a network namespace of its own, with the real felix binary; and pods, each in a namespace too.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_agent::client::{Client, ClientError};
use calico_agent::{Add, Assigned, Attached, Del, Failure, Pod, Reply, Request, Sandbox};
use calico_api::{Key, Kind, Resource, Spec};
use calico_datastore::{Config, Error, Store};
use calico_netlink::{Address, LinkChange, NextHop, Route, RouteFilter, RouteKind, Socket, Veth, namespace, sysctl};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The node.
pub(crate) struct Bed {
    /// Its network namespace.
    pub(crate) namespace: OwnedFd,
    /// Everything it writes.
    pub(crate) directory: tempfile::TempDir,
    variables: Vec<(String, String)>,
    felix: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

/// A pod that is connected.
pub(crate) struct Wired {
    /// Its namespace.
    pub(crate) namespace: OwnedFd,
    /// Its sandbox.
    pub(crate) sandbox: Sandbox,
    /// What the agent gave it.
    pub(crate) assigned: Assigned,
}

/// The conversation ended otherwise than with an answer.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The agent said no.
    Failed(Failure),
    /// The agent said nothing.
    Broken(#[allow(dead_code, reason = "shown when a test fails")] ClientError),
}

impl Bed {
    /// A node with one interface, `eth0` 192.0.2.1/24 2001:db8::1/64, whose felix gets these variables.
    pub(crate) fn new(variables: &[(&str, &str)]) -> Self {
        let namespace = namespace::create().unwrap();
        namespace::inside(&namespace, || {
            // Otherwise addresses change state a second later, and a test that looks for changes sees that.
            sysctl::write(&["net", "ipv6", "conf", "default", "accept_dad"], "0").unwrap();
            let mut socket = Socket::open().unwrap();
            socket.add_veth(&Veth { name: "eth0", peer_name: "wire", ..Veth::default() }).unwrap();
            for name in ["lo", "eth0", "wire"] {
                let link = socket.link(name).unwrap().unwrap();
                socket.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            }
            let eth0 = socket.link("eth0").unwrap().unwrap().index;
            for network in ["192.0.2.1/24", "2001:db8::1/64"] {
                let address = Address::new(eth0, network.parse().unwrap()).without_duplicate_detection();
                socket.add_address(&address).unwrap();
            }
            // Without a default route the kernel answers no ARP request for 169.254.1.1.
            for (all, router) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "2001:db8::fe")] {
                let hop = NextHop::via(router.parse().unwrap()).on(eth0);
                socket.add_route(&Route::unicast(all.parse().unwrap(), [hop], 4)).unwrap();
            }
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Self { namespace, directory: tempfile::tempdir().unwrap(), variables, felix: None, runtime }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command that starts felix on this node.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_felix"));
        let log = File::options().create(true).append(true).open(self.path("felix.log")).unwrap();
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("NODENAME", "east").env("CALICO_NODENAME_FILE", self.path("nodename"));
        command.env("CALICO_SHUTDOWN_TIMESTAMP_FILE", self.path("shutdownTS"));
        command.env("DATASTORE_TYPE", "sqlite").env("SQLITE_PATH", self.path("store.db"));
        command.env("FELIX_LOGSEVERITYSCREEN", "debug");
        for (parameter, file) in [
            ("MtuFile", "mtu"),
            ("AgentSocket", "agent.sock"),
            ("AgentSpool", "spool"),
            ("EndpointStatusPathPrefix", "status"),
        ] {
            command.arg("--set").arg(format!("{parameter}={}", self.path(file).display()));
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts felix and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let command = self.command();
        self.start_as(command);
    }

    /// Starts felix by this command and waits until it is ready.
    pub(crate) fn start_as(&mut self, mut command: Command) {
        let child = namespace::inside(&self.namespace, || command.spawn().unwrap()).unwrap();
        self.felix = Some(child);
        self.until("felix is ready", |bed| {
            let ended = bed.felix.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "felix ended: {ended:?}");
            bed.probe("/readiness").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
    }

    /// Kills felix as the out-of-memory killer would.
    pub(crate) fn kill(&mut self) {
        let mut felix = self.felix.take().unwrap();
        felix.kill().unwrap();
        felix.wait().unwrap();
    }

    /// Asks felix to stop and returns whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        let mut felix = self.felix.take().unwrap();
        let pid = felix.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        felix.wait().unwrap().success()
    }

    /// Waits until felix ends by itself; returns its exit code.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        let mut status = None;
        self.until("felix ends", |bed| {
            status = bed.felix.as_mut().unwrap().try_wait().unwrap();
            status.is_some()
        });
        self.felix = None;
        status.and_then(|status| status.code())
    }

    /// What felix has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("felix.log")).unwrap_or_default()
    }

    /// Changes the node's addresses on `eth0`.
    pub(crate) fn readdress(&self, add: &[&str], remove: &[&str]) {
        namespace::inside(&self.namespace, || {
            let mut socket = Socket::open().unwrap();
            let eth0 = socket.link("eth0").unwrap().unwrap().index;
            for network in add {
                let address = Address::new(eth0, network.parse().unwrap()).without_duplicate_detection();
                socket.add_address(&address).unwrap();
            }
            for network in remove {
                socket.delete_address(&Address::new(eth0, network.parse().unwrap())).unwrap();
            }
        })
        .unwrap();
    }

    /// What felix' health port answers; `None` if nobody does.
    pub(crate) fn probe(&self, path: &str) -> Option<String> {
        namespace::inside(&self.namespace, || {
            let address: SocketAddr = "127.0.0.1:9099".parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
        .unwrap()
    }

    /// Waits for a condition.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "it did not come true that {what}");
            std::thread::yield_now();
        }
    }

    /// Runs `work` on the store that felix uses.
    pub(crate) fn on_store<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
        let path = self.path("store.db").display().to_string();
        self.runtime.block_on(async {
            let store = calico_datastore::connect(&Config::Sqlite { path }).await.unwrap();
            work(store).await
        })
    }

    /// What is stored under a key, if anything is.
    pub(crate) fn stored<S: Spec>(&self, key: &Key) -> Option<Resource<S>> {
        match self.on_store(async |store| store.get(key).await) {
            Ok(found) => Some(found),
            Err(Error::NotFound(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Our routes, as `destination interface-or-blackhole`.
    pub(crate) fn routes(&self) -> Vec<String> {
        namespace::inside(&self.namespace, || {
            let mut socket = Socket::open().unwrap();
            let links = socket.links().unwrap();
            let filter = RouteFilter { table: Some(254), protocol: Some(80), ..RouteFilter::default() };
            let describe = |route: Route| {
                let link = route.next_hops.first().and_then(|hop| hop.interface);
                let name = links.iter().find(|found| Some(found.index) == link).map_or("?", |found| &found.name);
                let to = if route.kind == RouteKind::Blackhole { "blackhole" } else { name };
                format!("{} {to}", route.destination)
            };
            socket.routes(&filter).unwrap().into_iter().map(describe).collect()
        })
        .unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path("agent.sock"), PATIENCE).unwrap()
    }

    pub(crate) fn call(&self, request: &Request) -> Reply {
        self.client().call(request).unwrap()
    }

    /// The first round of ADD.
    pub(crate) fn first_round(&self, add: &Add) -> Result<(Client, Assigned), Refused> {
        let mut client = Client::connect(&self.path("agent.sock"), PATIENCE).map_err(Refused::Broken)?;
        match client.call(&Request::Add(add.clone())).map_err(Refused::Broken)? {
            Reply::Assigned(assigned) => Ok((client, assigned)),
            Reply::Error(failure) => Err(Refused::Failed(failure)),
            other => panic!("{other:?} in the first round"),
        }
    }

    /// ADD as the plugin does it.
    pub(crate) fn add(&self, add: &Add) -> Result<Wired, Refused> {
        let (mut client, assigned) = self.first_round(add)?;
        let (pod, host_index) = self.wire(&assigned);
        let attached = Attached { mac: "02:00:00:00:00:01".to_owned(), host_index };
        match client.call(&Request::Attached(attached)).map_err(Refused::Broken)? {
            Reply::Done => Ok(Wired { namespace: pod, sandbox: add.sandbox.clone(), assigned }),
            Reply::Error(failure) => Err(Refused::Failed(failure)),
            other => panic!("{other:?} in the second round"),
        }
    }

    /// The plugin's own work: a veth pair and the pod's side of it.
    pub(crate) fn wire(&self, assigned: &Assigned) -> (OwnedFd, u32) {
        let pod = namespace::create().unwrap();
        let name = assigned.host_interface.as_str();
        let index = namespace::inside(&self.namespace, || {
            let mut socket = Socket::open().unwrap();
            let _ = socket.delete_link_by_name(name); // of a sandbox before this one
            let veth = Veth {
                name,
                peer_name: "eth0",
                peer_netns: Some(pod.as_fd()),
                mtu: Some(assigned.mtu),
                ..Veth::default()
            };
            socket.add_veth(&veth).unwrap();
            socket.link(name).unwrap().unwrap().index
        })
        .unwrap();
        namespace::inside(&pod, || {
            let mut socket = Socket::open().unwrap();
            let eth0 = socket.link("eth0").unwrap().unwrap().index;
            socket.change_link(eth0, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            for assigned in &assigned.addresses {
                let address = Address::new(eth0, assigned.address.into()).without_duplicate_detection();
                socket.add_address(&address).unwrap();
                let (gateway, all) = match assigned.address {
                    IpAddr::V4(_) => ("169.254.1.1", "0.0.0.0/0"),
                    IpAddr::V6(_) => ("fe80::ecee:eeff:feee:eeee", "::/0"),
                };
                let hop = NextHop::via(gateway.parse().unwrap()).on(eth0).onlink();
                socket.add_route(&Route::unicast(all.parse().unwrap(), [hop], 3)).unwrap();
            }
        })
        .unwrap();
        (pod, index)
    }

    pub(crate) fn del(&self, sandbox: &Sandbox) -> Reply {
        self.call(&Request::Del(Del { sandbox: sandbox.clone(), gone: true }))
    }

    /// Whether a TCP connection from the node to the pod works, both ways.
    #[track_caller]
    pub(crate) fn reaches(&self, pod: &Wired) {
        for assigned in &pod.assigned.addresses {
            let listener =
                namespace::inside(&pod.namespace, || TcpListener::bind((assigned.address, 0))).unwrap().unwrap();
            let target = listener.local_addr().unwrap();
            let connect = || TcpStream::connect_timeout(&target, PATIENCE);
            let mut near = namespace::inside(&self.namespace, connect).unwrap().unwrap();
            let (mut far, _) = listener.accept().unwrap();
            near.write_all(b"x").unwrap();
            far.read_exact(&mut [0]).unwrap();
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut felix) = self.felix.take() {
            let _ = felix.kill();
            let _ = felix.wait();
        }
        if std::thread::panicking() {
            eprintln!("felix' log:\n{}", fs::read_to_string(self.path("felix.log")).unwrap_or_default());
        }
    }
}

/// A request for a pod's IPv4 address.
pub(crate) fn pod(name: &str, container: &str) -> Add {
    let pod = Some(Pod { namespace: "default".to_owned(), name: name.to_owned() });
    let sandbox = Sandbox {
        container_id: container.to_owned(),
        interface: "eth0".to_owned(),
        network: "k8s-pod-network".to_owned(),
        pod,
    };
    Add { sandbox, node: Some("east".to_owned()), ipv4: true, ..Add::default() }
}

/// The key of a pod's endpoint.
pub(crate) fn endpoint_key(name: &str) -> Key {
    let name = calico_api::workload_endpoint_name("east", "k8s", name, "eth0");
    Key::namespaced(Kind::WorkloadEndpoint, "default", name)
}
