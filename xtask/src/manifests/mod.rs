//! `cargo xtask manifests`: what users apply, from the one source in `manifests/source`.
//!
//! The custom resource definitions follow from the kinds of `calico-api` ([`crds`]); everything else is the source's YAML,
//! rendered for its variants ([`render`]). A Kustomize component is the difference between two variants ([`patch`]).

mod crds;
mod patch;
mod render;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::crds::Group;
use self::render::{Source, Target};
use crate::shell::{root, say};

/// What is made, path below `manifests` to content.
type Files = BTreeMap<PathBuf, String>;

/// Folders below `manifests` in which nothing else is.
const WHOLE: &[&str] =
    &["crds/classic", "crds/native", "kustomize/base", "kustomize/components", "kustomize/uninstall", "helm/ocicat"];

/// What the chart asks for each variant.
const CONDITIONS: &[(&str, &str)] = &[
    ("etcd", "eq .Values.datastore \"etcd\""),
    ("host-local", ".Values.upgradeHostLocal"),
    ("native", "and .Values.nativeCRDs (ne .Values.datastore \"etcd\")"),
    ("passwords", ".Values.bgpPasswordSecrets"),
    ("reflector", "and .Values.reflector.enabled (ne .Values.datastore \"etcd\")"),
];

/// The flat files: name, variants, the definitions in it, what it is.
const FLAT: &[(&str, &[&str], Option<Group>, &str)] = &[
    ("ocicat.yaml", &[], Some(Group::Classic), "Ocicat with Kubernetes' API as datastore and a mesh of all nodes"),
    (
        "ocicat-etcd.yaml",
        &["etcd"],
        None,
        "Ocicat with etcd as datastore and a mesh of all nodes; write into calico-config where etcd is",
    ),
    (
        "ocicat-v3-crds.yaml",
        &["native"],
        Some(Group::Native),
        "Ocicat with Kubernetes' API as datastore, Calico's resources in the group projectcalico.org/v3 without an API server of their own",
    ),
];

/// Writes what is made, or, with `check`, compares it with what is there.
///
/// # Errors
/// If the source cannot be understood; with `check`, if anything differs.
pub(crate) fn make(check: bool) -> Result<()> {
    let folder = root().join("manifests");
    let wanted = wanted(&folder)?;
    let mut differing = Vec::new();
    for name in stale(&folder, &wanted)? {
        differing.push(format!("{} belongs to nothing any more", name.display()));
        if !check {
            fs::remove_file(folder.join(&name))?;
        }
    }
    for (name, text) in &wanted {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == *text) {
            continue;
        }
        differing.push(name.display().to_string());
        if !check {
            fs::create_dir_all(path.parent().unwrap_or(&folder))?;
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
    }
    if !check {
        for name in &differing {
            say(name);
        }
    } else if !differing.is_empty() {
        bail!("manifests are out of date, `cargo xtask manifests` makes them anew:\n  {}", differing.join("\n  "));
    }
    Ok(())
}

/// Files in our folders that are not made any more.
fn stale(folder: &Path, wanted: &Files) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = WHOLE.iter().map(PathBuf::from).collect();
    while let Some(name) = waiting.pop() {
        let Ok(entries) = fs::read_dir(folder.join(&name)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = name.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                waiting.push(name);
            } else if !wanted.contains_key(&name) {
                found.push(name);
            }
        }
    }
    Ok(found)
}

fn wanted(folder: &Path) -> Result<Files> {
    let source = Source::read(&folder.join("source"), version()?)?;
    let mut files = Files::new();
    for group in [Group::Classic, Group::Native] {
        let definitions = crds::files(group);
        let list = kustomization("Kustomization", &[], definitions.keys().map(String::as_str), &[]);
        let at = Path::new("crds").join(group.folder());
        files.insert(at.join("kustomization.yaml"), list);
        files.extend(definitions.into_iter().map(|(name, text)| (at.join(name), text)));
    }
    kustomize(&source, &mut files)?;
    chart(&source, &mut files)?;
    for (name, variants, group, what) in FLAT {
        let mut text = format!("# {what}.\n# Generated: the same as Kustomize's and Helm's, see docs/install.md.\n");
        let definitions = group.map(crds::files).unwrap_or_default();
        let own = source.files().iter().filter(|file| file.is_in(variants));
        let own = own.map(|file| source.render(file, &Target::Variants(variants))).collect::<Result<Vec<_>>>()?;
        for document in definitions.into_values().chain(own) {
            text.push_str("---\n");
            text.push_str(&document);
        }
        files.insert(PathBuf::from(name), text);
    }
    let mut uninstall = String::new();
    for file in source.files().iter().filter(|file| file.variant.as_deref() == Some("uninstall")) {
        let text = source.render(file, &Target::Variants(&["uninstall"]))?;
        files.insert(Path::new("kustomize/uninstall").join(&file.name), text.clone());
        uninstall.push_str(&text);
    }
    if !uninstall.is_empty() {
        let names: Vec<&str> = source
            .files()
            .iter()
            .filter(|file| file.variant.as_deref() == Some("uninstall"))
            .map(|file| &*file.name)
            .collect();
        let list = kustomization("Kustomization", &[], names.into_iter(), &[]);
        files.insert(PathBuf::from("kustomize/uninstall/kustomization.yaml"), list);
        files.insert(PathBuf::from("ocicat-uninstall.yaml"), uninstall);
    }
    Ok(files)
}

