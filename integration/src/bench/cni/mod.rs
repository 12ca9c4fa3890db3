//! A pod's start and stop: our plugin and agent against the reference plugins, turn by turn in one run.

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::sample::Sample;
use crate::lab::{Lab, Options, Progress};
use crate::net::{Net, StoreKind};
use crate::node::Node;

/// What is run: the plugin, its configuration, and what is measured of it.
struct Contender {
    name: &'static str,
    program: String,
    netconf: Value,
    add: Sample,
    del: Sample,
}

/// Measures `count` pods each, with none and with 100 others kept.
///
/// # Errors
/// If a plugin fails.
pub fn cni(count: u32) -> Result<String> {
    let options = Options { nodes: 1, pods: 0, store: StoreKind::Sqlite };
    let mut progress = Progress::default();
    let net = Net::new(options.store)?;
    let nodes = Lab::nodes(&net, options, &mut progress)?;
    let node = nodes.first().context("a node was asked for")?;
    let inside = Inside::of(node)?;
    let mut text = format!(
        "\n{:<8} {:<22} {:>9} {:>9} {:>9} {:>9}\n",
        "kept", "plugin", "ADD p50", "ADD p99", "DEL p50", "DEL p99"
    );
    for kept in [0, 100] {
        let mut contenders = contenders();
        for contender in &contenders {
            for number in 0..kept {
                inside.start(contender, &format!("kept{kept}-{number}"))?;
            }
        }
        for number in 0..count + 5 {
            for contender in &mut contenders {
                let name = format!("bench{kept}-{number}");
                let add = inside.start(contender, &name)?;
                let del = inside.stop(contender, &name)?;
                // The first few warm everything up.
                if number >= 5 {
                    contender.add.add(add);
                    contender.del.add(del);
                }
            }
        }
        for Contender { name, add, del, .. } in &contenders {
            let [a50, a99, d50, d99] = [add.quantile(0.5), add.quantile(0.99), del.quantile(0.5), del.quantile(0.99)];
            writeln!(text, "{kept:<8} {name:<22} {a50:>9.2} {a99:>9.2} {d50:>9.2} {d99:>9.2}")?;
        }
        if let [ours, theirs] = contenders.as_slice() {
            let ratio = |sample: fn(&Contender) -> &Sample, share| {
                sample(ours).quantile(share) / sample(theirs).quantile(share)
            };
            let add: fn(&Contender) -> &Sample = |it| &it.add;
            let del: fn(&Contender) -> &Sample = |it| &it.del;
            writeln!(
                text,
                "{kept:<8} {:<22} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
                "ratio",
                ratio(add, 0.5),
                ratio(add, 0.99),
                ratio(del, 0.5),
                ratio(del, 0.99)
            )?;
        }
        for contender in &contenders {
            for number in 0..kept {
                inside.stop(contender, &format!("kept{kept}-{number}"))?;
            }
        }
    }
    text += "Milliseconds from exec to exit of the plugin, by turns; medians and 99th percentiles.\n";
    Ok(text)
}

fn contenders() -> [Contender; 2] {
    let contender = |name, program: &str, netconf| Contender {
        name,
        program: program.to_owned(),
        netconf,
        add: Sample::default(),
        del: Sample::default(),
    };
    [
        contender(
            "calico",
            "/opt/cni/bin/calico",
            json!({"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "ipam": {"type": "calico-ipam"}}),
        ),
        contender(
            "ptp + host-local",
            "/usr/lib/cni/ptp",
            json!({"cniVersion": "1.0.0", "name": "reference", "type": "ptp", "ipMasq": false,
                   "ipam": {"type": "host-local", "subnet": "10.245.0.0/16", "dataDir": "/run/host-local"}}),
        ),
    ]
}

/// A node, entered once by this very thread, so that only the plugin itself is measured.
struct Inside;

impl Inside {
    fn of(node: &Node<'_>) -> Result<Self> {
        let pid = node.holder().pid();
        let open = |kind| -> Result<OwnedFd> { Ok(std::fs::File::open(format!("/proc/{pid}/ns/{kind}"))?.into()) };
        let (mount, network) = (open("mnt")?, open("net")?);
        // A thread that shares its working directory with others may not change its mounts.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::sched::setns(mount.as_fd(), nix::sched::CloneFlags::CLONE_NEWNS)?;
        nix::sched::setns(network.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(Self)
    }

    fn start(&self, contender: &Contender, name: &str) -> Result<Duration> {
        ip(&["netns", "add", &netns(contender, name)])?;
        self.exec(contender, "ADD", name)
    }

    fn stop(&self, contender: &Contender, name: &str) -> Result<Duration> {
        let took = self.exec(contender, "DEL", name)?;
        ip(&["netns", "del", &netns(contender, name)])?;
        Ok(took)
    }

    fn exec(&self, contender: &Contender, verb: &str, name: &str) -> Result<Duration> {
        use std::io::Write as _;
        let mut command = Command::new(&contender.program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("{name}-{}", contender.name.len()))
            .env("CNI_NETNS", format!("/run/netns/{}", netns(contender, name)))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin:/usr/lib/cni")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = contender.netconf.to_string();
        let start = Instant::now();
        let mut child = command.spawn()?;
        child.stdin.take().context("its input was to be written")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let took = start.elapsed();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            bail!("{} {verb} of {name} failed: {said}", contender.name);
        }
        Ok(took)
    }
}

fn netns(contender: &Contender, name: &str) -> String {
    format!("{}-{name}", contender.program.rsplit('/').next().unwrap_or_default())
}

fn ip(arguments: &[&str]) -> Result<()> {
    crate::process::run(Command::new("ip").args(arguments)).map(drop)
}
