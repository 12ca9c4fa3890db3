//! How do the CNI plugins and their network configuration come onto a node?
//!
//! As an init container: [`Settings`] from the environment, a [`survey()`] of the mounted folders, a [`plan()`] of what must
//! be written, which is nothing on a node that is up to date, and its [`apply`](write::apply). The configuration comes
//! last, because its presence tells the runtime that pods may be started; every file appears whole or not at all, whatever
//! kills us. With `SLEEP=true` the program stays and puts back what somebody removes.
//!
//! Departs from Calico: no kubeconfig, token or key is written. Our plugins ask felix on a socket and hold no credential,
//! so there is none to leak from a host and none to expire.

pub mod conflist;
pub mod plan;
pub mod settings;
mod stay;
pub mod survey;
pub mod write;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use tracing::{error, info, warn};
use tracing_subscriber::filter::LevelFilter;

pub use plan::{Plan, plan};
pub use settings::Settings;
pub use survey::{Survey, survey};

use crate::arguments::InstallOptions;

/// Where things are on this node.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder with the programs that are installed.
    pub from: PathBuf,
    /// Folders of the runtime's plugins, the most usual first.
    pub binaries: Vec<PathBuf>,
    /// Folder of the runtime's network configurations.
    pub configurations: PathBuf,
}

impl Places {
    /// From the command line.
    ///
    /// # Errors
    /// If this program's own folder must be known and is not.
    pub fn of(options: &InstallOptions) -> Result<Self, String> {
        let own = || {
            let program = env::current_exe().map_err(|error| format!("where is this program? {error}; use --from"))?;
            program.parent().map(Into::into).ok_or_else(|| "this program has no folder; use --from".to_owned())
        };
        Ok(Self {
            from: options.from.clone().map_or_else(own, Ok)?,
            binaries: ["opt/cni/bin", "secondary-bin-dir"].map(|folder| options.host.join(folder)).into(),
            configurations: options.host.join("etc/cni/net.d"),
        })
    }
}

/// Installs; stays, if it is told to.
pub fn command(options: &InstallOptions) -> ExitCode {
    tracing_subscriber::fmt().with_max_level(LevelFilter::INFO).with_target(false).with_writer(std::io::stderr).init();
    match install(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            error!(%reason, "the CNI plugins are not installed");
            ExitCode::FAILURE
        }
    }
}

fn install(options: &InstallOptions) -> Result<(), String> {
    let variables: BTreeMap<String, String> = env::vars().collect();
    let (settings, warnings) = Settings::read(&variables, hostname()).map_err(|error| error.to_string())?;
    for warning in warnings {
        warn!("{warning}");
    }
    let places = Places::of(options)?;
    once(&settings, &places)?;
    if settings.stay { stay::keep(&settings, &places) } else { Ok(()) }
}

/// Surveys, plans and applies.
fn once(settings: &Settings, places: &Places) -> Result<(), String> {
    let _locks = write::lock(places);
    let survey = survey(settings, places).map_err(|error| error.to_string())?;
    let plan = plan(settings, &survey).map_err(|error| error.to_string())?;
    for warning in &plan.warnings {
        warn!("{warning}");
    }
    write::apply(&plan, |step| info!("{step}")).map_err(|error| error.to_string())?;
    info!(changes = plan.steps.len(), configuration = %survey.configuration.display(), "the CNI plugins are installed");
    Ok(())
}

fn hostname() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}
