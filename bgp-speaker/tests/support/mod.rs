//! A node's namespace with the real speaker, a peer's namespace with the real BIRD, and a SQLite store for both.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use calico_api::{
    AffinityState, BlockAffinity, BlockAffinitySpec, IPPool, IPPoolSpec, Key, Kind, Node, NodeBGPSpec, NodeSpec,
    ObjectMeta, Resource, Spec,
};
use calico_datastore::{Config, Error, Store, connect};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Waits until `probe` finds something; its last words are shown if it does not.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(last) if Instant::now() > end => panic!("{what}: not within {PATIENCE:?}; last seen:\n{last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Runs a program to its end.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace, removed at the end.
#[derive(Debug)]
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    fn new(role: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ocicat-bgp-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        Self(name)
    }

    /// `ip` inside.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.0], arguments].concat())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// A process, killed at the end; its standard error is in a file.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, log }
    }

    /// Ends it at once, as the kernel does when memory is short.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and says whether it ended well.
    pub(crate) fn terminate(mut self) -> bool {
        run("kill", &["-TERM", &self.child.id().to_string()]);
        eventually("the process ends", || self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())).success()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// A node and its peer on one link, 10.0.0.0/24 and fd00::/64.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) node: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) address: &'static str,
    pub(crate) peer_address: &'static str,
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    store: Store,
}

