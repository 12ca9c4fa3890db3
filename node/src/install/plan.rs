//! What must be written for the node to have what it should? Values in, a list of steps out.

use std::fmt;
use std::path::PathBuf;

use super::conflist::{self, ConflistError};
use super::settings::Settings;
use super::survey::{CONFIGURATION, Folder, OURS, PROGRAM, Survey};

/// What is done, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Empty if all is as it should be.
    pub steps: Vec<Step>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// One change; each is whole or has not happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copies a program.
    Copy {
        /// From where.
        from: PathBuf,
        /// To where.
        to: PathBuf,
        /// Its mode there.
        mode: u32,
    },
    /// Writes a text.
    Write {
        /// Where.
        to: PathBuf,
        /// The text.
        text: String,
        /// Its mode.
        mode: u32,
    },
    /// Removes a file.
    Remove {
        /// Which.
        path: PathBuf,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { from, to, .. } => write!(f, "{} is copied to {}", from.display(), to.display()),
            // Not the text: somebody may have written a token into the template.
            Self::Write { to, .. } => write!(f, "{} is written", to.display()),
            Self::Remove { path } => write!(f, "{} is removed", path.display()),
        }
    }
}

/// The node cannot be made what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The configuration is none.
    #[error(transparent)]
    Conflist(#[from] ConflistError),
    /// Nowhere to put the plugins.
    #[error(
        "no folder for the CNI plugins can be written to ({0}); mount the node's /opt/cni/bin there, or set \
         UPDATE_CNI_BINARIES=false if calico and calico-ipam are on the node already"
    )]
    NoFolder(String),
    /// The configuration cannot be written.
    #[error("{} is read-only; mount the node's /etc/cni/net.d there so that it can be written to", .0.display())]
    ReadOnly(PathBuf),
}

/// Decides.
///
/// # Errors
/// If there is nowhere to write to, or the configuration is none.
pub fn plan(settings: &Settings, survey: &Survey) -> Result<Plan, PlanError> {
    let is_list = settings.name.ends_with(".conflist");
    let made = conflist::make(&survey.template, &settings.values, is_list)?;
    let mut plan = Plan::default();
    copy_programs(&mut plan, settings, survey)?;

    let present = survey.present.as_ref();
    if present.is_none_or(|present| present.text != made.text.as_bytes() || present.mode != CONFIGURATION) {
        let to = survey.configuration.clone();
        if !survey.writeable {
            return Err(PlanError::ReadOnly(to.parent().unwrap_or(&to).to_owned()));
        }
        plan.steps.push(Step::Write { to, text: made.text, mode: CONFIGURATION });
    }
    if let Some(old) = settings.old_name.as_ref().filter(|old| survey.names.contains(old)) {
        plan.steps.push(Step::Remove { path: survey.configuration.with_file_name(old) });
    }

    for name in made.unknown {
        plan.warnings.push(format!("the network configuration has the placeholder {name}, which stands for nothing"));
    }
    for name in made.others {
        let comes = survey.programs.contains_key(&name) && !settings.skip.contains(&name);
        if !comes && !survey.folders.iter().any(|folder| folder.holds.contains_key(&name)) {
            plan.warnings.push(format!(
                "the network configuration names the plugin {name}, which is not on this node: pods will not start; \
                 install the containernetworking plugins, or take it out of CNI_NETWORK_CONFIG"
            ));
        }
    }
    if let Some(first) = first_other(settings, survey) {
        plan.warnings.push(format!(
            "{first} comes before {} in its folder, so the container runtime uses that one; remove it, or choose another \
             CNI_CONF_NAME",
            settings.name
        ));
    }
    Ok(plan)
}

/// A copy for every folder that can be written to and holds something else.
fn copy_programs(plan: &mut Plan, settings: &Settings, survey: &Survey) -> Result<(), PlanError> {
    let wanted =
        || survey.programs.iter().filter(|(name, _)| OURS.contains(&name.as_str()) || !settings.skip.contains(*name));
    let has_ours = |folder: &Folder| OURS.iter().all(|name| folder.holds.contains_key(*name));
    for folder in &survey.folders {
        if !folder.writeable {
            let path = folder.path.display();
            plan.warnings.push(format!("{path} is read-only: what plugins are there stay as they are"));
            continue;
        }
        for (name, from) in wanted() {
            let needed = match folder.holds.get(name) {
                None => true,
                Some(same) => !same && settings.update,
            };
            if needed {
                plan.steps.push(Step::Copy { from: from.clone(), to: folder.path.join(name), mode: PROGRAM });
            }
        }
    }
    let writeable = survey.folders.iter().any(|folder| folder.writeable);
    if writeable || !settings.update && survey.folders.iter().any(has_ours) {
        return Ok(());
    }
    let looked: Vec<String> = survey.folders.iter().map(|folder| folder.path.display().to_string()).collect();
    Err(PlanError::NoFolder(if looked.is_empty() { "none is mounted".to_owned() } else { looked.join(", ") }))
}

