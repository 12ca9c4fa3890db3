//! Which objects are in force in an older version than the datastore's? A file remembers them over a restart.
//!
//! Only objects in fault are in it, so as a rule it is empty. A file that is lost or not understood costs only that.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use calico_api::{Key, Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest file that is read, in octets.
const SIZE_LIMIT: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    objects: Vec<Object>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Object {
    kind: String,
    value: Value,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub struct Remembered {
    /// Objects, each under its key.
    pub objects: Vec<(Key, Value)>,
    /// What in it is not understood.
    pub faults: Vec<String>,
}

/// What the file holds; nothing, if there is none.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Remembered> {
    let text = match fs::metadata(path) {
        Ok(data) if data.len() > SIZE_LIMIT => return Err(io::Error::other("it is larger than 64 MiB")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
        _ => fs::read(path)?,
    };
    let file: File = serde_json::from_slice(&text)?;
    let mut remembered = Remembered::default();
    for Object { kind, value } in file.objects {
        match Kind::from_name(&kind).and_then(|kind| Key::of_value(kind, &value).ok()) {
            Some(key) => remembered.objects.push((key, value)),
            None => remembered.faults.push(format!("an object of kind \"{kind}\"")),
        }
    }
    Ok(remembered)
}

/// Puts exactly these objects into the file: whole, or not at all.
///
/// # Errors
/// If it cannot be written; the old file stays.
pub fn write(path: &Path, objects: impl Iterator<Item = (Key, Value)>) -> io::Result<()> {
    let objects: Vec<_> = objects.map(|(key, value)| Object { kind: key.kind().as_str().to_owned(), value }).collect();
    if objects.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(&File { objects })?)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_outlive_a_restart_and_a_broken_file_is_an_error_that_costs_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib/last-good.json");
        assert_eq!(read(&path).unwrap(), Remembered::default());
        let value = json!({"metadata": {"name": "tor"}, "spec": {"peerIP": "10.0.0.254", "asNumber": 65000}});
        let key = Key::of_value(Kind::BGPPeer, &value).unwrap();
        write(&path, [(key.clone(), value.clone())].into_iter()).unwrap();
        assert_eq!(read(&path).unwrap().objects, [(key, value)]);
        fs::write(&path, r#"{"objects":[{"kind":"Widget","value":{}}]}"#).unwrap();
        assert_eq!(read(&path).unwrap().faults.len(), 1);
        fs::write(&path, "{").unwrap();
        assert!(read(&path).is_err());
        write(&path, std::iter::empty()).unwrap();
        assert!(!path.exists());
    }
}
