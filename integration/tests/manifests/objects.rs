//! The objects that each way to install renders.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use integration::programs::{self, HELM, KUBECTL, workspace};
use serde_json::Value;

/// Kind and name to object.
pub(crate) type Objects = BTreeMap<String, Value>;

/// What the chart is told of the cluster: without one to ask, Helm thinks of a very old one.
const KUBERNETES: &str = "1.36.0";

/// The folder `manifests`.
pub(crate) fn folder() -> String {
    workspace().join("manifests").display().to_string()
}

/// kubectl's and Helm's paths.
pub(crate) fn programs() -> Result<&'static (PathBuf, PathBuf)> {
    static FOUND: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let built = programs::ensure_built(&[KUBECTL, HELM])?;
    let [kubectl, helm] = <[PathBuf; 2]>::try_from(built).ok().context("two programs were asked for")?;
    Ok(FOUND.get_or_init(|| (kubectl, helm)))
}

/// Runs kubectl on a cluster; returns what it printed.
pub(crate) fn kubectl(kubeconfig: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = Command::new(&programs()?.0);
    command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
    output(command, input)
}

/// Runs a program; returns what it printed.
pub(crate) fn output(mut command: Command, input: Option<&str>) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut pipe = child.stdin.take().context("its input was to be written")?;
    let text = input.unwrap_or_default().to_owned();
    // It may begin to answer before it has read everything.
    let writer = std::thread::spawn(move || pipe.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join(); // a program that does not read its input says so itself
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `kubectl kustomize` prints of a folder below `manifests`.
pub(crate) fn render_overlay(path: &str) -> Result<String> {
    let mut command = Command::new(&programs()?.0);
    command.arg("kustomize").arg(workspace().join("manifests").join(path));
    output(command, None)
}

/// The objects of a folder below `manifests`.
pub(crate) fn kustomize(path: &str) -> Result<Objects> {
    parse(&render_overlay(path)?)
}

/// What `helm template` prints with these values.
pub(crate) fn render_chart(values: &[&str]) -> Result<String> {
    let mut command = Command::new(&programs()?.1);
    command.args(["template", "ocicat"]).arg(workspace().join("manifests/helm/ocicat"));
    command.args(["--namespace", "kube-system", "--kube-version", KUBERNETES]);
    for value in values {
        // Truth values and null are no texts.
        let typed = ["=true", "=false", "=null"].iter().any(|end| value.ends_with(end));
        command.args([if typed { "--set" } else { "--set-string" }, value]);
    }
    output(command, None)
}

/// The chart's objects with these values.
pub(crate) fn helm(values: &[&str]) -> Result<Objects> {
    let mut objects = parse(&render_chart(values)?)?;
    // Helm's own word about definitions, which nobody else reads.
    for object in objects.values_mut() {
        if let Some(metadata) = object["metadata"].as_object_mut()
            && let Some(notes) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
        {
            notes.remove("helm.sh/resource-policy");
            if notes.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    Ok(objects)
}

/// The objects of a flat file.
pub(crate) fn flat(name: &str) -> Result<Objects> {
    parse(&std::fs::read_to_string(workspace().join("manifests").join(name))?)
}

/// The objects of a text of YAML documents.
pub(crate) fn parse(text: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in format!("\n{text}").split("\n---") {
        let mut value = calico_api::yaml::parse(document.split_once('\n').map_or("", |(_, rest)| rest))?;
        if value.is_null() {
            continue;
        }
        sort(&mut value);
        let name = format!("{} {}", text_of(&value, "/kind")?, text_of(&value, "/metadata/name")?);
        ensure!(objects.insert(name.clone(), value).is_none(), "{name} is there twice");
    }
    Ok(objects)
}

fn text_of<'a>(value: &'a Value, at: &str) -> Result<&'a str> {
    value.pointer(at).and_then(Value::as_str).with_context(|| format!("no {at} in {value:#}"))
}

/// Lists whose elements are told apart by a name are sorted: their order says nothing.
fn sort(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.iter_mut().for_each(sort);
            for key in ["name", "mountPath"] {
                if list.iter().all(|element| element.get(key).is_some()) {
                    list.sort_by_key(|element| (element[key].to_string(), element["mountPath"].to_string()));
                    return;
                }
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(sort),
        _ => {}
    }
}

/// Which objects differ, for a message.
pub(crate) fn differences(one: &Objects, other: &Objects) -> String {
    let names = one.keys().chain(other.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    let shown = differing.map(|name| {
        let print = |objects: &Objects| objects.get(name).map_or("(is not there)".to_owned(), calico_api::to_yaml);
        format!("{name}:\n{}\nand\n{}", print(one), print(other))
    });
    shown.collect::<Vec<_>>().join("\n\n")
}
