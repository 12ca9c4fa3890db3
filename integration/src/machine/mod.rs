//! Another kernel on this machine's root file system, for what the host's kernel lacks.
//!
//! User-mode Linux is a kernel that runs as a process: it boots in two seconds and has one CPU, as quick as the host's in user
//! space. It has `ipip`, but not IPv4's nf_tables: what runs there runs without packet rules. It sees the host's root file
//! system **read-only**, so nothing that runs inside can change the host, and one folder of ours to which it writes what became
//! of its command. `/run`, `/dev/shm` and `/tmp` are its own and empty, but for the folder of `/tmp` in which the command is
//! or begins.

mod boot;
mod uml;

use std::any::type_name;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::programs;

/// Set inside, to the kernel's name.
pub const INSIDE: &str = "OCICAT_MACHINE";
/// Where temporary files and sockets go inside. Not below `/run`, which every node of a topology covers with its own.
const TEMPORARY: &str = "/dev/shm";
/// What the machine covers with its own, so that nothing it needs of the host may lie there.
const COVERED: [&str; 4] = ["/run", "/dev", "/proc", "/sys"];

/// A kernel that is to be booted for one command.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its memory in megabytes.
    pub memory: u32,
    /// After what time it is stopped.
    pub limit: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self { memory: 2048, limit: Duration::from_secs(900) }
    }
}

/// What the machine does with the host: one folder that both see, removed when this is dropped.
#[derive(Debug)]
pub struct Shared(TempDir);

impl Shared {
    /// Makes it, at a place that the machine does not cover.
    ///
    /// # Errors
    /// The file system's.
    pub fn new() -> Result<Self> {
        Self::announced(|_| ())
    }

    /// The same; `announce` is told of the folder before anything is put there.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn announced(announce: impl FnOnce(&Path)) -> Result<Self> {
        let usual = env::temp_dir();
        let covered = COVERED.iter().any(|folder| usual.starts_with(folder));
        let place = if covered { Path::new("/var/tmp") } else { &usual };
        let made = tempfile::Builder::new().prefix("ocicat-machine-").tempdir_in(place);
        let made = made.with_context(|| format!("no temporary folder in {}", place.display()))?;
        announce(made.path());
        Ok(Self(made))
    }

    /// Its path on the host.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it, as the command inside sees it.
    pub fn inside(&self, name: &str) -> PathBuf {
        Path::new(boot::SHARED).join(name)
    }
}

