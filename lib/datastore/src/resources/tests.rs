//! Real files, changed in the ways in which files are changed.

use std::os::unix::fs::symlink;
use std::time::Duration;

use calico_api::{BGPPeerSpec, SecretSpec};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::watch::{Update, watch};

fn peer(name: &str, number: u32) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: {name}}}\n\
         spec: {{peerIP: 192.0.2.1, asNumber: {number}}}\n"
    )
}

fn key(name: &str) -> Key {
    Key::named(Kind::BGPPeer, name)
}

async fn next(updates: &mut mpsc::Receiver<Update>) -> Update {
    tokio::time::timeout(Duration::from_secs(20), updates.recv()).await.expect("it comes in time").expect("it goes on")
}

/// The next update, which must be a put of this peer with this AS number.
#[track_caller]
fn assert_put(update: Update, name: &str, number: u32) {
    let Update::Put(entry) = update else { panic!("{update:?}") };
    let peer = crate::decode::<BGPPeerSpec>(entry).unwrap();
    assert_eq!((peer.name(), peer.spec.as_number.map(|number| number.0)), (name, Some(number)));
}

async fn trouble(updates: &mut mpsc::Receiver<Update>) -> String {
    match next(updates).await {
        Update::Trouble(Some(reason)) => reason,
        update => panic!("{update:?}"),
    }
}

struct File {
    dir: TempDir,
    path: std::path::PathBuf,
}

impl File {
    fn new(text: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reflector.yaml");
        let file = Self { dir, path };
        if let Some(text) = text {
            file.write(text);
        }
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }

    /// As editors save: a new file, renamed over the old one.
    fn replace(&self, text: &str) {
        let new = self.dir.path().join(".reflector.yaml.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }

    fn peers(&self) -> (Store, mpsc::Receiver<Update>) {
        let store = open(&self.path).unwrap();
        let updates = watch(&store, vec![(Kind::BGPPeer, Filter::All)]);
        (store, updates)
    }
}

#[tokio::test]
async fn only_differences_of_a_changed_file_are_told_however_it_was_changed() {
    let file = File::new(Some(&(peer("a", 1) + &peer("b", 1))));
    let (_store, mut updates) = file.peers();
    assert_put(next(&mut updates).await, "a", 1);
    assert_put(next(&mut updates).await, "b", 1);
    assert_eq!(next(&mut updates).await, Update::InSync);

    file.write(&(peer("a", 1) + &peer("b", 2)));
    assert_put(next(&mut updates).await, "b", 2);
    file.replace(&(peer("c", 1) + &peer("b", 2)));
    assert_put(next(&mut updates).await, "c", 1);
    assert_eq!(next(&mut updates).await, Update::Delete(key("a")));
    // An append, too, is one change.
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(&file.path).unwrap().write_all(peer("d", 4).as_bytes()).unwrap();
    assert_put(next(&mut updates).await, "d", 4);
}

#[tokio::test]
async fn what_was_said_stays_while_the_file_is_wrong_empty_or_gone() {
    let file = File::new(Some(&(peer("a", 1) + &peer("b", 1))));
    let (store, mut updates) = file.peers();
    for _ in 0..3 {
        next(&mut updates).await;
    }
    let name = file.path.display().to_string();
    let wrong = [
        (
            format!("{}{}", peer("a", 1), peer("a", 2)),
            "BGPPeer(a) is there twice, first in document 1 (document 2, from line 6)",
        ),
        ("spec: [".to_owned(), "(document 1, from line 1)"),
        (
            peer("a", 7).replace("peerIP:", "node: x, nodeSelector: all(), peerIP:"),
            "node and nodeSelector cannot both be set) (document 1, from line 1)",
        ),
        (String::new(), "it has no resources"),
    ];
    for (text, reason) in wrong {
        file.replace(&text);
        let told = trouble(&mut updates).await;
        assert!(told.contains(&name) && told.contains(reason) && told.contains("stays in force"), "{told}");
    }
    std::fs::remove_file(&file.path).unwrap();
    let told = trouble(&mut updates).await;
    assert!(told.contains("it is not there"), "{told}");
    let standing = store.list::<BGPPeerSpec>(&Filter::All).await.unwrap();
    assert_eq!(standing.items.len(), 2, "the last good content is in force");

    file.replace(&(peer("a", 1) + &peer("b", 3)));
    let mut seen = [next(&mut updates).await, next(&mut updates).await];
    seen.sort_by_key(|update| *update == Update::Trouble(None));
    let [put, over] = seen;
    assert_put(put, "b", 3);
    assert_eq!(over, Update::Trouble(None));
}

#[tokio::test]
async fn a_file_that_is_not_there_is_waited_for() {
    let file = File::new(None);
    let (store, mut updates) = file.peers();
    let told = trouble(&mut updates).await;
    assert!(told.contains("it is not there; it is waited for") && told.contains("reflector.yaml"), "{told}");
    assert!(matches!(store.backend().get(&key("a")).await, Err(Error::Unreadable { .. })));
    file.write("# to come\n");
    assert!(trouble(&mut updates).await.contains("it has no resources"));
    file.write(&peer("a", 1));
    assert_put(next(&mut updates).await, "a", 1);
    assert_eq!(next(&mut updates).await, Update::InSync);
    assert_eq!(next(&mut updates).await, Update::Trouble(None));
}

#[tokio::test]
async fn the_swap_of_a_mounted_config_map_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str, number: u32| {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("reflector.yaml"), peer("a", number)).unwrap();
    };
    version("..first", 1);
    symlink("..first", dir.path().join("..data")).unwrap();
    symlink("..data/reflector.yaml", dir.path().join("reflector.yaml")).unwrap();
    // And by another way, which leads into that directory from outside.
    let outside = tempfile::tempdir().unwrap();
    symlink(dir.path().join("reflector.yaml"), outside.path().join("link.yaml")).unwrap();
    let stores = [dir.path().join("reflector.yaml"), outside.path().join("link.yaml")].map(|path| open(path).unwrap());
    let mut watches = stores.each_ref().map(|store| watch(store, vec![(Kind::BGPPeer, Filter::named(&key("a")))]));
    for updates in &mut watches {
        assert_put(next(updates).await, "a", 1);
        assert_eq!(next(updates).await, Update::InSync);
    }
    version("..second", 2);
    symlink("..second", dir.path().join("..data_tmp")).unwrap();
    std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    std::fs::remove_dir_all(dir.path().join("..first")).unwrap();
    for updates in &mut watches {
        assert_put(next(updates).await, "a", 2);
    }
}

