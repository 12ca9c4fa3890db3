//! The bill of materials beside an archive: everything that is linked into the image's programs.
//!
//! CycloneDX 1.6 as JSON. The crates are those that cargo links for this target with these features, without build
//! scripts and procedural macros; the C that two of them carry and what Rust itself brings are named too.
//! No time of writing and no random number: the serial number follows from the content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::archive::{Image, digest};
use super::programs::{SHIPPED, Target, apart, together};
use super::source::Source;
use crate::shell::{cargo, output, root};

/// A package, by name and version.
type Package = (String, String);

/// What is linked with what, and each one's licence.
#[derive(Debug, Default, PartialEq, Eq)]
struct Graph {
    licences: BTreeMap<Package, String>,
    uses: BTreeMap<Package, BTreeSet<Package>>,
}

/// Something that no registry of crates knows.
struct Carried {
    name: &'static str,
    version: Option<String>,
    licence: &'static str,
    what: String,
    /// Whose part it is.
    by: By,
}

enum By {
    Crate(Package),
    Everything,
}

/// The file's content.
pub(super) fn write(target: Target, source: &Source, image: &Image) -> Result<Vec<u8>> {
    let mut graph = Graph::default();
    // As they are built: features follow from which packages are built together.
    for packages in [together(), apart()] {
        let mut tree = cargo();
        tree.args(["tree", "--target", target.triple(), "--edges=normal,no-proc-macro", "--prefix=depth"]);
        tree.arg("--format={p}|{l}").args(packages.iter().map(|package| format!("--package={package}")));
        graph.read(&output(&mut tree)?)?;
    }
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let carried = carried(&graph, target)?;
    let mut bill = bill(&graph, &checksums(&lock), &carried, target, source, image);
    let text = bill.to_string();
    bill["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&digest(text.as_bytes()))));
    let mut text = serde_json::to_vec_pretty(&bill).context("JSON")?;
    text.push(b'\n');
    Ok(text)
}

impl Graph {
    /// Reads what `cargo tree --prefix=depth --format={p}|{l}` says, a package a line below the one that uses it.
    fn read(&mut self, tree: &str) -> Result<()> {
        let mut path: Vec<Package> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            let at = line.find(|character: char| !character.is_ascii_digit()).unwrap_or(0);
            let (depth, rest) = line.split_at(at);
            let depth: usize = depth.parse().with_context(|| format!("cargo tree says {line}"))?;
            let (package, licence) = rest.split_once('|').with_context(|| format!("cargo tree says {line}"))?;
            let mut words = package.split(' ');
            let (name, version) = words.next().zip(words.next()).with_context(|| format!("cargo tree says {line}"))?;
            let package = (name.to_owned(), version.trim_start_matches('v').to_owned());
            path.truncate(depth);
            if let Some(user) = path.last() {
                self.uses.entry(user.clone()).or_default().insert(package.clone());
            }
            // Its own subtree may be left out here, as said before; its licence stands everywhere.
            let licence = licence.trim_end_matches("(*)").split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
            self.licences.insert(package.clone(), licence);
            path.push(package);
        }
        Ok(())
    }
}

/// The checksums of `Cargo.lock`; our own crates have none.
fn checksums(lock: &str) -> BTreeMap<Package, String> {
    let blocks = lock.split("[[package]]").skip(1);
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    blocks
        .filter_map(|block| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?)))
        .collect()
}

/// What crates and Rust bring along that is not Rust.
fn carried(graph: &Graph, target: Target) -> Result<Vec<Carried>> {
    let rustc = |question: &[&str]| output(Command::new("rustc").args(question).current_dir(root()));
    let version = rustc(&["--version"])?;
    let version = version.split(' ').nth(1).map(str::to_owned);
    let std = Carried {
        name: "rust-std",
        version,
        licence: "MIT OR Apache-2.0",
        what: "Rust's standard library, with LLVM's libunwind".to_owned(),
        by: By::Everything,
    };
    let libc = Path::new(rustc(&["--print", "sysroot"])?.trim())
        .join("lib/rustlib")
        .join(target.triple())
        .join("lib/self-contained/libc.a");
    let musl = Carried {
        name: "musl",
        version: fs::read(libc).ok().and_then(|library| musl_version(&library)),
        licence: "MIT",
        what: "the C library, as Rust's standard library brings it".to_owned(),
        by: By::Everything,
    };
    let mut all = vec![std, musl];
    for package in graph.licences.keys() {
        let (name, version) = package;
        match name.as_str() {
            "libsqlite3-sys" => all.push(Carried {
                name: "sqlite",
                version: Some(sqlite_version(&source_of(package)?)?),
                licence: "blessing",
                what: format!("the database, as {name} {version} brings it"),
                by: By::Crate(package.clone()),
            }),
            "ring" => all.push(Carried {
                name: "boringssl",
                // It bears no versions; ring's says which it is.
                version: None,
                licence: "Apache-2.0 AND ISC",
                what: format!("C and assembly of its libcrypto, as {name} {version} brings them"),
                by: By::Crate(package.clone()),
            }),
            _ => {}
        }
    }
    Ok(all)
}

