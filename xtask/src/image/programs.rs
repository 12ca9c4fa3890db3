//! Which programs are in the image, and building them so that equal sources give equal octets.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Profile;
use super::source::Source;
use crate::setup::{STATIC_TARGET, rust_target};
use crate::shell::{cargo, output, root, run, target as target_folder};

/// A layer of the image: what is built together, and so changes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// What the init container runs and copies.
    Plugins,
    /// The agent.
    Felix,
    /// The speaker.
    Speaker,
    /// What is not in the node's pod.
    Cluster,
}

/// What is shipped: the package, its programs, the layer they lie in.
pub(super) const SHIPPED: &[(&str, &[&str], Layer)] = &[
    ("cni", &["calico", "calico-ipam"], Layer::Plugins),
    ("calico-node", &["calico-node"], Layer::Plugins),
    ("felix", &["felix"], Layer::Felix),
    ("bgp-speaker", &["bgp-speaker"], Layer::Speaker),
    ("calicoctl", &["calicoctl"], Layer::Cluster),
    ("ipam-controller", &["ipam-controller"], Layer::Cluster),
];

/// Built apart: together with the daemons the plugins would get the features that those need of their crates, and the
/// lab and the tests run the same files.
const APART: &str = "cni";

/// A processor that we build for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `x86_64-unknown-linux-musl`.
    Amd64,
    /// `aarch64-unknown-linux-musl`.
    Arm64,
}

/// Reads `--target`.
pub(super) fn target(text: &str) -> Result<Target, String> {
    [Target::Amd64, Target::Arm64]
        .into_iter()
        .find(|target| target.triple() == text)
        .ok_or_else(|| format!("images are built for {STATIC_TARGET} and {}", Target::Arm64.triple()))
}

impl Target {
    /// What the lab and the tests run.
    pub(super) const HERE: Self = Self::Amd64;

    /// Rust's name.
    pub(super) fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => STATIC_TARGET,
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Go's name, which images bear.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A program as it was built.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) layer: Layer,
    pub(super) content: Vec<u8>,
}

/// Builds what is shipped.
pub(super) fn build(profile: Profile, target: Target, source: &Source) -> Result<Vec<Program>> {
    complete()?;
    rust_target(target.triple())?;
    let environment = environment_for(target, profile, source)?;
    let compile = |packages: &[&str]| {
        let mut command = cargo();
        command.args(["build", "--bins", "--target", target.triple(), "--profile", profile.name()]);
        if profile == Profile::Dist {
            command.arg("--locked");
        }
        command.args(packages.iter().map(|package| format!("--package={package}")));
        run(command.envs(environment.iter().cloned()))
    };
    compile(&together())?;
    compile(&apart())?;

    let folder = target_folder().join(target.triple()).join(profile.folder());
    let programs = SHIPPED.iter().flat_map(|(_, names, layer)| names.iter().map(move |name| (*name, *layer)));
    programs
        .map(|(name, layer)| {
            let path = folder.join(name);
            let content = fs::read(&path).with_context(|| format!("cargo built no {}", path.display()))?;
            Ok(Program { name, layer, content })
        })
        .collect()
}

/// The packages that cargo builds at once.
pub(super) fn together() -> Vec<&'static str> {
    SHIPPED.iter().map(|(package, ..)| *package).filter(|package| *package != APART).collect()
}

/// The packages that it builds apart from them.
pub(super) fn apart() -> Vec<&'static str> {
    vec![APART]
}

/// Refuses an image that lacks a program.
fn complete() -> Result<()> {
    let members = output(cargo().args(["tree", "--workspace", "--depth=0", "--prefix=none", "--format={p}"]))?;
    let members: BTreeSet<&str> = members.lines().filter_map(|line| line.split(' ').next()).collect();
    let missing: Vec<_> =
        SHIPPED.iter().map(|(package, ..)| *package).filter(|package| !members.contains(package)).collect();
    if !missing.is_empty() {
        bail!("the image needs {}, which the workspace has not (Cargo.toml, members)", missing.join(", "));
    }
    Ok(())
}

/// What cargo is told beside its arguments wherever static programs are built: with it the lab, the tests and the image
/// share what they build.
pub(crate) fn environment(release: bool) -> Result<Vec<(String, String)>> {
    let profile = if release { Profile::Release } else { Profile::Dev };
    environment_for(Target::HERE, profile, &Source::find()?)
}

