//! The image that `cargo xtask image` writes: what is in the archive, what its bill of materials says, and containerd
//! running its programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::HEXLOWER;
use integration::binaries::Binaries;
use integration::process::Process;
use integration::{PATIENCE, wait};
use memchr::memmem;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What is in `/usr/bin`, and nothing beside it.
const PROGRAMS: [&str; 7] =
    ["bgp-speaker", "calico", "calico-ipam", "calico-node", "calicoctl", "felix", "ipam-controller"];

const NAME: &str = concat!("docker.io/ocicat/ocicat:", env!("CARGO_PKG_VERSION"));

/// A file of a tar archive: its mode and content, or where it leads.
struct Entry {
    mode: u32,
    kind: tar::EntryType,
    link: Option<PathBuf>,
    content: Vec<u8>,
}

fn unpack(archive: impl Read) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut times = BTreeSet::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_str().context("a path that is no text")?.to_owned();
        let header = entry.header().clone();
        ensure!(header.uid()? == 0 && header.gid()? == 0, "{path} is not root's");
        ensure!(header.username_bytes().is_none_or(<[u8]>::is_empty), "{path} names who packed it");
        times.insert(header.mtime()?);
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let link = entry.link_name()?.map(|to| to.into_owned());
        let entry = Entry { mode: header.mode()?, kind: header.entry_type(), link, content };
        ensure!(entries.insert(path.clone(), entry).is_none(), "{path} is there twice");
    }
    ensure!(times.len() == 1, "files of several times: {times:?}");
    Ok(entries)
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(content)))
}

/// The archive, its manifest and its configuration, and the files of its layers.
struct Image {
    archive: BTreeMap<String, Entry>,
    digest: String,
    manifest: Value,
    configuration: Value,
    files: BTreeMap<String, Entry>,
}

impl Image {
    fn read(path: &Path) -> Result<Self> {
        let archive = unpack(File::open(path)?)?;
        let json = |path: &str| -> Result<Value> {
            Ok(serde_json::from_slice(&archive.get(path).with_context(|| format!("no {path}"))?.content)?)
        };
        // By its descriptor: there, of that digest and size.
        let blob = |descriptor: &Value| -> Result<&Entry> {
            let name = descriptor["digest"].as_str().context("a descriptor without a digest")?;
            let path = format!("blobs/{}", name.replace(':', "/"));
            let entry = archive.get(&path).with_context(|| format!("no {path}"))?;
            ensure!(digest(&entry.content) == name && descriptor["size"] == entry.content.len(), "{path} is another");
            Ok(entry)
        };
        ensure!(json("oci-layout")?["imageLayoutVersion"] == "1.0.0");
        let index = json("index.json")?;
        let [entry] = index["manifests"].as_array().context("no manifests")?.as_slice() else {
            bail!("not one image: {index}")
        };
        ensure!(entry["platform"] == json!({ "os": "linux", "architecture": "amd64" }));
        ensure!(entry["annotations"]["io.containerd.image.name"] == NAME);
        let manifest: Value = serde_json::from_slice(&blob(entry)?.content)?;
        let configuration: Value = serde_json::from_slice(&blob(&manifest["config"])?.content)?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        let unpacked = configuration["rootfs"]["diff_ids"].as_array().context("no diff_ids")?;
        ensure!(
            layers.len() == unpacked.len() && layers.len() == configuration["history"].as_array().map_or(0, Vec::len)
        );
        let mut files: BTreeMap<String, Entry> = BTreeMap::new();
        for (layer, unpacked) in layers.iter().zip(unpacked) {
            ensure!(layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip");
            let packed = &blob(layer)?.content;
            ensure!(packed.get(4..8) == Some(&[0; 4]), "gzip's header has a time");
            let mut tar = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut tar)?;
            ensure!(*unpacked == digest(&tar), "a layer is not what its diff_id says");
            for (path, entry) in unpack(&tar[..])? {
                let known = files.insert(path.clone(), entry);
                ensure!(known.is_none_or(|known| known.kind.is_dir()), "{path} is in two layers");
            }
        }
        let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
        Ok(Self { digest, manifest, configuration, files, archive })
    }

    fn programs(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.files
            .iter()
            .filter_map(|(path, entry)| Some((path.strip_prefix("usr/bin/")?, entry)))
            .filter(|(_, entry)| entry.kind.is_file())
    }
}

/// The tests' own image.
fn built() -> Result<PathBuf> {
    Ok(Binaries::find()?.image()?.to_owned())
}

