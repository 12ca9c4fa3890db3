//! Reading and writing kernel parameters under `/proc/sys`.
//!
//! `/proc/sys/net` shows the network namespace of the calling thread. A name is given in parts, because the name of an
//! interface may hold a dot: `sysctl::write(&["net", "ipv4", "conf", "eth0.5", "forwarding"], "1")`.
//!
//! In a container `/proc/sys` is read-only unless it is privileged. [`use_net`] makes another mount of `/proc/sys/net`
//! the one that is read and written; such a mount, too, shows the network namespace of the calling thread.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{Cause, Error, Result};

/// Where parameters are unless somebody says otherwise.
pub const ROOT: &str = "/proc/sys";

/// Where those that begin with `net` are, if not there.
static NET: OnceLock<PathBuf> = OnceLock::new();

/// Reads and writes parameters that begin with `net` under `folder` from now on, for the whole process.
/// Only the first call counts.
pub fn use_net(folder: &Path) {
    let _ = NET.set(folder.to_owned());
}

/// Where a parameter is.
///
/// # Errors
/// If a part of the name is no name.
pub fn file(parts: &[&str]) -> Result<PathBuf> {
    path(parts, "find")
}

/// The longest value of a parameter under `/proc/sys/net`, in octets; most are numbers.
const LONGEST: usize = 1024;

/// Reads a parameter, without the line's end.
///
/// # Errors
/// Names the file; [`Error::is_not_found`] if there is no such parameter.
pub fn read(parts: &[&str]) -> Result<String> {
    let path = path(parts, "read")?;
    // Parameters are short, and are given whole to one read.
    let mut octets = [0; LONGEST];
    let read = File::open(&path).and_then(|mut file| file.read(&mut octets));
    let length = read.map_err(|error| Error::new(format_args!("read {}", path.display()), error))?;
    Ok(String::from_utf8_lossy(octets.get(..length).unwrap_or_default()).trim_end().to_owned())
}

/// Writes a parameter.
///
/// # Errors
/// Names the file and the value; [`Error::is_not_found`] if there is no such parameter.
pub fn write(parts: &[&str], value: &str) -> Result<()> {
    let path = path(parts, "write")?;
    let written = OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| Error::new(format_args!("write {value} to {}", path.display()), error))
}

fn path(parts: &[&str], verb: &str) -> Result<PathBuf> {
    let (mut path, rest) = match (parts.split_first(), NET.get()) {
        (Some((&"net", rest)), Some(folder)) => (folder.clone(), rest),
        _ => (PathBuf::from(ROOT), parts),
    };
    for part in rest {
        if part.is_empty() || part.contains('/') || *part == "." || *part == ".." {
            let asked = format!("{verb} kernel parameter {}", parts.join("/"));
            return Err(Error::new(asked, Cause::Protocol("a part of the name is no name")));
        }
        path.push(part);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace;

    #[test]
    fn a_parameter_written_is_read_back_and_errors_name_the_file() {
        namespace::inside(namespace::create().unwrap(), || {
            let forwarding = ["net", "ipv4", "conf", "lo", "forwarding"];
            for value in ["1", "0"] {
                write(&forwarding, value).unwrap();
                assert_eq!(read(&forwarding).unwrap(), value);
            }
            let error = write(&["net", "ipv4", "conf", "cali0", "forwarding"], "1").unwrap_err();
            assert!(error.is_not_found());
            let text = "write 1 to /proc/sys/net/ipv4/conf/cali0/forwarding: No such file or directory (os error 2)";
            assert_eq!(error.to_string(), text);
            assert!(read(&["net", "..", "kernel"]).is_err());
        })
        .unwrap();
    }
}
