//! A topology: nodes on L2 segments, and the store they share.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::datastore::Datastore;
use crate::holder::Holder;
use crate::node::Node;
use crate::process::run;
use crate::router::Router;
use crate::servers;

/// The segment's own address, where stores listen.
pub const SEGMENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The first segment's bridge.
const FIRST: &str = "seg0";

/// The length of the segment's prefix.
pub const SEGMENT_LENGTH: u8 = 16;

/// Which store a topology is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// One SQLite file.
    Sqlite,
    /// Debian's etcd.
    Etcd,
    /// A real kube-apiserver (with etcd behind it).
    Kubernetes,
}

/// A further L2 segment, such as a rack's. Nothing of it is connected to the others but by routers.
#[derive(Debug)]
pub struct Segment {
    bridge: String,
    subnet: Ipv4Net,
}

impl Segment {
    /// The address of this host number.
    ///
    /// # Errors
    /// If the subnet has no such host.
    pub fn host(&self, number: u32) -> Result<Ipv4Net> {
        let address = self.subnet.hosts().nth(usize::try_from(number)?.saturating_sub(1));
        let address = address.with_context(|| format!("{} has no host {number}", self.subnet))?;
        Ok(Ipv4Net::new(address, self.subnet.prefix_len())?)
    }

    /// Its subnet.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }
}

/// Where a machine is plugged in, and with which address.
#[derive(Clone, Debug)]
pub(crate) struct Plug {
    /// The bridge.
    pub(crate) bridge: String,
    /// The address with the length of its subnet.
    pub(crate) address: Ipv4Net,
}

/// Nodes on one or several L2 segments.
#[derive(Debug)]
pub struct Net {
    // In this order: what runs on the segment goes before the segment, the folder last.
    server: Option<servers::Server>,
    segment: Holder,
    datastore: Datastore,
    binaries: Binaries,
    directory: TempDir,
    nodes: AtomicU8,
    ports: AtomicU32,
    keep: AtomicBool,
}

impl Net {
    /// A segment without nodes, and its store.
    ///
    /// # Errors
    /// If the programs are not built, we lack the privilege, or the store does not start.
    pub fn new(kind: StoreKind) -> Result<Self> {
        Self::announced(kind, |_| ())
    }

