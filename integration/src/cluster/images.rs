//! The images that pods of the cluster and of the end-to-end tests run, by the names that these ask for.
//!
//! There is no registry. `test/utils/image/manifest.go` of Kubernetes lists the names.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Image;
use crate::process;
use crate::programs::{self, APISERVER};

/// The image whose process only holds a pod's namespaces.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
/// The cluster's DNS.
const COREDNS: &str = "registry.k8s.io/coredns/coredns:lab";

/// Which images a node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// `pause`, and agnhost, whose programs include all that a test wants of a pod.
    Small,
    /// Those of the end-to-end tests as well, without DNS.
    EndToEnd,
    /// And CoreDNS.
    All,
}

/// Makes the archives that are missing.
pub(super) fn ensure(wanted: Images) -> Result<Vec<PathBuf>> {
    let folder = programs::cache().join("images");
    let mut images = vec![pause()?, agnhost()?];
    if wanted != Images::Small {
        images.push(Image {
            command: vec!["sh".to_owned()],
            ..Image::new("registry.k8s.io/e2e-test-images/busybox:1.37.0-1")
        });
        let dns = Image::new("registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0");
        let dns = dns.file("/bin/dash", "/bin/sh").file("/bin/bash", "/bin/bash").file("/usr/bin/dig", "/usr/bin/dig");
        images.push(Image { command: vec!["sh".to_owned()], ..dns.file("/usr/bin/getent", "/usr/bin/getent") });
    }
    if wanted == Images::All {
        let coredns = programs::ensure_built(&[programs::COREDNS])?.pop().context("one program was asked for")?;
        images.push(Image { entrypoint: vec!["/coredns".to_owned()], ..Image::new(COREDNS).file(coredns, "/coredns") });
    }
    images.iter().map(|image| image.ensure(&folder)).collect()
}

/// Kubernetes' own few lines of C.
fn pause() -> Result<Image> {
    let folder = programs::cache();
    let program = folder.join(format!("pause-{}", APISERVER.version()?));
    if !program.is_file() {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let source = programs::source_of(&APISERVER)?.join("build/pause/linux/pause.c");
        let unfinished = program.with_extension(format!("{}.new", std::process::id()));
        process::run(Command::new("gcc").args(["-Os", "-static", "-o"]).arg(&unfinished).arg(&source))?;
        fs::rename(&unfinished, &program)?;
    }
    let image = Image::new(PAUSE).file(program, "/pause");
    Ok(Image { entrypoint: vec!["/pause".to_owned()], busybox: false, ..image })
}

fn agnhost() -> Result<Image> {
    let program = programs::ensure_built(&[programs::AGNHOST])?.pop().context("one program was asked for")?;
    let source = programs::source_of(&programs::AGNHOST)?.join("test/images/agnhost");
    let path = source.join("VERSION");
    let version = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut image = Image::new(format!("registry.k8s.io/e2e-test-images/agnhost:{}", version.trim()))
        .file(program, "/agnhost")
        .link("/agnhost-2", "agnhost")
        .file(source.join("porter/localhost.crt"), "/localhost.crt")
        .file(source.join("porter/localhost.key"), "/localhost.key")
        // Not busybox, whose shell would take its own nc before the one in PATH.
        .file("/bin/dash", "/bin/sh");
    for (source, target) in [
        ("/bin/bash", "/bin/bash"),
        ("/usr/bin/curl", "/usr/bin/curl"),
        ("/bin/nc.openbsd", "/bin/nc"),
        ("/usr/bin/dig", "/usr/bin/dig"),
        ("/usr/bin/getent", "/usr/bin/getent"),
        ("/bin/ss", "/bin/ss"),
        ("/bin/ip", "/bin/ip"),
    ] {
        image = image.file(source, target);
    }
    Ok(Image { entrypoint: vec!["/agnhost".to_owned()], command: vec!["pause".to_owned()], ..image })
}

/// The name of agnhost's image.
///
/// # Errors
/// If the source of Kubernetes cannot be had.
pub fn agnhost_tag() -> Result<String> {
    Ok(agnhost()?.tag)
}
