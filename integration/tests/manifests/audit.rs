//! What the API server's audit log says of a service account.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rights::Right;

/// Everything that accounts ask for, without its content.
const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  userGroups: [\"system:serviceaccounts\"]\n- level: None\n";

/// Makes the API server of a topology that is not there yet write it.
pub(crate) fn enable(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory.join("kubernetes"))?;
    Ok(fs::write(directory.join("kubernetes/audit-policy.yaml"), POLICY)?)
}

/// What an account did.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// Rights that it used.
    pub(crate) used: BTreeSet<Right>,
    /// What it was refused for want of a right.
    pub(crate) refused: BTreeSet<String>,
}

/// All that an account did up to now.
pub(crate) fn deeds(directory: &Path, account: &str) -> Result<Deeds> {
    let path = directory.join("kubernetes/audit.log");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let user = format!("system:serviceaccount:kube-system:{account}");
    let mut deeds = Deeds::default();
    // The last line may be half written.
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if event["user"]["username"] != *user {
            continue;
        }
        let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        if code == 401 || code == 403 {
            deeds.refused.insert(format!("{} {} ({code})", of(&event["verb"]), of(&event["requestURI"])));
            continue;
        }
        let object = &event["objectRef"];
        let mut resource = of(&object["resource"]);
        if resource.is_empty() {
            continue; // discovery, which everybody may
        }
        if let Some(part) = object["subresource"].as_str() {
            resource = format!("{resource}/{part}");
        }
        deeds.used.insert(Right { group: of(&object["apiGroup"]), resource, verb: of(&event["verb"]) });
    }
    Ok(deeds)
}
