//! What is there: to install, and on the node already?

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::Places;
use super::settings::{Settings, Template};

/// What is always installed.
pub(crate) const OURS: [&str; 2] = ["calico", "calico-ipam"];
/// What is installed if it lies beside ours: an image may bring the usual plugins.
const BESIDE: [&str; 6] = ["bandwidth", "flannel", "host-local", "loopback", "portmap", "tuning"];
/// The mode of an installed program.
pub(crate) const PROGRAM: u32 = 0o755;
/// The mode of the configuration.
pub(crate) const CONFIGURATION: u32 = 0o600;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The configuration with its placeholders.
    pub template: String,
    /// The programs to install, by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// The folders they go to; those that are not mounted are left out.
    pub folders: Vec<Folder>,
    /// Where the configuration goes.
    pub configuration: PathBuf,
    /// What is there now, if anything.
    pub present: Option<Present>,
    /// Whether its folder can be written to.
    pub writeable: bool,
    /// The names of all configurations in that folder.
    pub names: Vec<String>,
}

/// A folder of the runtime's plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where.
    pub path: PathBuf,
    /// Whether it can be written to.
    pub writeable: bool,
    /// The programs that lie there, and whether each is the one to install, content and mode.
    pub holds: BTreeMap<String, bool>,
}

/// A configuration that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its octets.
    pub text: Vec<u8>,
    /// Its mode.
    pub mode: u32,
}

/// Something could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The program to install is not there.
    #[error("{} is not there: {source}; use --from", .path.display())]
    Program {
        /// Where it was looked for.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file with the configuration cannot be read.
    #[error("CNI_NETWORK_CONFIG_FILE: {} cannot be read: {source}", .path.display())]
    Template {
        /// Its path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The folder of configurations cannot be read.
    #[error("{} cannot be read: {source}; mount the node's /etc/cni/net.d there", .path.display())]
    Folder {
        /// Its path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something else cannot be read.
    #[error("{} cannot be read: {source}", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// Looks at everything that decides what must be done.
///
/// # Errors
/// If one of it cannot be looked at.
pub fn survey(settings: &Settings, places: &Places) -> Result<Survey, SurveyError> {
    let template = match &settings.template {
        Template::Text(text) => text.clone(),
        Template::File(path) => {
            fs::read_to_string(path).map_err(|source| SurveyError::Template { path: path.clone(), source })?
        }
    };
    let programs = programs(&places.from)?;
    let found = places.binaries.iter().filter(|path| path.is_dir());
    let folders = found.map(|path| folder(path, &programs)).collect::<Result<_, _>>()?;
    let configuration = places.configurations.join(&settings.name);
    let wrong = |source| SurveyError::Folder { path: places.configurations.clone(), source };
    let entries = fs::read_dir(&places.configurations).map_err(wrong)?;
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(wrong)?.file_name().into_string());
    }
    names.sort();
    Ok(Survey {
        template,
        programs,
        folders,
        present: present(&configuration)?,
        configuration,
        writeable: is_writeable(&places.configurations),
        names,
    })
}

fn programs(from: &Path) -> Result<BTreeMap<String, PathBuf>, SurveyError> {
    let mut programs = BTreeMap::new();
    for name in OURS.into_iter().chain(BESIDE) {
        let path = from.join(name);
        match fs::metadata(&path) {
            Ok(file) if file.is_file() => {
                programs.insert(name.to_owned(), path);
            }
            Ok(_) if OURS.contains(&name) => {
                return Err(SurveyError::Program { path, source: io::Error::other("it is no file") });
            }
            Err(source) if OURS.contains(&name) => return Err(SurveyError::Program { path, source }),
            _ => {}
        }
    }
    Ok(programs)
}

fn folder(path: &Path, programs: &BTreeMap<String, PathBuf>) -> Result<Folder, SurveyError> {
    let unreadable = |path: &Path, source| SurveyError::File { path: path.to_owned(), source };
    let mut holds = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(|source| unreadable(path, source))? {
        let entry = entry.map_err(|source| unreadable(path, source))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let target = entry.path();
        let same = match programs.get(&name) {
            Some(source) => is_same(source, &target).map_err(|error| unreadable(&target, error))?,
            None => false,
        };
        holds.insert(name, same);
    }
    Ok(Folder { path: path.to_owned(), writeable: is_writeable(path), holds })
}

/// Whether the target is the program as it would be installed. Sizes are compared first: they tell most differences.
fn is_same(source: &Path, target: &Path) -> io::Result<bool> {
    let there = match fs::symlink_metadata(target) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let whole =
        there.is_file() && there.permissions().mode() & 0o7777 == PROGRAM && there.len() == fs::metadata(source)?.len();
    Ok(whole && fs::read(source)? == fs::read(target)?)
}

fn present(path: &Path) -> Result<Option<Present>, SurveyError> {
    let unreadable = |source| SurveyError::File { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(text) => {
            let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
            Ok(Some(Present { text, mode }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unreadable(source)),
    }
}

/// Asks the kernel, which knows of read-only mounts; nothing is written to find out.
fn is_writeable(path: &Path) -> bool {
    access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}