impl Bench {
    /// Addresses without prefix length.
    pub(crate) fn new(address: &'static str, peer_address: &'static str) -> Self {
        let (node, peer) = (Namespace::new("node"), Namespace::new("peer"));
        node.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer.0]);
        let (length, nodad): (_, &[_]) = if address.contains(':') { ("64", &["nodad"]) } else { ("24", &[]) };
        for (namespace, address) in [(&node, address), (&peer, peer_address)] {
            let network = format!("{address}/{length}");
            namespace.ip(&[&["addr", "add", &network, "dev", "eth0"], nodad].concat());
            namespace.ip(&["link", "set", "eth0", "up"]);
        }
        let folder = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let path = folder.path().join("store.db").display().to_string();
        let store = runtime.block_on(connect(&Config::Sqlite { path })).unwrap();
        Self { node, peer, address, peer_address, folder, runtime, store }
    }

    /// Stores a resource.
    pub(crate) fn create<S: Spec>(&self, resource: &Resource<S>) {
        self.runtime.block_on(self.store.create(resource)).unwrap();
    }

    /// Removes a resource.
    pub(crate) fn delete<S: Spec>(&self, resource: &Resource<S>) {
        self.runtime.block_on(self.store.delete_key(&resource.key())).unwrap();
    }

    /// Stores a resource of a kind as it is written in JSON, in place of one of that name.
    #[track_caller]
    pub(crate) fn put(&self, kind: Kind, name: &str, fields: Value) {
        let mut metadata = json!({ "name": name });
        if kind.namespaced() {
            metadata["namespace"] = json!("kube-system");
        }
        let mut value = json!({ "apiVersion": kind.api_version(), "kind": kind.as_str() });
        for (field, part) in fields.as_object().unwrap() {
            match field.as_str() {
                "labels" => metadata["labels"] = part.clone(),
                _ => value[field] = part.clone(),
            }
        }
        value["metadata"] = metadata;
        let key = Key::of_value(kind, &value).unwrap();
        self.runtime.block_on(async {
            let backend = self.store.backend();
            match backend.get(&key).await {
                Ok(there) => backend.update(&key, value, &there.revision).await.unwrap(),
                Err(Error::NotFound { .. }) => backend.create(&key, value).await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        });
    }

    /// A resource as it is stored.
    #[track_caller]
    pub(crate) fn get(&self, kind: Kind, name: &str) -> Value {
        let key = Key::named(kind, name);
        self.runtime.block_on(self.store.backend().get(&key)).unwrap().value
    }

    /// A file of the bench.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the speaker of the node `a`.
    pub(crate) fn speaker(&self) -> Process {
        let store = format!("sqlite:{}", self.file("store.db").display());
        self.speaker_with(&["--datastore", &store, "--log-level", "info,bgp_speaker=debug"])
    }

    /// Starts the speaker of the node `a` with these options.
    pub(crate) fn speaker_with(&self, options: &[&str]) -> Process {
        self.speaker_of(&self.node, "a", self.folder.path(), options)
    }

    /// Starts the speaker of a node `b` in the peer's place.
    pub(crate) fn speaker_of_peer(&self) -> Process {
        let store = format!("sqlite:{}", self.file("store.db").display());
        self.speaker_of(&self.peer, "b", &self.file("b"), &["--datastore", &store])
    }

    fn speaker_of(&self, namespace: &Namespace, node: &str, folder: &Path, options: &[&str]) -> Process {
        fs::create_dir_all(folder).unwrap();
        let mut command = namespace.command(env!("CARGO_BIN_EXE_bgp-speaker"));
        command
            .env("NODENAME", node)
            .args(options)
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("CALICO_ENDPOINT_STATUS_PATH_PREFIX", folder.join("calico"))
            .env_remove("BGP_LOGSEVERITYSCREEN")
            .env_remove("CALICO_ROUTER_ID")
            .arg("--status-socket")
            .arg(folder.join("run/bgp.sock"))
            .arg("--bird-socket-dir")
            .arg(folder.join("calico"))
            .arg("--last-good")
            .arg(folder.join("last-good.json"));
        Process::start(&mut command, folder.join("speaker.log"))
    }

    /// Starts BIRD with these protocols beside `device` and `direct`.
    pub(crate) fn bird(&self, protocols: &str) -> Process {
        let folder = self.folder.path();
        let config = folder.join("bird.conf");
        fs::write(&config, format!("log stderr all;\nrouter id 10.0.0.2;\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}\n{protocols}"))
            .unwrap();
        let mut command = self.peer.command("bird");
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(folder.join("peer.ctl"));
        command.arg("-P").arg(folder.join("bird.pid"));
        Process::start(&mut command, folder.join("bird.log"))
    }

    /// Asks BIRD.
    pub(crate) fn birdc(&self, command: &str) -> String {
        let socket = self.folder.path().join("peer.ctl");
        let output = Command::new("birdc").arg("-s").arg(socket).args(command.split(' ')).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until BIRD's answer has all these words.
    #[track_caller]
    pub(crate) fn bird_shows(&self, command: &str, words: &[&str]) {
        eventually(&format!("BIRD's \"{command}\" shows {words:?}"), || {
            let answer = self.birdc(command);
            words.iter().all(|word| answer.contains(word)).then_some(()).ok_or(answer)
        });
    }

    /// Waits until BIRD's answer has this word no longer.
    #[track_caller]
    pub(crate) fn bird_forgets(&self, command: &str, word: &str) {
        eventually(&format!("BIRD's \"{command}\" shows no {word}"), || {
            let answer = self.birdc(command);
            if answer.contains(word) { Err(answer) } else { Ok(()) }
        });
    }

    /// BIRD's line about its session with us: with the time since when it is as it is.
    pub(crate) fn bird_session(&self) -> String {
        self.birdc("show protocols node").lines().last().unwrap_or_default().to_owned()
    }

    /// Our own view of one prefix.
    #[track_caller]
    pub(crate) fn paths(&self, prefix: &str) -> Vec<Value> {
        let answer = self.question(&json!({ "show": "routes", "prefix": prefix })).unwrap();
        answer["routes"].as_array().unwrap().clone()
    }

    /// Asks our speaker's JSON socket to show something.
    pub(crate) fn ask(&self, what: &str) -> Result<Value, String> {
        self.question(&json!({ "show": what }))
    }

    /// Asks our speaker's JSON socket.
    pub(crate) fn question(&self, question: &Value) -> Result<Value, String> {
        let mut stream = UnixStream::connect(self.folder.path().join("run/bgp.sock")).map_err(|e| e.to_string())?;
        writeln!(stream, "{question}").map_err(|e| e.to_string())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).map_err(|e| e.to_string())?;
        serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))
    }

    /// Waits until the only session is in this FSM state.
    #[track_caller]
    pub(crate) fn session_becomes(&self, fsm: &str) -> Value {
        eventually(&format!("the session becomes {fsm}"), || {
            let answer = self.ask("sessions")?;
            let session = answer["sessions"][0].clone();
            if session["fsm"] == fsm { Ok(session) } else { Err(answer.to_string()) }
        })
    }

    /// What our `bird.ctl` or `bird6.ctl` answers.
    pub(crate) fn dialect(&self, socket: &str, command: &str) -> String {
        let mut stream = UnixStream::connect(self.folder.path().join("calico").join(socket)).unwrap();
        writeln!(stream, "{command}").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The node's answer to an HTTP probe.
    pub(crate) fn http(&self, path: &str) -> String {
        let request = format!("exec 3<>/dev/tcp/127.0.0.1/9098; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let output = self.node.command("bash").args(["-c", &request]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the session of this name is established, and says how it is.
    #[track_caller]
    pub(crate) fn session_is_up(&self, name: &str) -> Value {
        eventually(&format!("session {name} is up"), || {
            let answer = self.ask("sessions")?;
            let mut sessions = answer["sessions"].as_array().into_iter().flatten();
            let session = sessions.find(|session| session["name"] == name && session["state"] == "up");
            session.cloned().ok_or_else(|| answer.to_string())
        })
    }

    /// Our routes of protocol 12 in the node.
    pub(crate) fn routes(&self) -> String {
        let family = if self.address.contains(':') { "-6" } else { "-4" };
        self.node.ip(&[family, "route", "show", "proto", "bird"])
    }

    /// Waits until the node has this route.
    #[track_caller]
    pub(crate) fn route_becomes(&self, route: &str) {
        eventually(&format!("route {route}"), || {
            let routes = self.routes();
            if routes.lines().any(|line| line.starts_with(route)) { Ok(()) } else { Err(routes) }
        });
    }

    /// Waits until the node has no such route.
    #[track_caller]
    pub(crate) fn route_goes(&self, prefix: &str) {
        eventually(&format!("route {prefix} goes"), || {
            let routes = self.routes();
            if routes.contains(prefix) { Err(routes) } else { Ok(()) }
        });
    }

    /// Records every change of the node's routes until it is asked what happened.
    pub(crate) fn record_routes(&self) -> Recording {
        let log = self.folder.path().join("routes.log");
        let mut command = self.node.command("ip");
        let file = fs::File::create(&log).unwrap();
        let child = command.args(["monitor", "route"]).stdout(file).stderr(Stdio::null()).spawn().unwrap();
        // It listens once a change shows up in its output.
        eventually("the monitor listens", || {
            self.node.ip(&["route", "add", "unreachable", "198.18.0.1/32", "proto", "99"]);
            self.node.ip(&["route", "del", "unreachable", "198.18.0.1/32", "proto", "99"]);
            let heard = fs::read_to_string(&log).unwrap();
            if heard.contains("198.18.0.1") { Ok(()) } else { Err(heard) }
        });
        Recording { child, log }
    }

    /// A node with an address of the bench's link.
    pub(crate) fn node_resource(&self, name: &str, address: &str) -> Node {
        let ipv6 = address.contains(':');
        let bgp = NodeBGPSpec {
            ipv4_address: (!ipv6).then(|| format!("{address}/24")),
            ipv6_address: ipv6.then(|| format!("{address}/64")),
            ..NodeBGPSpec::default()
        };
        Resource::new(ObjectMeta::named(name), NodeSpec { bgp: Some(bgp), ..NodeSpec::default() })
    }

    /// A pool without encapsulation.
    pub(crate) fn pool(&self, cidr: &str) -> IPPool {
        Resource::new(ObjectMeta::named("pool"), IPPoolSpec::new(cidr))
    }

    /// A block of the node `a`.
    pub(crate) fn block(&self, cidr: &str) -> BlockAffinity {
        self.block_of("a", cidr)
    }

    /// A block of a node.
    pub(crate) fn block_of(&self, node: &str, cidr: &str) -> BlockAffinity {
        let spec = BlockAffinitySpec {
            state: AffinityState::Confirmed,
            node: node.to_owned(),
            owner_type: Some("host".to_owned()),
            cidr: cidr.parse().unwrap(),
            deleted: false,
        };
        let name = calico_api::affinity_name(node, &spec.cidr);
        Resource::new(ObjectMeta::named(name), spec)
    }
}

/// Changes of routes, as `ip monitor` shows them.
#[derive(Debug)]
pub(crate) struct Recording {
    child: Child,
    log: PathBuf,
}

impl Recording {
    /// What happened to a prefix.
    pub(crate) fn of(mut self, prefix: &str) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let text = fs::read_to_string(&self.log).unwrap();
        text.lines().filter(|line| line.contains(prefix)).map(str::to_owned).collect()
    }
}