#[test]
fn the_archive_is_an_oci_layout_and_what_docker_loads() -> Result<()> {
    let image = Image::read(&built()?)?;

    // docker load: one entry, whose paths lead to files of the archive, in the order of the layers.
    let docker: Value =
        serde_json::from_slice(&image.archive.get("manifest.json").context("no manifest.json")?.content)?;
    let path =
        |descriptor: &Value| format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"));
    let layers = image.manifest["layers"].as_array().context("no layers")?;
    assert_eq!(
        docker,
        json!([{
            "Config": path(&image.manifest["config"]),
            "RepoTags": [NAME.trim_start_matches("docker.io/")],
            "Layers": layers.iter().map(path).collect::<Vec<_>>(),
        }])
    );

    // What a user sees by `docker inspect`.
    let labels = &image.configuration["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], calico_version::VERSION);
    assert_eq!(labels["org.opencontainers.image.created"], image.configuration["created"]);
    let revision = labels["org.opencontainers.image.revision"].as_str().context("no revision")?;
    assert!(revision.len() == 40 || revision == "unknown", "{revision}");
    Ok(())
}

#[test]
fn it_holds_our_programs_which_need_nothing_and_no_trace_of_their_builder() -> Result<()> {
    let image = Image::read(&built()?)?;
    let names: Vec<_> = image.programs().map(|(name, _)| name).collect();
    assert_eq!(names, PROGRAMS);
    let others: Vec<_> = image.files.keys().filter(|path| !path.starts_with("usr/bin/")).collect();
    assert_eq!(others, ["bin", "etc/", "etc/group", "etc/passwd", "tmp/", "usr/"]);
    assert_eq!(image.files["bin"].link.as_deref(), Some(Path::new("usr/bin")));
    assert!(image.files.values().all(|entry| entry.mode & 0o6000 == 0), "a program that changes who runs it");

    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let home = std::env::var("HOME").unwrap_or_default();
    for (name, program) in image.programs() {
        assert_eq!(program.mode, 0o755, "{name}");
        assert!(is_static(&program.content).with_context(|| name.to_owned())?, "{name} wants a loader or a library");
        for folder in [format!("{}/", repository.display()), format!("{home}/.cargo/"), format!("{home}/.rustup/")] {
            assert_eq!(memmem::find(&program.content, folder.as_bytes()), None, "{name} names {folder}");
        }
    }
    Ok(())
}

/// Whether an ELF program asks neither for a loader nor for a library (gABI: `PT_INTERP`, `DT_NEEDED`).
fn is_static(program: &[u8]) -> Result<bool> {
    let number = |at: usize, length: usize| -> Result<usize> {
        let octets = program.get(at..at + length).context("the file ends early")?;
        Ok(octets.iter().rev().fold(0, |value, octet| value << 8 | usize::from(*octet)))
    };
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "not an ELF file of 64 bits, low end first");
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for header in (0..count).map(|index| table + index * size) {
        let (offset, length) = (number(header + 8, 8)?, number(header + 0x20, 8)?);
        match number(header, 4)? {
            3 => return Ok(false),
            2 => {
                for entry in (offset..offset + length).step_by(16) {
                    if number(entry, 8)? == 1 {
                        return Ok(false);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(true)
}

#[test]
fn this_test_itself_is_not_static() -> Result<()> {
    assert!(!is_static(&fs::read(std::env::current_exe()?)?)?);
    Ok(())
}

#[test]
fn the_bill_of_materials_is_cyclonedx_and_names_whatever_left_a_trace() -> Result<()> {
    let path = built()?;
    let image = Image::read(&path)?;
    let bill: Value = serde_json::from_slice(&fs::read(path.with_extension("cdx.json"))?)?;
    let references = check_bill(&bill)?;
    let whole = bill["metadata"]["component"]["bom-ref"].as_str().context("no component")?;
    assert!(whole.contains(&image.digest.replace(':', "%3A")), "{whole} is of another image");

    // Whatever panics says where: so the programs themselves name crates that they are made of.
    let mut traces = BTreeSet::new();
    for (_, program) in image.programs() {
        for at in memmem::find_iter(&program.content, "/cargo/registry/src/") {
            let path = program.content[at..].iter().copied().take_while(u8::is_ascii_graphic).take(300).collect();
            // /cargo/registry/src/REGISTRY/NAME-VERSION/…
            let path = String::from_utf8(path)?;
            let folder = path.split('/').nth(5).unwrap_or_default();
            let version = |at: &usize| {
                let version = &folder[at + 1..];
                version.starts_with(|first: char| first.is_ascii_digit()) && version.matches('.').count() >= 2
            };
            if let Some(at) = folder.match_indices('-').map(|(at, _)| at).find(version) {
                traces.insert(format!("pkg:cargo/{}@{}", &folder[..at], folder[at + 1..].replace('+', "%2B")));
            }
        }
    }
    assert!(traces.len() > 20, "only {traces:?}");
    let unnamed: Vec<_> = traces.iter().filter(|trace| !references.contains(*trace)).collect();
    assert!(unnamed.is_empty(), "linked, and not in the bill: {unnamed:?}");
    for carried in ["pkg:generic/sqlite@3", "pkg:generic/musl@1", "pkg:generic/rust-std@1", "pkg:generic/boringssl"] {
        assert!(references.iter().any(|reference| reference.starts_with(carried)), "no {carried}");
    }
    Ok(())
}

/// The essential rules of CycloneDX 1.6 (its JSON schema); the references of all components.
fn check_bill(bill: &Value) -> Result<BTreeSet<String>> {
    ensure!(bill["bomFormat"] == "CycloneDX" && bill["specVersion"] == "1.6" && bill["version"] == 1);
    let serial =
        bill["serialNumber"].as_str().and_then(|serial| serial.strip_prefix("urn:uuid:")).context("no serial")?;
    let lengths: Vec<_> = serial.split('-').map(str::len).collect();
    ensure!(lengths == [8, 4, 4, 4, 12] && serial.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f' | '-')));
    let mut references = BTreeSet::new();
    let components = bill["components"].as_array().context("no components")?;
    for component in components.iter().chain([&bill["metadata"]["component"]]) {
        let text = |key: &str| component[key].as_str().filter(|text| !text.is_empty());
        let name = text("name").with_context(|| format!("a component without a name: {component}"))?;
        ensure!(matches!(text("type"), Some("application" | "library" | "container")), "{name} is of no type");
        ensure!(text("purl").is_some_and(|purl| purl.starts_with("pkg:")), "{name} has no purl");
        ensure!(text("version").is_some() || name == "boringssl", "{name} has no version");
        let licences = component["licenses"].as_array().with_context(|| format!("{name} has no licence"))?;
        // One expression, or licences one by one, never both.
        ensure!(
            licences.len() == 1 && licences[0]["expression"].as_str().is_some_and(|text| !text.is_empty()),
            "{name}"
        );
        for hash in component["hashes"].as_array().into_iter().flatten() {
            let content = hash["content"].as_str().unwrap_or_default();
            ensure!(hash["alg"] == "SHA-256" && HEXLOWER.decode(content.as_bytes())?.len() == 32, "{name}: {hash}");
        }
        ensure!(
            !text("purl").is_some_and(|purl| purl.starts_with("pkg:cargo/")) || component["hashes"].is_array(),
            "{name}"
        );
        let reference = text("bom-ref").with_context(|| format!("{name} cannot be referred to"))?;
        ensure!(references.insert(reference.to_owned()), "{reference} twice");
    }
    let dependencies = bill["dependencies"].as_array().context("no dependencies")?;
    let mut users = BTreeSet::new();
    let mut used = BTreeSet::from([bill["metadata"]["component"]["bom-ref"].as_str().unwrap_or_default()]);
    for entry in dependencies {
        let user = entry["ref"].as_str().context("a dependency of nobody")?;
        ensure!(references.contains(user) && users.insert(user), "{user} is no component, or twice");
        for dependency in entry["dependsOn"].as_array().context("no dependsOn")? {
            let dependency = dependency.as_str().context("a dependency that is no text")?;
            ensure!(references.contains(dependency), "{user} depends on {dependency}, which is no component");
            used.insert(dependency);
        }
    }
    ensure!(users.len() == references.len(), "components without an entry in the graph");
    let lost: Vec<_> = references.iter().filter(|reference| !used.contains(reference.as_str())).collect();
    ensure!(lost.is_empty(), "components that nothing leads to: {lost:?}");
    Ok(references)
}

/// A containerd of our own: nobody else's sees it.
struct Containerd {
    folder: TempDir,
    process: Process,
}

impl Containerd {
    fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let configuration = format!(
            "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             [grpc]\naddress = '{}'\n",
            at("root"),
            at("state"),
            at("socket")
        );
        fs::write(at("config.toml"), configuration)?;
        let mut command = Command::new("containerd");
        command.args(["--config", &at("config.toml")]);
        let process = Process::start("containerd", &mut command, at("log").into())?;
        let mut containerd = Self { folder, process };
        wait::becomes(PATIENCE, "containerd answers", || {
            containerd.process.check()?;
            Ok(containerd.ctr(&["version"]).is_ok())
        })?;
        Ok(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("ctr").arg("-a").arg(self.folder.path().join("socket")).args(arguments).output()?;
        if !output.status.success() {
            bail!("ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a program says in a container that cannot be written to.
    fn run(&self, program: &[&str]) -> Result<String> {
        let id = format!("ocicat-image-{}", std::process::id());
        let mut arguments = vec!["run", "--rm", "--read-only", NAME, &id];
        arguments.extend(program);
        self.ctr(&arguments)
    }
}

#[test]
fn containerd_takes_the_archive_and_runs_its_programs_on_a_read_only_root() -> Result<()> {
    let path = built()?;
    let containerd = Containerd::start()?;
    containerd.ctr(&["image", "import", &path.display().to_string()])?;
    let images = containerd.ctr(&["image", "ls"])?;
    let digest = Image::read(&path)?.digest;
    assert!(images.lines().any(|line| line.starts_with(NAME) && line.contains(&digest)), "{images}");

    for program in PROGRAMS {
        let said = containerd.run(&[program, "--version"]).with_context(|| program.to_owned())?;
        assert!(said.contains(calico_version::VERSION), "{program}: {said}");
    }
    let said = containerd.run(&["/bin/calicoctl", "version", "--client"])?;
    assert!(said.contains(calico_version::CALICO_COMPATIBLE), "{said}");
    // Nothing to break in with.
    let error = containerd.run(&["/bin/sh", "-c", "true"]).expect_err("there is a shell").to_string();
    assert!(error.contains("no such file") || error.contains("not found"), "{error}");
    Ok(())
}
