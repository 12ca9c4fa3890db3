//! Where are the metadata that a user gives, and the status?

use super::*;

/// The UID in the other API, bit by bit.
pub(super) fn mirrored(uid: &str) -> String {
    let digits: String = uid.chars().filter(|digit| *digit != '-').collect();
    let mut octets: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    for (index, octet) in octets.iter_mut().enumerate().filter(|(index, _)| ![6, 8].contains(index)) {
        let _ = index;
        *octet = (0..8).fold(0, |mirrored, bit| mirrored | ((*octet >> bit & 1) << (7 - bit)));
    }
    let text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[tokio::test]
async fn a_users_labels_are_in_the_annotation_of_the_classic_group_and_plain_in_the_native_one() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let mut pool = IPPool::new(ObjectMeta::named("labelled"), IPPoolSpec::new("10.5.0.0/16"));
        pool.metadata.labels = [("rack", "a"), ("projectcalico.org/kept", "b")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        pool.metadata.annotations = [("note".to_owned(), "c".to_owned())].into();
        let mut created = store.create(&pool).await.unwrap();
        assert_eq!(
            (&created.metadata.labels, &created.metadata.annotations),
            (&pool.metadata.labels, &pool.metadata.annotations)
        );
        assert!(created.metadata.creation_timestamp.is_some());

        let object = raw(server, &path(group, "ippools", "labelled"));
        let (uid, real) = (created.metadata.uid.clone().unwrap(), object["metadata"]["uid"].as_str().unwrap());
        if group == Group::Classic {
            assert_eq!(object["metadata"]["labels"], json!({"projectcalico.org/kept": "b"}));
            let text = object["metadata"]["annotations"]["projectcalico.org/metadata"].as_str().unwrap();
            let inner: Value = serde_json::from_str(text).unwrap();
            assert_eq!(inner["labels"], json!(pool.metadata.labels));
            assert_eq!(inner["annotations"], json!({"note": "c"}));
            assert_eq!(uid, mirrored(real));
            assert_ne!(uid, real);
        } else {
            assert_eq!(object["metadata"]["labels"], json!(pool.metadata.labels));
            assert_eq!(object["metadata"]["annotations"], json!({"note": "c"}));
            assert_eq!(uid, real);
        }

        created.metadata.labels.remove("rack");
        created.spec.disabled = Some(true);
        let updated = store.update(&created).await.unwrap();
        assert_eq!(updated.metadata.labels.keys().collect::<Vec<_>>(), ["projectcalico.org/kept"]);
        assert_eq!((updated.spec.disabled, &updated.metadata.uid), (Some(true), &created.metadata.uid));

        // What kubectl writes has no annotation.
        let mut plain = json!({"apiVersion": group.api_version(), "kind": "IPPool", "metadata": {"name": "plain", "labels": {"rack": "b"}}});
        plain["spec"] = json!({"cidr": "10.6.0.0/16", "ipipMode": "CrossSubnet"});
        server.request("POST", &path(group, "ippools", ""), &plain).unwrap();
        let read: IPPool = store.get(&Key::named(Kind::IPPool, "plain")).await.unwrap();
        assert_eq!(read.metadata.labels["rack"], "b");
        for name in ["labelled", "plain"] {
            store.delete_key(&Key::named(Kind::IPPool, name)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_status_is_written_apart_from_the_spec() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let mut pool =
            store.create(&IPPool::new(ObjectMeta::named("status"), IPPoolSpec::new("10.7.0.0/16"))).await.unwrap();
        let condition = json!({"type": "Allocatable", "status": "True", "reason": "OK", "message": "", "lastTransitionTime": "2026-08-22T13:00:00Z"});
        pool.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
        pool.spec.disabled = Some(true);
        let written = store.update_status(&pool).await.unwrap();
        assert_eq!(written.status, pool.status);
        assert_eq!(written.spec.disabled, None, "the spec was not written");
        store.delete(&written).await.unwrap();
    }
}
