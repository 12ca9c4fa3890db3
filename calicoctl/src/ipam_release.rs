//! `calicoctl ipam release`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use calico_api::{IPAMBlock, IPAMBlockSpec, IPAMConfigurationSpec, Key, Kind};
use calico_datastore::{Error, Filter, Store};
use ipam::{Assignment, delete_orphan_handle, release_assignments};
use jiff::Timestamp;

use crate::arguments::{Globals, IpamRelease};
use crate::ipam_check::{Allocation, LeakedHandle, Report, cluster};
use crate::{client, output};

/// Runs it.
pub(crate) async fn run(flags: &IpamRelease, globals: &Globals) -> Result<ExitCode> {
    if let Some(text) = &flags.ip {
        let Ok(address) = text.parse::<IpAddr>() else { bail!("invalid IP address specified: {text}") };
        let store = client::open_gated(globals).await?;
        return one(&store, address).await;
    }
    let reports = flags.from_report.iter().map(read).collect::<Result<Vec<_>>>()?;
    let store = client::open_gated(globals).await?;
    from_reports(&store, &reports, flags.force).await
}

fn read(path: &PathBuf) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the report {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a report of `ipam check -o`", path.display()))
}

async fn cooldown(store: &Store) -> Result<jiff::SignedDuration> {
    match store.get::<IPAMConfigurationSpec>(&Key::named(Kind::IPAMConfiguration, "default")).await {
        Ok(found) => Ok(ipam::plan::cooldown(&found.spec)),
        Err(Error::NotFound(_)) => Ok(jiff::SignedDuration::ZERO),
        Err(error) => Err(error).context("cannot read the settings of IPAM"),
    }
}

async fn blocks(store: &Store) -> Result<Vec<IPAMBlock>> {
    let list = store.list::<IPAMBlockSpec>(&Filter::All).await.context("cannot list ipamblocks")?;
    for fault in &list.faults {
        output::errors(&format!("{}\n", Error::Corrupt(fault.clone())))?;
    }
    Ok(list.items)
}

async fn one(store: &Store, address: IpAddr) -> Result<ExitCode> {
    let not_assigned = || anyhow::anyhow!("IP address {address} is not assigned");
    let held = ipam::who_has(&blocks(store).await?, address).filter(|holder| holder.released_at.is_none());
    let Some(holder) = held else { return Err(not_assigned()) };
    let assignment = Assignment { block: holder.block, address, sequence_number: holder.sequence_number };
    let (handle, cooldown) = (holder.handle.as_deref(), cooldown(store).await?);
    let released = release_assignments(store, handle, &[assignment], cooldown, Timestamp::now()).await?;
    if released.is_empty() {
        return Err(not_assigned());
    }
    output::print(&format!("Successfully released IP address {address}\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn from_reports(store: &Store, reports: &[Report], force: bool) -> Result<ExitCode> {
    let information = cluster(store).await?;
    let (spec, revision) = (&information.spec, information.metadata.resource_version.as_deref());
    let guid = spec.cluster_guid.as_deref().unwrap_or_default();
    if guid.is_empty() || reports.iter().any(|report| report.cluster_guid != guid) {
        bail!("the report is of another cluster: its GUID is not {guid}; --force does not help");
    }
    let mut objections = Vec::new();
    if spec.datastore_ready != Some(false) {
        objections
            .push("the datastore is not locked (datastoreReady of the ClusterInformation is not false)".to_owned());
    }
    let ours = calico_version::CALICO_COMPATIBLE;
    objections.extend(
        reports
            .iter()
            .filter(|it| it.version != ours)
            .map(|it| format!("a report was made by version {}, this is {ours}", it.version)),
    );
    if !reports.iter().any(|report| Some(report.cluster_information_revision.as_str()) == revision) {
        objections.push("no report was made since the datastore was locked".to_owned());
    }
    match force {
        false if !objections.is_empty() => bail!("{}; or use --force", objections.join("; ")),
        _ => objections.iter().try_for_each(|it| output::errors(&format!("WARNING: {it}\n")))?,
    }

    let leaked = in_all(reports);
    output::print(&format!("{} addresses are leaked in all reports.\n", leaked.values().map(Vec::len).sum::<usize>()))?;
    let known = blocks(store).await?;
    let cooldown = cooldown(store).await?;
    let (mut released, mut skipped, mut errors) = (0, 0, 0);
    for (handle, leaks) in leaked {
        let assignments: Vec<Assignment> = leaks
            .iter()
            .filter_map(|leak| {
                let block = known.iter().find(|block| block.spec.cidr.contains(&leak.ip))?.spec.cidr;
                Some(Assignment { block, address: leak.ip, sequence_number: leak.sequence_number.unwrap_or_default() })
            })
            .collect();
        match release_assignments(store, handle.as_deref(), &assignments, cooldown, Timestamp::now()).await {
            Ok(done) => {
                released += done.len();
                skipped += leaks.len() - done.len();
            }
            Err(error) => {
                errors += leaks.len();
                output::errors(&format!("{:#}\n", anyhow::Error::from(error)))?;
            }
        }
    }
    output::print(&format!("Released {released} addresses; {skipped} skipped; {errors} errors.\n"))?;
    let failed = errors + handles(store, reports).await?;
    output::print("You may now unlock the data store.\n")?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is leaked in each report, as the same assignment; by handle.
fn in_all(reports: &[Report]) -> BTreeMap<Option<String>, Vec<Allocation>> {
    let Some((first, others)) = reports.split_first() else { return BTreeMap::new() };
    let is_same = |report: &Report, leak: &Allocation| {
        report
            .allocations
            .get(&leak.ip)
            .into_iter()
            .flatten()
            .any(|it| it.is_leaked() && it.handle == leak.handle && it.sequence_number == leak.sequence_number)
    };
    let mut leaked: BTreeMap<Option<String>, Vec<Allocation>> = BTreeMap::new();
    for leak in first.allocations.values().flatten().filter(|it| it.is_leaked()) {
        if others.iter().all(|report| is_same(report, leak)) {
            leaked.entry(leak.handle.clone()).or_default().push(leak.clone());
        }
    }
    leaked
}

/// Deletes the handles without addresses of all reports; returns how many could not be.
async fn handles(store: &Store, reports: &[Report]) -> Result<usize> {
    let Some((first, others)) = reports.split_first() else { return Ok(0) };
    let of = |report: &Report| report.leaked_handles.iter().cloned().collect::<BTreeSet<LeakedHandle>>();
    let leaked: Vec<LeakedHandle> =
        of(first).into_iter().filter(|handle| others.iter().all(|report| of(report).contains(handle))).collect();
    let (mut deleted, mut skipped, mut errors, mut line) = (0, 0, 0, String::new());
    for handle in &leaked {
        match delete_orphan_handle(store, &handle.id, &handle.revision).await {
            Ok(true) => {
                deleted += 1;
                line.push('.');
            }
            Ok(false) => skipped += 1,
            Err(error) => {
                errors += 1;
                line.push('x');
                output::errors(&format!("{error}\n"))?;
            }
        }
    }
    let _ = write!(line, "\nReleased {deleted} handles; {skipped} skipped; {errors} errors.\n");
    output::print(&line)?;
    Ok(errors)
}
