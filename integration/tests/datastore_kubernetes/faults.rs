//! What is told of refusals, and of a server that is gone?

use super::*;

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let server = &*server().await;
    let store = open(server, Group::Native).await;
    let backend = store.backend();
    let mut bad = serde_json::to_value(IPPool::new(ObjectMeta::named("bad"), IPPoolSpec::new("10.10.0.0/16"))).unwrap();
    bad["spec"]["ipipMode"] = json!("Sometimes");
    let error = backend.create(&Key::named(Kind::IPPool, "bad"), bad).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { reason, .. } if reason.contains("ipipMode")), "{error}");

    let error = backend.watch(Kind::IPPool, &Filter::All, &Revision("1".to_owned())).await;
    let error = match error {
        Err(error) => error,
        Ok(mut changes) => next(&mut changes).await.unwrap_err(),
    };
    assert!(matches!(error, Error::Compacted(_)), "{error}");

    let nobody = KubernetesConfig {
        api_token: Some("nobody".to_owned()),
        api_endpoint: Some(server.url()),
        insecure_skip_tls_verify: true,
        calico_api_group: Some(Group::Native.api_version().to_owned()),
        ..KubernetesConfig::default()
    };
    let nobody = Kubernetes::connect(&nobody).await.unwrap();
    let error = nobody.list(Kind::IPPool, &Filter::All).await.unwrap_err();
    assert!(error.to_string().starts_with("connection is unauthorized: "), "{error}");
}

async fn next(changes: &mut calico_datastore::Changes) -> calico_datastore::Result<calico_datastore::Change> {
    changes.next().await.expect("the watch says why it ends")
}

/// The runtime's time jumps to the next deadline whenever there is nothing to do: what is measured are our deadlines,
/// not the machine.
#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_named_within_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts by itself, and never says a word
    let url = format!("https://{}", silent.local_addr().unwrap());
    let config = KubernetesConfig {
        api_endpoint: Some(url.clone()),
        insecure_skip_tls_verify: true,
        ..KubernetesConfig::default()
    };
    let start = tokio::time::Instant::now();
    let error = Kubernetes::connect(&config).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(matches!(&error, Error::Unavailable { .. }) && error.to_string().contains(&url), "{error}");
    drop(silent);
    let error = Kubernetes::connect(&config).await.unwrap_err();
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_killed_server_is_missed_and_taken_up_again_without_a_repetition() {
    let mut server = start();
    let undecided = Kubernetes::connect(&config(&server, None)).await.unwrap();
    let error = undecided.list(Kind::IPPool, &Filter::All).await.unwrap_err();
    assert!(error.to_string().contains("manifests/crds"), "what to do is said: {error}");

    server.apply_crds(Group::Native).unwrap();
    let error = undecided.check_group().await.unwrap_err();
    assert!(error.to_string().contains("projectcalico.org/v3") && error.to_string().contains("restart"), "{error}");
    let native = Kubernetes::connect(&config(&server, None)).await.unwrap();
    assert_eq!(native.group().api_version(), Group::Native.api_version(), "it alone is served");

    let store = Store::new(native);
    let pool = |name: &str, range: &str| IPPool::new(ObjectMeta::named(name), IPPoolSpec::new(range));
    let key = |name: &str| Key::named(Kind::IPPool, name);
    store.create(&pool("first", "10.11.0.0/16")).await.unwrap();
    store.create(&pool("second", "10.12.0.0/16")).await.unwrap();
    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All)]);
    in_sync(&mut updates).await;

    server.kill().unwrap();
    let reason = until(&mut updates, "the loss", |update| match update {
        Update::Trouble(Some(reason)) => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.await.contains(&server.url()));
    let start = Instant::now();
    let error = store.get::<IPPoolSpec>(&key("first")).await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains(&server.url()), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    server.restart().unwrap();
    store.delete_key(&key("second")).await.unwrap();
    store.create(&pool("third", "10.13.0.0/16")).await.unwrap();
    let mut seen = Vec::new();
    until(&mut updates, "what happened since", |update| {
        match update {
            Update::Put(entry) => seen.push(format!("put {}", entry.key.name())),
            Update::Delete(key) => seen.push(format!("delete {}", key.name())),
            _ => {}
        }
        (seen.len() == 2).then_some(())
    })
    .await;
    seen.sort();
    assert_eq!(seen, ["delete second", "put third"], "only differences");

    server.apply_crds(Group::Classic).unwrap();
    let both = Kubernetes::connect(&config(&server, None)).await.unwrap();
    assert_eq!(both.group().api_version(), Group::Classic.api_version(), "during a migration it still counts");
}