impl Machine {
    /// Fails, naming what is missing, if such a machine cannot be started here.
    ///
    /// # Errors
    /// So.
    pub fn check(&self) -> Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "a machine needs root: run it as root or through sudo");
        need(uml::NEEDED)
    }

    /// Boots, runs `command` as root in this process's folder and environment, hands what it prints to `sink` as it comes,
    /// and returns its exit status.
    ///
    /// # Errors
    /// If a package is missing (named), the time runs out, or the kernel dies before the command ends (with the end of its
    /// console).
    pub fn run(&self, shared: &Shared, command: &[OsString], sink: &mut dyn Write) -> Result<i32> {
        ensure!(!command.is_empty(), "no command for the machine");
        let here = env::current_dir()?;
        let program = PathBuf::from(&command[0]);
        for path in [&here, &program] {
            let covered = COVERED.iter().find(|folder| path.starts_with(folder));
            ensure!(
                covered.is_none(),
                "{} is not seen inside the machine, which has its own {}",
                path.display(),
                covered.unwrap_or(&"")
            );
        }
        self.check()?;
        boot::write(shared, &here, command)?;
        let mut running = Running::start(uml::command(self, shared)?, shared)?;
        let mut output = File::open(shared.path().join("output"))?;
        let start = Instant::now();
        loop {
            let ended = running.child.try_wait()?.is_some();
            copy(&mut output, sink)?;
            if ended {
                break;
            }
            if start.elapsed() > self.limit {
                bail!("the machine was not finished after {} s and was stopped", self.limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(running);
        let status = fs::read_to_string(shared.path().join("status")).unwrap_or_default();
        status.trim().parse().map_err(|_| {
            let console = crate::process::last_lines(&shared.path().join("console"), 25);
            anyhow::anyhow!("the machine's kernel ended before the command did; the end of its console:\n{console}")
        })
    }
}

/// Hands on what was added to a file.
fn copy(from: &mut File, sink: &mut dyn Write) -> Result<()> {
    let mut octets = [0; 16384];
    loop {
        match from.read(&mut octets)? {
            0 => return Ok(sink.flush()?),
            length => sink.write_all(octets.get(..length).unwrap_or_default())?,
        }
    }
}

/// A command whose processes are the only ones of a PID namespace: whoever of us dies, and however, the kernel ends all of them.
fn confined(program: &str) -> Command {
    // The first process of a namespace ignores what it has not asked for, even what abort(3) sends: a shell is that.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL"]);
    command.args(["sh", "-c", "\"$0\" \"$@\"; exit $?", program]);
    command
}

/// A kernel's processes; all of them go when this is dropped.
struct Running {
    child: Child,
}

impl Running {
    fn start(mut kernel: Command, shared: &Shared) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        File::create(shared.path().join("output"))?;
        let console = File::create(shared.path().join("console"))?;
        kernel.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        // What is typed at the terminal is for us: we end them in order.
        let child = kernel.process_group(0).spawn().with_context(|| format!("cannot start {kernel:?}"))?;
        Ok(Self { child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // It may be gone already. The kernel ends what is in another group by now: see `confined`.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Fails, naming the packages, unless these programs are there.
fn need(programs: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<_> =
        programs.iter().filter(|(program, _)| programs::find(program).is_none()).map(|(_, package)| *package).collect();
    missing.dedup();
    ensure!(
        missing.is_empty(),
        "the machine needs the Debian packages {}; `cargo xtask setup` installs them",
        missing.join(" ")
    );
    Ok(())
}

/// Whether we are inside a machine already.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether this kernel makes IPIP devices. Asked in a network namespace that nobody else sees.
pub fn has_ipip() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let mut probe = Command::new("unshare");
        probe.args([
            "--net",
            "ip",
            "link",
            "add",
            "probe",
            "type",
            "ipip",
            "remote",
            "192.0.2.1",
            "local",
            "192.0.2.2",
        ]);
        probe
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Does `work`, the whole of a test, on a kernel that has IPIP: here, or by running this very test inside a machine.
///
/// # Errors
/// Those of `work`; the machine's.
///
/// # Panics
/// Not at all: a test that fails inside fails here with what it printed.
pub fn with_ipip<F: FnOnce() -> Result<()>>(work: F) -> Result<()> {
    if has_ipip() {
        return work();
    }
    ensure!(!is_inside(), "the machine's kernel has no ipip either");
    // `crate::module::test::{{closure}}`: how the test is called.
    let name = type_name::<F>().trim_end_matches("::{{closure}}");
    let test = name.split_once("::").map_or(name, |(_, test)| test);
    eprintln!("this kernel has no ipip: {test} runs in user-mode Linux");
    let shared = Shared::new()?;
    let mut command = vec![env::current_exe()?.into_os_string()];
    command.extend(["--exact", test, "--nocapture", "--test-threads=1"].map(OsString::from));
    let mut output = Vec::new();
    let status = Machine::default().run(&shared, &command, &mut output)?;
    let text = String::from_utf8_lossy(&output);
    ensure!(status == 0, "{test} failed inside user-mode Linux:\n{text}");
    ensure!(text.contains("test result: ok. 1 passed"), "{test} was not run inside user-mode Linux:\n{text}");
    Ok(())
}

/// Runs a test program: directly, or inside a machine if its name says that it needs `ipip` and this kernel has none.
/// Returns its exit status. `announce` is told of the machine's folder, if there is one.
///
/// # Errors
/// If it cannot be started; the machine's.
pub fn run_test(program: &OsStr, arguments: &[OsString], announce: impl FnOnce(&Path)) -> Result<i32> {
    let stem = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let needs = stem == "ipip" || stem.starts_with("ipip-");
    if needs && !has_ipip() && !is_inside() {
        eprintln!("this kernel has no ipip: {stem} runs in user-mode Linux");
        let program = fs::canonicalize(program).with_context(|| program.to_string_lossy().into_owned())?;
        let mut command = vec![program.into_os_string()];
        command.extend(arguments.iter().cloned());
        return Machine::default().run(&Shared::announced(announce)?, &command, &mut std::io::stdout());
    }
    use std::os::unix::process::CommandExt as _;
    // Only comes back if it cannot be started.
    Err(Command::new(program).args(arguments).exec()).with_context(|| program.to_string_lossy().into_owned())
}
