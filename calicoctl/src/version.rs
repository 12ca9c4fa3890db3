//! `calicoctl version`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use calico_api::{ClusterInformationSpec, Key, Kind};
use calico_datastore::Error;

use crate::arguments::{Globals, Version};
use crate::{client, output};

/// Runs it.
pub(crate) async fn run(flags: &Version, globals: &Globals) -> Result<ExitCode> {
    let client = format!(
        "Client Version:    v{}\nCompatible with:   {}\nGit commit:        {}\n",
        calico_version::VERSION,
        calico_version::CALICO_COMPATIBLE,
        calico_version::COMMIT,
    );
    output::print(&client)?;
    if flags.client {
        return Ok(ExitCode::SUCCESS);
    }
    let config = client::config(globals)?;
    let Ok(store) = client::open(&config).await else {
        output::print("Unable to detect installed Calico version\n")?;
        return Ok(ExitCode::SUCCESS);
    };
    let information = store.get::<ClusterInformationSpec>(&Key::named(Kind::ClusterInformation, "default")).await;
    let spec = match information {
        Ok(information) => information.spec,
        Err(Error::NotFound(_)) => ClusterInformationSpec::default(),
        Err(error) => return Err(anyhow!("unable to retrieve Cluster Version or Type: {error}")),
    };
    let or_unknown =
        |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    let version = or_unknown(spec.calico_version);
    output::print(&format!("Cluster Version:   {version}\nCluster Type:      {}\n", or_unknown(spec.cluster_type)))?;
    Ok(ExitCode::SUCCESS)
}
