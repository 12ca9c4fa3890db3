//! What a datastore holds before anybody uses it: ClusterInformation and the built-in tiers.

use calico_api::{ClusterInformation, ClusterInformationSpec, Key, Kind, ObjectMeta, Resource, Spec, TierSpec};
use calico_version::CALICO_COMPATIBLE;

use crate::{Error, Result, Store};

/// The name of the one `ClusterInformation`.
const DEFAULT: &str = "default";

/// How often somebody else may write `ClusterInformation` between our reading and our writing.
const TRIES: usize = 5;

/// Creates `ClusterInformation` and the built-in tiers where they are missing, and fills in what the former lacks.
///
/// What is there stays: a cluster that Calico runs keeps Calico's version.
///
/// # Errors
/// As the store's operations.
pub async fn ensure_initialized(store: &Store) -> Result<()> {
    ensure_initialized_as(store, &[]).await
}

/// As [`ensure_initialized`]; the cluster's type gets these words, too. The store's own word (`kdd`) is the last.
///
/// # Errors
/// As [`ensure_initialized`].
pub async fn ensure_initialized_as(store: &Store, words: &[String]) -> Result<()> {
    cluster_information(store, words).await?;
    for (name, order, action) in TierSpec::BUILT_IN {
        let tier = TierSpec { order: Some(order), default_action: Some(action) };
        if !exists::<TierSpec>(store, &Key::named(Kind::Tier, name)).await? {
            create(store, &Resource::new(ObjectMeta::named(name), tier)).await?;
        }
    }
    Ok(())
}

/// Whether something is stored there, readable or not.
async fn exists<S: Spec>(store: &Store, key: &Key) -> Result<bool> {
    match store.get::<S>(key).await {
        Ok(_) | Err(Error::Corrupt(_)) => Ok(true),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates it, unless somebody else was faster.
async fn create<S: Spec>(store: &Store, resource: &Resource<S>) -> Result<()> {
    match store.create(resource).await {
        Ok(_) | Err(Error::AlreadyExists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn cluster_information(store: &Store, words: &[String]) -> Result<()> {
    let key = Key::named(Kind::ClusterInformation, DEFAULT);
    let last = store.backend().cluster_type();
    for _ in 0..TRIES {
        let written = match store.get::<ClusterInformationSpec>(&key).await {
            Ok(mut present) => {
                let before = present.spec.clone();
                fill(&mut present.spec, words, last);
                if present.spec == before {
                    return Ok(());
                }
                store.update(&present).await
            }
            Err(Error::NotFound(_)) => {
                let mut fresh = ClusterInformation::new(ObjectMeta::named(DEFAULT), ClusterInformationSpec::default());
                fill(&mut fresh.spec, words, last);
                store.create(&fresh).await
            }
            Err(error) => return Err(error),
        };
        match written {
            Ok(_) => return Ok(()),
            Err(Error::AlreadyExists(_) | Error::Conflict(_) | Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Conflict(key))
}

/// Fills in what is missing.
fn fill(spec: &mut ClusterInformationSpec, words: &[String], last: &str) {
    let is_set = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
    if !is_set(&spec.cluster_guid) {
        spec.cluster_guid = Some(uuid::Uuid::new_v4().simple().to_string());
    }
    if !is_set(&spec.calico_version) {
        spec.calico_version = Some(CALICO_COMPATIBLE.to_owned());
    }
    // Never set back: somebody may have locked the datastore.
    spec.datastore_ready.get_or_insert(true);
    let before = spec.cluster_type.clone().unwrap_or_default();
    let is_word = |word: &&str| !word.is_empty();
    let mut all: Vec<&str> = before.split(',').map(str::trim).filter(is_word).collect();
    let there = all.len();
    for word in words.iter().map(String::as_str).chain([last]).filter(is_word) {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    // Written only if something is missing, so that nodes that know different words do not undo each other's order.
    if all.len() > there {
        if let Some(at) = all.iter().position(|word| *word == last) {
            all.remove(at);
            all.push(last);
        }
        spec.cluster_type = Some(all.join(","));
    }
}

#[cfg(test)]
mod tests {
    use calico_api::Action;

    use super::*;
    use crate::Filter;
    use crate::sqlite::Sqlite;

    #[tokio::test]
    async fn several_at_once_initialize_a_store_as_one_would() {
        let store = Store::new(Sqlite::memory().await.unwrap());
        let all = (0..4).map(|_| ensure_initialized(&store));
        futures::future::try_join_all(all).await.unwrap();

        let key = Key::named(Kind::ClusterInformation, "default");
        let first = store.get::<ClusterInformationSpec>(&key).await.unwrap();
        let guid = first.spec.cluster_guid.clone().unwrap();
        assert!(guid.len() == 32 && guid.chars().all(|c| c.is_ascii_hexdigit()), "{guid}");
        assert_eq!(first.spec.calico_version.as_deref(), Some(CALICO_COMPATIBLE));
        assert_eq!(first.spec.datastore_ready, Some(true));
        let tiers = store.list::<TierSpec>(&Filter::All).await.unwrap().items;
        let tiers: Vec<_> = tiers.iter().map(|t| (t.name(), t.spec.order, t.spec.default_action)).collect();
        assert_eq!(
            tiers,
            [
                ("default", Some(1_000_000.0), Some(Action::Deny)),
                ("kube-admin", Some(1_000.0), Some(Action::Pass)),
                ("kube-baseline", Some(10_000_000.0), Some(Action::Pass)),
            ]
        );
        ensure_initialized(&store).await.unwrap();
        assert_eq!(store.get::<ClusterInformationSpec>(&key).await.unwrap(), first);
    }

    #[test]
    fn what_is_there_stays() {
        let theirs = ClusterInformationSpec {
            cluster_guid: Some("0".repeat(32)),
            cluster_type: Some("typha,k8s".to_owned()),
            calico_version: Some("v3.30.0".to_owned()),
            datastore_ready: Some(false),
            variant: Some("Calico".to_owned()),
        };
        let mut filled = theirs.clone();
        fill(&mut filled, &[], "kdd");
        let expected = |words: &str| ClusterInformationSpec { cluster_type: Some(words.to_owned()), ..theirs.clone() };
        assert_eq!(filled, expected("typha,k8s,kdd"));
        fill(&mut filled, &["bgp".to_owned(), "k8s".to_owned(), "kubeadm".to_owned()], "kdd");
        assert_eq!(filled, expected("typha,k8s,bgp,kubeadm,kdd"));
        filled.cluster_type = Some("kdd,k8s".to_owned());
        fill(&mut filled, &["k8s".to_owned()], "kdd");
        assert_eq!(filled, expected("kdd,k8s"), "nothing is missing");
    }
}