/// The version in musl's archive: a string of its own, such as `1.2.5`, between two zeros.
fn musl_version(library: &[u8]) -> Option<String> {
    let strings = library.split(|octet| *octet == 0).filter_map(|text| std::str::from_utf8(text).ok());
    strings
        .map(str::trim)
        .find(|text| {
            let parts: Vec<_> = text.split('.').collect();
            let numbers = parts.iter().all(|part| !part.is_empty() && part.bytes().all(|octet| octet.is_ascii_digit()));
            parts.len() == 3 && parts[0] == "1" && numbers
        })
        .map(str::to_owned)
}

/// Where a crate's source lies.
fn source_of((name, version): &Package) -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let found = packages.iter().find(|package| package["name"] == **name && package["version"] == **version);
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.with_context(|| format!("cargo metadata does not say where {name} lies"))?;
    Ok(Path::new(manifest).parent().context("a manifest without a folder")?.to_owned())
}

fn sqlite_version(source: &Path) -> Result<String> {
    let header = source.join("sqlite3/sqlite3.h");
    let text = fs::read_to_string(&header).with_context(|| format!("cannot read {}", header.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("#define SQLITE_VERSION "));
    Ok(line.context("sqlite3.h says no version")?.trim().trim_matches('"').to_owned())
}

fn bill(
    graph: &Graph,
    checksums: &BTreeMap<Package, String>,
    carried: &[Carried],
    target: Target,
    source: &Source,
    image: &Image,
) -> Value {
    let reference = |package: &Package| purl(package, checksums.contains_key(package));
    let crates = graph.licences.iter().map(|(package, licence)| {
        let (name, version) = package;
        let shipped = SHIPPED.iter().any(|(package, ..)| package == name);
        let mut component = json!({
            "type": if shipped { "application" } else { "library" },
            "bom-ref": reference(package),
            "name": name,
            "version": version,
            "licenses": [{ "expression": licence }],
            "purl": reference(package),
        });
        if let Some(checksum) = checksums.get(package) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    });
    let others = carried.iter().map(|carried| {
        let mut component = json!({
            "type": "library",
            "bom-ref": carried.purl(),
            "name": carried.name,
            "description": carried.what,
            "licenses": [{ "expression": carried.licence }],
            "purl": carried.purl(),
        });
        if let Some(version) = &carried.version {
            component["version"] = json!(version);
        }
        component
    });
    let mut components: Vec<Value> = crates.chain(others).collect();
    components.sort_by_key(|component| component["bom-ref"].as_str().map(str::to_owned));

    let whole = format!("pkg:oci/ocicat@{}?arch={}", image.digest.replace(':', "%3A"), target.architecture());
    let programs = graph.licences.keys().filter(|(name, _)| SHIPPED.iter().any(|(package, ..)| package == name));
    let whole_of = carried.iter().filter(|carried| matches!(carried.by, By::Everything)).map(Carried::purl);
    let mut uses = BTreeMap::from([(whole.clone(), programs.map(&reference).chain(whole_of).collect::<BTreeSet<_>>())]);
    for package in graph.licences.keys() {
        let used = graph.uses.get(package).into_iter().flatten().map(&reference);
        uses.insert(reference(package), used.collect());
    }
    for carried in carried {
        uses.insert(carried.purl(), BTreeSet::new());
        if let By::Crate(user) = &carried.by {
            uses.entry(reference(user)).or_default().insert(carried.purl());
        }
    }
    let dependencies: Vec<_> = uses.iter().map(|(user, used)| json!({ "ref": user, "dependsOn": used })).collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": source.rfc3339(),
            "component": {
                "type": "container",
                "bom-ref": whole,
                "name": "ocicat",
                "version": env!("CARGO_PKG_VERSION"),
                "licenses": [{ "expression": env!("CARGO_PKG_LICENSE") }],
                "purl": whole,
            },
            "properties": [
                { "name": "ocicat:commit", "value": source.commit },
                { "name": "ocicat:target", "value": target.triple() },
            ],
        },
        "components": components,
        "dependencies": dependencies,
    })
}

impl Carried {
    fn purl(&self) -> String {
        match &self.version {
            Some(version) => format!("pkg:generic/{}@{version}", self.name),
            None => format!("pkg:generic/{}", self.name),
        }
    }
}

