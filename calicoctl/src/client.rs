//! The datastore that a command speaks with: which one, and whether its version fits.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use calico_api::{ClusterInformationSpec, Key, Kind};
use calico_datastore::{Config, ConfigError, Error, Store};

use crate::arguments::Globals;

/// Which datastore the file or the environment says.
pub(crate) fn config(globals: &Globals) -> Result<Config> {
    let config =
        Config::load(globals.config.as_deref().map(Path::new), |variable| match (variable, &globals.context) {
            ("K8S_CURRENT_CONTEXT", Some(context)) => Some(context.clone()),
            _ => std::env::var(variable).ok(),
        });
    config.map_err(|error| match error {
        ConfigError::Read { path, reason } => anyhow!("Error reading config file: {}: {reason}", path.display()),
        other => other.into(),
    })
}

/// Opens a datastore without looking at its version.
pub(crate) async fn open(config: &Config) -> Result<Store> {
    calico_datastore::connect(config).await.context("Failed to create Calico API client")
}

/// Opens the datastore, and refuses a cluster of another version.
pub(crate) async fn open_gated(globals: &Globals) -> Result<Store> {
    let store = open(&config(globals)?).await?;
    if !globals.allow_version_mismatch {
        gate(&store).await?;
    }
    Ok(store)
}

async fn gate(store: &Store) -> Result<()> {
    let information = store.get::<ClusterInformationSpec>(&Key::named(Kind::ClusterInformation, "default")).await;
    let cluster = match information {
        Ok(information) => information.spec.calico_version.unwrap_or_default(),
        Err(Error::NotFound(_)) => return Ok(()),
        Err(error) => {
            let advice = "unable to get the cluster's version; use --allow-version-mismatch to do without";
            return Err(anyhow!(error).context(advice));
        }
    };
    if cluster.is_empty() || release(&cluster) == release(calico_version::CALICO_COMPATIBLE) {
        return Ok(());
    }
    bail!(
        "version mismatch.\nClient Version:   {}\nCluster Version:  {cluster}\nUse --allow-version-mismatch to override",
        calico_version::CALICO_COMPATIBLE
    )
}

/// Major and minor number, since patches of one release speak the same language.
fn release(version: &str) -> (String, String) {
    let plain = version.trim_start_matches('v').split('-').next().unwrap_or_default();
    let mut numbers = plain.split('.').map(str::to_owned);
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_of_one_release_fit() {
        assert_eq!(release("v3.32.1"), release("3.32.0-0.dev-12"));
        assert_ne!(release("v3.32.1"), release("v3.31.1"));
    }
}
