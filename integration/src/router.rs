//! A router between segments: namespaces in which somebody else's BGP daemon runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;

use crate::holder::Holder;
use crate::net::{Net, Plug};
use crate::process::{Process, run};

/// A machine that forwards.
#[derive(Debug)]
pub struct Router {
    name: String,
    addresses: Vec<Ipv4Net>,
    /// What runs on it. Dropped, and so killed, before the namespaces.
    running: Vec<Process>,
    holder: Holder,
}

impl Router {
    pub(crate) fn new(net: &Net, name: &str, plugs: &[Plug]) -> Result<Self> {
        let script = format!(
            "mount --make-rprivate /
             hostname {name}
             mount -t tmpfs -o mode=755 ocicat-run /run
             mkdir -p /run/layers
             for folder in etc var/lib var/log var/tmp; do
                 layer=/run/layers/$(echo $folder | tr / -)
                 mkdir -p $layer/upper $layer/work
                 mount -t overlay -o lowerdir=/$folder,upperdir=$layer/upper,workdir=$layer/work ocicat-$name /$folder
             done
             echo 1 > /proc/sys/net/ipv4/ip_forward
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
             echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy"
        );
        let holder = Holder::new(&format!("router {name}"), &script)?;
        for (number, plug) in plugs.iter().enumerate() {
            net.plug(&holder, &format!("eth{number}"), plug)?;
        }
        let addresses = plugs.iter().map(|plug| plug.address).collect();
        Ok(Self { name: name.to_owned(), addresses, running: Vec::new(), holder })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its addresses, one a segment, the first segment's first.
    pub fn addresses(&self) -> &[Ipv4Net] {
        &self.addresses
    }

    /// Its namespaces.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// A command that will run on it.
    pub fn command(&self, program: &str) -> Command {
        self.holder.command(program)
    }

    /// Runs a command on it to its end; returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments)).with_context(|| format!("on {}", self.name))
    }

    /// Writes a file that only it sees.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let outside = self.holder.inside(path);
        if let Some(folder) = outside.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("{} on {}", folder.display(), self.name))?;
        }
        std::fs::write(&outside, text).with_context(|| format!("{path} on {}", self.name))
    }

    /// Starts a program that stays.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, program: &str, arguments: &[&str], log: &Path) -> Result<()> {
        let process = Process::start(
            format!("{program} on {}", self.name),
            self.command(program).args(arguments),
            log.to_owned(),
        )?;
        self.running.push(process);
        Ok(())
    }

    /// Fails if a program that should run does not.
    ///
    /// # Errors
    /// With its last words.
    pub fn check(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Process::check)
    }
}
