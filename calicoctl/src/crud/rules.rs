//! What may be done to which kind, beyond what its fields must be.

use anyhow::{Result, bail};
use calico_api::{AnyResource, Kind};
use calico_datastore::Store;

use super::Verb;

/// What a store of Kubernetes calls itself.
const KUBERNETES: &str = "kdd";

/// Puts a resource into its namespace, or refuses one where it has none.
///
/// # Errors
/// If the resource and the flag name different namespaces, or the kind has none.
pub(crate) fn place(resource: &mut AnyResource, flag: Option<&str>) -> Result<()> {
    let kind = resource.kind();
    let metadata = resource.metadata_mut();
    if !kind.namespaced() {
        if metadata.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
            bail!("namespace should not be specified for a non-namespaced resource: {kind} is not namespaced");
        }
        if flag.is_some() {
            bail!("{kind} is not namespaced");
        }
        return Ok(());
    }
    match (metadata.namespace.as_deref(), flag) {
        (Some(own), Some(flag)) if own != flag => {
            bail!("resource namespace does not match client namespace. {own} != {flag}")
        }
        (Some(own), _) if !own.is_empty() => {}
        (_, flag) => metadata.namespace = Some(flag.unwrap_or("default").to_owned()),
    }
    Ok(())
}

/// Refuses what must not be done to a kind, or to a resource of this name.
///
/// # Errors
/// With the reason.
pub(crate) fn allowed(verb: Verb, kind: Kind, name: &str) -> Result<()> {
    if name.is_empty() {
        bail!("resource name may not be empty");
    }
    let operation = match verb {
        Verb::Create => "Create",
        Verb::Apply => "Apply",
        Verb::Replace => "Update",
        Verb::Delete => "Delete",
    };
    match kind {
        Kind::ClusterInformation if verb == Verb::Apply => {
            bail!("operation {operation} is not supported on {kind}({name}): it is read-only")
        }
        Kind::ClusterInformation => bail!("operation {operation} is not supported on {kind}({name})"),
        Kind::NetworkPolicy if name.starts_with("knp.") => bail!(
            "operation {operation} is not supported on {kind}({name}): kubernetes network policies must be managed through the kubernetes API"
        ),
        Kind::IPAMBlock | Kind::IPAMHandle | Kind::BlockAffinity => {
            bail!("operation {operation} is not supported on {kind}({name}): IPAM keeps it; see `calicoctl ipam`")
        }
        Kind::Tier if verb == Verb::Delete && ["default", "kube-admin", "kube-baseline"].contains(&name) => {
            bail!("operation {operation} is not supported on {kind}({name}): it is built in")
        }
        _ => Ok(()),
    }
}

/// Refuses Kubernetes' own kinds where Kubernetes keeps them: there they are its to show and to change.
///
/// # Errors
/// With what to use instead.
pub(crate) fn ours(store: &Store, kind: Kind) -> Result<()> {
    if kind.is_core() && store.backend().cluster_type() == KUBERNETES {
        bail!("{kind} is Kubernetes' own kind: use kubectl ({})", kind.plural());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(kind: &str, namespace: Option<&str>) -> AnyResource {
        let metadata = json!({"name": "a", "namespace": namespace});
        let spec = if kind == "IPPool" { json!({"cidr": "10.0.0.0/16"}) } else { json!({}) };
        let value = json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec});
        AnyResource::from_value(value).unwrap()
    }

    #[track_caller]
    fn check(kind: &str, own: Option<&str>, flag: Option<&str>, expect: Result<Option<&str>, &str>) {
        let mut it = resource(kind, own);
        match (place(&mut it, flag), expect) {
            (Ok(()), Ok(namespace)) => assert_eq!(it.metadata().namespace.as_deref(), namespace),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn namespaces_agree_or_are_refused() {
        check("NetworkSet", None, None, Ok(Some("default")));
        check("NetworkSet", None, Some("shop"), Ok(Some("shop")));
        check("NetworkSet", Some("shop"), Some("shop"), Ok(Some("shop")));
        check("NetworkSet", Some("a"), Some("b"), Err("does not match client namespace. a != b"));
        check("IPPool", None, None, Ok(None));
        check("IPPool", None, Some("shop"), Err("IPPool is not namespaced"));
        check("IPPool", Some("shop"), None, Err("non-namespaced"));
    }

    #[test]
    fn read_only_things_are_refused() {
        assert!(
            allowed(Verb::Apply, Kind::ClusterInformation, "default").unwrap_err().to_string().contains("read-only")
        );
        assert!(allowed(Verb::Delete, Kind::Tier, "default").is_err());
        let error = allowed(Verb::Create, Kind::NetworkPolicy, "knp.default.x").unwrap_err().to_string();
        assert!(error.contains("through the kubernetes API"), "{error}");
        assert!(allowed(Verb::Create, Kind::IPPool, "").is_err());
        assert!(allowed(Verb::Create, Kind::IPPool, "a").is_ok());
    }
}