/// The base, and the components that make the variants of it.
fn kustomize(source: &Source, files: &mut Files) -> Result<()> {
    let base = Path::new("kustomize/base");
    let plain: Vec<_> = source.files().iter().filter(|file| file.is_in(&[])).collect();
    for file in &plain {
        files.insert(base.join(&file.name), source.render(file, &Target::Variants(&[]))?);
    }
    let names = plain.iter().map(|file| &*file.name);
    files.insert(base.join("kustomization.yaml"), kustomization("Kustomization", &[], names, &[]));

    // What is there twice in Kustomize's terms: the reflectors' resources in the other group.
    let components: [(&str, &[&str]); 6] = [
        ("etcd", &["etcd"]),
        ("host-local", &["host-local"]),
        ("native", &["native"]),
        ("passwords", &["passwords"]),
        ("reflector", &["reflector"]),
        ("reflector-native", &["reflector", "native"]),
    ];
    for (name, variants) in components {
        let folder = Path::new("kustomize/components").join(name);
        let (mut resources, mut patches) = (Vec::new(), Vec::new());
        let word = variants.first().copied().unwrap_or_default();
        for file in source.files() {
            let text = source.render(file, &Target::Variants(variants));
            if file.variant.as_deref() == Some(word) {
                let text = if variants.contains(&"native") && word != "native" {
                    text?.replace("apiVersion: crd.projectcalico.org/v1", "apiVersion: projectcalico.org/v3")
                } else {
                    text?
                };
                files.insert(folder.join(&file.name), text);
                resources.push(file.name.clone());
            } else if file.is_in(&[]) {
                let before = source.render(file, &Target::Variants(&[]))?;
                let patch = patch::between(&before, &text?).with_context(|| file.name.clone())?;
                if let Some(patch) = patch {
                    files.insert(
                        folder.join(format!("patch-{}", file.name)),
                        format!("# Generated: what is different in {}.\n{patch}", file.name),
                    );
                    patches.push(format!("patch-{}", file.name));
                }
            }
        }
        let list = kustomization("Component", &[], resources.iter().map(String::as_str), &patches);
        files.insert(folder.join("kustomization.yaml"), list);
    }
    Ok(())
}

fn kustomization<'a>(
    kind: &str,
    head: &[&str],
    resources: impl Iterator<Item = &'a str>,
    patches: &[String],
) -> String {
    let version = if kind == "Component" { "v1alpha1" } else { "v1beta1" };
    let mut text = format!(
        "# Generated by `cargo xtask manifests`.\napiVersion: kustomize.config.k8s.io/{version}\nkind: {kind}\n"
    );
    for line in head {
        text.push_str(line);
        text.push('\n');
    }
    let mut first = true;
    for name in resources {
        if std::mem::take(&mut first) {
            text.push_str("resources:\n");
        }
        text.push_str(&format!("- {name}\n"));
    }
    if !patches.is_empty() {
        text.push_str("patches:\n");
    }
    for name in patches {
        text.push_str(&format!("- path: {name}\n"));
    }
    text
}

/// The chart: every file of the source as a template.
fn chart(source: &Source, files: &mut Files) -> Result<()> {
    let folder = Path::new("helm/ocicat");
    for (name, text) in source.chart() {
        let place =
            if name.ends_with(".tpl") || name.ends_with(".txt") { folder.join("templates") } else { folder.to_owned() };
        files.insert(place.join(name), text.clone());
    }
    let templates = folder.join("templates");
    for file in source.files().iter().filter(|file| file.variant.as_deref() != Some("uninstall")) {
        let mut text = source.render(file, &Target::Chart(CONDITIONS))?;
        if let Some(variant) = &file.variant {
            text = format!("{{{{- if {} }}}}\n{text}{{{{- end }}}}\n", render::condition(CONDITIONS, variant)?);
        }
        files.insert(templates.join(&file.name), text);
    }
    for (group, native) in [(Group::Classic, "not .Values.nativeCRDs"), (Group::Native, ".Values.nativeCRDs")] {
        let condition = format!("and .Values.includeCRDs (ne .Values.datastore \"etcd\") ({native})");
        let mut text = format!("{{{{- if {condition} }}}}\n");
        for definition in crds::files(group).into_values() {
            text.push_str("---\n");
            // Removing the release must not remove the record of every address that is in use.
            let keep = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n  name:";
            text.push_str(&definition.replacen("metadata:\n  name:", keep, 1));
        }
        text.push_str("{{- end }}\n");
        files.insert(templates.join(format!("crds-{}.yaml", group.folder())), text);
    }
    let names: BTreeSet<&str> = CONDITIONS.iter().map(|(name, _)| *name).collect();
    for file in source.files() {
        if let Some(variant) =
            file.variant.as_deref().filter(|variant| *variant != "uninstall" && !names.contains(variant))
        {
            bail!("{} is of the variant {variant}, which the chart does not know", file.name);
        }
    }
    Ok(())
}

/// The workspace's version.
fn version() -> Result<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let line =
        manifest.lines().find_map(|line| line.strip_prefix("version = \"")).and_then(|rest| rest.strip_suffix('"'));
    Ok(line.context("Cargo.toml of the workspace says no version")?.to_owned())
}
