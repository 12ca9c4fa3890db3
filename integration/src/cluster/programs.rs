//! The programs that a cluster runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Containerd, Options};
use crate::programs::{self, Program};

/// Where they are.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) apiserver: PathBuf,
    pub(super) controller_manager: PathBuf,
    pub(super) scheduler: PathBuf,
    pub(super) kubelet: PathBuf,
    pub(super) kubectl: PathBuf,
    pub(super) proxy: PathBuf,
    pub(super) etcd: PathBuf,
    /// The folder of containerd 2, if that is wanted.
    pub(super) runtime: Option<PathBuf>,
}

/// Programs that are needed as well, and the Debian packages that bring them.
const INSTALLED: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("bird", "bird2"),
    ("modprobe", "kmod"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
];

impl Paths {
    /// Builds what is missing.
    pub(super) fn ensure(options: &Options) -> Result<Self> {
        for (program, package) in INSTALLED {
            ensure!(programs::find(program).is_some(), "{program} is missing: apt-get install {package}");
        }
        ensure!(
            Path::new("/usr/lib/cni/ptp").is_file(),
            "CNI's own plugins are missing: apt-get install containernetworking-plugins"
        );
        let etcd = programs::find("etcd").context("etcd is not installed: apt-get install etcd-server")?;
        let one = |program: Program| {
            programs::ensure_built(&[program])?.pop().with_context(|| format!("no path of {}", program.name))
        };
        programs::ensure_built(programs::CLUSTER)?;
        let runtime = match options.containerd {
            Containerd::Debian => None,
            Containerd::V2 => {
                programs::ensure_built(programs::CONTAINERD_2)?;
                Some(one(programs::CONTAINERD)?.parent().context("containerd lies in a folder")?.to_owned())
            }
        };
        Ok(Self {
            apiserver: one(programs::APISERVER)?,
            controller_manager: one(programs::CONTROLLER_MANAGER)?,
            scheduler: one(programs::SCHEDULER)?,
            kubelet: one(programs::KUBELET)?,
            kubectl: one(programs::KUBECTL)?,
            proxy: one(programs::PROXY)?,
            etcd,
            runtime,
        })
    }
}
