//! `calicoctl get`.

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use calico_api::yaml::{to_json, to_yaml};
use calico_api::{BGPConfigurationSpec, Key, Kind};
use calico_datastore::{Entry, Error, Filter, Store};
use serde_json::{Value, json};

use crate::arguments::{Get, Globals};
use crate::files::Written;
use crate::resource_type::ResourceType;
use crate::{client, files, output};

/// The form of what is printed.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Table { wide: bool },
    Columns(Vec<String>),
    Yaml,
    Json,
}

/// What was asked for: a whole kind, or one of it.
struct Wanted {
    it: &'static ResourceType,
    name: Option<String>,
    namespace: Option<String>,
}

/// What was found for one of them.
struct Found {
    it: &'static ResourceType,
    /// A resource, or a list object.
    value: Value,
}

/// Runs it.
pub(crate) async fn get(flags: &Get, globals: &Globals) -> Result<ExitCode> {
    let form = form(&flags.output)?;
    let wanted = wanted(flags)?;
    if flags.all_namespaces && flags.files.namespace.is_some() {
        bail!("--namespace and --all-namespaces exclude each other");
    }
    let store = client::open_gated(globals).await.map_err(|error| anyhow!("failed to get resources: {error:#}"))?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for one in &wanted {
        match look_up(&store, one, flags.all_namespaces).await {
            Ok((value, faults)) => {
                found.push(Found { it: one.it, value });
                errors.extend(faults);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    let named = wanted.iter().any(|one| one.name.is_some());
    if flags.export && named {
        found.iter_mut().for_each(|found| export(&mut found.value));
    }
    let namespaces = flags.all_namespaces || flags.files.namespace.is_some();
    let text = print(&form, &found, namespaces, &store).await?;
    output::print(&text)?;
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    output::errors(&format!("{}\n", errors.join("\n")))?;
    Ok(ExitCode::FAILURE)
}

fn form(text: &str) -> Result<Form> {
    match text.split_once('=') {
        None if text == "ps" => Ok(Form::Table { wide: false }),
        None if text == "wide" => Ok(Form::Table { wide: true }),
        None if matches!(text, "yaml" | "yml") => Ok(Form::Yaml),
        None if text == "json" => Ok(Form::Json),
        Some(("custom-columns", "")) => bail!("custom-columns needs headings: custom-columns=NAME,…"),
        Some(("custom-columns", headings)) => Ok(Form::Columns(headings.split(',').map(str::to_owned).collect())),
        Some(("go-template" | "go-template-file", _)) => {
            bail!("go-template is not available in this release; use -o json, yaml or custom-columns")
        }
        _ => bail!("unrecognized output format '{text}'"),
    }
}

fn wanted(flags: &Get) -> Result<Vec<Wanted>> {
    let namespace = flags.files.namespace.clone();
    let Some(kind) = &flags.kind else {
        if flags.files.filename.is_none() {
            bail!("failed to get resources: name a kind (such as ippool), or a file with -f");
        }
        let resources = files::read(&flags.files)?;
        return resources
            .into_iter()
            .map(|Written { mut resource, .. }| {
                super::rules::place(&mut resource, namespace.as_deref())?;
                let it = ResourceType::of(resource.kind()).ok_or_else(|| unsupported(resource.kind().as_str()))?;
                let metadata = resource.metadata();
                Ok(Wanted { it, name: metadata.name.clone(), namespace: metadata.namespace.clone() })
            })
            .collect();
    };
    let it = ResourceType::called(kind).ok_or_else(|| unsupported(kind))?;
    if !it.kind.namespaced() && (namespace.is_some() || flags.all_namespaces) {
        bail!("{} is not namespaced", it.kind);
    }
    if flags.names.is_empty() {
        let namespace = it.kind.namespaced().then(|| namespace.unwrap_or_else(|| "default".to_owned()));
        return Ok(vec![Wanted { it, name: None, namespace }]);
    }
    if flags.all_namespaces {
        bail!("a resource cannot be retrieved by name across all namespaces: leave --all-namespaces away");
    }
    flags
        .names
        .iter()
        .map(|name| {
            if name.is_empty() {
                bail!("resource name may not be empty");
            }
            let namespace = it.kind.namespaced().then(|| namespace.clone().unwrap_or_else(|| "default".to_owned()));
            Ok(Wanted { it, name: Some(name.clone()), namespace })
        })
        .collect()
}

fn unsupported(kind: &str) -> anyhow::Error {
    anyhow!("failed to get resources: resource type '{kind}' is not supported")
}

/// The resource or the list, and what could not be read of it.
async fn look_up(store: &Store, wanted: &Wanted, all_namespaces: bool) -> Result<(Value, Vec<String>)> {
    let kind = wanted.it.kind;
    super::rules::ours(store, kind)?;
    if let Some(name) = &wanted.name {
        let key = Key::Named { kind, namespace: wanted.namespace.clone(), name: name.clone() };
        return Ok((store.backend().get(&key).await?.value, Vec::new()));
    }
    let filter = match &wanted.namespace {
        Some(namespace) if !all_namespaces => Filter::Namespace(namespace.clone()),
        _ => Filter::All,
    };
    let mut listing = store.backend().list(kind, &filter).await?;
    if kind == Kind::Tier {
        listing.entries.sort_by(|a, b| order(a).total_cmp(&order(b)));
    } else {
        listing.entries.sort_by(|a, b| a.key.cmp(&b.key));
    }
    let faults = listing.faults.into_iter().map(|fault| Error::Corrupt(fault).to_string()).collect();
    let items: Vec<Value> = listing.entries.into_iter().map(|entry| entry.value).collect();
    let list = json!({
        "apiVersion": kind.api_version(),
        "kind": format!("{kind}List"),
        "metadata": { "resourceVersion": listing.revision.0 },
        "items": items,
    });
    Ok((list, faults))
}

/// A tier's order; tiers without one come last.
fn order(tier: &Entry) -> f64 {
    tier.value.pointer("/spec/order").and_then(Value::as_f64).unwrap_or(f64::INFINITY)
}

/// Without what only this cluster knows.
fn export(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in [
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(field);
        }
    }
}

async fn print(form: &Form, found: &[Found], namespaces: bool, store: &Store) -> Result<String> {
    let whole = || match found {
        [one] => one.value.clone(),
        many => many.iter().map(|found| found.value.clone()).collect(),
    };
    match form {
        _ if found.is_empty() => Ok(String::new()),
        Form::Json => Ok(to_json(&whole())),
        Form::Yaml => Ok(to_yaml(&whole()) + "\n"),
        Form::Table { wide } => {
            let headings = |it: &ResourceType| it.headings(*wide, namespaces);
            tables(found, store, &|it| Ok(headings(it).into_iter().map(str::to_owned).collect())).await
        }
        Form::Columns(chosen) => tables(found, store, &|_| Ok(chosen.clone())).await,
    }
}

async fn tables(
    found: &[Found],
    store: &Store,
    headings: &dyn Fn(&ResourceType) -> Result<Vec<String>>,
) -> Result<String> {
    let global_as =
        if found.iter().any(|found| found.it.kind == Kind::Node) { global_as(store).await } else { String::new() };
    let mut text = String::new();
    for Found { it, value } in found {
        let headings = headings(it)?;
        let columns = headings
            .iter()
            .map(|heading| it.column(heading).map_err(anyhow::Error::msg))
            .collect::<Result<Vec<_>>>()?;
        let items: Vec<&Value> = match value.get("items").and_then(Value::as_array) {
            Some(items) => items.iter().collect(),
            None => vec![value],
        };
        let row = |item: &&Value| columns.iter().map(|column| column.cell.text(item, &global_as)).collect();
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        let header: Vec<&str> = columns.iter().map(|column| column.heading).collect();
        text += &output::columns(&header, &rows);
    }
    Ok(text)
}

async fn global_as(store: &Store) -> String {
    match store.get::<BGPConfigurationSpec>(&Key::named(Kind::BGPConfiguration, "default")).await {
        Ok(configuration) => configuration.spec.as_number.unwrap_or(BGPConfigurationSpec::DEFAULT_AS).to_string(),
        Err(Error::NotFound(_)) => BGPConfigurationSpec::DEFAULT_AS.to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_have_names() {
        assert_eq!(form("yml").unwrap(), Form::Yaml);
        assert_eq!(form("custom-columns=NAME,CIDR").unwrap(), Form::Columns(vec!["NAME".into(), "CIDR".into()]));
        assert_eq!(form("xml").unwrap_err().to_string(), "unrecognized output format 'xml'");
        assert!(form("custom-columns=").is_err());
    }

    #[test]
    fn an_exported_resource_can_be_applied_elsewhere() {
        let mut value = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "2", "labels": {"a": "b"}}});
        export(&mut value);
        assert_eq!(value, json!({"metadata": {"name": "a", "labels": {"a": "b"}}}));
    }
}
