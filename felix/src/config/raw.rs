//! What was written, and where: the layers of Felix' parameters before anybody has judged them.
//!
//! From the strongest to the weakest: command line (`--set`), environment (`FELIX_…`), file
//! (`/etc/calico/felix.cfg`). FelixConfiguration resources will be layers below the file.

use std::collections::BTreeMap;
use std::path::Path;

use super::ConfigError;

/// A value and the place it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// For people: `environment variable FELIX_HEALTHPORT`.
    pub(crate) place: String,
    /// As written, without surrounding white space.
    pub(crate) value: String,
}

/// Parameters by lower-cased name, in layers, the strongest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    layers: Vec<BTreeMap<String, Written>>,
}

impl Raw {
    /// The layers of a process: `--set NAME=VALUE`, the environment, a file's path and text.
    ///
    /// # Errors
    /// If the file is not `name = value` lines, or a `--set` is not `NAME=VALUE`.
    pub(crate) fn read(
        set: &[String],
        environment: impl Iterator<Item = (String, String)>,
        file: Option<(&Path, &str)>,
    ) -> Result<Self, ConfigError> {
        let mut command_line = BTreeMap::new();
        for text in set {
            let Some((name, value)) = text.split_once('=') else {
                return Err(ConfigError::Set(text.clone()));
            };
            let written = Written { place: format!("--set {}", name.trim()), value: value.trim().to_owned() };
            command_line.insert(name.trim().to_lowercase(), written);
        }
        let mut variables = BTreeMap::new();
        for (variable, value) in environment {
            let lower = variable.to_lowercase();
            if let Some(name) = lower.strip_prefix("felix_") {
                let place = format!("environment variable {variable}");
                variables.insert(name.to_owned(), Written { place, value: value.trim().to_owned() });
            }
        }
        let mut layers = vec![command_line, variables];
        if let Some((path, text)) = file {
            layers.push(ini(path, text)?);
        }
        Ok(Self { layers })
    }

    /// What the strongest layer that has the parameter says.
    pub(crate) fn get(&self, name: &str) -> Option<&Written> {
        let name = name.to_lowercase();
        self.layers.iter().find_map(|layer| layer.get(&name))
    }

    /// Every parameter written anywhere, in lower case.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.layers.iter().flat_map(BTreeMap::keys)
    }
}

/// Lines of `name = value`; `[sections]` group for the eye only, `#` and `;` begin comments.
fn ini(path: &Path, text: &str) -> Result<BTreeMap<String, Written>, ConfigError> {
    let mut values = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) || (line.starts_with('[') && line.ends_with(']')) {
            continue;
        }
        let Some((name, value)) = line.split_once(['=', ':']) else {
            return Err(ConfigError::Line { path: path.to_owned(), number, line: line.to_owned() });
        };
        let place = format!("{} in line {number} of {}", name.trim(), path.display());
        values.insert(name.trim().to_lowercase(), Written { place, value: value.trim().to_owned() });
    }
    Ok(values)
}
