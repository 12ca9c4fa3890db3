//! What if a kind is missing, or the cluster moves to the other API group?

use super::*;

/// Removes the definition of a kind, and waits until it is gone.
async fn undefine(server: &ApiServer, plural: &str) {
    let definition = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.crd.projectcalico.org");
    server.request("DELETE", &definition, &Value::Null).unwrap();
    let end = Instant::now() + PATIENCE;
    while exists(server, &definition) || exists(server, &format!("/apis/crd.projectcalico.org/v1/{plural}")) {
        assert!(Instant::now() < end, "{plural} is still defined");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_kind_that_the_cluster_lacks_is_empty_and_what_leaves_for_the_other_group_is_not_deleted() {
    let server = start();
    server.apply_crds(Group::Classic).unwrap();
    undefine(&server, "bgpfilters").await;
    let store = Store::new(Kubernetes::connect(&config(&server, None)).await.unwrap());
    let error = store.backend().list(Kind::BGPFilter, &Filter::All).await.unwrap_err();
    assert!(matches!(&error, Error::NotServed { .. }) && error.is_temporary(), "{error:?}");
    in_sync(&mut watch(&store, vec![(Kind::BGPFilter, Filter::All), (Kind::IPPool, Filter::All)])).await;
    let pool = IPPool::new(ObjectMeta::named("first"), IPPoolSpec::new("10.11.0.0/16"));
    store.create(&pool).await.unwrap();

    // The cluster migrates: both groups are served, and everything is copied.
    server.apply_crds(Group::Native).unwrap();
    let copy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "first" },
        "spec": { "cidr": "10.11.0.0/16" },
    });
    server.request("POST", "/apis/projectcalico.org/v3/ippools", &copy).unwrap();
    let store = Store::new(Kubernetes::connect(&config(&server, None)).await.unwrap());
    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All)]);
    in_sync(&mut updates).await;
    undefine(&server, "ippools").await;
    let mut deleted = false;
    let mut trouble = async |words: &str| {
        until(&mut updates, words, |update| {
            deleted |= matches!(update, Update::Delete(_));
            matches!(update, Update::Trouble(Some(reason)) if reason.contains(words)).then_some(())
        })
        .await;
    };
    trouble("restart this process").await;
    trouble("serves no ippools").await;
    assert!(!deleted, "the end of the definition is not the end of the pools");
}
