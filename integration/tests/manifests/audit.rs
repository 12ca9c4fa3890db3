//! The API server's audit log of a topology in namespaces.

use std::fs;
use std::path::Path;

use anyhow::Result;
use integration::cluster::rights::{self, Deeds};

/// Everything that accounts ask for, without its content.
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  userGroups: [\"system:serviceaccounts\"]\n- level: None\n";

/// Makes the API server of a topology that is not there yet write it.
pub(crate) fn enable(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory.join("kubernetes"))?;
    Ok(fs::write(directory.join("kubernetes/audit-policy.yaml"), POLICY)?)
}

/// All that an account did up to now.
pub(crate) fn deeds(directory: &Path, account: &str) -> Result<Deeds> {
    rights::deeds(&directory.join("kubernetes/audit.log"), account)
}
