//! The endpoint status files: which workloads of this node are connected, told to whom it concerns on the node
//! (reference felix.md §1.12).
//!
//! One file for each: Calico's CNI plugin may wait for it, and the BGP speaker learns from it which workloads are peers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bgp_plan::workloads::EndpointStatus;
use felix_calc::{EndpointId, Interface};
use ipnet::IpNet;
use tracing::{debug, info, warn};

/// The files, kept as they should be. Whatever file is in the folder is ours.
#[derive(Debug)]
pub(crate) struct StatusFiles {
    /// Where; `None`: nowhere.
    folder: Option<PathBuf>,
    /// What is there; `None`: to be looked at.
    actual: Option<BTreeMap<String, EndpointStatus>>,
    /// The last thing that failed, while it does.
    failing: Option<String>,
}

/// The name of the endpoint's file, and what is to stand in it.
pub(crate) fn of(interface_name: &str, interface: &Interface) -> (String, EndpointStatus) {
    let mut status = EndpointStatus {
        iface_name: interface_name.to_owned(),
        mac: interface.mac.clone(),
        bgp_peer_name: interface.peer.clone().unwrap_or_default(),
        ..EndpointStatus::default()
    };
    for address in &interface.addresses {
        match address {
            IpNet::V4(address) => status.ipv4_nets.push(*address),
            IpNet::V6(address) => status.ipv6_nets.push(*address),
        }
    }
    (file_name(&interface.endpoint), status)
}

impl StatusFiles {
    /// Files below `prefix`, or none. Nothing is looked at or changed yet.
    pub(crate) fn new(prefix: Option<&Path>) -> Self {
        Self { folder: prefix.map(|prefix| prefix.join(EndpointStatus::FOLDER)), actual: None, failing: None }
    }

    /// Makes the next [`Self::make`] look at what is there.
    pub(crate) fn reread(&mut self) {
        self.actual = None;
    }

    /// Whether the last [`Self::make`] could not do all, and should come again.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Writes what differs, and removes what is too much. Failures are logged, once each.
    pub(crate) fn make(&mut self, desired: BTreeMap<String, EndpointStatus>) {
        let Some(folder) = self.folder.clone() else { return };
        let failure = self.try_make(&folder, desired).err().map(|error| error.to_string());
        match &failure {
            Some(reason) if self.failing.as_ref() != Some(reason) => {
                let folder = folder.display().to_string();
                warn!(folder, reason, "endpoint status files are not as they should be, it is tried again");
            }
            None if self.failing.is_some() => info!("endpoint status files are as they should be again"),
            _ => {}
        }
        self.failing = failure;
    }

    /// The same; goes on after a failure, and returns the last.
    fn try_make(&mut self, folder: &Path, desired: BTreeMap<String, EndpointStatus>) -> io::Result<()> {
        let actual = match &mut self.actual {
            Some(actual) => actual,
            none => none.insert(read(folder)?),
        };
        let mut result = Ok(());
        for (name, status) in &desired {
            if actual.get(name) == Some(status) {
                continue;
            }
            match write(folder, name, status) {
                Ok(()) => {
                    debug!(name, bgp_peer = status.bgp_peer_name, "endpoint status file is written");
                    actual.insert(name.clone(), status.clone());
                }
                Err(error) => result = Err(error),
            }
        }
        let old: Vec<String> = actual.keys().filter(|name| !desired.contains_key(*name)).cloned().collect();
        for name in old {
            match fs::remove_file(folder.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
                _ => {
                    debug!(name, "endpoint status file is removed");
                    actual.remove(&name);
                }
            }
        }
        if result.is_err() {
            self.actual = None; // somebody else may be at it
        }
        result
    }
}

/// What is in the folder, which is made if it is not there. A file that cannot be read counts as an empty one.
fn read(folder: &Path) -> io::Result<BTreeMap<String, EndpointStatus>> {
    fs::create_dir_all(folder)?;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.file_type().is_ok_and(|kind| !kind.is_dir())
        {
            let content = fs::read(entry.path()).unwrap_or_default();
            found.insert(name, serde_json::from_slice(&content).unwrap_or_default());
        }
    }
    Ok(found)
}

/// Writes a file beside the folder, whose readers see only whole files, and moves it to its place.
fn write(folder: &Path, name: &str, status: &EndpointStatus) -> io::Result<()> {
    let new = folder.with_extension("new");
    fs::write(&new, serde_json::to_vec(status)?)?;
    fs::rename(&new, folder.join(name))
}

