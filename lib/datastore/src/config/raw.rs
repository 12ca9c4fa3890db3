//! What was written, before anything is made of it.

use std::collections::BTreeMap;
use std::path::Path;

use calico_api::API_VERSION;
use serde_json::Value;

use super::ConfigError;

/// What sort of value a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Text,
    /// Text that is not shown in errors.
    Secret,
    Bool,
    Number,
}

/// A setting: its fields in the file (the first is its name here), its variables in the environment.
struct Setting {
    fields: &'static [&'static str],
    variables: &'static [&'static str],
    sort: Sort,
}

const fn setting(fields: &'static [&'static str], variables: &'static [&'static str], sort: Sort) -> Setting {
    Setting { fields, variables, sort }
}

/// Every setting there is.
const SETTINGS: &[Setting] = &[
    setting(&["datastoreType"], &["DATASTORE_TYPE"], Sort::Text),
    setting(&["sqlitePath"], &["SQLITE_PATH"], Sort::Text),
    setting(&["etcdEndpoints"], &["ETCD_ENDPOINTS"], Sort::Text),
    setting(&["etcdDiscoverySrv"], &["ETCD_DISCOVERY_SRV"], Sort::Text),
    setting(&["etcdUsername"], &["ETCD_USERNAME"], Sort::Text),
    setting(&["etcdPassword"], &["ETCD_PASSWORD"], Sort::Secret),
    setting(&["etcdKeyFile"], &["ETCD_KEY_FILE"], Sort::Text),
    setting(&["etcdCertFile"], &["ETCD_CERT_FILE"], Sort::Text),
    setting(&["etcdCACertFile"], &["ETCD_CA_CERT_FILE"], Sort::Text),
    setting(&["etcdKey"], &[], Sort::Secret),
    setting(&["etcdCert"], &[], Sort::Secret),
    setting(&["etcdCACert"], &[], Sort::Secret),
    setting(&["kubeconfig"], &["KUBECONFIG"], Sort::Text),
    setting(&["kubeconfigInline"], &[], Sort::Secret),
    setting(&["k8sAPIEndpoint"], &["K8S_API_ENDPOINT"], Sort::Text),
    setting(&["k8sKeyFile"], &["K8S_KEY_FILE"], Sort::Text),
    setting(&["k8sCertFile"], &["K8S_CERT_FILE"], Sort::Text),
    setting(&["k8sCAFile"], &["K8S_CA_FILE"], Sort::Text),
    // The first is what Calico documents, the second what it reads.
    setting(&["k8sAPIToken"], &["K8S_API_TOKEN", "K8SAPITOKEN"], Sort::Secret),
    setting(&["k8sInsecureSkipTLSVerify"], &["K8S_INSECURE_SKIP_TLS_VERIFY"], Sort::Bool),
    setting(&["k8sDisableNodePoll"], &["K8S_DISABLE_NODE_POLL"], Sort::Bool),
    setting(&["usePodCIDR", "k8sUsePodCIDR"], &["USE_POD_CIDR"], Sort::Bool),
    setting(&["k8sClientQPS"], &["K8S_CLIENT_QPS"], Sort::Number),
    setting(&["k8sClientBurst"], &["K8S_CLIENT_BURST"], Sort::Number),
    setting(&["k8sCurrentContext"], &["K8S_CURRENT_CONTEXT"], Sort::Text),
    setting(&["calicoAPIGroup"], &["CALICO_API_GROUP"], Sort::Text),
];

/// What was written for one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    /// The field or variable in which it was.
    key: String,
    value: String,
    secret: bool,
}

/// Everything that was written. Empty values count as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    /// The file, or `environment`.
    place: String,
    in_file: bool,
    values: BTreeMap<&'static str, Written>,
}

