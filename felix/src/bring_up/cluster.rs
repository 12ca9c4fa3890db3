//! What Kubernetes' installer says of the cluster: which one it was, and the pods' networks.

use calico_datastore::Error;
use ipnet::IpNet;
use tracing::{debug, warn};

use super::Site;
use super::patience::{Patience, bounded};

const NAMESPACE: &str = "kube-system";

/// What is known of a cluster's installer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Installer {
    /// The word that it adds to the cluster's type: `kubeadm` or `rancher`.
    pub(crate) word: Option<&'static str>,
    /// `podSubnet` of kubeadm.
    pub(crate) pod_subnets: Vec<IpNet>,
}

/// Asks Kubernetes, if there is one. That nothing is found, or nothing may be read, is no error.
///
/// # Errors
/// None that waiting helps against.
pub(crate) async fn installer(site: &Site, patience: &mut Patience<'_>) -> Result<Installer, Error> {
    if let Some(texts) = config_map(site, "kubeadm-config", patience).await? {
        let text = texts.get("ClusterConfiguration").map(String::as_str).unwrap_or_default();
        return Ok(Installer { word: Some("kubeadm"), pod_subnets: pod_subnets(text) });
    }
    let rancher = config_map(site, "full-cluster-state", patience).await?.is_some();
    Ok(Installer { word: rancher.then_some("rancher"), pod_subnets: Vec::new() })
}

type Texts = std::collections::BTreeMap<String, String>;

async fn config_map(site: &Site, name: &str, patience: &mut Patience<'_>) -> Result<Option<Texts>, Error> {
    let Some(kubernetes) = &site.kubernetes else { return Ok(None) };
    let read = || async {
        match kubernetes.backend().config_map(NAMESPACE, name).await {
            Err(Error::Unauthorized(reason)) => {
                debug!(name, reason, "ConfigMap may not be read");
                Ok(None)
            }
            other => other,
        }
    };
    if site.in_kubernetes() {
        return patience.until_answered("read what the cluster's installer left", read).await;
    }
    // The store is elsewhere, and can do without Kubernetes.
    let answer = bounded(kubernetes, read()).await;
    Ok(answer.unwrap_or_else(|error| {
        warn!(name, %error, "ConfigMap cannot be read, the installer's pod network is not known");
        None
    }))
}

/// `networking.podSubnet` of kubeadm's configuration: one network, or one of each family.
fn pod_subnets(text: &str) -> Vec<IpNet> {
    let document = match calico_api::yaml::parse(text) {
        Ok(document) => document,
        Err(error) => {
            warn!(%error, "ConfigMap kube-system/kubeadm-config is not YAML and is passed over");
            return Vec::new();
        }
    };
    let list = document.pointer("/networking/podSubnet").and_then(|value| value.as_str()).unwrap_or_default();
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let networks = parts.filter_map(|part| {
        let network = part.parse::<IpNet>();
        if network.is_err() {
            warn!(network = part, "podSubnet in ConfigMap kube-system/kubeadm-config is no network and is passed over");
        }
        network.ok()
    });
    networks.map(|network| network.trunc()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadms_pod_subnets_are_read_and_anything_else_is_none() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<String> = pod_subnets(text).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("kind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.244.0.0/16\n", &["10.244.0.0/16"]);
        check("networking: {podSubnet: 'fd00:1::/56, 10.1.0.0/16'}", &["fd00:1::/56", "10.1.0.0/16"]);
        check("networking: {podSubnet: 'x,10.1.0.0/16'}", &["10.1.0.0/16"]);
        check("networking: {serviceSubnet: 10.96.0.0/12}", &[]);
        check("networking: [", &[]);
        check("", &[]);
    }
}