/// Ours are on no registry, where a crate of another's may bear the same name.
fn purl((name, version): &Package, registered: bool) -> String {
    let version = version.replace('+', "%2B");
    if registered { format!("pkg:cargo/{name}@{version}") } else { format!("pkg:generic/ocicat/{name}@{version}") }
}

/// A UUID of version 8 (RFC 9562 §5.8: its octets are ours to choose) from a digest.
fn uuid(digest: &str) -> String {
    let hex = digest.trim_start_matches("sha256:");
    let part = |from: usize, to: usize| hex.get(from..to).expect("a SHA-256 has 64 digits");
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
0felix v0.1.0 (/somewhere/felix)|Apache-2.0
1ring v0.17.14|Apache-2.0 AND ISC
2cfg-if v1.0.0|MIT/Apache-2.0
1log v0.4.1+spec|Zlib / MIT

0cni v0.1.0 (/somewhere/cni)|Apache-2.0
1ring v0.17.14|Apache-2.0 AND ISC (*)
";
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"ring\"\nversion = \"0.17.14\"\nsource = \"registry\"\n\
        checksum = \"c0ffee\"\ndependencies = [\n \"cfg-if\",\n]\n\n[[package]]\nname = \"felix\"\nversion = \"0.1.0\"\n\n\
        [[package]]\nname = \"log\"\nversion = \"0.4.1+spec\"\nchecksum = \"dead\"\n";

    fn package(name: &str, version: &str) -> Package {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn a_tree_becomes_a_graph_even_where_it_says_a_part_once() {
        let mut graph = Graph::default();
        graph.read(TREE).unwrap();
        assert_eq!(graph.licences[&package("cfg-if", "1.0.0")], "MIT OR Apache-2.0");
        assert_eq!(graph.licences[&package("ring", "0.17.14")], "Apache-2.0 AND ISC");
        assert_eq!(graph.licences[&package("log", "0.4.1+spec")], "Zlib OR MIT");
        let uses = |name: &str, version: &str| graph.uses[&package(name, version)].iter().cloned().collect::<Vec<_>>();
        assert_eq!(uses("felix", "0.1.0"), [package("log", "0.4.1+spec"), package("ring", "0.17.14")]);
        assert_eq!(uses("cni", "0.1.0"), [package("ring", "0.17.14")]);
        assert!(Graph::default().read("what is this").is_err());
    }

    #[test]
    fn each_component_has_its_name_checksum_and_place_in_the_graph() {
        let mut graph = Graph::default();
        graph.read(TREE).unwrap();
        let carried = [Carried {
            name: "boringssl",
            version: None,
            licence: "ISC",
            what: "a part".to_owned(),
            by: By::Crate(package("ring", "0.17.14")),
        }];
        let source = Source { commit: "c0ffee".to_owned(), time: 0 };
        let image = Image { archive: Vec::new(), digest: "sha256:ab".to_owned(), pulled: 0 };
        let bill = bill(&graph, &checksums(LOCK), &carried, Target::Amd64, &source, &image);
        let components = bill["components"].as_array().unwrap();
        let named = |name: &str| components.iter().find(|component| component["name"] == name).unwrap();
        assert_eq!(named("ring")["purl"], "pkg:cargo/ring@0.17.14");
        assert_eq!(named("ring")["hashes"][0]["content"], "c0ffee");
        assert_eq!(named("log")["purl"], "pkg:cargo/log@0.4.1%2Bspec");
        assert_eq!(named("felix")["purl"], "pkg:generic/ocicat/felix@0.1.0");
        assert_eq!(named("felix")["type"], "application");
        let dependencies = bill["dependencies"].as_array().unwrap();
        let of = |name: &str| &dependencies.iter().find(|entry| entry["ref"] == name).unwrap()["dependsOn"];
        assert!(of("pkg:cargo/ring@0.17.14").as_array().unwrap().contains(&json!("pkg:generic/boringssl")));
        let whole = bill["metadata"]["component"]["bom-ref"].as_str().unwrap();
        assert_eq!(*of(whole), json!(["pkg:generic/ocicat/cni@0.1.0", "pkg:generic/ocicat/felix@0.1.0"]));
    }

    #[test]
    fn musl_says_its_version_and_equal_contents_have_one_serial_number() {
        assert_eq!(musl_version(b"\0/usr/lib\x00127.0.0.1\x001.2.5\0%s\0").as_deref(), Some("1.2.5"));
        assert_eq!(uuid(&digest(b"")), "e3b0c442-98fc-81c1-849a-fbf4c8996fb9");
    }
}
