//! Five hundred pods at once on one node, by processes of the real plugin: no address twice, and nothing left in the end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, scope};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_api::{IPAMBlockSpec, IPAMHandleSpec, WorkloadEndpointSpec};
use calico_datastore::Filter;
use integration::lab::{Lab, Options, Progress};
use integration::{Net, Node, Pod, StoreKind, wait};

/// How many pods.
const PODS: usize = 500;

/// Within what the store must be empty after the last DEL.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a runtime tries again.
const TRIES: usize = 20;

/// Does something with every pod at the same time.
fn all<'p, T: Sync + 'p>(pods: &'p [T], work: impl Fn(&'p T) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    scope(|scope| {
        let threads =
            pods.iter().map(|pod| Builder::new().stack_size(256 << 10).spawn_scoped(scope, move || work(pod)));
        let threads = threads.collect::<Result<Vec<_>, _>>()?;
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?)
    })
}

/// As a runtime does it: what failed is undone, and tried again.
fn add(pod: &Pod<'_, '_>, again: &AtomicUsize) -> Result<()> {
    for _ in 1..TRIES {
        match pod.add() {
            Ok(_) => return Ok(()),
            Err(_) => drop(again.fetch_add(1, Ordering::Relaxed)),
        }
        // Also a DEL may fail, when there is no agent and its last word is still unknown; the next ADD comes after it.
        let _ = pod.del();
    }
    pod.add().map(drop)
}

fn del(pod: &Pod<'_, '_>) -> Result<()> {
    for _ in 1..TRIES {
        if pod.del().is_ok() {
            return Ok(());
        }
    }
    pod.del()
}

/// Everything that the store holds of pods.
fn left(net: &Net) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = net.datastore().open().await?;
        let mut left = Vec::new();
        let handles = store.list::<IPAMHandleSpec>(&Filter::All).await?.items;
        left.extend(handles.iter().map(|handle| handle.key().to_string()));
        let endpoints = store.list::<WorkloadEndpointSpec>(&Filter::All).await?.items;
        left.extend(endpoints.iter().map(|endpoint| endpoint.key().to_string()));
        for block in store.list::<IPAMBlockSpec>(&Filter::All).await?.items {
            let taken = block.spec.allocations.iter().flatten().count();
            left.extend((taken > 0).then(|| format!("{taken} addresses of {}", block.spec.cidr)));
        }
        Ok(left)
    })
}

/// Kills felix while others work, and starts it again.
fn die(node: &Node<'_>, meanwhile: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    scope(|scope| {
        let work = scope.spawn(meanwhile);
        let killed = (0..2).try_for_each(|_| {
            let before = requests(node)?;
            wait::becomes(PATIENCE, "felix has served some", || {
                Ok(work.is_finished() || requests(node)? >= before + 50)
            })?;
            node.kill("felix")?;
            node.start_felix()
        });
        let done = work.join().map_err(|_| anyhow::anyhow!("the work panicked"))?;
        killed.and(done)
    })
}

/// How many conversations felix has had since it was started.
fn requests(node: &Node<'_>) -> Result<usize> {
    let metrics =
        calico_sys::namespace::inside(&node.holder().network()?, || integration::http::get(9099, "/metrics"))?;
    let lines = metrics?.1;
    let counts = lines.lines().filter(|line| line.starts_with("felix_agent_requests{"));
    Ok(counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum())
}

#[test]
fn five_hundred_pods_at_once_share_no_address_and_leave_nothing() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let options = Options { nodes: 1, pods: 0, store: StoreKind::Sqlite };
    let nodes = Lab::nodes(&net, options, &mut Progress::quiet())?;
    let node = nodes.first().context("a node was asked for")?;
    let names: Vec<String> = (0..PODS).map(|number| format!("many-{number}")).collect();
    let pods = names.iter().map(|name| Pod::sandbox(node, name)).collect::<Result<Vec<_>>>()?;

    let again = AtomicUsize::new(0);
    die(node, || all(&pods, |pod| add(pod, &again)))?;
    let addresses = pods.iter().map(Pod::address).collect::<Result<BTreeSet<IpAddr>>>()?;
    ensure!(addresses.len() == PODS, "only {} addresses for {PODS} pods", addresses.len());
    let routes = node.routes()?;
    let routed: BTreeSet<&str> = routes.iter().filter_map(|route| route["dst"].as_str()).collect();
    let unrouted = addresses.iter().find(|address| !routed.contains(address.to_string().as_str()));
    ensure!(unrouted.is_none(), "{unrouted:?} is a pod's, and has no route");
    eprintln!("{} ADDs were tried again", again.into_inner());

    die(node, || all(&pods, del))?;
    let mut rest = Vec::new();
    let empty = wait::becomes(PATIENCE, "the store holds nothing of pods", || {
        rest = left(&net)?;
        Ok(rest.is_empty())
    });
    empty.with_context(|| format!("left: {rest:?}\n{}", node.last_lines("felix")))?;
    let interfaces = node.run("ip", &["-br", "link"])?;
    ensure!(!interfaces.contains("cali"), "{interfaces}");
    node.check()
}
