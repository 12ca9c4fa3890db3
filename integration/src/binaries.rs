//! Where the programs under test are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The programs' folders.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// felix, bgp-speaker, calicoctl.
    daemons: PathBuf,
    /// The static plugins calico and calico-ipam.
    plugins: PathBuf,
    /// The image of all programs, which need not be there.
    image: PathBuf,
}

/// Rust's name for where the plugins run: anywhere.
const PLUGIN_TARGET: &str = "x86_64-unknown-linux-musl";

impl Binaries {
    /// Those that were built beside the running program.
    ///
    /// # Errors
    /// If one is missing; the text names it and the command that builds it.
    pub fn find() -> Result<Self> {
        let exe = env::current_exe().context("where am I?")?;
        // target/debug/lab, or target/debug/deps/main_job-0123 for a test.
        let mut profile = exe.parent().context("the program has no folder")?;
        if profile.file_name().is_some_and(|name| name == "deps") {
            profile = profile.parent().context("the folder deps has no parent")?;
        }
        let name = profile.file_name().context("the build folder has no name")?;
        let target = profile.parent().context("the build folder has no parent")?;
        let plugins = match env::var_os("OCICAT_PLUGINS") {
            Some(folder) => folder.into(),
            None => target.join(PLUGIN_TARGET).join(name),
        };
        let image = match env::var_os("OCICAT_IMAGE") {
            Some(archive) => archive.into(),
            None => {
                let name = if name == "debug" { "dev".into() } else { name.to_string_lossy() };
                target.join("image").join(format!("ocicat-{name}.tar"))
            }
        };
        let found = Self { daemons: profile.to_owned(), plugins, image };
        for (folder, program) in [
            (&found.daemons, "felix"),
            (&found.daemons, "bgp-speaker"),
            (&found.daemons, "calicoctl"),
            (&found.plugins, "calico"),
            (&found.plugins, "calico-ipam"),
        ] {
            let path = folder.join(program);
            if !path.is_file() {
                bail!("{} is not built; `cargo xtask lab` and `cargo xtask test` build it", path.display());
            }
        }
        Ok(found)
    }

    /// The folder of felix, bgp-speaker and calicoctl.
    pub fn daemons(&self) -> &Path {
        &self.daemons
    }

    /// The archive of the image that holds them all; its bill of materials lies beside it, as `….cdx.json`.
    ///
    /// # Errors
    /// If it is not built; the text names the command that builds it.
    pub fn image(&self) -> Result<&Path> {
        if !self.image.is_file() {
            let profile = self.daemons.file_name().map_or("dev".into(), |name| name.to_string_lossy());
            let profile = if profile == "debug" { "dev".into() } else { profile };
            bail!("{} is not built; `cargo xtask image --profile {profile}` builds it", self.image.display());
        }
        Ok(&self.image)
    }

    /// The folder of the plugins.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }
}
