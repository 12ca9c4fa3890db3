//! What was written, and where: the layers of Felix' parameters before anybody has judged them.
//!
//! From the strongest to the weakest: command line (`--set`), environment (`FELIX_…`), file (`/etc/calico/felix.cfg`),
//! FelixConfiguration `node.<name>`, one with a `nodeSelector`, FelixConfiguration `default` (reference felix.md §1.9).

use std::collections::BTreeMap;
use std::path::Path;

use super::known::{Idle, idle_parameter, idle_variable};
use super::{ConfigError, PARAMETERS};

/// How the place of a value of FelixConfiguration `default` ends.
const COMMON: &str = " of FelixConfiguration default";

/// A value and the place it was written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// For people: `environment variable FELIX_HEALTHPORT`.
    pub(crate) place: String,
    /// As written, without surrounding white space.
    pub(crate) value: String,
}

/// What one place says: parameters by lower-cased name.
pub(crate) type Layer = BTreeMap<String, Written>;

/// Parameters in layers, the strongest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    layers: Vec<Layer>,
    idle: Vec<Idle>,
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
        let mut idle = Vec::new();
        let mut command_line = Layer::new();
        for text in set {
            let Some((name, value)) = text.split_once('=') else {
                return Err(ConfigError::Set(text.clone()));
            };
            idle.extend(idle_parameter(name.trim(), value));
            let written = Written { place: format!("--set {}", name.trim()), value: value.trim().to_owned() };
            command_line.insert(name.trim().to_lowercase(), written);
        }
        let environment: BTreeMap<String, String> = environment.collect();
        let is_set = |name: &str| environment.contains_key(name);
        let mut variables = Layer::new();
        for (variable, value) in &environment {
            idle.extend(idle_variable(variable, value, &is_set));
            let lower = variable.to_lowercase();
            if let Some(name) = lower.strip_prefix("felix_") {
                let place = format!("environment variable {variable}");
                variables.insert(name.to_owned(), Written { place, value: value.trim().to_owned() });
            }
        }
        let mut layers = vec![command_line, variables];
        if let Some((path, text)) = file {
            let (layer, names) = ini(path, text)?;
            idle.extend(names.iter().filter_map(|(name, value)| idle_parameter(name, value)));
            layers.push(layer);
        }
        Ok(Self { layers, idle })
    }

    /// The same with weaker layers below, the strongest of them first. What does nothing is that of these alone.
    pub(crate) fn over(&self, weaker: Vec<Layer>) -> Self {
        let fields = weaker.iter().flatten();
        let idle = fields.filter_map(|(name, written)| Some(idle_parameter(name, &written.value)?.at(&written.place)));
        let idle = idle.collect();
        Self { layers: self.layers.iter().cloned().chain(weaker).collect(), idle }
    }

    /// What the strongest layer that has the parameter says.
    pub(crate) fn get(&self, name: &str) -> Option<&Written> {
        let name = name.to_lowercase();
        self.layers.iter().find_map(|layer| layer.get(&name))
    }

    /// What FelixConfiguration `default` says, which every daemon can read.
    pub(super) fn common(&self, name: &str) -> Option<&Written> {
        let last = self.layers.last()?.get(&name.to_lowercase())?;
        last.place.ends_with(COMMON).then_some(last)
    }

    /// What is written and does nothing.
    pub(crate) fn idle(&self) -> &[Idle] {
        &self.idle
    }

    /// The parameters that Felix uses and that two configurations say differently.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let differs = |name: &&str| self.effective(name) != other.effective(name);
        PARAMETERS.iter().map(|(name, ..)| *name).filter(differs).collect()
    }
}

/// Lines of `name = value`; `[sections]` group for the eye only, `#` and `;` begin comments.
///
/// Also returns the names and values as written.
fn ini(path: &Path, text: &str) -> Result<(Layer, Vec<(String, String)>), ConfigError> {
    let (mut values, mut names) = (Layer::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) || (line.starts_with('[') && line.ends_with(']')) {
            continue;
        }
        let Some((name, value)) = line.split_once(['=', ':']) else {
            return Err(ConfigError::Line { path: path.to_owned(), number, line: line.to_owned() });
        };
        let place = format!("{} in line {number} of {}", name.trim(), path.display());
        names.push((name.trim().to_owned(), value.trim().to_owned()));
        values.insert(name.trim().to_lowercase(), Written { place, value: value.trim().to_owned() });
    }
    Ok((values, names))
}
