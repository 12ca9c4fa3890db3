//! Configurations as people write them, and what they are told.

use super::*;

fn file(spec: &str) -> Result<Config, String> {
    let text = format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata: {{}}\nspec:\n{spec}");
    Config::from_file_text(&text, Path::new("/etc/calico/calicoctl.cfg")).map_err(|error| error.to_string())
}

fn environment(variables: &[(&str, &str)]) -> Result<Config, String> {
    let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::from_environment(get).map_err(|error| error.to_string())
}

#[test]
fn a_file_says_which_store_and_how_it_is_reached() {
    let spec = "  datastoreType: etcdv3
  etcdEndpoints: https://10.0.0.5:2379,https://10.0.0.6:2379
  etcdKeyFile: /etc/calico/tls/key.pem
  etcdCertFile: /etc/calico/tls/cert.pem
  etcdCACertFile: /etc/calico/tls/ca.pem\n";
    let pem = |name: &str| Pem::File(format!("/etc/calico/tls/{name}.pem"));
    let expected = EtcdConfig {
        endpoints: vec!["https://10.0.0.5:2379".to_owned(), "https://10.0.0.6:2379".to_owned()],
        identity: Some((pem("cert"), pem("key"))),
        ca: Some(pem("ca")),
        ..EtcdConfig::default()
    };
    assert_eq!(file(spec), Ok(Config::Etcd(expected)));
    assert_eq!(file("  datastoreType: sqlite\n"), Ok(Config::Sqlite { path: DEFAULT_SQLITE_PATH.to_owned() }));
    assert_eq!(file("  sqlitePath: /tmp/x.db\n"), Ok(Config::Sqlite { path: "/tmp/x.db".to_owned() }));
    let kubernetes = KubernetesConfig {
        kubeconfig: Some("/a:/b".to_owned()),
        use_pod_cidr: true,
        client_qps: Some(2.5),
        client_burst: Some(7),
        ..KubernetesConfig::default()
    };
    let spec = "  kubeconfig: /a:/b\n  usePodCIDR: true\n  k8sClientQPS: 2.5\n  k8sClientBurst: 7\n";
    assert_eq!(file(spec), Ok(Config::Kubernetes(kubernetes)));
    assert_eq!(file("  {}\n"), Ok(Config::Kubernetes(KubernetesConfig::default())));
}

#[test]
fn every_error_of_a_file_names_file_key_and_value() {
    let cases = [
        ("  etcdEndpoint: x\n", "invalid config file /etc/calico/calicoctl.cfg: unknown field \"spec.etcdEndpoint\""),
        (
            "  datastoreType: etcd\n",
            "/etc/calico/calicoctl.cfg: spec.datastoreType: \"etcd\" is not one of kubernetes, etcdv3, sqlite",
        ),
        (
            "  k8sInsecureSkipTLSVerify: maybe\n",
            "invalid config file /etc/calico/calicoctl.cfg: spec.k8sInsecureSkipTLSVerify: maybe is not true or false",
        ),
        (
            "  etcdEndpoints: https://a:1\n  etcdPassword: 123\n",
            "invalid config file /etc/calico/calicoctl.cfg: spec.etcdPassword: this is not text; put it in quotes",
        ),
        (
            "  etcdEndpoints: ftp://a\n",
            "/etc/calico/calicoctl.cfg: spec.etcdEndpoints: \"ftp://a\" has \"ftp://a\", which is not like https://10.0.0.5:2379",
        ),
        (
            "  etcdEndpoints: https://a:1\n  etcdKey: SECRET\n  etcdCertFile: /c\n",
            "/etc/calico/calicoctl.cfg: spec.etcdKey: cannot be given together with spec.etcdCertFile",
        ),
        (
            "  etcdEndpoints: https://a:1\n  etcdUsername: root\n",
            "/etc/calico/calicoctl.cfg: spec.etcdPassword: is needed together with spec.etcdUsername",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(file(spec), Err(expected.to_owned()));
    }
    let whole = |text: &str| Config::from_file_text(text, Path::new("/f")).unwrap_err().to_string();
    assert_eq!(
        whole("apiVersion: v1\nkind: CalicoAPIConfig\n"),
        "invalid config file /f: apiVersion is v1, expected projectcalico.org/v3"
    );
    assert!(whole("a: [").starts_with("invalid config file /f: it is not YAML"));
    assert!(whole("a: 1\na: 2\n").contains("key \"a\" is there twice"));
}

#[test]
fn the_environment_is_read_with_the_prefix_first() {
    assert_eq!(environment(&[]), Ok(Config::Kubernetes(KubernetesConfig::default())));
    let both = [("DATASTORE_TYPE", "etcdv3"), ("CALICO_DATASTORE_TYPE", "sqlite"), ("SQLITE_PATH", "/x.db")];
    assert_eq!(environment(&both), Ok(Config::Sqlite { path: "/x.db".to_owned() }));
    let Ok(Config::Etcd(etcd)) =
        environment(&[("ETCD_ENDPOINTS", " http://a:2379, b:2379 "), ("CALICO_ETCD_ENDPOINTS", "")])
    else {
        panic!("endpoints imply etcdv3")
    };
    assert_eq!(etcd.endpoints, ["http://a:2379", "b:2379"]);
    let Ok(Config::Kubernetes(token)) = environment(&[("CALICO_K8SAPITOKEN", "t")]) else { panic!("kubernetes") };
    assert_eq!(token.api_token.as_deref(), Some("t"));
    assert_eq!(
        environment(&[("DATASTORE_TYPE", "etcdv3")]),
        Err("environment: ETCD_ENDPOINTS: is needed for the datastore type etcdv3".to_owned())
    );
    assert_eq!(
        environment(&[("CALICO_USE_POD_CIDR", "ja")]),
        Err("environment: CALICO_USE_POD_CIDR: \"ja\" is not true or false".to_owned())
    );
}

#[test]
fn a_file_that_was_named_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("calicoctl.cfg");
    let error = Config::load(Some(&path), |_| None).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    std::fs::write(&path, "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec: {sqlitePath: /y.db}\n")
        .unwrap();
    let environment = |_: &str| Some("etcdv3".to_owned());
    assert_eq!(Config::load(Some(&path), environment).unwrap(), Config::Sqlite { path: "/y.db".to_owned() });
}

#[test]
fn inline_keys_are_not_shown() {
    assert!(!format!("{:?}", Pem::Inline("SECRET".to_owned())).contains("SECRET"));
}

#[tokio::test]
async fn core_kinds_come_from_a_cluster_only_where_one_is_named_and_is_not_the_main_store() {
    let main = Config::Sqlite { path: ":memory:".to_owned() };
    let open = async |main: &Config, variables: &[(&str, &str)]| {
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        connect_core(main, get).await.map(|store| store.map(|store| store.backend().describe()))
    };
    let url = ("K8S_API_ENDPOINT", "http://192.0.2.4:8080");
    assert_eq!(open(&main, &[url]).await.unwrap().as_deref(), Some("kubernetes http://192.0.2.4:8080"));
    assert_eq!(open(&main, &[]).await.unwrap(), None);
    assert_eq!(open(&Config::Kubernetes(KubernetesConfig::default()), &[url]).await.unwrap(), None);
    let error = open(&main, &[("CALICO_KUBECONFIG", "/nowhere/kubeconfig")]).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/kubeconfig"), "{error}");
}
