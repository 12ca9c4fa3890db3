//! A node: namespaces with the real programs at their real paths.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::holder::Holder;
use crate::net::{Net, Plug};
use crate::pod::Pod;
use crate::process::{Process, run};
use crate::wait;

/// How long anything that should be quick may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A node of a topology.
#[derive(Debug)]
pub struct Node<'net> {
    net: &'net Net,
    name: String,
    address: Ipv4Addr,
    port: String,
    /// The daemons that run, by program. Dropped, and so killed, before the namespaces.
    running: Mutex<Vec<Process>>,
    holder: Holder,
}

impl<'net> Node<'net> {
    pub(crate) fn new(net: &'net Net, name: &str, plug: &Plug, gateway: Option<Ipv4Addr>) -> Result<Self> {
        let binaries = net.binaries();
        // A private /run, and every folder that an installation writes to as a private layer over the machine's.
        let script = format!(
            "mount --make-rprivate /
             hostname {name}
             mount -t tmpfs -o mode=755 ocicat-run /run
             mkdir -p /run/layers /run/netns
             for folder in etc opt var/lib var/log usr/local/bin; do
                 layer=/run/layers/$(echo $folder | tr / -)
                 mkdir -p $layer/upper $layer/work
                 mount -t overlay -o lowerdir=/$folder,upperdir=$layer/upper,workdir=$layer/work ocicat-$name /$folder
             done
             mkdir -p /etc/cni/net.d /etc/calico /opt/cni/bin /var/lib/calico /run/calico /run/ocicat
             cp {plugins}/calico {plugins}/calico-ipam /opt/cni/bin/
             for plugin in portmap loopback; do [ ! -e /usr/lib/cni/$plugin ] || ln -s /usr/lib/cni/$plugin /opt/cni/bin/; done
             ln -sf {daemons}/felix {daemons}/bgp-speaker {daemons}/calicoctl /usr/local/bin/
             cat > /etc/calico/calicoctl.cfg <<'END'\n{cfg}END
             cat > /etc/cni/net.d/10-calico.conflist <<'END'\n{conflist}END
             ",
            plugins = binaries.plugins().display(),
            daemons = binaries.daemons().display(),
            cfg = net.datastore().calicoctl_cfg(),
            conflist = conflist(),
        );
        let holder = Holder::new(&format!("node {name}"), &script)?;
        let port = net.plug(&holder, "eth0", plug)?;
        if let Some(gateway) = gateway {
            run(holder.command("ip").args(["route", "add", "default", "via", &gateway.to_string()]))?;
        }
        Ok(Self { net, name: name.to_owned(), address: plug.address.addr(), port, running: Mutex::default(), holder })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the segment.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The other end of its link.
    pub(crate) fn port(&self) -> &str {
        &self.port
    }

    /// The topology it belongs to.
    pub fn net(&self) -> &'net Net {
        self.net
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

    /// `calicoctl` on it, configured by its `/etc/calico/calicoctl.cfg`.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn calicoctl(&self, arguments: &[&str]) -> Result<String> {
        self.run("/usr/local/bin/calicoctl", arguments)
    }

    /// `calicoctl apply -f -` with this text.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn apply(&self, resources: &str) -> Result<String> {
        let mut child = self
            .command("/usr/local/bin/calicoctl")
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Of one that ends before it has read, the output says why.
        let _ = child.stdin.take().context("its input was to be written")?.write_all(resources.as_bytes());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("calicoctl apply on {}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts felix and waits until it serves.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub fn start_felix(&self) -> Result<()> {
        self.start("felix", &[])?;
        self.ready("felix", 9099)
    }

