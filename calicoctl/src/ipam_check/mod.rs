//! `calicoctl ipam check`: what IPAM holds against what is in use.

mod report;
mod scan;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use calico_api::{
    ClusterInformationSpec, IPAMBlockSpec, IPAMHandleSpec, IPPoolSpec, Key, Kind, KubeControllersConfigurationSpec,
    NodeSpec, ServiceSpec, WorkloadEndpointSpec,
};
use calico_datastore::{Error, Filter, List, Store, connect_core};

pub(crate) use report::{Allocation, LeakedHandle, Report, cluster};
use scan::{Facts, Findings};

use crate::arguments::{Globals, IpamCheck};
use crate::{client, output};

/// Runs it.
pub(crate) async fn run(flags: &IpamCheck, globals: &Globals) -> Result<ExitCode> {
    let store = client::open_gated(globals).await?;
    let config = client::config(globals)?;
    output::print("Checking IPAM for inconsistencies...\n\n")?;
    let blocks = list::<IPAMBlockSpec>(&store).await?;
    let pools = list::<IPPoolSpec>(&store).await?;
    let nodes = list::<NodeSpec>(&store).await?;
    let core = connect_core(&config, |name| std::env::var(name).ok()).await?;
    let services = services(&store, core.as_ref()).await?;
    let endpoints = list::<WorkloadEndpointSpec>(&store).await?;
    let handles = list::<IPAMHandleSpec>(&store).await?;
    let unreadable: Vec<_> = [&blocks.faults, &pools.faults, &nodes.faults, &endpoints.faults, &handles.faults]
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    let facts = Facts {
        blocks: blocks.items,
        pools: pools.items,
        nodes: nodes.items,
        services,
        endpoints: endpoints.items,
        handles: handles.items,
        unreadable,
    };
    let findings = scan::scan(&facts, jiff::Timestamp::now());
    output::print(&text(&facts, &findings, flags))?;
    if let Some(path) = &flags.output {
        let information = cluster(&store).await?;
        let report = Report::new(&information, &findings);
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write the report to {}", path.display()))?;
    }
    let problems = findings.problems();
    output::print(&format!("Check complete; found {problems} problems.\n"))?;
    Ok(if flags.exit_code && problems > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn list<S: calico_api::Spec>(store: &Store) -> Result<List<S>> {
    store.list::<S>(&Filter::All).await.with_context(|| format!("cannot list {}", S::KIND.plural()))
}

/// The addresses of Services of type LoadBalancer, if a controller gives any.
async fn services(store: &Store, core: Option<&Store>) -> Result<Option<Vec<(IpAddr, String)>>> {
    let key = Key::named(Kind::KubeControllersConfiguration, "default");
    let gives = match store.get::<KubeControllersConfigurationSpec>(&key).await {
        Ok(found) => found.spec.controllers.load_balancer.is_some(),
        Err(Error::NotFound(_)) => false,
        Err(error) => return Err(error).context("cannot read KubeControllersConfiguration"),
    };
    if !gives {
        return Ok(None);
    }
    let listed = list::<ServiceSpec>(core.unwrap_or(store)).await?;
    let addresses = listed.items.iter().flat_map(|service| {
        let name = format!("{}/{}", service.metadata.namespace.as_deref().unwrap_or_default(), service.name());
        service
            .ingress_addresses()
            .filter_map(|text| text.parse().ok())
            .map(move |it| (it, name.clone()))
            .collect::<Vec<_>>()
    });
    Ok(Some(addresses.collect()))
}

fn text(facts: &Facts, findings: &Findings, flags: &IpamCheck) -> String {
    let mut out = String::new();
    let all = flags.show_all_ips;
    let problems = all || flags.show_problem_ips;
    let lines = |out: &mut String, show: bool, lines: &[String]| {
        for line in lines.iter().filter(|_| show) {
            let _ = writeln!(out, "  {line}");
        }
    };
    let _ = write!(out, "Loading all IPAM blocks...\nFound {} IPAM blocks.\n", facts.blocks.len());
    for block in &facts.blocks {
        let owner = block.spec.affinity.as_deref().unwrap_or("<none>");
        let _ = writeln!(out, " IPAM block {} affinity={owner}:", block.spec.cidr);
        if all {
            let of = findings.allocations.values().flatten().filter(|it| block.spec.cidr.contains(&it.ip));
            for it in of {
                let _ = writeln!(out, "  {} allocated; {}", it.ip, it.attributes());
            }
        }
    }
    let _ = write!(out, "IPAM blocks record {} allocations.\n\n", findings.allocations.values().flatten().count());
    out += "Loading all IPAM pools...\n";
    for cidr in &findings.active_pools {
        let _ = writeln!(out, "  {cidr}");
    }
    let _ = write!(out, "Found {} active IP pools.\n\n", findings.active_pools.len());
    let _ = write!(out, "Loading all nodes.\nFound {} node tunnel IPs.\n\n", findings.tunnels);
    match &facts.services {
        Some(services) => {
            let _ = write!(
                out,
                "Loading all service load balancers.\nFound {} service load balancer IPs.\n\n",
                services.len()
            );
        }
        None => out += "Skipping service load balancers: KubeControllersConfiguration has no loadBalancer section.\n\n",
    }
    let _ = write!(
        out,
        "Loading all workload endpoints.\nFound {} workload IPs.\nWorkloads and nodes are using {} IPs.\n\n",
        findings.workloads,
        findings.in_use.len()
    );
    let _ = write!(out, "Loading all handles\nLooking for top (up to 20) nodes by allocations...\n");
    for (node, count) in &findings.top {
        let _ = writeln!(out, "  {node} has {count} allocations");
    }
    let _ = write!(out, "Node with most allocations has {}; median is {}\n\n", findings.most, findings.median);
    out += "Scanning for IPs that are allocated but not actually in use...\n";
    lines(&mut out, problems, &findings.leaked_lines());
    let _ = writeln!(out, "Found {} IPs that are allocated in IPAM but not actually in use.", findings.leaked);
    out += "Scanning for IPs that are in use by a workload or node but not allocated in IPAM...\n";
    lines(&mut out, problems, &findings.outside);
    let _ = writeln!(out, "Found {} in-use IPs that are not in active IP pools.", findings.outside.len());
    lines(&mut out, problems, &findings.unallocated);
    let _ = write!(
        out,
        "Found {} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.\n\n",
        findings.unallocated.len()
    );
    if !findings.shared.is_empty() {
        out += "Scanning for IPs that several workloads or nodes use...\n";
        lines(&mut out, problems, &findings.shared);
        let _ = write!(out, "Found {} IPs with more than one user.\n\n", findings.shared.len());
    }
    out += "Scanning for IPAM handles with no matching IPs...\n";
    let ids: Vec<String> = findings.leaked_handles.iter().map(|handle| handle.id.clone()).collect();
    lines(&mut out, problems, &ids);
    let _ = writeln!(
        out,
        "Found {} handles with no matching IPs (and {} handles with matches).",
        ids.len(),
        facts.handles.len().saturating_sub(ids.len())
    );
    out += "Scanning for IPs with missing handle...\n";
    lines(&mut out, problems, &findings.missing_handles);
    let _ = write!(
        out,
        "Found {} handles mentioned in blocks with no matching handle resource.\n\n",
        findings.missing_handles.len()
    );
    out += "Validating IPAMBlock structures...\n";
    lines(&mut out, problems, &findings.invalid);
    let _ = writeln!(out, "Found {} invalid IPAMBlocks.", findings.invalid.len());
    if !facts.unreadable.is_empty() {
        let unreadable: Vec<String> =
            facts.unreadable.iter().map(|fault| Error::Corrupt(fault.clone()).to_string()).collect();
        lines(&mut out, true, &unreadable);
        let _ = writeln!(out, "Found {} records that cannot be read.", unreadable.len());
    }
    out
}

/// What ClusterInformation says, for reports.
pub(crate) type Information = calico_api::Resource<ClusterInformationSpec>;
