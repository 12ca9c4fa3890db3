//! The SQLite store does what every store must, and what only it can: it is shared by processes.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::slice;
use std::sync::Mutex;

use anyhow::Result;
use calico_api::{Key, Kind};
use calico_datastore::sqlite::Sqlite;
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Error, Filter, Store};
use integration::conformance::{PATIENCE, Subject, sample};
use integration::wait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// A store in a file of its own.
struct File {
    store: Store,
    backend: Sqlite,
    dir: TempDir,
    /// A connection for what the store itself does not do.
    raw: Mutex<Connection>,
}

impl File {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        let path = dir.path().join("home/store.db");
        let backend = Sqlite::open(&path.to_string_lossy()).await.unwrap();
        let raw = Mutex::new(Connection::open(&path).unwrap());
        Self { store: Store::new(backend.clone()), backend, dir, raw }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("home/store.db")
    }
}

impl Subject for File {
    fn store(&self) -> &Store {
        &self.store
    }

    async fn spoil(&self, block: &Key) -> Result<()> {
        let Key::Block(cidr) = block else { unreachable!("it is a block") };
        let mut raw = self.raw.lock().unwrap();
        let tx = raw.transaction()?;
        let row = params!["IPAMBlock", cidr.to_string()];
        tx.execute("UPDATE log SET current = 0 WHERE kind = ?1 AND key = ?2 AND current = 1", row)?;
        let row = params!["IPAMBlock", cidr.to_string(), "{\"spec\":{\"cidr\":"];
        tx.execute("INSERT INTO log (kind, key, previous, deleted, current, value) VALUES (?1, ?2, 1, 0, 1, ?3)", row)?;
        Ok(tx.commit()?)
    }

    async fn compact(&self) -> Result<()> {
        Ok(self.backend.compact(0).await?)
    }

    async fn take_away(&self) -> Result<()> {
        Ok(std::fs::rename(self.dir.path().join("home"), self.dir.path().join("away"))?)
    }

    async fn give_back(&self) -> Result<()> {
        Ok(std::fs::rename(self.dir.path().join("away"), self.dir.path().join("home"))?)
    }
}

integration::conformance!(File::new());

/// Where the other process finds the store.
const OTHER: &str = "OCICAT_TEST_STORE";

/// Set where it shall write one value again and again until it is killed.
const ENDLESS: &str = "OCICAT_TEST_ENDLESS";

/// Set where its disk is bad.
const BAD_DISK: &str = "OCICAT_TEST_BAD_DISK";

/// This test binary again, as another process that writes to the store at `path`.
fn other_process(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_other_process", "--ignored"]).env(OTHER, path);
    command
}

/// What the other process writes.
fn writes() -> [integration::conformance::Sample; 3] {
    [1, 2, 3].map(|number| sample(Kind::BGPPeer, "other", number))
}

#[tokio::test]
#[ignore = "started by other tests, in a process of its own"]
async fn the_other_process() {
    let path = std::env::var(OTHER).expect("the test that starts this says where the store is");
    let store = Store::new(Sqlite::open(&path).await.unwrap());
    let [one, two, three] = writes();
    if std::env::var(ENDLESS).is_ok() {
        let mut entry = store.backend().create(&one.key, one.first).await.unwrap();
        loop {
            entry = store.backend().update(&one.key, entry.value, &entry.revision).await.unwrap();
        }
    }
    if std::env::var(BAD_DISK).is_ok() {
        let told = store.backend().create(&one.key, one.first).await.unwrap_err();
        let Error::Unavailable { reason, .. } = &told else { panic!("{told}") };
        assert!(reason.contains("may be lost in a power cut") && reason.contains("store.db-wal"), "{told}");
        return;
    }
    for sample in [&one, &two, &three] {
        store.backend().create(&sample.key, sample.first.clone()).await.unwrap();
    }
    let entry = store.backend().get(&two.key).await.unwrap();
    store.backend().update(&two.key, two.second, &entry.revision).await.unwrap();
    store.backend().delete(&three.key, None).await.unwrap();
}

