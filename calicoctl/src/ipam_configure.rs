//! `calicoctl ipam configure`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use calico_api::{IPAMConfiguration, IPAMConfigurationSpec, Key, Kind, ObjectMeta};
use calico_datastore::Error;

use crate::arguments::{Globals, IpamConfigure};
use crate::{client, output};

/// How often somebody else may write between our reading and our writing.
const TRIES: usize = 5;

/// Runs it.
pub(crate) async fn run(flags: &IpamConfigure, globals: &Globals) -> Result<ExitCode> {
    let store = client::open_gated(globals).await?;
    let key = Key::named(Kind::IPAMConfiguration, "default");
    for _ in 0..TRIES {
        let written = match store.get::<IPAMConfigurationSpec>(&key).await {
            Ok(mut found) => {
                apply(flags, &mut found.spec)?;
                store.update(&found).await
            }
            Err(Error::NotFound(_)) => {
                let mut spec = IPAMConfigurationSpec::default();
                apply(flags, &mut spec)?;
                store.create(&IPAMConfiguration::new(ObjectMeta::named("default"), spec)).await
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(_) => {
                output::print(&told(flags))?;
                return Ok(ExitCode::SUCCESS);
            }
            Err(Error::Conflict(_) | Error::AlreadyExists(_) | Error::NotFound(_)) => {}
            Err(error) => return Err(error).context("the settings of IPAM are as they were"),
        }
    }
    bail!("others changed the settings of IPAM first, {TRIES} times in a row; try again")
}

/// Changes what the flags name, and refuses what nodes could not work with.
fn apply(flags: &IpamConfigure, spec: &mut IPAMConfigurationSpec) -> Result<()> {
    if let Some(strict) = flags.strictaffinity {
        spec.strict_affinity = strict;
    }
    if let Some(blocks) = flags.max_blocks_per_host {
        spec.max_blocks_per_host = Some(blocks);
    }
    if let Some(word) = &flags.kubevirt_ip_persistence {
        spec.kube_virt_vm_address_persistence = Some(word.clone());
    }
    if let Some(seconds) = flags.ip_cooldown_seconds {
        spec.ip_cooldown_seconds = Some(seconds);
    }
    if !spec.strict_affinity && spec.max_blocks_per_host.is_some_and(|blocks| blocks > 0) {
        bail!("MaxBlocksPerHost is only possible with StrictAffinity; set --strictaffinity=true, too");
    }
    if !spec.strict_affinity && !spec.auto_allocate_blocks {
        bail!("StrictAffinity cannot be false while AutoAllocateBlocks is; set that to true first");
    }
    Ok(())
}

fn told(flags: &IpamConfigure) -> String {
    let settings = [
        ("StrictAffinity", flags.strictaffinity.map(|it| it.to_string())),
        ("MaxBlocksPerHost", flags.max_blocks_per_host.map(|it| it.to_string())),
        ("KubeVirtVMAddressPersistence", flags.kubevirt_ip_persistence.clone()),
        ("IPCooldownSeconds", flags.ip_cooldown_seconds.map(|it| it.to_string())),
    ];
    let given = settings.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("Successfully set {name} to: {value}\n")).collect()
}
