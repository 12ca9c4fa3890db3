//! A service account: its tokens, its rights, and the folder in which the kubelet keeps it for a pod.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result};
use calico_api::Kind;
use calico_datastore::kubernetes::Kubernetes;
use calico_datastore::{Backend, Error, Filter, KubernetesConfig};
use integration::servers::kubernetes::ApiServer;
use integration::{Net, Node, PATIENCE, wait};
use serde_json::{Value, json};

/// Where the daemons' accounts are.
const NAMESPACE: &str = "kube-system";

/// The shortest life of a token that the API server agrees to, in seconds.
const SHORTEST: u32 = 600;

/// A service account.
pub(crate) struct Account {
    name: &'static str,
    /// How often its folder was written.
    written: u32,
    /// The token that was issued last before the account was made anew.
    token: Option<String>,
    old: Option<String>,
}

impl Account {
    /// Makes one that may do nothing.
    pub(crate) fn new(server: &ApiServer, name: &'static str) -> Result<Self> {
        server.create_namespace(NAMESPACE)?;
        let account = Self { name, written: 0, token: None, old: None };
        account.create(server)?;
        Ok(account)
    }

    fn path() -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts")
    }

    fn create(&self, server: &ApiServer) -> Result<()> {
        server.request("POST", &Self::path(), &json!({"metadata": {"name": self.name}})).map(drop)
    }

    /// Deletes it and makes it again: all its tokens end, though not at once.
    pub(crate) fn make_anew(&mut self, server: &ApiServer) -> Result<()> {
        self.old = self.token.clone();
        server.request("DELETE", &format!("{}/{}", Self::path(), self.name), &Value::Null)?;
        self.create(server)
    }

    /// Lets it do everything.
    pub(crate) fn grant_everything(&self, server: &ApiServer) -> Result<()> {
        self.grant(server, &json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]))
    }

    /// Lets it do what these rules say, and nothing else.
    pub(crate) fn grant(&self, server: &ApiServer, rules: &Value) -> Result<()> {
        let group = "rbac.authorization.k8s.io";
        let path = format!("/apis/{group}/v1");
        let role = json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole",
            "metadata": {"name": self.name}, "rules": rules});
        let binding = json!({"metadata": {"name": self.name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": self.name},
            "subjects": [{"kind": "ServiceAccount", "name": self.name, "namespace": NAMESPACE}]});
        if server.request("PUT", &format!("{path}/clusterroles/{}", self.name), &role).is_err() {
            server.request("POST", &format!("{path}/clusterroles"), &role)?;
        }
        let bound = server.request("GET", &format!("{path}/clusterrolebindings/{}", self.name), &Value::Null).is_ok();
        if !bound {
            server.request("POST", &format!("{path}/clusterrolebindings"), &binding)?;
        }
        Ok(())
    }

    /// Writes a new token and the authority (the server's own if none is given) as the kubelet does: into a new folder,
    /// to which a link is then turned.
    pub(crate) fn write(&mut self, server: &ApiServer, node: &Node<'_>, authority: Option<String>) -> Result<()> {
        let request = json!({"spec": {"expirationSeconds": SHORTEST}});
        let issued = server.request("POST", &format!("{}/{}/token", Self::path(), self.name), &request)?;
        let token = issued["status"]["token"].as_str().context("no token was issued")?;
        let authority = match authority {
            Some(authority) => authority,
            None => fs::read_to_string(node.net().directory().join("kubernetes/ca.crt"))?,
        };
        let folder = node.holder().inside("/run/secrets/kubernetes.io/serviceaccount");
        let version = format!("..2026_11_21_00_00_00.{}", self.written);
        fs::create_dir_all(folder.join(&version))?;
        for (file, text) in [("token", token), ("ca.crt", &authority), ("namespace", NAMESPACE)] {
            fs::write(folder.join(&version).join(file), text)?;
            if self.written == 0 {
                symlink(format!("..data/{file}"), folder.join(file))?;
            }
        }
        symlink(&version, folder.join("..data_tmp"))?;
        fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
        if let Some(before) = self.written.checked_sub(1) {
            fs::remove_dir_all(folder.join(format!("..2026_11_21_00_00_00.{before}")))?;
        }
        self.written += 1;
        self.token = Some(token.to_owned());
        Ok(())
    }

    /// Waits until the API server does not accept the tokens of the account's former life: it remembers for some seconds
    /// whom it accepted.
    pub(crate) fn wait_until_old_tokens_end(&self, net: &Net) -> Result<()> {
        let config = KubernetesConfig {
            api_endpoint: Some("https://10.0.0.1:6443".to_owned()),
            ca_file: Some(net.directory().join("kubernetes/ca.crt").display().to_string()),
            api_token: self.old.clone(),
            calico_api_group: Some("crd.projectcalico.org/v1".to_owned()),
            ..KubernetesConfig::default()
        };
        let network = net.network()?;
        wait::becomes(PATIENCE, "the old token ends", || {
            calico_sys::namespace::inside(&network, || {
                tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                    let store = Kubernetes::connect(&config).await?;
                    let listed = store.list(Kind::IPPool, &Filter::All).await;
                    Ok(matches!(listed, Err(Error::Unauthorized(reason)) if reason.contains("does not know us")))
                })
            })?
        })
    }
}
