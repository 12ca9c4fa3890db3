//! Reading resources from a file, a directory or standard input.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use calico_api::{AnyResource, Placed};

use crate::arguments::Files;

/// Endings of the files that are read from a directory.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A resource, and where it was read.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The resource.
    pub(crate) resource: AnyResource,
    /// Where it stands.
    pub(crate) place: Place,
}

/// A place in a file: `peers.yaml (document 2, from line 5)`.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: String,
    document: usize,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (document {}, from line {})", self.file, self.document, self.line)
    }
}

/// All resources of what `--filename` names, in order; none only with `--skip-empty`.
///
/// # Errors
/// If a file cannot be read or parsed, or there is nothing in it.
pub(crate) fn read(flags: &Files) -> Result<Vec<Written>> {
    let path = flags.filename.as_deref().context("no file is named: use -f FILE, or -f - for standard input")?;
    let resources = read_path(path, flags.recursive)?;
    if resources.is_empty() && !flags.skip_empty {
        let what = if path.is_dir() { "directory" } else { "file" };
        bail!("no resources specified in {what} {}", path.display());
    }
    Ok(resources)
}

/// All resources of a file, of a directory, or of standard input (`-`), in order.
///
/// # Errors
/// If a file cannot be read or parsed.
pub(crate) fn read_path(path: &Path, recursive: bool) -> Result<Vec<Written>> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("failed to execute command: standard input")?;
        return parse(&text, path);
    }
    if !path.is_dir() {
        return read_file(path);
    }
    let mut resources = Vec::new();
    for file in list(path, recursive)? {
        resources.extend(read_file(&file)?);
    }
    Ok(resources)
}

fn read_file(path: &Path) -> Result<Vec<Written>> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to execute command: {}", path.display()))?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Written>> {
    let file = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    let placed =
        calico_api::placed_documents(text).map_err(|error| anyhow!("failed to execute command: {file}: {error}"))?;
    let written = |it: Placed| Written {
        resource: it.resource,
        place: Place { file: file.clone(), document: it.document, line: it.line },
    };
    Ok(placed.into_iter().map(written).collect())
}

fn list(directory: &Path, recursive: bool) -> Result<Vec<PathBuf>> {
    let at = || format!("failed to execute command: {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(at)? {
        paths.push(entry.with_context(at)?.path());
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if path.is_dir() {
            if recursive {
                files.extend(list(&path, true)?);
            }
        } else if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str =
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/16}\n";

    fn flags(path: &Path, recursive: bool) -> Files {
        Files { filename: Some(path.to_owned()), recursive, ..Files::default() }
    }

    #[test]
    fn a_directory_is_read_by_ending_and_depth() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        for name in ["a.yaml", "b.YML", "notes.txt", "deep/c.json"] {
            fs::write(folder.path().join(name), POOL).unwrap();
        }
        assert_eq!(read(&flags(folder.path(), false)).unwrap().len(), 2);
        assert_eq!(read(&flags(folder.path(), true)).unwrap().len(), 3);
    }

    #[test]
    fn an_empty_file_is_an_error_unless_it_may_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.yaml");
        fs::write(&path, "---\n").unwrap();
        let error = read(&flags(&path, false)).unwrap_err().to_string();
        assert_eq!(error, format!("no resources specified in file {}", path.display()));
        assert!(read(&Files { skip_empty: true, ..flags(&path, false) }).unwrap().is_empty());
    }

    #[test]
    fn an_unknown_field_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.yaml");
        fs::write(&path, POOL.replace("cidr:", "cidre: x, cidr:")).unwrap();
        let error = format!("{:#}", read(&flags(&path, false)).unwrap_err());
        assert!(error.contains("not recognized or is in the wrong location: cidre"), "{error}");
        assert!(error.contains("pool.yaml"), "{error}");
    }
}
