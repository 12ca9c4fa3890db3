//! Do our daemons still run on this node?

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::files::run_folder;

/// The daemons that answer on their sockets, or that are seen as processes of this network namespace.
pub(super) fn programs(root: &Path) -> Vec<&'static str> {
    let run = run_folder(root);
    let answers = |path: &str| UnixStream::connect(run.join(path)).is_ok();
    let mut found = Vec::new();
    if answers("ocicat/agent.sock") || is_process("felix") || is_process("calico-felix") {
        found.push("felix");
    }
    if ["ocicat/bgp.sock", "calico/bird.ctl", "calico/bird6.ctl"].into_iter().any(answers) || is_process("bgp-speaker")
    {
        found.push("bgp-speaker");
    }
    found
}

/// Whether a process of this name is in our network namespace. In a container others than its own are not seen.
pub(super) fn is_process(name: &str) -> bool {
    let here = fs::read_link("/proc/self/ns/net").ok();
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let path = process.path();
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
            && fs::read_link(path.join("ns/net")).ok() == here
    })
}
