//! Packing: layers, and one archive that is an OCI image layout and what `docker load` wants at once.
//!
//! Formats: OCI image-spec 1.1 (layout, index, manifest, configuration, layers as gzipped tar) and Docker's
//! `manifest.json`, whose paths may lead anywhere in the archive and so lead to the layout's blobs.

use std::io::Write;
use std::thread;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::Profile;
use super::programs::{Layer, Program, Target};
use super::source::Source;

/// An image, packed.
#[derive(Debug)]
pub(super) struct Image {
    /// The whole archive.
    pub(super) archive: Vec<u8>,
    /// The manifest's digest, `sha256:…`: what the image is known by wherever it goes.
    pub(super) digest: String,
    /// Octets that a node fetches from a registry: configuration and layers.
    pub(super) pulled: usize,
}

/// Some octets and the name they have by their content.
#[derive(Debug)]
struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Self {
        Self { digest: digest(&content), content }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    /// Where it lies in the archive.
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest.trim_start_matches("sha256:"))
    }

    fn descriptor(&self, media: &str) -> Value {
        json!({ "mediaType": media, "digest": self.digest, "size": self.content.len() })
    }
}

/// A layer: packed, and the digest of what is packed in it.
#[derive(Debug)]
struct Packed {
    blob: Blob,
    unpacked: String,
    what: String,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Packs programs into an image of a name.
pub(super) fn pack(
    programs: &[Program],
    profile: Profile,
    target: Target,
    tag: &str,
    source: &Source,
) -> Result<Image> {
    let layers = layers(programs, profile, source.time)?;
    let configuration = Blob::json(&configuration(&layers, target, source));
    let descriptors: Vec<_> = layers.iter().map(|layer| layer.blob.descriptor(LAYER)).collect();
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": configuration.descriptor(CONFIGURATION),
        "layers": descriptors,
        "annotations": labels(source),
    }));
    let mut entry = manifest.descriptor(MANIFEST);
    entry["platform"] = json!({ "os": "linux", "architecture": target.architecture() });
    let (_, version) = tag.rsplit_once(':').unwrap_or((tag, "latest"));
    // containerd takes the name from its own annotation, everybody else from OCI's.
    entry["annotations"] = json!({ "io.containerd.image.name": tag, "org.opencontainers.image.ref.name": version });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    let docker = json!([{
        "Config": configuration.path(),
        "RepoTags": [tag.trim_start_matches("docker.io/").trim_start_matches("library/")],
        "Layers": layers.iter().map(|layer| layer.blob.path()).collect::<Vec<_>>(),
    }]);

    let mut files = vec![
        ("oci-layout".to_owned(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        ("manifest.json".to_owned(), docker.to_string().into_bytes()),
    ];
    let pulled = configuration.content.len() + layers.iter().map(|layer| layer.blob.content.len()).sum::<usize>();
    let digest = manifest.digest.clone();
    let mut blobs: Vec<Blob> = layers.into_iter().map(|layer| layer.blob).collect();
    blobs.extend([configuration, manifest]);
    blobs.sort_by(|one, other| one.digest.cmp(&other.digest));
    files.extend(blobs.into_iter().map(|blob| (blob.path(), blob.content)));

    let mut tar = Tar::new(source.time);
    tar.folder("blobs/", 0o755)?;
    tar.folder("blobs/sha256/", 0o755)?;
    for (path, content) in &files {
        tar.file(path, 0o644, content)?;
    }
    Ok(Image { archive: tar.finish()?, digest, pulled })
}

fn layers(programs: &[Program], profile: Profile, time: u64) -> Result<Vec<Packed>> {
    let level = if profile == Profile::Dev { Compression::fast() } else { Compression::best() };
    let mut unpacked = vec![("the skeleton".to_owned(), skeleton(time)?)];
    for layer in [Layer::Plugins, Layer::Felix, Layer::Speaker, Layer::Cluster] {
        let mut programs: Vec<_> = programs.iter().filter(|program| program.layer == layer).collect();
        programs.sort_by_key(|program| program.name);
        let mut tar = Tar::new(time);
        tar.folder("usr/", 0o755)?;
        tar.folder("usr/bin/", 0o755)?;
        for program in &programs {
            tar.file(&format!("usr/bin/{}", program.name), 0o755, &program.content)?;
        }
        let names: Vec<_> = programs.iter().map(|program| program.name).collect();
        unpacked.push((names.join(", "), tar.finish()?));
    }
    thread::scope(|scope| {
        let threads: Vec<_> =
            unpacked.into_iter().map(|(what, tar)| scope.spawn(move || packed(what, &tar, level))).collect();
        threads.into_iter().map(|thread| thread.join().expect("packing does not panic")).collect()
    })
}

/// What stays when all programs change, and so is fetched once.
fn skeleton(time: u64) -> Result<Vec<u8>> {
    let mut tar = Tar::new(time);
    tar.link("bin", "usr/bin")?;
    tar.folder("etc/", 0o755)?;
    tar.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n",
    )?;
    tar.folder("tmp/", 0o1777)?;
    tar.folder("usr/", 0o755)?;
    tar.folder("usr/bin/", 0o755)?;
    tar.finish()
}

