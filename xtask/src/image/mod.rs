//! `cargo xtask image`: the one image of everything, as an archive that any container runtime takes.
//!
//! No container engine is asked: cargo builds static programs, and [`archive`] packs them. What goes in is
//! [`programs`]' business; what it is all made of says the bill of materials ([`sbom`]) beside the archive.
//! Equal sources give equal octets, wherever they lie and whenever they are built: `docs/image.md` says why.

mod archive;
mod programs;
mod sbom;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::shell::{say, target};
pub(crate) use programs::environment;

/// The image's name without its tag, as containerd spells it.
const NAME: &str = "docker.io/ocicat/ocicat";

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Quickly, for tests.
    Dev,
    /// Fast, for labs and benches.
    Release,
    /// Fast and small, for users; takes minutes longer.
    Dist,
}

impl Profile {
    /// What cargo calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }

    /// The folder that cargo builds it in.
    fn folder(self) -> &'static str {
        if self == Self::Dev { "debug" } else { self.name() }
    }
}

/// What image it is to be.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How the programs are built.
    #[arg(long, value_enum, default_value_t = Profile::Dist)]
    pub(crate) profile: Profile,
    /// For which processor: x86_64-unknown-linux-musl or aarch64-unknown-linux-musl.
    #[arg(long, default_value = setup::STATIC_TARGET, value_parser = programs::target)]
    pub(crate) target: programs::Target,
    /// The archive to write; by default target/image/ocicat-PROFILE.tar, for aarch64 ocicat-PROFILE-arm64.tar.
    #[arg(long)]
    pub(crate) output: Option<PathBuf>,
    /// The image's whole name; by default docker.io/ocicat/ocicat:VERSION.
    #[arg(long)]
    pub(crate) tag: Option<String>,
}

impl Options {
    /// The image for this machine, under its usual name, where the lab and the tests look for it.
    pub(crate) fn usual(profile: Profile) -> Self {
        Self { profile, target: programs::Target::HERE, output: None, tag: None }
    }

    fn archive(&self) -> PathBuf {
        let suffix = if self.target == programs::Target::HERE { "" } else { "-arm64" };
        let usual = || target().join("image").join(format!("ocicat-{}{suffix}.tar", self.profile.name()));
        self.output.clone().unwrap_or_else(usual)
    }

    fn tag(&self) -> String {
        match &self.tag {
            None => format!("{NAME}:{}", env!("CARGO_PKG_VERSION")),
            // Runtimes want the whole of it, people write `ocicat/ocicat:x`.
            Some(tag) => match tag.split_once('/') {
                Some((host, _)) if host.contains(['.', ':']) => tag.clone(),
                Some(_) => format!("docker.io/{tag}"),
                None => format!("docker.io/library/{tag}"),
            },
        }
    }
}

/// Builds the programs, packs them, and returns where the archive is.
pub(crate) fn build(options: &Options) -> Result<PathBuf> {
    setup::install(Purpose::Image)?;
    let source = source::Source::find()?;
    say(&format!("building the image's programs ({}, {})", options.profile.name(), options.target.triple()));
    let programs = programs::build(options.profile, options.target, &source)?;
    let image = archive::pack(&programs, options.profile, options.target, &options.tag(), &source)?;

    let path = options.archive();
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    replace(&path, &image.archive)?;
    let bill = path.with_extension("cdx.json");
    replace(&bill, &sbom::write(options.target, &source, &image)?)?;

    for program in &programs {
        say(&format!("{:>15} {:>6.2} MB", program.name, megabytes(program.content.len())));
    }
    say(&format!("{:>15} {:>6.2} MB to pull", "all", megabytes(image.pulled)));
    say(&format!("{} {}", options.tag(), image.digest));
    say(&format!("{} (ctr image import, docker load); {}", path.display(), bill.display()));
    Ok(path)
}

/// Writes a file in one step: whoever reads it meanwhile gets the old one.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
fn megabytes(octets: usize) -> f64 {
    octets as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_becomes_the_whole_name_that_containerd_wants() {
        let tag = |tag: &str| Options { tag: Some(tag.to_owned()), ..Options::usual(Profile::Dev) }.tag();
        assert_eq!(tag("ocicat/ocicat:next"), "docker.io/ocicat/ocicat:next");
        assert_eq!(tag("ocicat:next"), "docker.io/library/ocicat:next");
        assert_eq!(tag("registry.example:5000/ocicat:1"), "registry.example:5000/ocicat:1");
        assert_eq!(Options::usual(Profile::Dev).tag(), concat!("docker.io/ocicat/ocicat:", env!("CARGO_PKG_VERSION")));
    }
}
