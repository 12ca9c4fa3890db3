//! The runtime's part: pods' namespaces made and removed, plugins executed, by one or by many at once.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use crate::node::Node;
use crate::pod::NAMESPACE;

/// Ticks of `/proc/<pid>/stat` in a second (`USER_HZ`, 100 on every Linux).
const TICKS: f64 = 100.0;

/// What is run: the plugin, its configuration, and how it is seen what is left of its pods.
pub(super) struct Contender {
    /// For people.
    pub(super) name: &'static str,
    /// The plugin's program.
    pub(super) program: &'static str,
    /// Its input.
    pub(super) netconf: Value,
    /// How the node's ends of its interfaces begin.
    pub(super) interfaces: &'static str,
    /// The folder where it notes what is still to be done.
    pub(super) pending: &'static str,
    /// The daemon that works for it.
    pub(super) agent: Option<&'static str>,
}

/// A node, entered once by this very thread, so that only the plugin itself is measured.
pub(super) struct Caller<'node, 'net> {
    node: &'node Node<'net>,
    network: OwnedFd,
    /// The pods' uids, by name, where there are pods.
    uids: Mutex<BTreeMap<String, String>>,
}

/// What many callers at once measured.
pub(super) struct Crowd {
    /// Of each call.
    pub(super) each: Vec<Duration>,
    /// Of all together.
    pub(super) took: Duration,
}

impl<'node, 'net> Caller<'node, 'net> {
    /// Enters the node, for ever.
    pub(super) fn of(node: &'node Node<'net>) -> Result<Self> {
        let pid = node.holder().pid();
        let open = |kind| -> Result<OwnedFd> { Ok(File::open(format!("/proc/{pid}/ns/{kind}"))?.into()) };
        let (mounts, network) = (open("mnt")?, open("net")?);
        // A thread that shares its working directory with others may not change its mounts.
        unshare(CloneFlags::CLONE_FS)?;
        setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        fs::create_dir_all("/run/bench")?;
        Ok(Self { node, network, uids: Mutex::default() })
    }

    /// Makes a pod's namespace, and its object where there are objects.
    pub(super) fn prepare(&self, contender: &Contender, name: &str) -> Result<()> {
        self.make_namespace(&netns(contender, name))?;
        fs::write(input(contender), contender.netconf.to_string())?;
        match self.node.net().server().filter(|_| contender.agent.is_some()) {
            Some(server) => {
                server.create_pod(NAMESPACE, &pod(name), self.node.name())?;
                if let Some(uid) = server.pod_uid(NAMESPACE, &pod(name))? {
                    self.uids.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), uid);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Makes a network namespace at a path.
    pub(super) fn make_namespace(&self, path: &str) -> Result<()> {
        File::create(path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let bound = mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(bound?)
    }

    /// Removes a pod's namespace, and its object where there are objects.
    pub(super) fn clear(&self, contender: &Contender, name: &str) -> Result<()> {
        remove_namespace(&netns(contender, name))?;
        match self.node.net().server().filter(|_| contender.agent.is_some()) {
            Some(server) => server.delete_pod(NAMESPACE, &pod(name)),
            None => Ok(()),
        }
    }

    /// A pod, from its namespace to its connection.
    pub(super) fn add(&self, contender: &Contender, name: &str) -> Result<Duration> {
        self.prepare(contender, name)?;
        self.exec(contender, "ADD", name)
    }

    /// A pod's end.
    pub(super) fn del(&self, contender: &Contender, name: &str) -> Result<Duration> {
        let took = self.exec(contender, "DEL", name)?;
        self.clear(contender, name)?;
        Ok(took)
    }

    /// Executes the plugin for each pod, so many at once.
    pub(super) fn crowd(&self, contender: &Contender, verb: &str, names: &[String], at_once: u32) -> Result<Crowd> {
        let (next, start) = (AtomicUsize::new(0), Instant::now());
        let work = || {
            let mut each = Vec::new();
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                each.push(self.exec(contender, verb, name)?);
            }
            anyhow::Ok(each)
        };
        let each = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            callers.into_iter().map(|caller| caller.join()).collect::<Vec<_>>()
        });
        let took = start.elapsed();
        let mut all = Vec::new();
        for result in each {
            all.extend(result.map_err(|_| anyhow::anyhow!("a caller panicked"))??);
        }
        Ok(Crowd { each: all, took })
    }

