//! What rights the manifests grant.

use anyhow::Result;
use integration::cluster::rights::{Right, granted};

#[test]
fn every_right_is_of_both_groups_or_of_none_and_nothing_is_a_star() -> Result<()> {
    let objects = crate::mesh()?;
    for account in ["calico-node", "ipam-controller"] {
        let rights = granted(objects.values(), account)?;
        anyhow::ensure!(rights.len() > 20, "{account} has {} rights", rights.len());
        for right in &rights {
            anyhow::ensure!(!format!("{right}").contains('*'), "{account}: {right}");
            let other = match &*right.group {
                "crd.projectcalico.org" => "projectcalico.org",
                "projectcalico.org" => "crd.projectcalico.org",
                _ => continue,
            };
            let resource = match &*right.resource {
                "ipamconfigs" => "ipamconfigurations",
                "ipamconfigurations" => "ipamconfigs",
                resource => resource,
            };
            let other = Right { group: other.to_owned(), resource: resource.to_owned(), verb: right.verb.clone() };
            anyhow::ensure!(rights.contains(&other), "{account}: {right}, but not {other}");
        }
    }
    Ok(())
}
