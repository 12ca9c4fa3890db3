//! A topology: nodes on one L2 segment, and the store they share.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::binaries::Binaries;
use crate::datastore::Datastore;
use crate::holder::Holder;
use crate::node::Node;
use crate::process::run;
use crate::servers;

/// The segment's own address, where stores listen.
pub const SEGMENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

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

/// Nodes on one L2 segment.
#[derive(Debug)]
pub struct Net {
    // In this order: what runs on the segment goes before the segment, the folder last.
    server: Option<servers::Server>,
    segment: Holder,
    datastore: Datastore,
    binaries: Binaries,
    directory: TempDir,
    nodes: AtomicU8,
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
        Node::new(self, name, Ipv4Addr::new(10, 0, 0, number))
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

    /// A command that will run on the segment itself.
    pub fn command(&self, program: &str) -> Command {
        self.segment.command(program)
    }

    /// Links a node's `eth0` to the segment.
    pub(crate) fn plug(&self, node: &Holder, port: &str) -> Result<()> {
        let (here, there) = (self.segment.pid().to_string(), node.pid().to_string());
        run(Command::new("ip")
            .args(["link", "add", "eth0", "netns", &there, "type", "veth", "peer", "name", port, "netns", &here]))?;
        run(self.command("ip").args(["link", "set", port, "master", "seg0", "up"]))?;
        Ok(())
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