fn packed(what: String, tar: &[u8], level: Compression) -> Result<Packed> {
    // No name and no time; 255 is "unknown" for the system it was packed on.
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), level);
    gzip.write_all(tar).context("packing into memory")?;
    let blob = Blob::new(gzip.finish().context("packing into memory")?);
    Ok(Packed { blob, unpacked: digest(tar), what })
}

fn configuration(layers: &[Packed], target: Target, source: &Source) -> Value {
    let created = source.rfc3339();
    let history = layers
        .iter()
        .map(|layer| json!({ "created": created, "created_by": "cargo xtask image", "comment": layer.what }));
    json!({
        "created": created,
        "os": "linux",
        "architecture": target.architecture(),
        "config": {
            "Env": ["PATH=/usr/bin"],
            "Cmd": ["calicoctl", "--help"],
            "WorkingDir": "/",
            "Labels": labels(source),
        },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.unpacked).collect::<Vec<_>>() },
        "history": history.collect::<Vec<_>>(),
    })
}

fn labels(source: &Source) -> Value {
    json!({
        "org.opencontainers.image.title": "Ocicat",
        "org.opencontainers.image.description": "Kubernetes pod networking, routed by BGP",
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.revision": source.commit,
        "org.opencontainers.image.created": source.rfc3339(),
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
    })
}

/// `sha256:…` of some octets.
pub(super) fn digest(content: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(content)))
}

/// A tar archive in which nothing depends on who makes it; paths are added in their order.
struct Tar {
    builder: tar::Builder<Vec<u8>>,
    time: u64,
}

impl Tar {
    fn new(time: u64) -> Self {
        Self { builder: tar::Builder::new(Vec::new()), time }
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.append(path, EntryType::Directory, mode, &[], None)
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.append(path, EntryType::Regular, mode, content, None)
    }

    fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.append(path, EntryType::Symlink, 0o777, &[], Some(to))
    }

    fn append(&mut self, path: &str, kind: EntryType, mode: u32, content: &[u8], to: Option<&str>) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_path(path)?;
        if let Some(to) = to {
            header.set_link_name(to)?;
        }
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(content.len().try_into()?);
        header.set_cksum();
        self.builder.append(&header, content).with_context(|| format!("packing {path}"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.builder.into_inner().context("packing into memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(time: u64, shuffled: bool) -> Image {
        let program = |name, layer, octet| Program { name, layer, content: vec![octet; 5000] };
        let mut programs = vec![
            program("felix", Layer::Felix, 1),
            program("calico", Layer::Plugins, 2),
            program("calicoctl", Layer::Cluster, 3),
        ];
        if shuffled {
            programs.reverse();
        }
        let source = Source { commit: "c0ffee".to_owned(), time };
        pack(&programs, Profile::Release, Target::Amd64, "docker.io/ocicat/ocicat:1", &source).unwrap()
    }

    #[test]
    fn equal_programs_give_equal_octets_and_others_another_digest() {
        let one = image(7, false);
        let same = image(7, true);
        assert_eq!((&one.digest, &one.archive), (&same.digest, &same.archive));
        assert_ne!(one.digest, image(8, false).digest);
    }

    #[test]
    fn whatever_the_index_and_docker_name_lies_in_the_archive_under_its_digest() {
        let image = image(7, false);
        let mut files = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(&image.archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 7);
            files.insert(entry.path().unwrap().to_str().unwrap().to_owned(), content);
        }
        let json = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        for (path, content) in files.iter().filter(|(path, content)| path.starts_with("blobs/") && !content.is_empty())
        {
            assert_eq!(*path, blob(&Value::String(digest(content))));
        }
        let manifest = json(&blob(&json("index.json")["manifests"][0]["digest"]));
        let docker = &json("manifest.json")[0];
        assert_eq!(docker["Config"], blob(&manifest["config"]["digest"]));
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(docker["Layers"], json!(layers.iter().map(|layer| blob(&layer["digest"])).collect::<Vec<_>>()));
        assert_eq!(docker["RepoTags"], json!(["ocicat/ocicat:1"]));
        let unpacked = &json(&blob(&manifest["config"]["digest"]))["rootfs"]["diff_ids"];
        for (layer, unpacked) in layers.iter().zip(unpacked.as_array().unwrap()) {
            let mut content = Vec::new();
            let packed = &files[&blob(&layer["digest"])];
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut content).unwrap();
            assert_eq!(digest(&content), unpacked.as_str().unwrap());
        }
    }
}
