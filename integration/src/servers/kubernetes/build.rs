//! Where the programs come from: kube-apiserver from its Go module, etcd from the distribution.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::programs;

/// The programs.
#[derive(Clone, Debug)]
pub struct Paths {
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// etcd, 3.4 or newer.
    pub etcd: PathBuf,
}

/// Finds the programs, and builds what is missing: the first time this takes minutes and says so, on standard error.
///
/// # Errors
/// If something is missing that cannot be built here; the text says what to install.
pub fn ensure_built() -> Result<Paths> {
    let etcd = programs::find("etcd").context("etcd is not installed: apt-get install etcd-server")?;
    let built = programs::ensure_built(&[programs::APISERVER])?;
    let apiserver = built.into_iter().next().context("one program was asked for")?;
    Ok(Paths { apiserver, etcd })
}