fn environment_for(target: Target, profile: Profile, source: &Source) -> Result<Vec<(String, String)>> {
    let folders = folders()?;
    // Where several match, rustc takes the last.
    let mut flags: Vec<String> = match env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(flags) => flags.split('\x1f').filter(|flag| !flag.is_empty()).map(str::to_owned).collect(),
        Err(_) => env::var("RUSTFLAGS").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    };
    flags.extend(folders.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    let triple = target.triple().replace('-', "_");
    // gcc takes the last too.
    let c = folders.iter().map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    let mut c: Vec<String> = c.collect();
    let mut environment = vec![
        ("CARGO_ENCODED_RUSTFLAGS".to_owned(), flags.join("\x1f")),
        ("SOURCE_DATE_EPOCH".to_owned(), source.time.to_string()),
    ];
    if profile == Profile::Dev {
        // Of programs this large nobody wants the lines to be carried into three nodes.
        environment.push(("CARGO_PROFILE_DEV_DEBUG".to_owned(), "0".to_owned()));
        environment.push(("CARGO_PROFILE_DEV_STRIP".to_owned(), "debuginfo".to_owned()));
    }
    if target == Target::Arm64 && Target::HERE != target {
        cross(&mut environment, &mut c)?;
    }
    environment.push((format!("CFLAGS_{triple}"), c.join(" ")));
    Ok(environment)
}

/// Folders whose names get into programs, and what stands there for them: the later, the stronger.
fn folders() -> Result<Vec<(PathBuf, String)>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")));
    let rustc = |question: &[&str]| output(Command::new("rustc").args(question).current_dir(root()));
    let sysroot = rustc(&["--print", "sysroot"])?;
    let version = rustc(&["--version", "--verbose"])?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let mut folders = vec![(root().to_owned(), "/ocicat".to_owned()), (target_folder(), "/ocicat/target".to_owned())];
    folders.extend(home.map(|home| (home, "/cargo".to_owned())));
    // Where the component rust-src is installed, rustc names its files by where they lie.
    folders.push((Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), format!("/rustc/{commit}")));
    Ok(folders)
}

/// The C compiler and linker for the other processor.
fn cross(environment: &mut Vec<(String, String)>, flags: &mut Vec<String>) -> Result<()> {
    const SPECS: &str = "/usr/lib/aarch64-linux-musl/musl-gcc.specs";
    const GCC: &str = "aarch64-linux-gnu-gcc";
    // The key is what cargo and the crate cc look for; whoever has another toolchain says so there.
    let chosen = env::var_os("CC_aarch64_unknown_linux_musl").is_some();
    let native = output(Command::new("aarch64-linux-musl-gcc").arg("--version")).is_ok();
    if chosen || native {
        if native && env::var_os("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER").is_none() {
            let linker = ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "aarch64-linux-musl-gcc");
            environment.push((linker.0.to_owned(), linker.1.to_owned()));
        }
        return Ok(());
    }
    if output(Command::new(GCC).arg("--version")).is_err() || !Path::new(SPECS).exists() {
        bail!(
            "no C compiler for aarch64 with musl. On Debian: `dpkg --add-architecture arm64 && apt-get update && \
             apt-get install gcc-aarch64-linux-gnu musl-dev:arm64`. Elsewhere: aarch64-linux-musl-gcc in PATH, or \
             CC_aarch64_unknown_linux_musl and CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER"
        );
    }
    environment.push(("CC_aarch64_unknown_linux_musl".to_owned(), GCC.to_owned()));
    environment.push(("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER".to_owned(), GCC.to_owned()));
    flags.push(format!("-specs={SPECS}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_processors_are_refused_by_name() {
        assert_eq!(target("aarch64-unknown-linux-musl"), Ok(Target::Arm64));
        assert!(target("x86_64-unknown-linux-gnu").unwrap_err().contains("x86_64-unknown-linux-musl"));
    }

    #[test]
    fn no_folder_of_the_builder_is_left_to_get_into_a_program() {
        let folders = folders().unwrap();
        let hidden = |path: &Path| folders.iter().any(|(from, _)| path.starts_with(from));
        assert!(hidden(&root().join("felix/src/main.rs")));
        assert!(hidden(&target_folder().join("debug/build")));
        assert!(folders.iter().all(|(from, _)| from.is_absolute()), "{folders:?}");
    }
}
