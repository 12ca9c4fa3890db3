//! The store stops and starts again: what runs goes on, what is new waits or says why not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration::lab::{Lab, Matrix, Options, Progress};
use integration::{Net, PATIENCE, Pod, StoreKind, wait};

fn survives(store: StoreKind) -> Result<()> {
    let net = Net::new(store)?;
    let options = Options { nodes: 2, pods: 1, store };
    let nodes = Lab::nodes(&net, options, &mut Progress::quiet())?;
    let lab = Lab::start(&nodes, options, &mut Progress::quiet())?;
    let node = &nodes[0];
    let leaving = node.pod("leaving")?;
    let waiting = Pod::sandbox(node, "waiting")?;

    let database = net.directory().join("ocicat.db");
    let aside = net.directory().join("aside");
    match net.server() {
        Some(server) => server.stop()?,
        None => {
            std::fs::create_dir(&aside)?;
            for ending in ["", "-wal", "-shm", "-notify"] {
                let name = format!("ocicat.db{ending}");
                if net.directory().join(&name).exists() {
                    std::fs::rename(net.directory().join(&name), aside.join(&name))?;
                }
            }
        }
    }

    // What is there goes on.
    anyhow::ensure!(Matrix::of(lab.pods()).failures() == 0, "pods lost each other when the store went");
    // What is new is refused, soon and clearly.
    let start = Instant::now();
    let error = format!("{:#}", waiting.add().err().context("ADD succeeded without a store")?);
    anyhow::ensure!(start.elapsed() < Duration::from_secs(20), "it took {:?} to say: {error}", start.elapsed());
    anyhow::ensure!(error.contains("\"code\": 11") || error.contains("\"code\":11"), "{error}");
    // What goes, goes; the release is remembered.
    let address = leaving.address()?;
    leaving.del().context("DEL without a store")?;

    match net.server() {
        Some(server) => server.start_again()?,
        None => {
            for entry in std::fs::read_dir(&aside)? {
                let entry = entry?;
                std::fs::rename(entry.path(), database.with_file_name(entry.file_name()))?;
            }
        }
    }
    wait::becomes(PATIENCE * 2, "the remembered release is done", || {
        Ok(node.calicoctl(&["ipam", "show", "--ip", &address.to_string()])?.contains("is not assigned"))
    })
    .with_context(|| node.last_lines("felix"))?;
    wait::becomes(PATIENCE, "the waiting pod is served", || Ok(waiting.add().is_ok()))?;
    let other = &lab.pods()[1];
    wait::becomes(PATIENCE, "the new pod is reached", || Ok(other.ping(waiting.address()?).is_ok()))?;
    nodes.iter().try_for_each(integration::Node::check)
}

#[test]
fn sqlite_may_go_and_come_back() -> Result<()> {
    survives(StoreKind::Sqlite)
}

#[test]
fn etcd_may_go_and_come_back() -> Result<()> {
    survives(StoreKind::Etcd)
}

#[test]
fn the_api_server_may_go_and_come_back() -> Result<()> {
    survives(StoreKind::Kubernetes)
}