/// `k8s shop%2Fweb-0 eth0`.
fn file_name(endpoint: &EndpointId) -> String {
    [&endpoint.orchestrator, &endpoint.workload, &endpoint.endpoint].map(|part| escaped(part)).join(" ")
}

/// As Go's `url.PathEscape` has it.
fn escaped(text: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.~$&+:=@".contains(&octet);
    text.bytes()
        .map(|octet| if plain(octet) { char::from(octet).to_string() } else { format!("%{octet:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use calico_api::Key;

    use super::*;

    fn status(interface: &str, peer: Option<&str>) -> (String, EndpointStatus) {
        let endpoint = EndpointId {
            orchestrator: "k8s".to_owned(),
            workload: format!("shop/{interface}"),
            endpoint: "eth0".to_owned(),
            key: Key::Handle("x".to_owned()),
        };
        let addresses = ["10.0.0.9/32", "10.0.0.1/32", "fd00::1/128"].map(|text| text.parse().unwrap());
        let interface_of = Interface {
            endpoint,
            container: String::new(),
            mac: String::new(),
            addresses: addresses.to_vec(),
            peer: peer.map(str::to_owned),
            node_addresses: BTreeSet::new(),
        };
        of(interface, &interface_of)
    }

    fn contents(folder: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn files_follow_what_is_desired_and_others_that_lie_there_go() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("below/endpoint-status");
        let mut files = StatusFiles::new(folder.parent());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("k8s gone%2Fpod eth0"), "{}").unwrap();
        fs::write(folder.join("k8s shop%2Fb eth0"), "{\"ifaceName\":").unwrap();

        files.make(BTreeMap::from([status("a", Some("lw")), status("b", None)]));
        let a = r#"{"ifaceName":"a","ipv4Nets":["10.0.0.9/32","10.0.0.1/32"],"ipv6Nets":["fd00::1/128"],"bgpPeerName":"lw"}"#;
        let b = r#"{"ifaceName":"b","ipv4Nets":["10.0.0.9/32","10.0.0.1/32"],"ipv6Nets":["fd00::1/128"]}"#;
        let expected = [("k8s shop%2Fa eth0", a), ("k8s shop%2Fb eth0", b)].map(|(n, t)| (n.to_owned(), t.to_owned()));
        assert_eq!(contents(&folder), expected);
        let metadata = fs::metadata(folder.join("k8s shop%2Fa eth0")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1, "nothing is left beside the folder");

        // The same again, also by a restarted process, writes nothing.
        files.make(BTreeMap::from([status("a", Some("lw")), status("b", None)]));
        let mut files = StatusFiles::new(folder.parent());
        files.make(BTreeMap::from([status("a", Some("lw")), status("b", None)]));
        assert_eq!(fs::metadata(folder.join("k8s shop%2Fa eth0")).unwrap().ino(), metadata.ino());

        // Somebody removes one; the next look finds it.
        fs::remove_file(folder.join("k8s shop%2Fb eth0")).unwrap();
        files.reread();
        files.make(BTreeMap::from([status("b", None)]));
        assert_eq!(contents(&folder), expected[1..]);
        assert!(!files.is_failing());
    }

    #[test]
    fn one_file_that_cannot_be_written_does_not_keep_the_others_and_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("endpoint-status");
        let mut files = StatusFiles::new(Some(directory.path()));
        fs::create_dir_all(folder.join("k8s shop%2Fa eth0")).unwrap();
        files.make(BTreeMap::from([status("a", None), status("b", None)]));
        assert!(files.is_failing() && folder.join("k8s shop%2Fb eth0").is_file());
        fs::remove_dir(folder.join("k8s shop%2Fa eth0")).unwrap();
        files.make(BTreeMap::from([status("a", None)]));
        assert!(!files.is_failing());
        assert_eq!(contents(&folder).len(), 1);
        StatusFiles::new(None).make(BTreeMap::from([status("a", None)]));
    }

    #[test]
    fn names_are_escaped_as_calico_escapes_them() {
        for (text, expected) in [
            ("shop/web-0", "shop%2Fweb-0"),
            ("a.b_c~d$&+:=@", "a.b_c~d$&+:=@"),
            ("a b,c;d?e%f!", "a%20b%2Cc%3Bd%3Fe%25f%21"),
            ("ü", "%C3%BC"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }
}
