//! Which API server, and how it is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use tower::{BoxError, ServiceBuilder};

use super::credentials::Credentials;
use crate::config::KubernetesConfig;
use crate::{Error, Result};

/// How long a TCP connection may take to come about.
const CONNECT: Duration = Duration::from_secs(3);
/// After how long a silent connection is probed, and a probe repeated.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// After how long unacknowledged octets mean that the peer is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Where a pod finds its token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The context, cluster and user of what needs no kubeconfig.
const NAME: &str = "calico";

/// A way to the server, with the credentials that were there when it was made.
pub(super) struct Connection {
    /// Opens and keeps sockets as needed.
    pub(super) http: kube::Client,
    /// Who we are on it.
    pub(super) credentials: Credentials,
    /// The server's URL, for people.
    pub(super) server: String,
}

/// A connection to the server that `config` names, with what its files hold now. No request is made.
pub(super) async fn open(config: &KubernetesConfig) -> Result<Connection> {
    let settings = settings(config).await?;
    let credentials = Credentials::of(&settings);
    let server = settings.cluster_url.to_string().trim_end_matches('/').to_owned();
    let refuse = |error: kube::Error| Error::Unavailable {
        store: format!("kubernetes {server}"),
        reason: format!("its credentials cannot be used: {error}"),
    };

    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true); // a pod waits for each of these writes
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED)); // else a watch would not notice a server that vanished
    let tls = settings.rustls_https_connector_with_connector(tcp).map_err(refuse)?;
    let http: HttpClient<_, kube::client::Body> = HttpClient::builder(TokioExecutor::new()).build(tls);
    let service = ServiceBuilder::new()
        .layer(settings.base_uri_layer())
        .option_layer(settings.auth_layer().map_err(refuse)?)
        .layer(settings.extra_headers_layer().map_err(refuse)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Connection { http: kube::Client::new(service, settings.default_namespace.clone()), credentials, server })
}

/// Kubeconfig with what `config` says beside it, or the pod's service account.
async fn settings(config: &KubernetesConfig) -> Result<kube::Config> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| Error::Unavailable {
        store: "kubernetes".to_owned(),
        reason: format!("{what}: {error}"),
    };
    let mut kubeconfig = match (&config.kubeconfig_inline, &config.kubeconfig) {
        (Some(text), _) => {
            Some(Kubeconfig::from_yaml(text).map_err(|error| cannot("kubeconfigInline cannot be read", &error))?)
        }
        (None, Some(list)) => Some(read(list)?),
        (None, None) if config.api_endpoint.is_none() => match home() {
            Some(path) => Some(read(&path.to_string_lossy())?),
            None => None,
        },
        (None, None) => None,
    };
    let token_file = Path::new(SERVICE_ACCOUNT).join("token");
    if kubeconfig.is_none() && config.api_token.is_none() && config.cert_file.is_none() && token_file.exists() {
        let missing = |name: &&&str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        if config.api_endpoint.is_none()
            && let Some(name) = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"].iter().find(missing)
        {
            let next = "the kubelet sets it; or set both in the ConfigMap kubernetes-services-endpoint";
            return Err(cannot(
                "the pod has a service account, but the API server is not named",
                &format!("{name} is not set; {next}"),
            ));
        }
        let mut settings =
            kube::Config::incluster().map_err(|error| cannot("the pod's service account cannot be used", &error))?;
        if let Some(endpoint) = &config.api_endpoint {
            settings.cluster_url = endpoint
                .parse()
                .map_err(|error| cannot(&format!("k8sAPIEndpoint \"{endpoint}\" is no URL"), &error))?;
        }
        return Ok(settings);
    }
    if kubeconfig.is_none() && config.api_endpoint.is_none() {
        return Err(cannot(
            "there is no API server to talk to",
            &format!(
                "give a kubeconfig (KUBECONFIG) or a URL (K8S_API_ENDPOINT), or run in a pod; there is neither \
                 $HOME/.kube/config nor {SERVICE_ACCOUNT}/token"
            ),
        ));
    }
    let kubeconfig = kubeconfig.get_or_insert_with(plain);
    override_with(kubeconfig, config);
    let options = KubeConfigOptions { context: config.current_context.clone(), ..KubeConfigOptions::default() };
    kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
        .await
        .map_err(|error| cannot(&format!("the kubeconfig{} cannot be used", named(config)), &error))
}

fn named(config: &KubernetesConfig) -> String {
    match (&config.kubeconfig_inline, &config.kubeconfig) {
        (None, Some(path)) => format!(" {path}"),
        _ => String::new(),
    }
}

/// `$HOME/.kube/config`, if it is there.
fn home() -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("HOME")?).join(".kube/config");
    path.exists().then_some(path)
}

