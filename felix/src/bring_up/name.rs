//! What this node is called.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::NodeSettings;

/// Why the node has no name that could be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    /// The node was called otherwise before.
    #[error(
        "NODENAME is \"{now}\", but {} says that this node is \"{before}\": addresses, routes and endpoints of \
         \"{before}\" would be taken for another node's; set NODENAME={before}, or remove the file if the node was \
         really renamed and drained", .file.display()
    )]
    Renamed {
        /// What `NODENAME` says.
        now: String,
        /// What the file says.
        before: String,
        /// The file.
        file: PathBuf,
    },
    /// It is no name of a Kubernetes object.
    #[error(
        "the node's name \"{name}\" (from {place}) is not 1 to 253 of a-z, 0-9, - and ., beginning and ending with a letter or digit"
    )]
    Invalid {
        /// The name.
        name: String,
        /// Where it comes from.
        place: String,
    },
    /// The file cannot be read or written.
    #[error("{}: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The kernel's words.
        error: io::Error,
    },
    /// Nobody says what it is called.
    #[error("the node has no name: set NODENAME")]
    Nameless,
}

/// The node's name: `NODENAME`, else what the nodename file says, else `HOSTNAME`, else the kernel's host name.
///
/// # Errors
/// If `NODENAME` and the file disagree, or the name is not one.
pub(crate) fn determine(settings: &NodeSettings) -> Result<String, NameError> {
    let file = match fs::read_to_string(&settings.name_file) {
        Ok(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(NameError::File { file: settings.name_file.clone(), error }),
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    choose(settings, file, kernel)
}

fn choose(settings: &NodeSettings, file: Option<String>, kernel: Option<String>) -> Result<String, NameError> {
    if let (Some(now), Some(before)) = (&settings.name, &file)
        && now != before
    {
        // Departs from Calico, which overwrites the file: see reference ipam-cni-datastore.md §6, "GC frees live addresses".
        let (now, before, file) = (now.clone(), before.clone(), settings.name_file.clone());
        return Err(NameError::Renamed { now, before, file });
    }
    let lower = |text: &String| text.trim().to_lowercase();
    let candidates = [
        (settings.name.clone(), "NODENAME".to_owned()),
        (file, settings.name_file.display().to_string()),
        (settings.hostname.as_ref().map(lower), "HOSTNAME".to_owned()),
        (kernel.as_ref().map(lower), "the kernel's host name".to_owned()),
    ];
    let found = candidates.into_iter().find_map(|(name, place)| Some((name.filter(|name| !name.is_empty())?, place)));
    let (name, place) = found.ok_or(NameError::Nameless)?;
    if is_name(&name) { Ok(name) } else { Err(NameError::Invalid { name, place }) }
}

/// RFC 1123's subdomain, which Kubernetes wants of a node.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = |c: char| inner(c) || c == '-' || c == '.';
    name.len() <= 253 && name.starts_with(inner) && name.ends_with(inner) && name.chars().all(good)
}

/// Writes the name where the CNI plugins look. Without a newline at the end: they do not trim.
///
/// # Errors
/// If the file or its directory cannot be written.
pub(crate) fn remember(file: &Path, name: &str) -> Result<(), NameError> {
    if fs::read_to_string(file).is_ok_and(|text| text == name) {
        return Ok(());
    }
    super::write_whole(file, name).map_err(|error| NameError::File { file: file.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: Option<&str>, hostname: Option<&str>) -> NodeSettings {
        let get = |key: &str| match key {
            "NODENAME" => name.map(str::to_owned),
            "HOSTNAME" => hostname.map(str::to_owned),
            _ => None,
        };
        NodeSettings::parse(&get).unwrap()
    }

    #[track_caller]
    fn check(name: Option<&str>, file: Option<&str>, hostname: Option<&str>, kernel: Option<&str>, expected: &str) {
        let chosen = choose(&settings(name, hostname), file.map(str::to_owned), kernel.map(str::to_owned));
        let chosen = chosen.unwrap_or_else(|error| error.to_string());
        assert!(chosen.contains(expected), "{chosen}");
    }

    #[test]
    fn the_name_comes_from_the_first_that_has_one() {
        check(Some("a"), None, Some("b"), Some("c"), "a");
        check(Some("a"), Some("a"), None, None, "a");
        check(None, Some("f"), Some("b"), Some("c"), "f");
        check(None, None, Some("Bee"), Some("c"), "bee");
        check(None, None, None, Some("Sea.example.org\n"), "sea.example.org");
    }

    #[test]
    fn a_name_that_cannot_be_trusted_is_refused() {
        check(Some("a"), Some("b"), None, None, "set NODENAME=b, or remove the file");
        check(None, None, None, None, "set NODENAME");
        check(Some("Node_1"), None, None, None, "\"Node_1\" (from NODENAME) is not");
        check(None, None, Some("x."), None, "(from HOSTNAME)");
    }
}