    /// Starts the speaker.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_speaker(&self) -> Result<()> {
        self.start("bgp-speaker", &[])
    }

    /// Starts one of our daemons.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, program: &str, environment: &[(&str, &str)]) -> Result<()> {
        let mut command = self.command(&format!("/usr/local/bin/{program}"));
        command.envs(self.net.datastore().environment());
        command.env("NODENAME", &self.name).env("IP", "autodetect").env("NO_DEFAULT_POOLS", "true");
        command.env_remove("RUST_BACKTRACE").envs(environment.iter().copied());
        let process = Process::start(
            format!("{program} on {}", self.name),
            &mut command,
            self.net.log(&format!("{}-{program}", self.name)),
        )?;
        self.running().push(process);
        Ok(())
    }

    /// Waits until a daemon's `/readiness` says so.
    ///
    /// # Errors
    /// If it ends, or is not ready in time.
    pub fn ready(&self, program: &str, port: u16) -> Result<()> {
        self.ready_within(program, port, PATIENCE)
    }

    /// The same, with another patience.
    ///
    /// # Errors
    /// As [`Self::ready`].
    pub fn ready_within(&self, program: &str, port: u16, patience: Duration) -> Result<()> {
        let network = self.holder.network()?;
        wait::becomes(patience, &format!("{program} on {} is ready", self.name), || {
            self.daemon(program, |process| process.check())?;
            let answer = calico_sys::namespace::inside(&network, || crate::http::get(port, "/readiness"))?;
            answer.map(|(status, _)| status == 200)
        })
        .with_context(|| format!("last lines of {program} on {}:\n{}", self.name, self.last_lines(program)))
    }

    /// Does something with a running daemon.
    ///
    /// # Errors
    /// If there is none of that name, or whatever `work` says.
    pub fn daemon<T>(&self, program: &str, work: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        let name = format!("{program} on {}", self.name);
        let mut running = self.running();
        let process = running.iter_mut().find(|process| process.name() == name);
        work(process.with_context(|| format!("{name} is not running"))?)
    }

    /// `kill -9` of a daemon.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn kill(&self, program: &str) -> Result<()> {
        self.daemon(program, Process::kill)?;
        self.forget(program);
        Ok(())
    }

    /// SIGTERM to a daemon.
    ///
    /// # Errors
    /// If there is none of that name, or it does not end.
    pub fn terminate(&self, program: &str) -> Result<()> {
        let status = self.daemon(program, Process::terminate)?;
        self.forget(program);
        if !status.success() {
            bail!("{program} on {} ended with {status} after SIGTERM", self.name);
        }
        Ok(())
    }

    /// Fails if a daemon that should run does not.
    ///
    /// # Errors
    /// With its last words.
    pub fn check(&self) -> Result<()> {
        self.running().iter_mut().try_for_each(Process::check)
    }

    fn running(&self) -> MutexGuard<'_, Vec<Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, program: &str) {
        let name = format!("{program} on {}", self.name);
        self.running().retain(|process| process.name() != name);
    }

    /// The end of a daemon's log.
    pub fn last_lines(&self, program: &str) -> String {
        crate::process::last_lines(&self.net.log(&format!("{}-{program}", self.name)), 15)
    }

    /// Makes a pod's namespace and has the plugin fill it.
    ///
    /// # Errors
    /// If the plugin fails, with what it said.
    pub fn pod(&self, name: &str) -> Result<Pod<'_, 'net>> {
        let pod = Pod::sandbox(self, name)?;
        pod.add()?;
        Ok(pod)
    }

    /// What `ip -json route` says, IPv4.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn routes(&self) -> Result<Vec<serde_json::Value>> {
        Ok(serde_json::from_str(&self.run("ip", &["-json", "route", "show", "table", "main"])?)?)
    }
}

/// The network configuration, as an installation writes it.
fn conflist() -> String {
    serde_json::to_string_pretty(&serde_json::json!({
        "name": "k8s-pod-network",
        "cniVersion": "1.0.0",
        "plugins": [
            {
                "type": "calico",
                "log_level": "info",
                "log_file_path": "/var/log/calico/cni/cni.log",
                "ipam": { "type": "calico-ipam" },
                "policy": { "type": "k8s" },
            },
            { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
        ],
    }))
    .expect("a literal is JSON")
        + "\n"
}