/// One kubeconfig, or several joined by `:`, of which some may be missing; what comes first wins.
fn read(list: &str) -> Result<Kubeconfig> {
    let mut merged: Option<Kubeconfig> = None;
    let mut missing = None;
    let cannot = |path: &str, error: &dyn std::fmt::Display| Error::Unavailable {
        store: "kubernetes".to_owned(),
        reason: format!("kubeconfig {path} cannot be read: {error}"),
    };
    for path in list.split(':').filter(|path| !path.is_empty()) {
        match Kubeconfig::read_from(path) {
            Ok(next) => {
                merged = Some(match merged {
                    Some(first) => first.merge(next).map_err(|error| cannot(path, &error))?,
                    None => next,
                });
            }
            Err(kube::config::KubeconfigError::ReadConfig(error, _))
                if error.kind() == std::io::ErrorKind::NotFound =>
            {
                missing.get_or_insert((path, error));
            }
            Err(error) => return Err(cannot(path, &error)),
        }
    }
    match (merged, missing) {
        (Some(merged), _) => Ok(merged),
        (None, Some((path, error))) => Err(cannot(path, &error)),
        (None, None) => Err(cannot("\"\"", &"its path is empty")),
    }
}

/// A kubeconfig that says nothing, for [`override_with`] to fill.
fn plain() -> Kubeconfig {
    let context = Context { cluster: NAME.to_owned(), user: Some(NAME.to_owned()), ..Context::default() };
    Kubeconfig {
        clusters: vec![NamedCluster {
            name: NAME.to_owned(),
            cluster: Some(Cluster::default()),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: NAME.to_owned(),
            auth_info: Some(AuthInfo::default()),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext { name: NAME.to_owned(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(NAME.to_owned()),
        ..Kubeconfig::default()
    }
}

/// Replaces in the chosen context what `config` says otherwise.
fn override_with(kubeconfig: &mut Kubeconfig, config: &KubernetesConfig) {
    let chosen = config.current_context.as_ref().or(kubeconfig.current_context.as_ref()).cloned();
    let Some(context) = kubeconfig
        .contexts
        .iter()
        .find(|context| Some(&context.name) == chosen.as_ref())
        .and_then(|context| context.context.clone())
    else {
        return; // the loader says which context is missing
    };
    let cluster = kubeconfig.clusters.iter_mut().find(|cluster| cluster.name == context.cluster);
    if let Some(cluster) = cluster.and_then(|cluster| cluster.cluster.as_mut()) {
        if let Some(endpoint) = &config.api_endpoint {
            cluster.server = Some(endpoint.clone());
        }
        if let Some(file) = &config.ca_file {
            cluster.certificate_authority = Some(file.clone());
            cluster.certificate_authority_data = None;
        }
        if config.insecure_skip_tls_verify {
            cluster.insecure_skip_tls_verify = Some(true);
        }
    }
    let user = kubeconfig.auth_infos.iter_mut().find(|user| Some(&user.name) == context.user.as_ref());
    if let Some(user) = user.and_then(|user| user.auth_info.as_mut()) {
        if let Some(file) = &config.cert_file {
            user.client_certificate = Some(file.clone());
            user.client_certificate_data = None;
        }
        if let Some(file) = &config.key_file {
            user.client_key = Some(file.clone());
            user.client_key_data = None;
        }
        if let Some(token) = &config.api_token {
            user.token = Some(token.clone().into());
            user.token_file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters:
- {name: east, cluster: {server: 'https://192.0.2.1:6443'}}
- {name: west, cluster: {server: 'https://192.0.2.2:6443'}}
users: [{name: admin, user: {token: secret}}]
contexts:
- {name: east, context: {cluster: east, user: admin}}
- {name: west, context: {cluster: west, user: admin}}
current-context: east
";

    async fn server_of(config: KubernetesConfig) -> String {
        match settings(&config).await {
            Ok(settings) => settings.cluster_url.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn what_stands_beside_a_kubeconfig_wins_over_it() {
        let inline = KubernetesConfig { kubeconfig_inline: Some(KUBECONFIG.to_owned()), ..KubernetesConfig::default() };
        assert_eq!(server_of(inline.clone()).await, "https://192.0.2.1:6443/");
        let west = KubernetesConfig { current_context: Some("west".to_owned()), ..inline.clone() };
        assert_eq!(server_of(west.clone()).await, "https://192.0.2.2:6443/");
        let elsewhere = KubernetesConfig { api_endpoint: Some("https://192.0.2.3".to_owned()), ..west };
        assert_eq!(server_of(elsewhere).await, "https://192.0.2.3/");
        let nowhere = KubernetesConfig { current_context: Some("north".to_owned()), ..inline };
        assert!(server_of(nowhere).await.contains("north"), "the missing context is named");
    }

    #[tokio::test]
    async fn of_several_kubeconfigs_the_first_wins_and_some_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        std::fs::write(&first, KUBECONFIG).unwrap();
        std::fs::write(&second, KUBECONFIG.replace("192.0.2", "198.51.100")).unwrap();
        let list = |paths: &[&Path]| KubernetesConfig {
            kubeconfig: Some(paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")),
            ..KubernetesConfig::default()
        };
        let missing = dir.path().join("missing");
        assert_eq!(server_of(list(&[&missing, &second, &first])).await, "https://198.51.100.1:6443/");
        let error = server_of(list(&[&missing])).await;
        assert!(error.contains(&missing.display().to_string()), "{error}");
    }

    #[tokio::test]
    async fn a_url_alone_is_enough() {
        let config =
            KubernetesConfig { api_endpoint: Some("http://192.0.2.4:8080".to_owned()), ..KubernetesConfig::default() };
        assert_eq!(server_of(config).await, "http://192.0.2.4:8080/");
    }
}