impl Raw {
    /// The value of a setting, by the name of its first field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|written| written.value.as_str())
    }

    /// The same, for keeping.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// An error about a setting that names the field or variable, and its value unless it is secret.
    pub(super) fn wrong(&self, name: &str, reason: &str) -> ConfigError {
        let (key, reason) = match self.values.get(name) {
            Some(Written { key, secret: true, .. }) => (key.clone(), reason.to_owned()),
            Some(Written { key, value, .. }) => (key.clone(), format!("\"{value}\" {reason}")),
            None => (self.key(name), reason.to_owned()),
        };
        ConfigError::Value { place: self.place.clone(), key, reason }
    }

    /// How a setting is called where this was written.
    pub(super) fn key(&self, name: &str) -> String {
        let variables = SETTINGS.iter().find(|setting| setting.fields.contains(&name)).map(|setting| setting.variables);
        match variables.and_then(|variables| variables.first()) {
            Some(variable) if !self.in_file => (*variable).to_owned(),
            _ => format!("spec.{name}"),
        }
    }

    fn put(&mut self, setting: &Setting, key: String, value: String) {
        if let Some(name) = setting.fields.first()
            && !value.is_empty()
        {
            self.values.insert(name, Written { key, value, secret: setting.sort == Sort::Secret });
        }
    }
}

/// Collects the variables.
pub(super) fn from_environment(get: impl Fn(&str) -> Option<String>) -> Raw {
    let mut raw = Raw { place: "environment".to_owned(), in_file: false, values: BTreeMap::new() };
    for setting in SETTINGS {
        let prefixed = setting.variables.iter().map(|variable| format!("CALICO_{variable}"));
        let bare = setting.variables.iter().map(|variable| (*variable).to_owned());
        let found = prefixed
            .chain(bare)
            .find_map(|variable| get(&variable).filter(|value| !value.is_empty()).map(|value| (variable, value)));
        if let Some((variable, value)) = found {
            raw.put(setting, variable, value);
        }
    }
    raw
}

/// Collects the fields of a `CalicoAPIConfig`; unknown ones are errors.
pub(super) fn from_file_text(text: &str, path: &Path) -> Result<Raw, ConfigError> {
    let place = path.display().to_string();
    let file = |reason: String| ConfigError::File { place: place.clone(), reason };
    let document: Value = calico_api::yaml::parse(text).map_err(|error| {
        let line = error.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        file(format!("it is not YAML: {error}{line}"))
    })?;
    let Value::Object(document) = document else { return Err(file("it is not a CalicoAPIConfig".to_owned())) };
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", "CalicoAPIConfig")] {
        match document.get(field) {
            Some(Value::String(found)) if found == expected => {}
            Some(found) => return Err(file(format!("{field} is {}, expected {expected}", show(found)))),
            None => return Err(file(format!("{field} is missing, expected {expected}"))),
        }
    }
    if let Some(unknown) =
        document.keys().find(|key| !["apiVersion", "kind", "metadata", "spec"].contains(&key.as_str()))
    {
        return Err(file(format!("unknown field \"{unknown}\"")));
    }
    let mut raw = Raw { place: place.clone(), in_file: true, values: BTreeMap::new() };
    let spec = match document.get("spec") {
        None | Some(Value::Null) => return Ok(raw),
        Some(Value::Object(spec)) => spec,
        Some(other) => return Err(file(format!("spec is {}, expected fields", show(other)))),
    };
    for (field, value) in spec {
        let setting = SETTINGS.iter().find(|setting| setting.fields.contains(&field.as_str()));
        let setting = setting.ok_or_else(|| file(format!("unknown field \"spec.{field}\"")))?;
        let value = match (setting.sort, value) {
            (_, Value::Null) => continue,
            (Sort::Text | Sort::Secret, Value::String(text)) => text.clone(),
            (Sort::Bool, Value::Bool(_)) | (Sort::Number, Value::Number(_)) => show(value),
            (sort, value) => {
                let (found, expected) = match sort {
                    Sort::Secret => ("this".to_owned(), "text; put it in quotes"),
                    Sort::Text => (show(value), "text; put it in quotes"),
                    Sort::Bool => (show(value), "true or false"),
                    Sort::Number => (show(value), "a number"),
                };
                return Err(file(format!("spec.{field}: {found} is not {expected}")));
            }
        };
        raw.put(setting, format!("spec.{field}"), value);
    }
    Ok(raw)
}

/// A value on one line.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
