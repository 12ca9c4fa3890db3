//! The etcd store does what every store must, on a real etcd; and keeps Calico's layout, page by page, with TLS and users.

use std::sync::Mutex;

use anyhow::Result;
use calico_api::{Key, Kind};
use calico_datastore::etcd::Etcd as EtcdStore;
use calico_datastore::{Error, EtcdConfig, Filter, Pem, Store};
use etcd_client::{Client, CompactionOptions, PutOptions};
use futures::StreamExt as _;
use integration::conformance::{Subject, sample};
use integration::servers::etcd::{Certificates, Etcd};

/// A store on an etcd of its own.
struct Server {
    store: Store,
    etcd: Mutex<Etcd>,
}

fn config(url: String) -> EtcdConfig {
    EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() }
}

impl Server {
    async fn new() -> Self {
        let etcd = Etcd::local().unwrap();
        let store = Store::new(EtcdStore::connect(&config(etcd.url())).await.unwrap());
        Self { store, etcd: Mutex::new(etcd) }
    }

    /// A client for what the store itself does not do.
    async fn raw(&self) -> Client {
        let url = self.etcd.lock().unwrap().url();
        Client::connect([url], None).await.unwrap()
    }
}

impl Subject for Server {
    fn store(&self) -> &Store {
        &self.store
    }

    async fn spoil(&self, block: &Key) -> Result<()> {
        let Key::Block(cidr) = block else { unreachable!("it is a block") };
        let path = format!("/calico/ipam/v2/assignment/ipv4/block/{}", cidr.to_string().replace('/', "-"));
        // The old value must have been there, or the layout is another.
        let old = self.raw().await.put(path, "{\"cidr\":", Some(PutOptions::new().with_prev_key())).await?;
        assert!(old.prev_key().is_some());
        Ok(())
    }

    async fn compact(&self) -> Result<()> {
        let mut raw = self.raw().await;
        let now = raw.get("/", None).await?.header().map_or(0, |header| header.revision());
        raw.compact(now, Some(CompactionOptions::new().with_physical())).await?;
        Ok(())
    }

    async fn take_away(&self) -> Result<()> {
        self.etcd.lock().unwrap().kill()
    }

    async fn give_back(&self) -> Result<()> {
        self.etcd.lock().unwrap().restart()
    }
}

integration::conformance!(Server::new());

#[tokio::test]
async fn what_is_stored_is_what_calico_stores() {
    let server = Server::new().await;
    let mut raw = server.raw().await;
    let backend = server.store.backend();
    for kind in [
        Kind::IPPool,
        Kind::NetworkSet,
        Kind::IPAMBlock,
        Kind::BlockAffinity,
        Kind::IPAMHandle,
        Kind::IPAMConfiguration,
    ] {
        let sample = sample(kind, "layout", 1);
        backend.create(&sample.key, sample.first).await.unwrap();
    }
    let all = raw.get("/calico/", Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    let cidr = integration::conformance::cidr("layout", 1).to_string().replace('/', "-");
    let stored: Vec<(String, serde_json::Value)> = all
        .kvs()
        .iter()
        .map(|kv| (kv.key_str().unwrap().to_owned(), serde_json::from_slice(kv.value()).unwrap()))
        .collect();
    let paths: Vec<&str> = stored.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            &format!("/calico/ipam/v2/assignment/ipv4/block/{cidr}"),
            "/calico/ipam/v2/config",
            "/calico/ipam/v2/handle/layout.Handle-1",
            &format!("/calico/ipam/v2/host/layout-node/ipv4/block/{cidr}"),
            "/calico/resources/v3/projectcalico.org/ippools/layout-1",
            "/calico/resources/v3/projectcalico.org/networksets/default/layout-1",
        ]
    );
    assert_eq!(stored[0].1["attributes"], serde_json::Value::Null);
    assert_eq!(
        stored[1].1,
        serde_json::json!({"strict_affinity": true, "auto_allocate_blocks": true, "maxBlocksPerHost": 4})
    );
    assert_eq!(stored[2].1, serde_json::json!({"block": {"10.244.0.0/26": 1}, "deleted": false}));
    assert_eq!(stored[3].1, serde_json::json!({"state": "pending", "deleted": false}));
    assert_eq!(stored[4].1.pointer("/metadata/resourceVersion"), None);
}

