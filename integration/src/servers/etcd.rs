//! A real etcd, that of the distribution: started in a moment, gone with its owner.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::holder::Holder;
use crate::process::Process;
use crate::wait;

/// Within what it must be ready; alone on the machine it takes a third of a second.
const READY: Duration = Duration::from_secs(30);

/// What it says when it is.
const READY_WORDS: &str = "serving client traffic";

/// A running etcd of one member.
#[derive(Debug)]
pub struct Etcd {
    // The process goes first, the folder last.
    process: Process,
    launch: Launch,
    _own: Option<TempDir>,
}

/// Certificates, where clients must use TLS and show their own; paths of PEM files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// What signs the server's and the clients'.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

/// What it takes to start it, and to start it again.
#[derive(Debug)]
struct Launch {
    directory: PathBuf,
    client: SocketAddr,
    certificates: Option<Certificates>,
    /// The process in whose network namespace it runs.
    inside: Option<u32>,
}

impl Etcd {
    /// Starts one on a free port of the loopback interface, with its files in a temporary folder.
    ///
    /// # Errors
    /// If it is not installed or does not become ready; the text has its last lines.
    pub fn local() -> Result<Self> {
        Self::start(IpAddr::V4(Ipv4Addr::LOCALHOST), None, None, None)
    }

    /// Starts one on a free port of `address`: in the network namespace of `inside` if given, with its files in
    /// `directory` or else in a temporary one, with TLS if there are certificates. Returns when it is ready.
    ///
    /// # Errors
    /// As [`Self::local`].
    pub fn start(
        address: IpAddr,
        inside: Option<&Holder>,
        directory: Option<&Path>,
        certificates: Option<Certificates>,
    ) -> Result<Self> {
        let own = match directory {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("ocicat-etcd-").tempdir().context("no temporary folder")?),
        };
        let directory = match (directory, &own) {
            (Some(directory), _) => directory.join("etcd"),
            (None, Some(own)) => own.path().to_owned(),
            (None, None) => unreachable!("one of the two was just made"),
        };
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let port = match inside {
            None => free_port(address)?,
            Some(holder) => calico_sys::namespace::inside(holder.network()?, || free_port(address))??,
        };
        let client = SocketAddr::new(address, port);
        let launch = Launch { directory, client, certificates, inside: inside.map(Holder::pid) };
        let process = launch.start()?;
        Ok(Self { process, launch, _own: own })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.launch.url()
    }

    /// Kills it, without a chance to tidy up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again, where it was and with what it held; returns when it is ready.
    ///
    /// # Errors
    /// As [`Self::local`].
    pub fn restart(&mut self) -> Result<()> {
        self.process = self.launch.start()?;
        Ok(())
    }

    /// Fails, with its last words, if it has ended.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }
}

impl Launch {
    fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.client)
    }

    fn start(&self) -> Result<Process> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(pid) = self.inside {
            command.args(["nsenter", &format!("--net=/proc/{pid}/ns/net")]);
        }
        command.args(["--", "etcd", "--name", "lab"]).arg("--data-dir").arg(self.directory.join("data"));
        let url = self.url();
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        // No second member will ever come. A socket in its folder, by etcd's own way of naming it, collides with nobody's port.
        command.current_dir(&self.directory);
        command.args(["--listen-peer-urls", "unix://peer:0", "--initial-advertise-peer-urls", "http://localhost:2380"]);
        command.args(["--initial-cluster", "lab=http://localhost:2380"]);
        // One member elects itself: nothing is gained by a second of waiting for others.
        command.args(["--heartbeat-interval=20", "--election-timeout=200"]);
        command.args(["--logger=zap", "--log-level=info"]);
        if let Some(Certificates { ca, cert, key }) = &self.certificates {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
        }
        let log = self.directory.join("etcd.log");
        let said = |log: &Path| std::fs::read_to_string(log).map_or(0, |text| text.matches(READY_WORDS).count());
        let before = said(&log);
        let mut process = Process::start("etcd", &mut command, log.clone())
            .context("etcd cannot be started: is the package etcd-server installed?")?;
        let mut ended = None;
        let ready = wait::becomes(READY, "etcd is ready", || {
            if let Err(error) = process.check() {
                ended = Some(error);
                return Ok(true);
            }
            Ok(said(&log) > before)
        });
        if let Some(error) = ended {
            return Err(error);
        }
        ready.with_context(|| format!("etcd's last lines:\n{}", process.last_lines(15)))?;
        Ok(process)
    }
}

/// A port of an address that nobody listens on.
fn free_port(address: IpAddr) -> Result<u16> {
    let listener =
        TcpListener::bind((address, 0)).with_context(|| format!("{address} is none of this network's addresses"))?;
    Ok(listener.local_addr()?.port())
}
