//! What can be typed behind `calicoctl bgp`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Bgp {
    #[command(subcommand)]
    pub(crate) command: BgpCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// Show the sessions that follow from the resources, and what changed resources would do to them.
    ///
    /// Reads the datastore only, so it needs no root and runs anywhere. With -f nothing is written: it shows which
    /// sessions the resources in the file would add, keep, change, reset and remove. Exit code 1 if a file has errors.
    Sessions(Sessions),
    /// Show the paths that this node's speaker knows, and why each is used or not.
    Routes(Routes),
    /// Show the peers of this node's speaker: state, last error, what is agreed, and counts.
    #[command(visible_alias = "peers")]
    Neighbors(Neighbors),
}

#[derive(Debug, Args)]
pub(crate) struct Sessions {
    /// Only those of this node.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Resources as they would be: a file, a directory, or - for standard input; may be repeated.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: Vec<PathBuf>,
    /// Also the directories within directories.
    #[arg(short = 'R', long, requires = "filename")]
    pub(crate) recursive: bool,
    /// The resources in the files would be deleted.
    #[arg(long, requires = "filename")]
    pub(crate) delete: bool,
    /// Read a file of resources, as `bgp-speaker --resources` does, in place of the datastore.
    #[arg(long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// The form.
    #[arg(short, long, default_value = "ps")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

#[derive(Debug, Args)]
pub(crate) struct Routes {
    /// Only what equals this prefix or lies in it; for an address, the longest prefix around it.
    #[arg(value_name = "PREFIX|ADDRESS")]
    pub(crate) prefix: Option<String>,
    /// Only the paths that this peer sent: its address, or the session's name.
    #[arg(long, value_name = "PEER")]
    pub(crate) peer: Option<String>,
    /// The form.
    #[arg(short, long, default_value = "ps")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

#[derive(Debug, Args)]
pub(crate) struct Neighbors {
    /// Everything about this one: its address, or the session's name.
    #[arg(value_name = "ADDRESS|NAME")]
    pub(crate) peer: Option<String>,
    /// The form.
    #[arg(short, long, default_value = "ps")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

/// Where the speaker answers.
#[derive(Clone, Debug, Args)]
pub(crate) struct Socket {
    /// The status socket of this node's speaker.
    #[arg(long, value_name = "PATH", default_value = "/run/ocicat/bgp.sock")]
    pub(crate) socket: PathBuf,
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A table.
    Ps,
    /// A table with more columns.
    Wide,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}
