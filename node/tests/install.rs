//! The installer's process, on real folders: what it writes, what it leaves alone, and what is left when it is killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_calico-node");
const NET: &str = r#"{"name": "k8s-pod-network", "plugins": [{"type": "calico", "mtu": __CNI_MTU__, "nodename": "__KUBERNETES_NODE_NAME__"}]}"#;

/// A node's folders, as they are mounted into the container, and a folder with programs.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for folder in ["from", "host/opt/cni/bin", "host/secondary-bin-dir", "host/etc/cni/net.d"] {
            fs::create_dir_all(host.at(folder)).unwrap();
        }
        host.release("new");
        host
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// The programs of a release, by their content.
    fn release(&self, name: &str) {
        for program in ["calico", "calico-ipam"] {
            fs::write(self.at("from").join(program), format!("{program} {name} {}", "x".repeat(20_000))).unwrap();
        }
    }

    fn arguments(&self) -> [String; 5] {
        let path = |at: &str| self.at(at).display().to_string();
        ["install-cni".to_owned(), "--from".to_owned(), path("from"), "--host".to_owned(), path("host")]
    }

    /// `program` is the installer, or something that executes it.
    fn command(&self, program: &str, before: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program);
        command.args(before).args(self.arguments());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("SLEEP", "false").env("CNI_NETWORK_CONFIG", NET).env("CNI_MTU", "1440");
        command.env("KUBERNETES_NODE_NAME", "node-1").envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, variables: &[(&str, &str)]) -> Output {
        self.command(PROGRAM, &[], variables).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, variables: &[(&str, &str)]) -> String {
        let output = self.run(variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }

    #[track_caller]
    fn fails(&self, variables: &[(&str, &str)]) -> String {
        let output = self.run(variables);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Everything under the mounted folders: path to content, mode, inode and time of change.
    fn everything(&self) -> BTreeMap<String, (String, u32, u64, i64, i64)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.at("host")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::metadata(&path).unwrap();
                let content = if path.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
                if path.is_dir() {
                    folders.push(path.clone());
                }
                let name = path.strip_prefix(self.at("host")).unwrap().display().to_string();
                let state =
                    (content, metadata.mode() & 0o7777, metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
                found.insert(name, state);
            }
        }
        found
    }

    fn configuration(&self) -> PathBuf {
        self.at("host/etc/cni/net.d/10-calico.conflist")
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[track_caller]
fn becomes(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn everything_comes_to_its_place_and_a_second_run_touches_nothing() {
    let host = Host::new();
    let said = host.succeeds(&[("CNI_COLOUR", "red")]);
    assert!(said.contains("the variable CNI_COLOUR is unknown"), "{said}");
    for folder in ["host/opt/cni/bin", "host/secondary-bin-dir"] {
        for program in ["calico", "calico-ipam"] {
            let path = host.at(folder).join(program);
            assert_eq!(
                (fs::read(&path).unwrap(), mode(&path)),
                (fs::read(host.at("from").join(program)).unwrap(), 0o755)
            );
        }
    }
    let written = fs::read_to_string(host.configuration()).unwrap();
    assert!(written.contains(r#""mtu": 1440, "nodename": "node-1""#), "{written}");
    assert_eq!(mode(&host.configuration()), 0o600);
    // Plugins, configuration: nothing else, and no credential among it.
    let before = host.everything();
    assert_eq!(before.keys().filter(|name| host.at("host").join(name).is_file()).count(), 5, "{before:?}");

    host.succeeds(&[]);
    assert_eq!(host.everything(), before);
    // Another release, name and MTU.
    host.release("newer");
    host.succeeds(&[("CNI_CONF_NAME", "20-net.conflist"), ("CNI_MTU", "9000")]);
    assert!(!host.configuration().exists());
    assert!(fs::read_to_string(host.at("host/etc/cni/net.d/20-net.conflist")).unwrap().contains("9000"));
    assert!(fs::read_to_string(host.at("host/opt/cni/bin/calico")).unwrap().starts_with("calico newer"));
}

#[test]
fn what_cannot_work_fails_and_the_node_stays_as_it_was() {
    let host = Host::new();
    host.succeeds(&[]);
    let before = host.everything();
    let wrong = host.fails(&[("CNI_NETWORK_CONFIG", "{\n \"name\": \"x\"\n \"plugins\": []}")]);
    assert!(wrong.contains("line 3 column 2") && wrong.contains("CNI_NETWORK_CONFIG"), "{wrong}");
    assert!(host.fails(&[("CNI_MTU", "big")]).contains("CNI_MTU is"));
    assert!(
        host.fails(&[("CNI_NETWORK_CONFIG_FILE", "/nowhere/net.json")]).contains("/nowhere/net.json cannot be read")
    );
    assert_eq!(host.everything(), before);
    fs::remove_file(host.at("from/calico-ipam")).unwrap();
    assert!(host.fails(&[]).contains("from/calico-ipam is not there"));
    assert_eq!(host.everything(), before);
}

/// Runs the installer where `folder` is mounted read-only; needs root.
fn with_read_only(host: &Host, folder: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let path = host.at(folder).display().to_string();
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let before = ["--mount", "sh", "-c", script, "sh", path.as_str(), PROGRAM];
    let output = host.command("unshare", &before, variables).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_read_only_folder_is_passed_over_as_long_as_that_leaves_a_way() {
    let host = Host::new();
    let (well, said) = with_read_only(&host, "host/opt/cni/bin", &[]);
    assert!(well && said.contains("opt/cni/bin is read-only"), "{said}");
    assert!(!host.at("host/opt/cni/bin/calico").exists() && host.at("host/secondary-bin-dir/calico").exists());
    // The only folder there is.
    fs::remove_dir_all(host.at("host/secondary-bin-dir")).unwrap();
    let (well, said) = with_read_only(&host, "host/opt/cni/bin", &[]);
    assert!(!well && said.contains("UPDATE_CNI_BINARIES=false"), "{said}");
    host.succeeds(&[]);
    let (well, said) = with_read_only(&host, "host/opt/cni/bin", &[("UPDATE_CNI_BINARIES", "false")]);
    assert!(well, "{said}");
    // The configuration's folder may be read-only, too, as long as nothing is to be written there.
    let (well, said) = with_read_only(&host, "host/etc/cni/net.d", &[]);
    assert!(well, "{said}");
    let (well, said) = with_read_only(&host, "host/etc/cni/net.d", &[("CNI_MTU", "1400")]);
    assert!(!well && said.contains("net.d is read-only"), "{said}");
}

/// Runs the installer to the beginning of its `count`th system call and kills it there; true if it ended before.
fn killed_at(host: &Host, count: usize) -> bool {
    let before = ["-c", "kill -STOP $$; exec \"$@\"", "sh", PROGRAM];
    let mut child = host.command("sh", &before, &[]).stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(_, Signal::SIGSTOP)), "{stopped:?}");
    ptrace::attach(pid).unwrap();
    waitpid(pid, None).unwrap();
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACEEXEC).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let (mut executed, mut entered, mut calls, mut deliver) = (false, false, 0, None);
    let ended = loop {
        ptrace::syscall(pid, deliver.take()).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                entered = !entered;
                calls += usize::from(executed && entered);
                if calls == count && entered && executed {
                    break false;
                }
            }
            WaitStatus::PtraceEvent(..) => executed = true,
            WaitStatus::Stopped(_, signal) => deliver = (signal != Signal::SIGSTOP).then_some(signal),
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0);
                break true;
            }
            other => panic!("{other:?}"),
        }
    };
    if !ended {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    // One that ended by itself was waited for above, which is an error here.
    let _ = child.wait();
    ended
}