/// Another configuration that the runtime would take, because its name comes first.
fn first_other<'a>(settings: &Settings, survey: &'a Survey) -> Option<&'a str> {
    let counts = |name: &&String| [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end));
    let stays = |name: &&String| Some(*name) != settings.old_name.as_ref();
    let first = survey.names.iter().filter(counts).filter(stays).min()?;
    (*first < settings.name).then_some(first.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::survey::Present;
    use super::*;

    const NET: &str = r#"{"name": "x", "plugins": [{"type": "calico"}, {"type": "portmap"}]}"#;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::read(&variables, Some("node".to_owned())).unwrap().0
    }

    fn folder(path: &str, writeable: bool, holds: &[(&str, bool)]) -> Folder {
        let holds = holds.iter().map(|(name, same)| ((*name).to_owned(), *same)).collect();
        Folder { path: path.into(), writeable, holds }
    }

    fn survey(folders: Vec<Folder>) -> Survey {
        let program = |name: &str| (name.to_owned(), PathBuf::from(format!("/usr/bin/{name}")));
        Survey {
            template: NET.to_owned(),
            programs: BTreeMap::from(["calico", "calico-ipam", "tuning"].map(program)),
            folders,
            configuration: "/net.d/10-calico.conflist".into(),
            present: Some(Present { text: format!("{NET}\n").into_bytes(), mode: 0o600 }),
            writeable: true,
            names: vec!["10-calico.conflist".to_owned()],
        }
    }

    const CURRENT: [(&str, bool); 4] = [("calico", true), ("calico-ipam", true), ("tuning", true), ("portmap", false)];

    fn steps(settings: &Settings, survey: &Survey) -> Vec<String> {
        plan(settings, survey).unwrap().steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_that_is_up_to_date_is_left_alone() {
        let current = survey(vec![folder("/bin", true, &CURRENT)]);
        assert_eq!(plan(&settings(&[]), &current), Ok(Plan::default()));
    }

    #[test]
    fn the_configuration_comes_last_and_what_it_replaces_goes_after_it() {
        let mut survey = survey(vec![folder("/bin", true, &[]), folder("/second", true, &CURRENT)]);
        survey.present = None;
        survey.configuration = "/net.d/20-net.conflist".into();
        let settings = settings(&[("CNI_CONF_NAME", "20-net.conflist"), ("SKIP_CNI_BINARIES", "tuning,calico")]);
        assert_eq!(
            steps(&settings, &survey),
            [
                "/usr/bin/calico is copied to /bin/calico",
                "/usr/bin/calico-ipam is copied to /bin/calico-ipam",
                "/net.d/20-net.conflist is written",
                "/net.d/10-calico.conflist is removed",
            ]
        );
    }

    #[test]
    fn programs_that_differ_are_replaced_unless_that_is_forbidden() {
        let old = survey(vec![folder("/bin", true, &[("calico", false), ("portmap", false)])]);
        assert_eq!(steps(&settings(&[]), &old).len(), 3);
        let kept = steps(&settings(&[("UPDATE_CNI_BINARIES", "false")]), &old);
        assert_eq!(
            kept,
            ["/usr/bin/calico-ipam is copied to /bin/calico-ipam", "/usr/bin/tuning is copied to /bin/tuning"]
        );
    }

    #[test]
    fn folders_that_are_read_only_are_passed_over_as_long_as_there_is_another_way() {
        let two = survey(vec![folder("/bin", false, &[]), folder("/second", true, &[("portmap", false)])]);
        let made = plan(&settings(&[]), &two).unwrap();
        assert_eq!((made.steps.len(), made.warnings.len()), (3, 1));
        let one = survey(vec![folder("/bin", false, &CURRENT)]);
        assert_eq!(plan(&settings(&[]), &one), Err(PlanError::NoFolder("/bin".to_owned())));
        let made = plan(&settings(&[("UPDATE_CNI_BINARIES", "false")]), &one).unwrap();
        assert_eq!(made.steps, []);
        let none = plan(&settings(&[("UPDATE_CNI_BINARIES", "false")]), &survey(Vec::new())).unwrap_err();
        assert!(none.to_string().contains("none is mounted"), "{none}");
    }

    #[test]
    fn a_configuration_is_written_if_its_text_or_mode_differs_and_needs_a_folder_for_it() {
        let mut survey = survey(vec![folder("/bin", true, &CURRENT)]);
        survey.present = Some(Present { text: format!("{NET}\n").into_bytes(), mode: 0o644 });
        assert_eq!(steps(&settings(&[]), &survey), ["/net.d/10-calico.conflist is written"]);
        survey.writeable = false;
        assert_eq!(plan(&settings(&[]), &survey), Err(PlanError::ReadOnly("/net.d".into())));
        survey.template = "{".to_owned();
        assert!(matches!(plan(&settings(&[]), &survey), Err(PlanError::Conflist(_))));
    }

    #[test]
    fn what_would_keep_pods_from_starting_is_told() {
        let mut survey = survey(vec![folder("/bin", true, &CURRENT[..3])]);
        survey.names = ["00-old.conflist.bak", "05-other.conf", "10-calico.conflist"].map(str::to_owned).into();
        survey.template = r#"{"name": "__NET__", "plugins": [{"type": "calico"}, {"type": "portmap"}]}"#.to_owned();
        let warnings = plan(&settings(&[]), &survey).unwrap().warnings;
        let texts =
            ["placeholder __NET__", "the plugin portmap, which is not on this node", "05-other.conf comes before"];
        assert_eq!(warnings.len(), texts.len(), "{warnings:?}");
        assert!(warnings.iter().zip(texts).all(|(warning, text)| warning.contains(text)), "{warnings:?}");
    }
}