#[tokio::test]
async fn every_kind_is_read_and_none_is_written() {
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: bgp, namespace: kube-system}\nstringData: {rack: hunter2}\n";
    let affinity = "---\napiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: {}\n\
                    spec: {state: confirmed, node: node-1, type: host, cidr: 10.244.0.0/26, deleted: false}\n";
    let file = File::new(Some(&(peer("a", 1) + secret + affinity)));
    let store = open(&file.path).unwrap();
    let key = Key::namespaced(Kind::Secret, "kube-system", "bgp");
    let found = store.get::<SecretSpec>(&key).await.unwrap();
    assert_eq!(found.spec.value("rack"), Ok(Some(b"hunter2".to_vec())));
    let entry = store.backend().get(&key).await.unwrap();
    assert!(!format!("{entry:?}").contains("hunter2"));
    let own = store.backend().list(Kind::BlockAffinity, &Filter::Node("node-1".to_owned())).await.unwrap();
    assert_eq!(own.entries.len(), 1);
    let other = store.backend().list(Kind::BlockAffinity, &Filter::Node("node-2".to_owned())).await.unwrap();
    assert_eq!(other.entries, []);

    let error = store.update(&found).await.unwrap_err().to_string();
    let path = file.path.display();
    assert_eq!(
        error,
        format!("operation update is not supported on Secret: resources {path} is read-only; edit the file")
    );
    assert!(matches!(store.delete_key(&key).await, Err(Error::NotSupported { .. })));
    let anew = store.backend().watch(Kind::BGPPeer, &Filter::All, &Revision("99".to_owned())).await;
    assert!(matches!(anew, Err(Error::Compacted(_))), "a revision of an earlier life");
}