#[tokio::test]
async fn a_listing_of_several_pages_is_complete() {
    let server = Server::new().await;
    let mut raw = server.raw().await;
    for number in 0..2100 {
        raw.put(format!("/calico/ipam/v2/handle/h{number}"), r#"{"block":{}}"#, None).await.unwrap();
    }
    let backend = server.store.backend();
    let listing = backend.list(Kind::IPAMHandle, &Filter::All).await.unwrap();
    assert_eq!((listing.entries.len(), listing.faults.len()), (2100, 0));
    let mut parts = backend.parts(Kind::IPAMHandle, &Filter::All).await.unwrap();
    let mut entries = parts.next().await.unwrap().unwrap().entries;
    assert_eq!(entries.len(), 1000);
    raw.delete("/calico/ipam/v2/handle/h999", None).await.unwrap();
    while let Some(part) = parts.next().await {
        entries.extend(part.unwrap().entries);
    }
    assert_eq!(entries, listing.entries, "as it was when it began");

    // If etcd forgets in between, it is to begin anew.
    let mut parts = backend.parts(Kind::IPAMHandle, &Filter::All).await.unwrap();
    let begun = parts.next().await.unwrap().unwrap().revision;
    let newest = raw.put("/elsewhere", "", None).await.unwrap().header().unwrap().revision();
    raw.compact(newest, None).await.unwrap();
    assert!(matches!(parts.next().await, Some(Err(Error::Compacted(at))) if at == begun.0));
    assert!(parts.next().await.is_none());
}

#[tokio::test]
async fn a_value_that_etcd_refuses_as_too_large_is_rejected_by_name() {
    let server = Server::new().await;
    let mut sample = sample(Kind::IPPool, "large", 1);
    sample.first["metadata"]["annotations"] = serde_json::json!({"note": "x".repeat(3 << 20)});
    let error = server.store.backend().create(&sample.key, sample.first).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { key, .. } if *key == sample.key), "{error}");
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let mut etcd = Etcd::local().unwrap();
    let url = etcd.url();
    etcd.kill().unwrap();
    let error = EtcdStore::connect(&config(url.clone())).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn a_user_needs_the_right_password() {
    let server = Server::new().await;
    let mut raw = server.raw().await;
    raw.user_add("root", "secret", None).await.unwrap();
    raw.role_add("root").await.unwrap();
    raw.user_grant_role("root", "root").await.unwrap();
    raw.auth_enable().await.unwrap();
    let url = server.etcd.lock().unwrap().url();
    let connect = async |credentials: Option<(&str, &str)>| {
        let credentials = credentials.map(|(user, password)| (user.to_owned(), password.to_owned()));
        EtcdStore::connect(&EtcdConfig { credentials, ..config(url.clone()) }).await
    };
    for credentials in [None, Some(("root", "wrong")), Some(("nobody", "secret"))] {
        let error = connect(credentials).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized(_)) && error.to_string().contains(&url), "{error}");
    }
    let store = Store::new(connect(Some(("root", "secret"))).await.unwrap());
    let sample = sample(Kind::IPPool, "user", 1);
    store.backend().create(&sample.key, sample.first).await.unwrap();
}

#[tokio::test]
async fn with_tls_both_sides_show_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (server_cert, server_key) = signed("127.0.0.1");
    let (client_cert, client_key) = signed("client");
    let certificates = Certificates {
        ca: write("ca.pem", &ca_cert.pem()),
        cert: write("server.pem", &server_cert),
        key: write("server-key.pem", &server_key),
    };
    let ca_file = Pem::File(certificates.ca.display().to_string());
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    let etcd = Etcd::start(address, None, None, Some(certificates)).unwrap();

    let inline = EtcdConfig {
        ca: Some(Pem::Inline(ca_cert.pem())),
        identity: Some((Pem::Inline(client_cert.clone()), Pem::Inline(client_key.clone()))),
        ..config(etcd.url())
    };
    EtcdStore::connect(&inline).await.unwrap();
    let file = |name: &str, text: &str| Pem::File(write(name, text).display().to_string());
    let identity = Some((file("client.pem", &client_cert), file("client-key.pem", &client_key)));
    let files = EtcdConfig { ca: Some(ca_file.clone()), identity: identity.clone(), ..config(etcd.url()) };
    EtcdStore::connect(&files).await.unwrap();

    let nameless = EtcdConfig { ca: Some(ca_file), identity: None, ..config(etcd.url()) };
    assert!(EtcdStore::connect(&nameless).await.is_err(), "a client without a certificate is refused");
    let trusting = EtcdConfig { ca: None, identity: identity.clone(), ..config(etcd.url()) };
    assert!(EtcdStore::connect(&trusting).await.is_err(), "a server that nobody vouches for is refused");
    let missing = EtcdConfig { ca: Some(Pem::File("/does/not/exist.pem".to_owned())), identity, ..config(etcd.url()) };
    let error = EtcdStore::connect(&missing).await.unwrap_err().to_string();
    assert!(error.contains("etcdCACertFile /does/not/exist.pem"), "{error}");
}