    /// Executes the plugin once.
    pub(super) fn exec(&self, contender: &Contender, verb: &str, name: &str) -> Result<Duration> {
        let uid = self.uids.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        exec(contender, verb, name, uid.as_deref())
    }

    /// How many pods are left of a plugin: interfaces on the node, or releases that are still to be done.
    pub(super) fn left(&self, contender: &Contender) -> Result<u32> {
        let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
        let interfaces = devices.lines().filter(|line| line.trim_start().starts_with(contender.interfaces)).count();
        let pending = fs::read_dir(contender.pending).map_or(0, Iterator::count);
        Ok(u32::try_from(interfaces + pending)?)
    }

    /// Processor time of the plugin's processes so far, and of its agent, in milliseconds.
    pub(super) fn cpu(&self, contender: &Contender) -> Result<f64> {
        // Fields 14 to 17 of proc(5): our own and our children's, of which only the latter are plugins.
        let mut ticks = stat("self", &[15, 16])?;
        if let Some(agent) = contender.agent {
            let pid = self.node.daemon(agent, |process| Ok(process.pid()))?;
            ticks += stat(&pid.to_string(), &[13, 14])?;
        }
        Ok(ticks * 1000.0 / TICKS)
    }
}

fn stat(process: &str, fields: &[usize]) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before them may hold blanks, but ends with the last bracket; it is field 2.
    let (_, rest) = text.rsplit_once(')').context("/proc/<pid>/stat has no name")?;
    let all: Vec<&str> = rest.split_whitespace().collect();
    let field = |index: &usize| all.get(index - 2).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok(fields.iter().map(field).sum())
}

/// Removes the namespace at a path; the kernel does the rest later.
pub(super) fn remove_namespace(path: &str) -> Result<()> {
    umount2(path, MntFlags::MNT_DETACH)?;
    Ok(fs::remove_file(path)?)
}

fn exec(contender: &Contender, verb: &str, name: &str, uid: Option<&str>) -> Result<Duration> {
    let uid = uid.map(|uid| format!(";K8S_POD_UID={uid}")).unwrap_or_default();
    let output = PathBuf::from(format!("{}.out", netns(contender, name)));
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&output)?;
    let mut command = Command::new(contender.program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container(contender, name))
        .env("CNI_NETNS", netns(contender, name))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin:/usr/lib/cni")
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={}{uid}", pod(name)))
        .stdin(File::open(input(contender))?)
        .stdout(file.try_clone()?)
        .stderr(Stdio::from(file));
    let start = Instant::now();
    let status = command.spawn().with_context(|| contender.program)?.wait()?;
    let took = start.elapsed();
    if !status.success() {
        bail!("{} {verb} of {name}: {}", contender.name, fs::read_to_string(&output)?);
    }
    fs::remove_file(output)?;
    Ok(took)
}

fn input(contender: &Contender) -> String {
    format!("/run/bench/{}.conf", contender.interfaces)
}

fn netns(contender: &Contender, name: &str) -> String {
    format!("/run/netns/{}-{name}", contender.interfaces)
}

fn pod(name: &str) -> String {
    format!("bench-{name}")
}

/// An id as a runtime makes it: its first characters differ from pod to pod.
fn container(contender: &Contender, name: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let part = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, contender.name, name, std::process::id()).hash(&mut hasher);
        hasher.finish()
    };
    (0..4).map(|salt| format!("{:016x}", part(salt))).collect()
}
