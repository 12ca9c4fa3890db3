//! The lab's scenarios beyond the main job, with every program real: they end as a person would want to see them end.

use std::process::Command;

use anyhow::{Result, ensure};
use integration::lab::{Lab, Mode, ModesOptions, Options, Progress, Racks, modes, reflectors};
use integration::{Net, StoreKind};

fn mesh_becomes_reflectors(store: StoreKind) -> Result<()> {
    let net = Net::new(store)?;
    let options = Options { nodes: 6, pods: 1, store };
    let nodes = Lab::nodes(&net, options, &mut Progress::quiet())?;
    let lab = Lab::start(&nodes, options, &mut Progress::quiet())?;
    let report = reflectors(&nodes, &lab, &mut Progress::quiet())?;
    ensure!(report.good(), "{report}");
    let of = |reflector: bool| report.nodes.iter().filter(move |node| node.reflector == reflector);
    ensure!(of(true).all(|node| node.sessions.len() == 5) && of(true).count() == 2, "{report}");
    ensure!(of(false).all(|node| node.sessions.len() == 2) && of(false).count() == 4, "{report}");
    ensure!(report.pings.pings.len() == 30, "{report}");
    Ok(())
}

#[test]
fn a_running_mesh_becomes_two_reflectors_on_sqlite() -> Result<()> {
    mesh_becomes_reflectors(StoreKind::Sqlite)
}

#[test]
fn a_running_mesh_becomes_two_reflectors_on_etcd() -> Result<()> {
    mesh_becomes_reflectors(StoreKind::Etcd)
}

#[test]
fn a_running_mesh_becomes_two_reflectors_on_kubernetes() -> Result<()> {
    mesh_becomes_reflectors(StoreKind::Kubernetes)
}

fn racks_routers_hold_what_the_resources_say(store: StoreKind) -> Result<()> {
    let net = Net::new(store)?;
    let racks = Racks::new(&net, 2, &mut Progress::quiet())?;
    let (report, _pods) = racks.play(1, &mut Progress::quiet())?;
    ensure!(report.good(), "{report}");
    ensure!(report.before.len() == 2 && report.after.len() == 2, "both routers were asked, twice: {report}");
    ensure!(report.before != report.after, "the Service's address moved: {report}");
    ensure!(report.pings.pings.len() == 12, "{report}");
    Ok(())
}

#[test]
fn the_racks_routers_hold_exactly_what_the_resources_say_on_sqlite() -> Result<()> {
    racks_routers_hold_what_the_resources_say(StoreKind::Sqlite)
}

#[test]
fn the_racks_routers_hold_exactly_what_the_resources_say_on_kubernetes() -> Result<()> {
    racks_routers_hold_what_the_resources_say(StoreKind::Kubernetes)
}

#[test]
fn changes_of_mode_lose_no_packet() -> Result<()> {
    // Those with IPIP, and all at a high rate, are for `cargo xtask lab`.
    let modes_played = vec![Mode::Never, Mode::Vxlan, Mode::VxlanCrosssubnet];
    let options =
        ModesOptions { modes: modes_played, rate: 50, nodes: 4, sequence: false, only_ipip: false, report: None };
    let report = modes(&options, &mut Progress::quiet(), &|_| ())?;
    ensure!(report.good(), "{report}");
    ensure!(report.switches.len() == 6 && report.baselines.len() == 1, "{report}");
    let largest =
        |to: Mode| report.switches.iter().filter(move |switch| switch.to == to).map(|switch| switch.outcome.largest);
    ensure!(largest(Mode::Never).all(|octets| octets == Some(1500)), "pods that began without: {report}");
    ensure!(largest(Mode::Vxlan).all(|octets| octets == Some(1450)), "{report}");
    Ok(())
}

#[test]
fn the_lab_refuses_an_option_that_it_would_not_heed() -> Result<()> {
    let modes = ["--scenario", "modes"];
    for words in [
        [&modes[..], &["--keep"]].concat(),
        [&modes[..], &["--datastore", "etcd"]].concat(),
        [&modes[..], &["--pods", "2"]].concat(),
        vec!["--modes", "never,vxlan"],
        vec!["--rate", "10"],
        vec!["--no-sequence"],
        vec!["--modes", "never", "--no-sequence", "--scenario", "modes"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(&words).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        let named = error.contains(words[0]) || words[0] == "--modes" && error.contains("nothing to play");
        ensure!(!output.status.success() && named && !error.contains(" … "), "{words:?}: {error}");
    }
    Ok(())
}