    /// The same; `announce` is told of the temporary folder before anything is put there.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn announced(kind: StoreKind, announce: impl FnOnce(&Path)) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            anyhow::bail!("namespaces need root: run it as root or through sudo");
        }
        let binaries = Binaries::find()?;
        let directory = tempfile::Builder::new().prefix("ocicat-").tempdir().context("no temporary folder")?;
        announce(directory.path());
        std::fs::create_dir(directory.path().join("logs"))?;
        let segment = Holder::new(
            "the segment",
            &format!(
                "hostname segment\nip link add seg0 type bridge\nip addr add {SEGMENT}/{SEGMENT_LENGTH} dev seg0\nip link set seg0 up\n\
                 echo 0 > /proc/sys/net/ipv6/conf/seg0/accept_dad\nip -6 addr add fd00::1/64 dev seg0 nodad"
            ),
        )?;
        let (datastore, server) = servers::start(kind, &segment, directory.path())?;
        Ok(Self {
            server,
            segment,
            datastore,
            binaries,
            directory,
            nodes: AtomicU8::new(0),
            ports: AtomicU32::new(0),
            keep: AtomicBool::new(false),
        })
    }

    /// A further node. Nothing of ours runs on it yet.
    ///
    /// # Errors
    /// If its namespaces or its link cannot be made.
    pub fn node(&self, name: &str) -> Result<Node<'_>> {
        let number = self.nodes.fetch_add(1, Ordering::Relaxed).checked_add(11);
        let number = number.filter(|number| *number < 255).context("a segment has at most 240 nodes")?;
        if let Some(server) = &self.server {
            server.create_node(name)?;
        }
        Node::new(self, name, &self.first(Ipv4Addr::new(10, 0, 0, number)), None)
    }

    /// A further segment.
    ///
    /// # Errors
    /// If its bridge cannot be made.
    pub fn segment(&self, name: &str, subnet: Ipv4Net) -> Result<Segment> {
        run(self.command("ip").args(["link", "add", name, "type", "bridge"]))?;
        run(self.command("ip").args(["link", "set", name, "up"]))?;
        Ok(Segment { bridge: name.to_owned(), subnet })
    }

    /// A further node, on a further segment, behind a router.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub fn node_on(&self, name: &str, segment: &Segment, host: u32, gateway: Ipv4Addr) -> Result<Node<'_>> {
        if let Some(server) = &self.server {
            server.create_node(name)?;
        }
        let plug = Plug { bridge: segment.bridge.clone(), address: segment.host(host)? };
        Node::new(self, name, &plug, Some(gateway))
    }

    /// A router between the first segment, where it is `10.0.0.<spine>`, and others, where it has these addresses.
    ///
    /// # Errors
    /// If its namespaces or its links cannot be made.
    pub fn router(&self, name: &str, spine: u8, others: &[(&Segment, u32)]) -> Result<Router> {
        let mut plugs = vec![self.first(Ipv4Addr::new(10, 0, 0, spine))];
        for (segment, host) in others {
            plugs.push(Plug { bridge: segment.bridge.clone(), address: segment.host(*host)? });
        }
        let router = Router::new(self, name, &plugs)?;
        for (segment, _) in others {
            // The store's server, if there is one, is on the first segment.
            let (to, via) = (segment.subnet.to_string(), format!("10.0.0.{spine}"));
            run(self.command("ip").args(["route", "replace", &to, "via", &via]))?;
        }
        Ok(router)
    }

    fn first(&self, address: Ipv4Addr) -> Plug {
        Plug { bridge: FIRST.to_owned(), address: Ipv4Net::new_assert(address, SEGMENT_LENGTH) }
    }

    /// The store that the nodes share.
    pub fn datastore(&self) -> &Datastore {
        &self.datastore
    }

    /// The server behind the store, where there is one.
    pub fn server(&self) -> Option<&servers::Server> {
        self.server.as_ref()
    }

    /// The programs under test.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The folder of this topology: the store's file, the logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the log of a program goes.
    pub fn log(&self, program: &str) -> PathBuf {
        self.directory.path().join("logs").join(format!("{program}.log"))
    }

    /// The segment's network namespace.
    ///
    /// # Errors
    /// If its process is gone.
    pub fn network(&self) -> Result<OwnedFd> {
        self.segment.network()
    }

    /// A command that will run on the segment itself.
    pub fn command(&self, program: &str) -> Command {
        self.segment.command(program)
    }

    /// Links a machine's interface to a segment, with its address; returns the name of the segment's end.
    pub(crate) fn plug(&self, machine: &Holder, interface: &str, plug: &Plug) -> Result<String> {
        let (here, there) = (self.segment.pid().to_string(), machine.pid().to_string());
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip")
            .args(["link", "add", interface, "netns", &there, "type", "veth", "peer", "name", &port, "netns", &here]))?;
        run(self.command("ip").args(["link", "set", &port, "master", &plug.bridge, "up"]))?;
        run(machine.command("ip").args(["addr", "add", &plug.address.to_string(), "dev", interface]))?;
        run(machine.command("ip").args(["link", "set", interface, "up"]))?;
        Ok(port)
    }

    /// Cuts or restores a node's link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_link(&self, node: &Node, up: bool) -> Result<()> {
        run(self.command("ip").args(["link", "set", node.port(), if up { "up" } else { "down" }])).map(drop)
    }

    /// Keeps the folder (with the logs) when this is dropped.
    pub fn keep_directory(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) || std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("logs are in {}", self.directory.path().display());
        }
    }
}
