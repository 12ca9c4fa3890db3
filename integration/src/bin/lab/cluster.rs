//! `cargo xtask lab --cluster`: a real cluster on this machine.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use integration::cluster::{self, CONFORMANCE, CONFORMANCE_SPECS, Cluster, Cni, Containerd, Images, Options, Proxy};
use integration::lab::{Progress, Show};

/// What of the command line concerns the cluster.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    /// A real cluster instead: control plane, kubelets and containerd, with Ocicat by its image and manifests.
    #[arg(long, conflicts_with_all = ["scenario", "datastore"])]
    cluster: bool,
    /// Take down the cluster that `--keep` left up.
    #[arg(long, requires = "cluster", conflicts_with_all = ["keep", "e2e"])]
    down: bool,
    /// Run Kubernetes' end-to-end tests whose names match this regular expression instead of the usual show.
    #[arg(long, requires = "cluster", num_args = 0..=1, default_missing_value = CONFORMANCE, value_name = "FOCUS")]
    e2e: Option<String>,
    /// Time how long one node takes to run 110 pods (or `--pods`), by Ocicat and by bridge with host-local, instead of
    /// the usual show.
    #[arg(long, requires = "cluster", conflicts_with_all = ["e2e", "cni", "down"])]
    full_node: bool,
    /// What makes Services work: kube-proxy in this mode.
    #[arg(long, value_enum, default_value_t = Mode::Nftables, requires = "cluster")]
    proxy: Mode,
    /// What runs containers: 1 is the distribution's containerd, 2 is built.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), default_value_t = 1, requires = "cluster")]
    containerd: u8,
    /// What gives pods their network.
    #[arg(long, value_enum, default_value_t = Network::Ocicat, requires = "cluster")]
    cni: Network,
    /// The archive of Ocicat's image. [default: what `cargo xtask image` made]
    #[arg(long, requires = "cluster")]
    image: Option<PathBuf>,
    /// Write an audit log of every request to the API server, as the usual show does anyway.
    #[arg(long, requires = "cluster")]
    audit: bool,
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

    fn options(&self, nodes: Option<u8>) -> Options {
        Options {
            nodes: nodes.unwrap_or(if self.full_node { 1 } else { 3 }),
            cni: if self.cni == Network::Ptp { Cni::Ptp } else { Cni::None },
            proxy: match self.proxy {
                Mode::Nftables => Proxy::Nftables,
                Mode::Iptables => Proxy::Iptables,
                Mode::None => Proxy::None,
            },
            containerd: if self.containerd == 1 { Containerd::Debian } else { Containerd::V2 },
            audit: self.audit || (self.cni == Network::Ocicat && self.e2e.is_none() && !self.full_node),
            images: if self.e2e.is_some() { Images::All } else { Images::Small },
        }
    }
}

/// Plays it; says whether all was as it should be.
pub(crate) fn play(
    arguments: &ClusterArguments,
    nodes: Option<u8>,
    pods: Option<u16>,
    keep: bool,
    json: bool,
) -> Result<bool> {
    if arguments.down {
        eprintln!("{}", if cluster::down()? { "the cluster is gone" } else { "no cluster was up" });
        return Ok(true);
    }
    let options = arguments.options(nodes);
    let image = match (&arguments.image, options.cni) {
        (_, Cni::Ptp) => None,
        (Some(image), _) => Some(image.clone()),
        (None, _) => Some(cluster::image()?),
    };
    cluster::prepare(&options)?;
    let mut progress = Progress::default();
    let name = format!("a control plane and {} nodes", options.nodes);
    let cluster = progress.step(&name, || Cluster::start(&options))?;
    let played = show(&cluster, &options, arguments, image, pods, keep, &mut progress);
    let played = played.and_then(|report| {
        super::print(&report, json)?;
        Ok(report.good())
    });
    if !keep {
        progress.step("the cluster taken down", || {
            drop(cluster);
            Ok(())
        })?;
        return played;
    }
    if let Err(error) = &played {
        eprintln!("\n{error:#}");
    }
    eprintln!("{}", doors(&cluster)?);
    cluster.keep()?;
    played
}

fn show(
    cluster: &Cluster,
    options: &Options,
    arguments: &ClusterArguments,
    image: Option<PathBuf>,
    pods: Option<u16>,
    keep: bool,
    progress: &mut Progress,
) -> Result<integration::lab::ClusterReport> {
    let mut show = Show::begin(cluster, options)?;
    if let Some(image) = &image {
        progress.step("Ocicat by its image and manifests", || cluster.install_ocicat(image))?;
    }
    if let Some(focus) = &arguments.e2e {
        show.dns(progress)?;
        let count = (focus == CONFORMANCE).then_some(CONFORMANCE_SPECS);
        show.e2e(focus, count, progress)?;
        return Ok(show.end(progress));
    }
    if arguments.full_node {
        show.full_node(usize::from(pods.unwrap_or(110)), progress)?;
        progress.step("control plane and nodes still run", || cluster.check())?;
        return Ok(show.end(progress));
    }
    // Ten a node, if not said otherwise.
    let count = usize::from(pods.unwrap_or(10)) * usize::from(options.nodes);
    let pods = show.pods(count, progress)?;
    if image.is_some() {
        show.bad_input(progress)?;
        show.state(progress)?;
        show.roll(&pods, progress)?;
        if !keep {
            show.errands(progress)?;
            show.remove(progress)?;
            show.rights()?;
        }
    }
    progress.step("control plane and nodes still run", || cluster.check())?;
    Ok(show.end(progress))
}

/// How a person gets inside.
fn doors(cluster: &Cluster) -> Result<String> {
    let mut text = format!(
        "\nThe cluster stays up until `cargo xtask lab --cluster --down`.\n  kubeconfig: {} (its address is in the \
         cluster's network only)\n  kubectl: {} get pods --all-namespaces\n",
        cluster::kubeconfig().display(),
        cluster::kubectl().display(),
    );
    for node in cluster.nodes() {
        text += &format!("  {}: {} bash\n", node.name(), node.door().context("a node is off")?);
    }
    Ok(text + &format!("  logs: {}", cluster.logs().display()))
}
