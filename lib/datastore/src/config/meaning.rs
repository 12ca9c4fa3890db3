//! What the settings mean together.

use super::raw::Raw;
use super::{Config, ConfigError, DEFAULT_SQLITE_PATH, EtcdConfig, KubernetesConfig, Pem};

type Result<T> = std::result::Result<T, ConfigError>;

/// Which store is meant, and how it is reached.
pub(super) fn config(raw: &Raw) -> Result<Config> {
    let by_other_settings = || {
        if raw.get("etcdEndpoints").is_some() || raw.get("etcdDiscoverySrv").is_some() {
            "etcdv3"
        } else if raw.get("sqlitePath").is_some() {
            "sqlite"
        } else {
            "kubernetes"
        }
    };
    match raw.get("datastoreType").unwrap_or_else(by_other_settings) {
        "kubernetes" => kubernetes(raw).map(Config::Kubernetes),
        "etcdv3" => etcd(raw).map(Config::Etcd),
        "sqlite" => {
            Ok(Config::Sqlite { path: raw.text("sqlitePath").unwrap_or_else(|| DEFAULT_SQLITE_PATH.to_owned()) })
        }
        _ => Err(raw.wrong("datastoreType", "is not one of kubernetes, etcdv3, sqlite")),
    }
}

pub(super) fn kubernetes(raw: &Raw) -> Result<KubernetesConfig> {
    Ok(KubernetesConfig {
        kubeconfig: raw.text("kubeconfig"),
        kubeconfig_inline: raw.text("kubeconfigInline"),
        api_endpoint: raw.text("k8sAPIEndpoint"),
        key_file: raw.text("k8sKeyFile"),
        cert_file: raw.text("k8sCertFile"),
        ca_file: raw.text("k8sCAFile"),
        api_token: raw.text("k8sAPIToken"),
        insecure_skip_tls_verify: boolean(raw, "k8sInsecureSkipTLSVerify")?,
        disable_node_poll: boolean(raw, "k8sDisableNodePoll")?,
        use_pod_cidr: boolean(raw, "usePodCIDR")?,
        client_qps: number(raw, "k8sClientQPS", |qps: &f32| qps.is_finite() && *qps > 0.0)?,
        client_burst: number(raw, "k8sClientBurst", |burst: &u32| *burst > 0)?,
        current_context: raw.text("k8sCurrentContext"),
        calico_api_group: raw.text("calicoAPIGroup"),
        interface_prefix: None,
    })
}

fn etcd(raw: &Raw) -> Result<EtcdConfig> {
    let discovery_srv = raw.text("etcdDiscoverySrv");
    let endpoints: Vec<String> = raw
        .get("etcdEndpoints")
        .unwrap_or_default()
        .split(',')
        .map(|endpoint| endpoint.trim().to_owned())
        .filter(|endpoint| !endpoint.is_empty())
        .collect();
    if let Some(wrong) = endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
        return Err(raw.wrong("etcdEndpoints", &format!("has \"{wrong}\", which is not like https://10.0.0.5:2379")));
    }
    match (endpoints.is_empty(), &discovery_srv) {
        (true, None) => return Err(raw.wrong("etcdEndpoints", "is needed for the datastore type etcdv3")),
        (false, Some(_)) => return Err(both(raw, "etcdDiscoverySrv", "etcdEndpoints")),
        _ => {}
    }
    let credentials = together(raw, "etcdUsername", "etcdPassword")?;

    let files = ["etcdKeyFile", "etcdCertFile", "etcdCACertFile"].into_iter().find(|name| raw.get(name).is_some());
    let inline = ["etcdKey", "etcdCert", "etcdCACert"].into_iter().find(|name| raw.get(name).is_some());
    if let (Some(file), Some(inline)) = (files, inline) {
        return Err(both(raw, inline, file));
    }
    let from_files = together(raw, "etcdCertFile", "etcdKeyFile")?;
    let from_text = together(raw, "etcdCert", "etcdKey")?;
    let identity = from_files
        .map(|(cert, key)| (Pem::File(cert), Pem::File(key)))
        .or(from_text.map(|(cert, key)| (Pem::Inline(cert), Pem::Inline(key))));
    let ca = raw.text("etcdCACertFile").map(Pem::File).or(raw.text("etcdCACert").map(Pem::Inline));
    Ok(EtcdConfig { endpoints, discovery_srv, credentials, identity, ca })
}

/// Whether it is a URL of http or https, or a host and port.
fn is_endpoint(text: &str) -> bool {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn both(raw: &Raw, name: &str, other: &str) -> ConfigError {
    raw.wrong(name, &format!("cannot be given together with {}", raw.key(other)))
}

/// Two settings of which neither makes sense alone.
fn together(raw: &Raw, one: &str, other: &str) -> Result<Option<(String, String)>> {
    match (raw.text(one), raw.text(other)) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(raw.wrong(other, &format!("is needed together with {}", raw.key(one)))),
        (None, Some(_)) => Err(raw.wrong(one, &format!("is needed together with {}", raw.key(other)))),
    }
}

/// As Go's `strconv.ParseBool` reads it; absent is false.
fn boolean(raw: &Raw, name: &str) -> Result<bool> {
    match raw.get(name) {
        None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
        Some(_) => Err(raw.wrong(name, "is not true or false")),
    }
}

/// A number that fits; absent and 0 are the default.
fn number<T: std::str::FromStr + Default + PartialEq>(
    raw: &Raw,
    name: &str,
    fits: impl Fn(&T) -> bool,
) -> Result<Option<T>> {
    let Some(text) = raw.get(name) else { return Ok(None) };
    match text.parse::<T>() {
        Ok(number) if number == T::default() => Ok(None),
        Ok(number) if fits(&number) => Ok(Some(number)),
        _ => Err(raw.wrong(name, "is not a positive number")),
    }
}