#[test]
fn killed_before_any_of_its_system_calls_it_leaves_whole_files_and_the_configuration_for_last() {
    let host = Host::new();
    let folders = ["host/opt/cni/bin", "host/secondary-bin-dir"];
    let old = |path: &Path| fs::write(path, "old").unwrap();
    let mut count = 0;
    let mut unfinished = 0;
    loop {
        count += 1;
        for folder in folders {
            ["calico", "calico-ipam"].iter().for_each(|program| old(&host.at(folder).join(program)));
        }
        old(&host.configuration());
        let ended = killed_at(&host, count);
        let mut all_new = true;
        for (folder, program) in
            folders.iter().flat_map(|folder| ["calico", "calico-ipam"].map(|program| (folder, program)))
        {
            let content = fs::read_to_string(host.at(folder).join(program)).unwrap();
            let new = fs::read_to_string(host.at("from").join(program)).unwrap();
            assert!(content == "old" || content == new, "call {count}: {program} in {folder} is torn");
            all_new &= content == new;
        }
        let text = fs::read_to_string(host.configuration()).unwrap();
        assert!(text == "old" || text.ends_with("}\n") && all_new, "call {count}: {text}");
        unfinished += host.everything().keys().filter(|name| name.ends_with(".tmp")).count();
        if ended {
            assert!(text != "old" && all_new);
            break;
        }
    }
    // It was killed in the middle of files, and whoever came next swept up.
    assert!(count > 50 && unfinished > 5, "{count} calls, {unfinished} unfinished files");
    let left = host.everything();
    assert!(left.keys().all(|name| !name.ends_with(".tmp")), "{left:?}");
}

/// An installer that stays; killed when dropped.
struct Staying(Child);

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_that_stays_puts_back_what_is_removed_and_ends_when_it_is_told() {
    let host = Host::new();
    let mut staying = Staying(host.command(PROGRAM, &[], &[("SLEEP", "true")]).spawn().unwrap());
    let plugin = host.at("host/opt/cni/bin/calico");
    for path in [host.configuration(), plugin.clone(), host.configuration()] {
        becomes("it is there", || path.exists());
        fs::remove_file(&path).unwrap();
    }
    becomes("it is back", || host.configuration().exists() && plugin.exists());
    // What somebody wrote there stays.
    fs::write(host.configuration(), "mine").unwrap();
    fs::remove_file(host.at("host/opt/cni/bin/calico-ipam")).unwrap();
    kill(Pid::from_raw(staying.0.id() as i32), Signal::SIGTERM).unwrap();
    let mut said = String::new();
    staying.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(staying.0.wait().unwrap().success(), "{said}");
    assert!(said.contains("stopping"), "{said}");
}
