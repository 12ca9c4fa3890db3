//! Releases that could not be done at once, remembered on disk until the agent does them.
//!
//! A file for each, named after the IPAM handle and the interface, so that remembering twice is remembering once.
//! The plugin writes when there is no agent, the agent when there is no datastore; the agent empties it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Del, Sandbox};

/// A remembered release.
#[derive(Debug)]
pub struct Pending {
    /// Its file, to be removed when it is done.
    pub path: PathBuf,
    /// What to release, or why the file cannot be read.
    pub del: Result<Del, String>,
}

/// Remembers a release; on return it is on disk.
///
/// # Errors
/// The file system's, with the path in the text.
pub fn remember(directory: &Path, del: &Del) -> io::Result<()> {
    write(directory, del, true).map(drop)
}

/// Remembers a release that is about to be made, and returns its file: whatever happens to processes, it is not lost. Only if
/// the power goes in the same moment it is, and then its addresses stay taken until they are found to be nobody's.
///
/// # Errors
/// As [`remember`].
pub fn note(directory: &Path, del: &Del) -> io::Result<PathBuf> {
    write(directory, del, false)
}

/// What is remembered for a sandbox, if anything is.
///
/// # Errors
/// If it cannot be read.
pub fn of(directory: &Path, sandbox: &Sandbox) -> io::Result<Option<Pending>> {
    let path = directory.join(file_name(&Del { sandbox: sandbox.clone(), gone: true }));
    let octets = match fs::read(&path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let del: Result<Del, _> = serde_json::from_slice(&octets).map_err(|error| error.to_string());
    // The name is shortened: it may be another's.
    Ok(del.as_ref().is_ok_and(|del| del.sandbox == *sandbox).then_some(Pending { path, del }))
}

fn write(directory: &Path, del: &Del, sync: bool) -> io::Result<PathBuf> {
    let at = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let name = file_name(del);
    let (path, draft) = (directory.join(&name), directory.join(format!(".{name}.{}", std::process::id())));
    let write = || -> io::Result<()> {
        let mut file = match fs::File::create(&draft) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                fs::File::create(&draft)?
            }
            made => made?,
        };
        file.write_all(&serde_json::to_vec(del)?)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&draft, &path)?;
        if sync {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(error) => Err(at(error, &path)),
    }
}

/// All remembered releases; none if the directory does not exist.
///
/// # Errors
/// If the directory cannot be read.
pub fn pending(directory: &Path) -> io::Result<Vec<Pending>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        let read = match fs::read(&path) {
            // Done since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read,
        };
        let del = read
            .map_err(|error| error.to_string())
            .and_then(|octets| serde_json::from_slice(&octets).map_err(|error| error.to_string()));
        found.push(Pending { path, del });
    }
    Ok(found)
}

/// Removes what processes left that died while they wrote: their drafts, if they are older than `age`.
///
/// # Errors
/// If the directory cannot be read.
pub fn sweep(directory: &Path, age: Duration) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_draft = entry.file_name().to_string_lossy().starts_with('.');
        // What has no age or cannot be removed is looked at next time.
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        if is_draft && written.is_ok_and(|time| time.elapsed().is_ok_and(|passed| passed >= age)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The handle and the interface with everything but plain characters replaced, and short enough for a file.
fn file_name(del: &Del) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-' { c } else { '_' };
    let text = format!("{}.{}", del.sandbox.handle(), del.sandbox.interface);
    text.trim_start_matches('.').chars().map(plain).take(200).collect::<String>() + ".json"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_remembered_once() {
        let directory = std::env::temp_dir().join(format!("ocicat-spool-{}", std::process::id()));
        let sandbox =
            Sandbox { container_id: "c/1".into(), interface: "eth0".into(), network: "net".into(), pod: None };
        let del = Del { sandbox, gone: true };
        remember(&directory, &del).unwrap();
        assert!(note(&directory, &del).unwrap().exists());
        assert_eq!(of(&directory, &del.sandbox).unwrap().unwrap().del.as_ref(), Ok(&del));
        let other = Sandbox { container_id: "c_1".into(), ..del.sandbox.clone() };
        assert!(of(&directory, &other).unwrap().is_none(), "of a name that comes to the same");
        fs::write(directory.join("broken.json"), "{").unwrap();
        fs::write(directory.join(".draft"), "{").unwrap();
        sweep(&directory, Duration::from_secs(3600)).unwrap();
        assert!(directory.join(".draft").exists(), "somebody may be writing it");
        sweep(&directory, Duration::ZERO).unwrap();
        assert!(!directory.join(".draft").exists());
        let mut found = pending(&directory).unwrap();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(found.len(), 2);
        assert!(found[0].del.is_err());
        assert_eq!(found[1].del.as_ref(), Ok(&del));
        fs::remove_dir_all(&directory).unwrap();
        assert!(pending(&directory).unwrap().is_empty());
    }
}
