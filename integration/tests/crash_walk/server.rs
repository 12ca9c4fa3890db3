//! The API server is killed at each write of ADD and DEL: before it hears of it, and when it has done it but could not say
//! so. It comes back, and the runtime tries again.

use std::sync::{MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use integration::servers::Server;
use integration::servers::kubernetes::ApiServer;
use integration::{Net, PATIENCE, StoreKind, wait};

use crate::account::Account;
use crate::again;
use crate::bed::Bed;
use crate::gate::{Gate, Point};
use crate::proxy::{Authority, Validity};
use crate::sandbox::{End, Sandbox};

fn server(net: &Net) -> MutexGuard<'_, ApiServer> {
    match net.server() {
        Some(Server::Kubernetes(server)) => server.lock().unwrap_or_else(PoisonError::into_inner),
        _ => unreachable!("this topology has an API server"),
    }
}

fn walk(verb: &str, at_least: u32) -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    let mut account = Account::new(&server(&net), "calico-node")?;
    account.grant_everything(&server(&net))?;
    let authority = Authority::new("the gate's")?;
    account.write(&server(&net), &node, Some(authority.pem()))?;
    let own = std::fs::read_to_string(net.directory().join("kubernetes/ca.crt"))?;
    let tls = authority.serves("10.0.0.1", Validity::Now)?.tls();
    let gate = Gate::start(net.network()?, "10.0.0.1:7443", "10.0.0.1:6443", &own, tls)?;
    let in_pod = [("KUBECONFIG", ""), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "7443")];
    let bed = Bed::with(&net, node, &in_pod)?;

    let (mut write, mut kills) = (1, 0);
    for round in 1_u16.. {
        // Only of the first write: of the others, "before" is "after" of the one before it.
        let point = if round == 1 { Point::Before } else { Point::After };
        let mut sandbox = Sandbox::new(&bed.node, &format!("{verb}-{round}").to_lowercase(), "web-0", round)?;
        if verb == "DEL" {
            sandbox.add(&bed.node)?;
        }
        gate.stop(write, point);
        let mut plugin = sandbox.start(&mut bed.node.command("/opt/cni/bin/calico"), verb)?;
        let stopped = wait::until(PATIENCE, "the write comes, or the plugin ends", || {
            match (gate.stopped(), plugin.try_wait()?) {
                (Some(request), _) => Ok(Some(Some(request))),
                (None, Some(_)) => Ok(Some(None)),
                (None, None) => Ok(None),
            }
        })?;
        // What is not waited for any more may still be written: DEL may be answered before all of it is done.
        let stopped = match stopped {
            None if verb == "DEL" => late(&bed, &gate)?,
            stopped => stopped,
        };
        if stopped.is_some() {
            server(&net).kill()?;
            kills += 1;
        }
        gate.open();
        if stopped.is_some() {
            server(&net).restart()?;
        }
        let end = sandbox.end(plugin, verb)?;
        let told =
            format!("{verb}: the API server was killed at write {write} ({stopped:?}, {point:?}); the plugin: {end:?}");
        match &end {
            End::Killed => bail!("{told}"),
            End::Failed(error) if stopped.is_none() => bail!("{told}: {error}"),
            End::Done if verb == "ADD" => {
                bed.settles("what was told to be connected is", &[&sandbox]).with_context(|| told.clone())?;
            }
            End::Done | End::Failed(_) => {}
        }
        if verb == "ADD" {
            again(&bed, sandbox).with_context(|| told.clone())?;
        } else {
            sandbox.del(&bed.node)?;
            bed.settles("nothing is left", &[]).with_context(|| told.clone())?;
        }
        if stopped.is_none() {
            ensure!(kills >= at_least, "the API server was killed only {kills} times");
            return bed.node.check();
        }
        write += u32::from(point == Point::After);
    }
    bail!("there is no end of writes")
}

/// The write that is stopped after the plugin's end, if one comes before all is done.
fn late(bed: &Bed<'_>, gate: &Gate) -> Result<Option<String>> {
    wait::until(PATIENCE, "the write comes, or all is done", || match gate.stopped() {
        Some(request) => Ok(Some(Some(request))),
        None => Ok(bed.is_settled(&[])?.then_some(None)),
    })
}

#[test]
fn the_api_server_is_killed_at_each_write_of_add() -> Result<()> {
    walk("ADD", 4)
}

#[test]
fn the_api_server_is_killed_at_each_write_of_del() -> Result<()> {
    walk("DEL", 3)
}
