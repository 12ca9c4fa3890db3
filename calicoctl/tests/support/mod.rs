//! A cluster of one SQLite file, and the real program on it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use calico_datastore::{Config, Store};
use tempfile::TempDir;

/// A datastore of its own, and a configuration file that names it.
pub(crate) struct Cluster {
    folder: TempDir,
}

/// What a run of the program gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let cluster = Self { folder: tempfile::tempdir().unwrap() };
        cluster.file(
            "calicoctl.cfg",
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  datastoreType: sqlite\n  sqlitePath: {}\n",
                cluster.database().display()
            ),
        );
        cluster
    }

    /// A cluster in which these documents have been applied.
    pub(crate) fn with(documents: &str) -> Self {
        let cluster = Self::new();
        let applied = cluster.feed("apply -f -", documents);
        assert_eq!(applied.code, Some(0), "{applied:?}");
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path("cluster.db")
    }

    /// Writes a file; returns its path as text.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Runs the program with these words, separated by blanks; `''` is an empty word.
    pub(crate) fn run(&self, words: &str) -> Ran {
        self.feed(words, "")
    }

    /// The same, with this on its standard input.
    pub(crate) fn feed(&self, words: &str, input: &str) -> Ran {
        let mut command = program();
        command.args(words.split_whitespace().map(|word| if word == "''" { "" } else { word }));
        command.arg("--config").arg(self.path("calicoctl.cfg"));
        run(&mut command, input)
    }

    /// The store itself, for what the program would not write.
    pub(crate) fn store<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
        let path = self.database().display().to_string();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(calico_datastore::connect(&Config::Sqlite { path }).await.unwrap()).await })
    }
}

/// The program, without this process's environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calicoctl"));
    command.env_clear().env("HOME", "/nonexistent");
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command, input: &str) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is built");
    // It may refuse its arguments before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |octets| String::from_utf8(octets).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Ran {
    /// It succeeded and printed exactly this.
    #[track_caller]
    pub(crate) fn prints(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (Some(0), out, ""));
    }

    /// It succeeded and printed exactly this, whatever was logged.
    #[track_caller]
    pub(crate) fn prints_out(&self, out: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(0), out), "{}", self.err);
    }

    /// It succeeded and printed this nowhere.
    #[track_caller]
    pub(crate) fn says_nothing_of(&self, part: &str) {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(!self.out.contains(part), "{part:?} is in {:?}", self.out);
    }

    /// It failed, printed nothing else, and said exactly this.
    #[track_caller]
    pub(crate) fn fails(&self, err: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (Some(1), "", err));
    }

    /// It failed, printed nothing else, and what it said has all of these parts.
    #[track_caller]
    pub(crate) fn fails_with(&self, parts: &[&str]) {
        assert_eq!(self.out, "");
        self.says_and_fails(parts);
    }

    /// It failed, and what it said has all of these parts.
    #[track_caller]
    pub(crate) fn says_and_fails(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in {:?}", self.err);
        }
    }
}

/// A text without what differs from run to run: uid, revision, times.
pub(crate) fn scrubbed(text: &str) -> String {
    let volatile = |line: &&str| {
        let line = line.trim_start().trim_start_matches('"');
        ["uid", "resourceVersion", "creationTimestamp"].iter().any(|field| line.starts_with(field))
    };
    text.split_inclusive('\n').filter(|line| !volatile(line)).collect()
}

/// The folder with a sample of every kind.
pub(crate) fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lib/api/tests/samples")
}
