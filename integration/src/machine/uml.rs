//! User-mode Linux: a kernel as a process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Machine, Shared, confined};

/// Lets it run on CPUs with more state than it knows of.
const XSTATE: &str = include_str!("xstate.c");
/// Where Debian has its modules, in a folder of the kernel's release.
const MODULES: &str = "/usr/lib/uml/modules";

/// The programs that it takes, and their packages.
pub(super) const NEEDED: &[(&str, &str)] = &[
    ("linux.uml", "user-mode-linux"),
    ("gcc", "gcc libc6-dev"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// How it is started.
///
/// # Errors
/// If its memory finds no room, or the preload library cannot be compiled.
pub(super) fn command(machine: &Machine, shared: &Shared) -> Result<Command> {
    let library = preload(shared)?;
    let folder = shared.path().display();
    let mut command = confined("linux.uml");
    command.env("LD_PRELOAD", library).env("TMPDIR", memory(machine.memory, shared.path())?);
    command.args([
        format!("mem={}M", machine.memory),
        "root=/dev/root".into(),
        "rootfstype=hostfs".into(),
        "ro".into(),
        format!("init={folder}/init"),
        format!("SHARED={folder}"),
        format!("MODULES={}", modules()?.display()),
        format!("uml_dir={folder}/"),
        "umid=machine".into(),
        "con=null".into(),
        "con0=null,fd:1".into(),
    ]);
    Ok(command)
}

/// Where the machine's memory is a file, without a name, of which only what was used once takes room: on a tmpfs, if there is
/// one. On a disk that is full meanwhile the machine would be killed without a word.
fn memory(megabytes: u32, otherwise: &Path) -> Result<PathBuf> {
    let quick = Path::new("/dev/shm");
    let rooms = [(quick, if is_memory(quick) { room(quick)? } else { 0 }), (otherwise, room(otherwise)?)];
    let place = place(rooms, megabytes.into()).with_context(|| {
        let [(_, there), (_, here)] = rooms;
        format!(
            "a machine needs {megabytes} MB for its memory; {} has {here} free, and {} has {there} of a tmpfs that may be used",
            otherwise.display(),
            quick.display()
        )
    })?;
    Ok(place.to_owned())
}

/// The first place with room, in megabytes.
fn place(rooms: [(&Path, u64); 2], megabytes: u64) -> Option<&Path> {
    rooms.into_iter().find(|(_, room)| *room >= megabytes).map(|(place, _)| place)
}

/// Whether a kernel's memory may be a file there: the kernel runs what is in it.
fn is_memory(folder: &Path) -> bool {
    let tmpfs = statfs(folder).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    tmpfs && statvfs(folder).is_ok_and(|found| !found.flags().contains(FsFlags::ST_NOEXEC))
}

/// How many megabytes are free.
fn room(folder: &Path) -> Result<u64> {
    let found = statvfs(folder).with_context(|| folder.display().to_string())?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()) >> 20)
}

fn modules() -> Result<PathBuf> {
    let folders = fs::read_dir(MODULES).with_context(|| format!("{MODULES}: the package user-mode-linux has none"))?;
    let newest = folders.flatten().map(|entry| entry.path()).max();
    newest.with_context(|| format!("{MODULES} is empty"))
}

fn preload(shared: &Shared) -> Result<PathBuf> {
    let (source, library) = (shared.path().join("xstate.c"), shared.path().join("xstate.so"));
    fs::write(&source, XSTATE)?;
    let output = Command::new("gcc")
        .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .context("cannot start gcc")?;
    ensure!(
        output.status.success(),
        "gcc of xstate.c (is libc6-dev installed?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_where_it_has_room_and_not_on_a_disk_that_is_full() {
        let (quick, disk) = (Path::new("/dev/shm"), Path::new("/tmp/x"));
        assert_eq!(place([(quick, 2048), (disk, 9000)], 2048), Some(quick));
        assert_eq!(place([(quick, 64), (disk, 9000)], 2048), Some(disk));
        assert_eq!(place([(quick, 0), (disk, 2047)], 2048), None);
        let error = format!("{:#}", memory(u32::MAX, Path::new("/")).expect_err("no disk has four petabytes free"));
        assert!(error.contains("4294967295 MB") && error.contains("/dev/shm") && error.contains("/ has"), "{error}");
    }
}
