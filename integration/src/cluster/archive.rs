//! Container images made of programs of this machine, as `docker save` would write them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What an image is made of. Every one holds static busybox, with a link for each of its commands that is not a
/// program of the image's own, and the libraries that its programs load.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) tag: String,
    /// Paths here and in the image.
    pub(super) files: Vec<(PathBuf, String)>,
    /// Symbolic links: their path and where they point.
    pub(super) links: Vec<(String, String)>,
    pub(super) entrypoint: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) busybox: bool,
}

impl Image {
    pub(super) fn new(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), busybox: true, ..Self::default() }
    }

    pub(super) fn file(mut self, source: impl Into<PathBuf>, target: &str) -> Self {
        self.files.push((source.into(), target.to_owned()));
        self
    }

    pub(super) fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.to_owned(), target.to_owned()));
        self
    }

    /// Writes the archive into a folder, unless the one there was made of the same files; returns its path.
    pub(super) fn ensure(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let name = self.tag.rsplit('/').next().unwrap_or_default().replace(':', "-");
        let (archive, key) = (folder.join(format!("{name}.tar")), folder.join(format!("{name}.made-of")));
        let wanted = self.made_of()?;
        if archive.is_file() && fs::read_to_string(&key).is_ok_and(|found| found == wanted) {
            return Ok(archive);
        }
        let unfinished = folder.join(format!("{name}.{}.new", std::process::id()));
        let layer = self.layer()?;
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&layer)))]},
        })
        .to_string();
        let config_name = format!("{}.json", HEXLOWER.encode(&Sha256::digest(config.as_bytes())));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.tag], "Layers": ["layer.tar"]}]).to_string();
        let mut outer = Tar::new(BufWriter::new(File::create(&unfinished)?));
        outer.entry("manifest.json", Kind::File(manifest.as_bytes()), 0o644)?;
        outer.entry(&config_name, Kind::File(config.as_bytes()), 0o644)?;
        outer.entry("layer.tar", Kind::File(&layer), 0o644)?;
        outer.finish()?.flush()?;
        fs::rename(&unfinished, &archive).with_context(|| archive.display().to_string())?;
        fs::write(&key, wanted).with_context(|| key.display().to_string())?;
        Ok(archive)
    }

    /// Everything that decides what is in it.
    fn made_of(&self) -> Result<String> {
        let mut text = format!("{self:?}\n");
        for (source, _) in &self.files {
            let data = fs::metadata(source).with_context(|| format!("{} (for an image)", source.display()))?;
            text += &format!("{} {} {}.{}\n", source.display(), data.size(), data.mtime(), data.mtime_nsec());
        }
        Ok(text)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::new(Vec::new());
        for folder in ["bin", "etc", "proc", "sys", "root", "usr/bin", "var", "uploads"] {
            tar.entry(folder, Kind::Folder, 0o755)?;
        }
        tar.entry("tmp", Kind::Folder, 0o1777)?;
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        tar.entry("etc/passwd", Kind::File(passwd.as_bytes()), 0o644)?;
        tar.entry("etc/group", Kind::File(b"root:x:0:\nnogroup:x:65534:\n"), 0o644)?;
        let copy = |tar: &mut Tar<Vec<u8>>, source: &Path, target: &str| {
            let octets = fs::read(source).with_context(|| format!("{} (for {})", source.display(), self.tag))?;
            tar.entry(target, Kind::File(&octets), 0o755)?;
            for library in libraries(source) {
                let octets = fs::read(&library).with_context(|| library.clone())?;
                tar.entry(&library, Kind::File(&octets), 0o755)?;
            }
            anyhow::Ok(())
        };
        for (source, target) in &self.files {
            copy(&mut tar, source, target)?;
        }
        for (path, target) in &self.links {
            tar.entry(path, Kind::Link(target), 0o777)?;
        }
        if self.busybox {
            let busybox = Path::new("/bin/busybox");
            ensure!(busybox.is_file(), "busybox is missing: apt-get install busybox-static");
            copy(&mut tar, busybox, "bin/busybox")?;
            for command in crate::process::run(Command::new(busybox).arg("--list"))?.split_whitespace() {
                tar.entry(&format!("bin/{command}"), Kind::Link("/bin/busybox"), 0o777)?;
            }
        }
        tar.finish()
    }
}

/// The libraries that a program loads; none if it is static.
fn libraries(program: &Path) -> Vec<String> {
    let Ok(output) = Command::new("ldd").arg(program).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.lines().filter_map(|line| line.trim().rsplit_once(" (0x").map(|(before, _)| before));
    paths
        .filter_map(|path| path.split_whitespace().last())
        .filter(|path| path.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

enum Kind<'a> {
    File(&'a [u8]),
    Folder,
    Link(&'a str),
}

/// A writer of POSIX.1-1988 (ustar) archives. What was written once is not written again.
struct Tar<W> {
    into: W,
    seen: BTreeSet<String>,
}

impl<W: Write> Tar<W> {
    fn new(into: W) -> Self {
        Self { into, seen: BTreeSet::new() }
    }

    fn entry(&mut self, path: &str, kind: Kind<'_>, mode: u32) -> Result<()> {
        let path = path.trim_start_matches('/');
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.seen.contains(parent)
        {
            self.entry(parent, Kind::Folder, 0o755)?;
        }
        let (letter, data, target): (u8, &[u8], &str) = match kind {
            Kind::File(data) => (b'0', data, ""),
            Kind::Folder => (b'5', &[], ""),
            Kind::Link(target) => (b'2', &[], target),
        };
        ensure!(
            path.len() <= 100 && target.len() <= 100,
            "a path of more than 100 octets for an image: {path} {target}"
        );
        let mut header = [0; 512];
        let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        field(0, path);
        field(100, &format!("{mode:07o}"));
        field(108, "0000000");
        field(116, "0000000");
        field(124, &format!("{:011o}", data.len()));
        field(136, "00000000000");
        field(148, "        ");
        field(157, target);
        field(257, "ustar\u{0}00");
        header[156] = letter;
        let sum: u32 = header.iter().map(|octet| u32::from(*octet)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.into.write_all(&header)?;
        self.into.write_all(data)?;
        self.into.write_all(&[0; 512][..(512 - data.len() % 512) % 512])?;
        Ok(())
    }

    fn finish(mut self) -> Result<W> {
        self.into.write_all(&[0; 1024])?;
        Ok(self.into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::run;

    #[test]
    fn tar_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut tar = Tar::new(File::create(&path).unwrap());
        tar.entry("/usr/lib/x", Kind::File(&[7; 513]), 0o755).unwrap();
        tar.entry("sh", Kind::Link("/usr/lib/x"), 0o777).unwrap();
        tar.entry("sh", Kind::Link("/elsewhere"), 0o777).unwrap();
        tar.finish().unwrap();
        let list = run(Command::new("tar").arg("-tvf").arg(&path)).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 4, "{list}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].contains(" usr"), "{list}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains(" 513 "), "{list}");
        assert!(lines[3].ends_with("sh -> /usr/lib/x"), "{list}");
    }
}
