//! The other kernel: commands run in it as they would here, and cannot harm what is here.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::machine::{self, Machine, Shared};
use integration::{PATIENCE, wait};
use tempfile::TempDir;

/// Several are booted at once, for little.
const SMALL: u32 = 512;

fn run(words: &[&str]) -> Result<(i32, String)> {
    let command: Vec<OsString> = words.iter().map(|&word| word.into()).collect();
    let mut output = Vec::new();
    let status = Machine { memory: SMALL, ..Machine::default() }.run(&Shared::new()?, &command, &mut output)?;
    Ok((status, String::from_utf8_lossy(&output).into_owned()))
}

#[test]
fn a_command_runs_in_another_kernel_with_our_files_and_its_status_comes_back() -> Result<()> {
    let here = std::env::current_dir()?;
    let script = "pwd; id -u; echo \"$TMPDIR\"; touch /etc/ocicat-was-here || echo refused; touch $TMPDIR/x && echo wrote; ip link show tunl0; exit 7";
    let (status, output) = run(&["sh", "-c", script])?;
    ensure!(status == 7, "{status}: {output}");
    let begins = format!("{}\n0\n/dev/shm\n", here.display());
    ensure!(output.starts_with(&begins) && output.contains("refused\nwrote\n") && output.contains("tunl0"), "{output}");
    Ok(())
}

/// The processes that were started with this folder's name.
fn processes(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.display().to_string();
    let of_folder = fs::read_dir("/proc")?.flatten().map(|process| process.path()).filter(|process| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&folder)
    });
    Ok(of_folder.collect())
}

#[test]
fn a_machine_that_takes_too_long_is_stopped_with_all_its_processes() -> Result<()> {
    let machine = Machine { memory: SMALL, limit: Duration::from_secs(3) };
    let shared = Shared::new()?;
    let error = machine.run(&shared, &["sleep".into(), "1000".into()], &mut Vec::new()).expect_err("it has 3 s");
    ensure!(format!("{error:#}").contains("not finished after 3 s"), "{error:#}");
    wait::becomes(PATIENCE, "no process of the machine is left", || Ok(processes(shared.path())?.is_empty()))
}

/// A folder of which the machine sees what we see, wherever other temporary files go.
fn seen() -> Result<TempDir> {
    Ok(tempfile::tempdir_in("/var/tmp")?)
}

/// The program `machine` with something that does not end, and its folder in this one. Returns when it runs.
fn started(folder: &Path) -> Result<std::process::Child> {
    let memory = SMALL.to_string();
    let words = ["--memory", &memory, "sh", "-c", "setsid sleep 1000 & echo runs; wait"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
    let output = folder.join("output");
    command.args(words).env("TMPDIR", folder).stdin(Stdio::null()).stdout(fs::File::create(&output)?);
    let child = command.spawn()?;
    wait::becomes(PATIENCE, "the command runs", || Ok(fs::read_to_string(&output)?.contains("runs")))?;
    Ok(child)
}

#[test]
fn whoever_dies_takes_all_processes_of_the_machine_along() -> Result<()> {
    let folder = seen()?;
    let mut child = started(folder.path())?;
    let before = processes(folder.path())?;
    // The kernel, and at least one process of what runs in it; its memory is on no disk, if there is another place.
    ensure!(before.len() > 1, "{before:?}");
    let quick = nix::sys::statvfs::statvfs("/dev/shm")?;
    if quick.blocks_available() * quick.fragment_size() >= u64::from(SMALL) << 20 {
        let maps = before.iter().map(|process| fs::read_to_string(process.join("maps")).unwrap_or_default());
        let maps: String = maps.collect();
        let ours = maps.lines().filter(|line| line.contains(&folder.path().display().to_string()));
        let memory = ours.filter(|line| line.ends_with("(deleted)"));
        ensure!(maps.contains(" /dev/shm/") && memory.count() == 0, "{maps}");
    }
    child.kill()?;
    child.wait()?;
    wait::becomes(PATIENCE, "no process of the machine is left", || Ok(processes(folder.path())?.is_empty()))
}

#[test]
fn a_machine_that_is_interrupted_leaves_neither_processes_nor_its_folder() -> Result<()> {
    let folder = seen()?;
    let mut child = started(folder.path())?;
    ensure!(!processes(folder.path())?.is_empty());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), nix::sys::signal::Signal::SIGINT)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(130), "{status}");
    wait::becomes(PATIENCE, "no process of the machine is left", || Ok(processes(folder.path())?.is_empty()))?;
    let left: Vec<_> = fs::read_dir(folder.path())?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left == ["output"], "{left:?}");
    Ok(())
}

#[test]
fn a_test_that_needs_ipip_has_it_wherever_it_is_started() -> Result<()> {
    machine::with_ipip(|| {
        ensure!(machine::has_ipip());
        Ok(())
    })
}
