//! How does a file come to its place so that nobody ever sees half of it?
//!
//! It is written beside its place, under a name that no runtime looks at, brought to the disk and moved: also after a
//! power cut there is the old file or the new one. A folder's lock keeps two installers, an old pod's and a new one's,
//! out of each other's unfinished files; it goes with its process.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Places;
use super::plan::{Plan, Step};

/// A step failed; those before it are done, none behind it.
#[derive(Debug, thiserror::Error)]
#[error("{step} - failed: {source}")]
pub struct WriteError {
    /// The step in words.
    step: String,
    source: io::Error,
}

/// Takes the folders' locks, waiting for another installer. A file system without locks must do without.
pub fn lock(places: &Places) -> Vec<File> {
    let folders = places.binaries.iter().chain([&places.configurations]);
    folders.filter_map(|folder| File::open(folder).ok().filter(|file| file.lock().is_ok())).collect()
}

/// Does all steps; `tell` hears of each when it is done.
///
/// # Errors
/// The first that fails.
pub fn apply(plan: &Plan, mut tell: impl FnMut(&Step)) -> Result<(), WriteError> {
    for step in &plan.steps {
        perform(step).map_err(|source| WriteError { step: step.to_string(), source })?;
        tell(step);
    }
    Ok(())
}

fn perform(step: &Step) -> io::Result<()> {
    match step {
        Step::Copy { from, to, mode } => place(to, *mode, |file| io::copy(&mut File::open(from)?, file).map(drop)),
        Step::Write { to, text, mode } => place(to, *mode, |file| file.write_all(text.as_bytes())),
        Step::Remove { path } => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => settle(path),
        },
    }
}

/// Makes a file and moves it to its place. What a killed installer left unfinished is overwritten.
fn place(to: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let unfinished = unfinished(to);
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
        // The mode of a file that was there already, and what the umask took away.
        file.set_permissions(Permissions::from_mode(mode))?;
        fill(&mut file)?;
        file.sync_all()
    })();
    let placed = made.and_then(|()| fs::rename(&unfinished, to));
    if placed.is_err() {
        // Most likely the disk is full; it is why we fail, too.
        let _ = fs::remove_file(&unfinished);
    }
    placed.and_then(|()| settle(to))
}

fn unfinished(to: &Path) -> PathBuf {
    let mut name = to.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(".tmp");
    to.with_file_name(name)
}

/// Brings the change of a folder to the disk.
fn settle(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
