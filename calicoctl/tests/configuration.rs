//! Which datastore, which version, which flags: what is said when they are wrong.

mod support;

use std::time::{Duration, Instant};

use calico_api::{ClusterInformationSpec, Key, Kind};
use support::{Cluster, program, run};

#[test]
fn a_file_or_the_environment_names_the_datastore() {
    let cluster = Cluster::with("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: worker-1}\nspec: {}\n");
    let table = "NAME       \nworker-1   \n\n";
    cluster.run("get nodes").prints(table);
    let database = cluster.database();
    run(program().env("DATASTORE_TYPE", "sqlite").env("SQLITE_PATH", &database).args(["get", "nodes"]), "")
        .prints(table);
    // The prefixed variables win.
    let mut prefixed = program();
    prefixed.env("CALICO_DATASTORE_TYPE", "sqlite").env("CALICO_SQLITE_PATH", &database);
    prefixed.env("DATASTORE_TYPE", "etcdv3").env("SQLITE_PATH", "/nonexistent/x.db");
    run(prefixed.args(["get", "nodes"]), "").prints(table);
    // A file that is named wins entirely.
    let file = cluster.path("calicoctl.cfg");
    run(program().env("DATASTORE_TYPE", "etcdv3").arg("-c").arg(&file).args(["get", "nodes"]), "").prints(table);
}

#[test]
fn a_wrong_configuration_is_named_with_file_key_and_value() {
    let cluster = Cluster::new();
    let with = |text: &str| {
        let file = cluster.file("wrong.cfg", text);
        (run(program().args(["get", "nodes", "--config", &file]), ""), file)
    };
    let config =
        |spec: &str| format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n{spec}");

    let missing = run(program().args(["get", "nodes", "-c", "/nonexistent.cfg"]), "");
    missing.fails("failed to get resources: Error reading config file: /nonexistent.cfg: No such file or directory (os error 2)\n");
    run(program().args(["version", "-c", "/nonexistent.cfg"]), "").says_and_fails(&["Error reading config file"]);
    for (text, parts) in [
        (config("  datastoreTyp: sqlite\n"), &["datastoreTyp"] as &[&str]),
        (config("  datastoreType: consul\n"), &["datastoreType", "consul"]),
        (config("  datastoreType: etcdv3\n"), &["etcdEndpoints"]),
        (config("").replace("CalicoAPIConfig", "CalicoConfig"), &["invalid config file", "CalicoConfig"]),
        (config("").replace("org/v3", "org/v2"), &["invalid config file", "projectcalico.org/v2"]),
        ("{".to_owned(), &["invalid config file"]),
    ] {
        let (ran, file) = with(&text);
        ran.fails_with(parts);
        ran.fails_with(&[&file]);
    }
    let environment = |name: &str, value: &str| run(program().env(name, value).args(["get", "nodes"]), "");
    environment("DATASTORE_TYPE", "consul").fails_with(&["environment", "DATASTORE_TYPE", "consul"]);
    environment("DATASTORE_TYPE", "etcdv3").fails_with(&["ETCD_ENDPOINTS"]);
}

#[test]
fn a_datastore_that_is_down_is_named_within_seconds() {
    // The port was free a moment ago, and nobody has it now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let start = Instant::now();
    let etcd = run(program().env("ETCD_ENDPOINTS", &endpoint).args(["get", "nodes"]), "");
    etcd.fails_with(&["failed to get resources: Failed to create Calico API client: ", &endpoint]);
    let create = run(program().env("ETCD_ENDPOINTS", &endpoint).args(["ipam", "show"]), "");
    create.fails_with(&["Failed to create Calico API client: ", &endpoint]);
    let version = run(program().env("ETCD_ENDPOINTS", &endpoint).arg("version"), "");
    assert_eq!(version.code, Some(0), "{version:?}");
    assert!(version.out.ends_with("Unable to detect installed Calico version\n"), "{version:?}");
    // Bounded, not measured: each may take the five seconds that a datastore is given to answer.
    assert!(start.elapsed() < Duration::from_secs(18), "{:?}", start.elapsed());

    let mut kubernetes = program();
    kubernetes.env("DATASTORE_TYPE", "kubernetes").env("K8S_API_ENDPOINT", &endpoint);
    run(kubernetes.args(["get", "nodes"]), "").fails_with(&[&endpoint]);
    let folder =
        run(program().env("DATASTORE_TYPE", "sqlite").env("SQLITE_PATH", "/nonexistent/x.db").args(["get", "no"]), "");
    folder.fails_with(&["/nonexistent/x.db"]);
}