/// What a watcher is told of the other process' writes.
async fn see_the_other_process(file: &File, command: &mut Command) {
    let mut updates = watch(&file.store, vec![(Kind::BGPPeer, Filter::All)]);
    assert_eq!(updates.recv().await, Some(Update::InSync));
    let mut child = command.spawn().unwrap();
    let [one, two, three] = writes();
    let put = |key: &Key| (true, key.clone());
    let expected = [put(&one.key), put(&two.key), put(&three.key), put(&two.key), (false, three.key)];
    for expected in expected {
        let update = tokio::time::timeout(PATIENCE, updates.recv()).await.expect("it is seen in time");
        let seen = match update.expect("the watcher goes on") {
            Update::Put(entry) => (true, entry.key),
            Update::Delete(key) => (false, key),
            other => panic!("{other:?}"),
        };
        assert_eq!(seen, expected);
    }
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn what_another_process_writes_is_seen_at_once_and_in_order() {
    let file = File::new().await;
    see_the_other_process(&file, &mut other_process(&file.path())).await;
}

#[tokio::test]
async fn a_process_in_another_mount_namespace_may_have_the_store_under_another_path() {
    let file = File::new().await;
    let elsewhere = file.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let plain = other_process(&elsewhere.join("store.db"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$1\" && shift && exec \"$@\""]);
    command.arg(file.path().parent().unwrap()).arg(&elsewhere);
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    see_the_other_process(&file, &mut command).await;
}

/// The other process under `strace`, with something done to each call by which it has the disk write.
fn with_syncs(file: &File, done: &str, record: &Path) -> Command {
    let plain = other_process(&file.path());
    let mut command = Command::new("strace");
    command.args(["-f", "-qqq", "-e", "signal=none", "-e", "trace=fsync,fdatasync", "-e"]);
    command.arg(format!("inject=fsync,fdatasync:{done}")).arg("-o").arg(record);
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

/// A process and those that it started, which end with the test.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_writer_hears_of_his_write_when_it_is_on_the_disk_and_not_if_the_disk_refuses() {
    let file = File::new().await;
    let record = file.dir.path().join("record");
    let mut command = with_syncs(&file, "error=EIO", &record);
    assert!(command.env(BAD_DISK, "yes").status().unwrap().success());
    let calls = std::fs::read_to_string(&record).unwrap();
    assert!(calls.contains("fdatasync"), "{calls}");
}

#[tokio::test]
async fn a_process_that_waits_for_the_disk_keeps_no_other_from_writing() {
    let file = File::new().await;
    let record = file.dir.path().join("record");
    let _child = Group(with_syncs(&file, "signal=STOP", &record).process_group(0).spawn().unwrap());
    let [one, two, _] = writes();
    wait::becomes(PATIENCE, "the other process stands at its sync", || {
        Ok(std::fs::read_to_string(&record).is_ok_and(|calls| calls.contains("fdatasync")))
    })
    .unwrap();
    let backend = file.store.backend();
    assert_eq!(backend.get(&one.key).await.unwrap().key, one.key, "it is committed");
    backend.create(&two.key, two.first).await.unwrap();
}

#[tokio::test]
async fn a_process_that_is_killed_while_it_writes_leaves_a_sound_store() {
    let file = File::new().await;
    let backend = file.store.backend();
    let mut updates = watch(&file.store, vec![(Kind::BGPPeer, Filter::All)]);
    assert_eq!(updates.recv().await, Some(Update::InSync));
    let mut child = other_process(&file.path()).env(ENDLESS, "yes").spawn().unwrap();
    let mut last = None;
    for _ in 0..50 {
        match tokio::time::timeout(PATIENCE, updates.recv()).await.expect("it goes on writing") {
            Some(Update::Put(entry)) => last = Some(entry),
            other => panic!("{other:?}"),
        }
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it was killed while it wrote");

    let key = last.expect("fifty were seen").key;
    let entry = backend.get(&key).await.unwrap();
    assert_eq!(backend.list(Kind::BGPPeer, &Filter::All).await.unwrap().entries, slice::from_ref(&entry));
    backend.delete(&key, Some(&entry.revision)).await.unwrap();
    assert!(matches!(backend.get(&key).await, Err(Error::NotFound(_))));
    let raw = file.raw.lock().unwrap();
    let check: String = raw.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
