//! What is ours on a node's disk, and in its `/run`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Report;

/// The plugins' names.
const PLUGINS: [&str; 2] = ["calico", "calico-ipam"];
/// What our plugins hold and Calico's do not: the path of the agent's socket.
const MARK: &[u8] = calico_agent::SOCKET.as_bytes();
/// Where plugins are, and where networks are configured.
const BINARIES: &str = "opt/cni/bin";
const NETWORKS: &str = "etc/cni/net.d";
/// What Calico's installation left beside its network.
const KUBECONFIG: &str = "calico-kubeconfig";
/// What we keep across restarts.
const LIBRARY: &str = "var/lib/calico";
const REMEMBERED: [&str; 5] = ["nodename", "mtu", "bgp-last-good.json", "shutdownTS", "pending-releases"];
/// The plugins' log.
const LOG: &str = "var/log/calico";

/// Where `/run` is below a root; `/var/run` is a link to it unless a container has folders of it mounted.
pub(super) fn run_folder(root: &Path) -> PathBuf {
    let var_run = root.join("var/run");
    let is_folder = fs::symlink_metadata(&var_run).is_ok_and(|found| found.is_dir());
    if is_folder { var_run } else { root.join("run") }
}

pub(super) fn clean(root: &Path, report: &mut Report) {
    // A node that Calico serves keeps what Calico's daemons and plugins read.
    let calicos = plugins(root, report);
    if let Some(plugin) = calicos {
        let why = format!("{} is Calico's own plugin: Calico serves this node", plugin.display());
        for folder in [NETWORKS, LIBRARY, LOG] {
            report.leave(format!("our part of {}", root.join(folder).display()), why.clone());
        }
        whole(&run_folder(root).join("ocicat"), report);
        return;
    }
    networks(&root.join(NETWORKS), report);
    let library = root.join(LIBRARY);
    let pending = fs::read_dir(library.join("pending-releases")).map_or(0, Iterator::count);
    for name in REMEMBERED {
        whole(&library.join(name), report);
    }
    if pending > 0 {
        report.leave(
            format!("{pending} sandboxes' addresses in the datastore"),
            "their release was still to be done; ipam-controller does it when the pods or the node are gone",
        );
    }
    let why = "it is not ours, or it is the store of all resources; remove it if nobody needs it";
    remains(&library, why, report);
    let run = run_folder(root);
    whole(&run.join("ocicat"), report);
    // Sockets, locks and the status of endpoints; nothing here outlives a boot.
    whole(&run.join("calico"), report);
    whole(&root.join(LOG).join("cni"), report);
    remains(&root.join(LOG), "it is not ours", report);
}

/// Removes our plugins; returns one that is Calico's, if there is.
fn plugins(root: &Path, report: &mut Report) -> Option<PathBuf> {
    let mut foreign = None;
    for name in PLUGINS {
        let path = root.join(BINARIES).join(name);
        match fs::read(&path) {
            Ok(content) if content.windows(MARK.len()).any(|window| window == MARK) => whole(&path, report),
            Ok(_) => {
                report.leave(path.display().to_string(), "it is Calico's own plugin");
                foreign = Some(path);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => report.fail(path.display().to_string(), error),
        }
    }
    foreign
}

/// Removes the networks whose first plugin is ours; without it they would make the node look ready.
fn networks(folder: &Path, report: &mut Report) {
    for path in entries(folder, report) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == KUBECONFIG {
            whole(&path, report);
        }
        if ![".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        let network: Value = match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(network)) => network,
            Ok(Err(error)) => {
                report.leave(path.display().to_string(), format!("it is not JSON: {error}"));
                continue;
            }
            Err(error) => {
                report.fail(path.display().to_string(), error);
                continue;
            }
        };
        let plugins: Vec<&str> = match network["plugins"].as_array() {
            Some(plugins) => plugins.iter().filter_map(|plugin| plugin["type"].as_str()).collect(),
            None => network["type"].as_str().into_iter().collect(),
        };
        match plugins.as_slice() {
            ["calico", ..] => whole(&path, report),
            _ if network.to_string().contains("\"calico-ipam\"") => {
                report.leave(
                    path.display().to_string(),
                    "its addresses come from calico-ipam, which is removed: change it",
                );
            }
            _ => {}
        }
    }
}

/// Removes a file, or a folder with all that is in it; that it is not there is as good.
pub(super) fn whole(path: &Path, report: &mut Report) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    if !found.is_dir() {
        return report.remove(path.display().to_string(), || absent_is_fine(fs::remove_file(path)));
    }
    let inside = entries(path, report);
    if inside.is_empty() && is_mounted(path) {
        return;
    }
    report.remove(path.display().to_string(), || match absent_is_fine(fs::remove_dir_all(path)) {
        // A container has it mounted: it is emptied, and remains until the mount is gone.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        done => done,
    });
}

/// Removes a folder if it is empty, and tells of what is still in it.
pub(super) fn remains(folder: &Path, why: &str, report: &mut Report) {
    if !folder.exists() {
        return;
    }
    let rest = entries(folder, report);
    let ours = |path: &PathBuf| report.dry_run && report.removed.iter().any(|removed| Path::new(removed) == path);
    let others: Vec<_> = rest.iter().filter(|path| !ours(path)).cloned().collect();
    if !others.is_empty() {
        for path in others {
            report.leave(path.display().to_string(), why);
        }
    } else if !is_mounted(folder) {
        report.remove(folder.display().to_string(), || absent_is_fine(fs::remove_dir(folder)));
    }
}

/// Whether another file system begins here.
fn is_mounted(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (device(folder), device(&folder.join(".."))) {
        (Ok(here), Ok(above)) => {
            // A folder bound from the same file system has its device, but is in the table of mounts.
            here.0 != above.0
                || fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| {
                    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(point) == folder)
                })
        }
        _ => false,
    }
}

fn entries(folder: &Path, report: &mut Report) -> Vec<PathBuf> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            paths
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            report.fail(folder.display().to_string(), error);
            Vec::new()
        }
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
