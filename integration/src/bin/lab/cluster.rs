//! `cargo xtask lab --cluster`: a real cluster on this machine.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use integration::cluster::{self, Cluster, Cni, Containerd, Images, Options, Proxy};
use integration::lab::Progress;

/// What of the command line concerns the cluster.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// A real cluster instead: control plane, kubelets and containerd, with Ocicat by its image and manifests.
    #[arg(long, conflicts_with_all = ["scenario", "datastore"])]
    cluster: bool,
    /// Take down the cluster that `--keep` left up.
    #[arg(long, requires = "cluster")]
    down: bool,
    /// What gives pods their network.
    #[arg(long, value_enum, default_value_t = Network::Ocicat, requires = "cluster")]
    cni: Network,
    /// What makes Services work: kube-proxy in this mode.
    #[arg(long, value_enum, default_value_t = Mode::Nftables, requires = "cluster")]
    proxy: Mode,
    /// What runs containers: 1 is the distribution's containerd, 2 is built.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), default_value_t = 1, requires = "cluster")]
    containerd: u8,
    /// The archive of Ocicat's image.
    #[arg(long, requires = "cluster")]
    image: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// Ours.
    Ocicat,
    /// The CNI project's ptp and host-local, to compare with.
    Ptp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Nftables,
    Iptables,
    None,
}

impl ClusterArguments {
    /// Whether a cluster is asked for.
    pub(crate) fn wanted(&self) -> bool {
        self.cluster
    }
}

/// Plays it; says whether all was as it should be.
pub(crate) fn play(
    arguments: &ClusterArguments,
    nodes: Option<u8>,
    _pods: Option<u16>,
    keep: bool,
    _json: bool,
) -> Result<bool> {
    if arguments.down {
        eprintln!("{}", if cluster::down()? { "the cluster is gone" } else { "no cluster was up" });
        return Ok(true);
    }
    let options = Options {
        nodes: nodes.unwrap_or(3),
        cni: if arguments.cni == Network::Ptp { Cni::Ptp } else { Cni::None },
        proxy: match arguments.proxy {
            Mode::Nftables => Proxy::Nftables,
            Mode::Iptables => Proxy::Iptables,
            Mode::None => Proxy::None,
        },
        containerd: if arguments.containerd == 1 { Containerd::Debian } else { Containerd::V2 },
        audit: false,
        images: Images::All,
    };
    let mut progress = Progress::default();
    let cluster = progress.step("cluster", || Cluster::start(&options))?;
    eprintln!("{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
    if keep {
        eprintln!("{}", cluster.kubectl_door());
        cluster.keep()?;
    }
    Ok(true)
}
