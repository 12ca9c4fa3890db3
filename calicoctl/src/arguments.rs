//! What can be typed. Flags are accepted before and after the command.

mod bgp;
mod ipam;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::bgp::{Bgp, BgpCommand, Form, Neighbors, Routes, Sessions};
pub(crate) use self::ipam::{Ipam, IpamCheck, IpamCommand, IpamConfigure, IpamRelease, IpamShow};

/// The command line of an Ocicat or Calico cluster: shows and changes its resources, looks into IPAM and at the node.
///
/// The datastore is chosen by /etc/calico/calicoctl.cfg (see --config), or by the environment: DATASTORE_TYPE is
/// kubernetes, etcdv3 or sqlite, with KUBECONFIG, ETCD_ENDPOINTS or SQLITE_PATH.
#[derive(Debug, Parser)]
#[command(name = "calicoctl", version = calico_version::LONG, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Globals {
    /// How much is logged: panic, fatal, error, warn, info or debug.
    #[arg(short = 'l', long, global = true, default_value = "panic",
        value_parser = ["panic", "fatal", "error", "warn", "info", "debug"])]
    pub(crate) log_level: String,
    /// The context of the kubeconfig to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Talk to a cluster of another version.
    #[arg(long, global = true)]
    pub(crate) allow_version_mismatch: bool,
    /// The file that says which datastore to use. [default: /etc/calico/calicoctl.cfg]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create resources from a file.
    Create(Create),
    /// Create resources from a file, or change those that exist.
    Apply(Files),
    /// Replace resources that exist by those of a file.
    Replace(Files),
    /// Delete resources, by a file or by kind and names.
    Delete(Delete),
    /// Show resources. Tables never show a Secret's values; -o yaml and -o json do, as kubectl's do.
    Get(Get),
    /// Change some fields of a resource.
    Patch(Patch),
    /// Set or remove a label of a resource.
    Label(Label),
    /// Look into BGP: the sessions that follow from the resources, and what the speaker of this node knows.
    Bgp(Bgp),
    /// Look into address management.
    Ipam(Ipam),
    /// Look at the node that this runs on, or at another.
    Node(Node),
    /// Show the version of this program and of the cluster.
    Version(Version),
}

/// Where resources are read from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Files {
    /// A file, a directory, or - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: Option<PathBuf>,
    /// Also the directories within the directory.
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// It is no error if there is nothing in the files.
    #[arg(long)]
    pub(crate) skip_empty: bool,
    /// The namespace of namespaced resources that name none.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) files: Files,
    /// Leave alone what exists.
    #[arg(long)]
    pub(crate) skip_exists: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The kind: ippool, node, bgppeer, …
    pub(crate) kind: Option<String>,
    /// Which of it.
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) files: Files,
    /// It is no error if something does not exist.
    #[arg(short, long)]
    pub(crate) skip_not_exists: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The kind: ippool, node, bgppeer, …
    pub(crate) kind: Option<String>,
    /// Which of it; all, if none is named.
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) files: Files,
    /// The form: ps, wide, yaml, json, or custom-columns=A,B.
    #[arg(short, long, default_value = "ps")]
    pub(crate) output: String,
    /// Those of every namespace.
    #[arg(short = 'A', long, short_alias = 'a')]
    pub(crate) all_namespaces: bool,
    /// Without what only this cluster knows (uid, revision, times), where names are given.
    #[arg(long)]
    pub(crate) export: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Patch {
    /// The kind: node, bgppeer, ippool, …
    pub(crate) kind: String,
    /// Which of it.
    pub(crate) name: String,
    /// What changes, as JSON or YAML: {"spec":{"bgp":{"routeReflectorClusterID":"244.0.0.1"}}}
    #[arg(short, long)]
    pub(crate) patch: String,
    /// How the patch is to be read: strategic and merge say how fields become, and null removes one; json is a list of
    /// operations (RFC 6902). Lists are replaced, never merged.
    #[arg(short = 't', long = "type", default_value = "strategic")]
    pub(crate) patch_type: PatchType,
    /// The namespace of a namespaced resource. [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatchType {
    /// Kubernetes' strategic merge patch.
    Strategic,
    /// JSON merge patch (RFC 7386).
    Merge,
    /// JSON patch (RFC 6902).
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Label {
    /// The kind: nodes, ippool, …
    pub(crate) kind: String,
    /// Which of it.
    pub(crate) name: String,
    /// key=value; with --remove the key alone.
    pub(crate) label: String,
    /// Give another value to a label that is there.
    #[arg(long, conflicts_with = "remove")]
    pub(crate) overwrite: bool,
    /// Remove the label.
    #[arg(long)]
    pub(crate) remove: bool,
    /// The namespace of a namespaced resource. [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show whether the agent runs and how the BGP sessions are.
    ///
    /// Of this node, which needs root; or with --node of any, through a CalicoNodeStatus that is made for the answer and
    /// deleted again.
    Status(NodeStatus),
    /// Remove what Ocicat left on this node: routes, tunnels, packet rules, plugins, files. Needs root.
    ///
    /// To be run when felix and bgp-speaker are gone for good, and before pods of another network are started. Running pods
    /// lose their network. What is not ours, or not for sure, stays, and is told with the reason. It may be repeated.
    Cleanup(NodeCleanup),
}

#[derive(Debug, Args)]
pub(crate) struct NodeCleanup {
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only what is in the kernel.
    #[arg(long)]
    pub(crate) keep_files: bool,
    /// What flannel left, instead of what is ours: flannel.VNI, flannel-v6.VNI, cni0, routes through them, its files.
    #[arg(long)]
    pub(crate) flannel: bool,
    /// Even if felix or bgp-speaker (with --flannel: flanneld) run: what they put back will stay.
    #[arg(long)]
    pub(crate) force: bool,
    /// Where the node's files are, if this runs in a container that has its folders mounted.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub(crate) root: PathBuf,
    /// With what the names of pods' interfaces begin; several joined by commas.
    #[arg(long, value_name = "PREFIX", env = "FELIX_INTERFACEPREFIX", default_value = "cali")]
    pub(crate) interface_prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct NodeStatus {
    /// Of this node, whichever it is. Needs no root.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// With --node: also its routes.
    #[arg(long, requires = "node")]
    pub(crate) routes: bool,
    /// The form.
    #[arg(short, long, default_value = "ps")]
    pub(crate) output: StatusForm,
}

/// The form of `node status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusForm {
    /// Tables.
    Ps,
    /// JSON.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Only of this program.
    #[arg(long)]
    pub(crate) client: bool,
}