#[test]
fn a_cluster_of_another_release_is_only_touched_on_demand() {
    let cluster = Cluster::with("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {}\n");
    let set = |version: &'static str| {
        cluster.store(async |store| {
            let key = Key::named(Kind::ClusterInformation, "default");
            let mut information = store.get::<ClusterInformationSpec>(&key).await.unwrap();
            information.spec.calico_version = Some(version.to_owned());
            information.spec.cluster_type = Some("k8s,bgp".to_owned());
            store.update(&information).await.unwrap();
        });
    };
    for close in ["v3.32.0", "v3.32.9-14-gabcdef", "3.32.1", ""] {
        set(close);
        cluster.run("get nodes").prints("NAME   \na      \n\n");
    }
    set("v3.31.2");
    let mismatch = "version mismatch.\nClient Version:   v3.32.1\nCluster Version:  v3.31.2\nUse --allow-version-mismatch to override\n";
    cluster.run("get nodes").fails(&format!("failed to get resources: {mismatch}"));
    cluster.run("delete node a").fails(mismatch);
    cluster.run("ipam show").fails(mismatch);
    cluster
        .feed("apply -f -", "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: b}\nspec: {}\n")
        .fails(mismatch);
    cluster.run("get nodes --allow-version-mismatch").prints("NAME   \na      \n\n");
    cluster.run("--allow-version-mismatch get nodes").prints("NAME   \na      \n\n");

    let version = cluster.run("version");
    assert_eq!(version.code, Some(0), "{version:?}");
    for line in
        ["Client Version:    v", "Git commit:        ", "Cluster Version:   v3.31.2", "Cluster Type:      k8s,bgp"]
    {
        assert!(version.out.lines().any(|it| it.starts_with(line)), "{line:?} is not in {}", version.out);
    }
    let client = cluster.run("version --client").out;
    assert!(version.out.starts_with(&client) && !client.contains("Cluster"), "{client}");
    let unknown = Cluster::new().run("version").out;
    assert!(unknown.ends_with("Cluster Version:   unknown\nCluster Type:      unknown\n"), "{unknown}");
}

#[test]
fn flags_are_refused_in_cobras_words() {
    let cluster = Cluster::new();
    cluster.run("get nodes -m").fails("unknown shorthand flag: 'm' in -m\n");
    cluster.run("get nodes --unknown-flag").fails("unknown flag: --unknown-flag\n");
    cluster.run("--unknown-flag get nodes").fails("unknown flag: --unknown-flag\n");
    cluster.run("get nodes --unknown=3").fails("unknown flag: --unknown\n");
    cluster.run("get nodes -l loud").fails_with(&["panic", "fatal", "error", "warn", "info", "debug"]);
    cluster.run("-l debug get nodes").prints_out("NAME   \n\n");
    for help in ["--help", "get --help", "ipam show --help", "--version"] {
        let ran = cluster.run(help);
        assert_eq!((ran.code, ran.err.as_str(), ran.out.is_empty()), (Some(0), "", false), "{help}");
    }
    cluster.run("").fails_with(&["calicoctl"]);
    cluster.run("convert").fails_with(&["convert"]);

    let plugin = cluster.path("kubectl-calico");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_calicoctl"), &plugin).unwrap();
    let mut command = std::process::Command::new(&plugin);
    assert!(run(command.env_clear().arg("--help"), "").out.contains("Usage: kubectl-calico "));
    let mut command = std::process::Command::new(&plugin);
    command.env_clear().args(["get", "nodes", "-c"]).arg(cluster.path("calicoctl.cfg"));
    run(&mut command, "").prints("NAME   \n\n");
}
