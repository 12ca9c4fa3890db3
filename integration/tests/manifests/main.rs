//! What users apply: that Kustomize, Helm and the flat files say the same, that an API server takes it, and that the
//! rights in it are those that the programs use.

mod audit;
mod objects;
mod rights;
mod scenario;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use integration::servers::kubernetes::{ApiServer, Listen};
use serde_json::Value;

use objects::{Objects, differences, flat, helm, kubectl, kustomize};

/// An overlay, the chart's values that say the same, and the flat file if there is one.
const VARIANTS: &[(&str, &[&str], Option<&str>)] = &[
    ("mesh", &[], Some("ocicat.yaml")),
    ("etcd", &["datastore=etcd"], Some("ocicat-etcd.yaml")),
    ("reflector", &["reflector.enabled=true"], None),
    ("upgrade-host-local", &["upgradeHostLocal=true"], None),
    ("native-crds", &["nativeCRDs=true"], Some("ocicat-v3-crds.yaml")),
];

#[test]
fn overlays_chart_and_flat_files_are_the_same_objects() -> Result<()> {
    for (overlay, values, file) in VARIANTS {
        let kustomized = kustomize(&format!("kustomize/overlays/{overlay}"))?;
        ensure!(kustomized.len() > 10, "{overlay} has {} objects", kustomized.len());
        let charted = helm(values)?;
        ensure!(kustomized == charted, "{overlay} and the chart:\n{}", differences(&kustomized, &charted));
        if let Some(file) = file {
            let flat = flat(file)?;
            ensure!(kustomized == flat, "{overlay} and {file}:\n{}", differences(&kustomized, &flat));
        }
    }
    Ok(())
}

#[test]
fn the_charts_values_go_where_they_belong() -> Result<()> {
    let objects = helm(&[
        "image.registry=registry.test",
        "image.tag=v9",
        "mtu=1400",
        "ipam=host-local",
        "ipv4pool.cidr=10.9.0.0/16",
        "cni.version=1.1.0",
        "env[0].name=AS",
        "env[0].value=64999",
        "bgpPasswordSecrets[0]=rack",
        "includeCRDs=false",
        "node.tolerations=null",
    ])?;
    ensure!(!objects.keys().any(|name| name.contains("CustomResourceDefinition")), "definitions are there");
    let config = &objects["ConfigMap calico-config"]["data"];
    ensure!(config["veth_mtu"] == "1400", "{config:#}");
    let network: Value = serde_json::from_str(
        config["cni_network_config"].as_str().context("no text")?.replace("__CNI_MTU__", "0").as_str(),
    )?;
    ensure!(network["cniVersion"] == "1.1.0" && network["plugins"][0]["ipam"]["type"] == "host-local", "{network:#}");
    let pod = &objects["DaemonSet calico-node"]["spec"]["template"]["spec"];
    ensure!(pod["initContainers"][0]["image"] == "registry.test/ocicat/ocicat:v9", "{pod:#}");
    for container in pod["containers"].as_array().context("no containers")? {
        let variables = container["env"].as_array().context("no variables")?;
        ensure!(container["image"] == "registry.test/ocicat/ocicat:v9", "{container:#}");
        ensure!(variables.iter().any(|one| one["name"] == "AS" && one["value"] == "64999"), "{container:#}");
        let pool = variables.iter().any(|one| one["name"] == "CALICO_IPV4POOL_CIDR" && one["value"] == "10.9.0.0/16");
        ensure!(pool == (container["name"] == "felix"), "{container:#}");
    }
    let names = &objects["Role calico-node-bgp-passwords"]["rules"][0]["resourceNames"];
    ensure!(*names == serde_json::json!(["rack"]), "{names}");

    let etcd = helm(&[
        "datastore=etcd",
        "etcd.endpoints=https://etcd:2379",
        "etcd.tls.ca=CA",
        "etcd.tls.crt=CRT",
        "etcd.tls.key=KEY",
    ])?;
    let config = &etcd["ConfigMap calico-config"]["data"];
    ensure!(
        config["etcd_ca"] == "/calico-secrets/etcd-ca" && config["etcd_endpoints"] == "https://etcd:2379",
        "{config:#}"
    );
    ensure!(
        etcd["Secret calico-etcd-secrets"]["data"]["etcd-key"] == "S0VZ",
        "{:#}",
        etcd["Secret calico-etcd-secrets"]
    );
    Ok(())
}

#[test]
fn the_mesh_ends_after_the_sessions_with_reflectors_began() -> Result<()> {
    let text = objects::render_overlay("kustomize/overlays/reflector")?;
    let at = |kind: &str| text.find(&format!("\nkind: {kind}\n")).with_context(|| format!("there is no {kind}"));
    ensure!(at("BGPPeer")? < at("BGPConfiguration")?, "kubectl would end the mesh first");
    // Helm has an order of its own, and so a step between.
    let between = helm(&["reflector.enabled=true", "reflector.keepMesh=true"])?;
    ensure!(between.contains_key("BGPPeer peer-with-route-reflectors"), "no peer");
    ensure!(!between.contains_key("BGPConfiguration default"), "the mesh ends too early");
    Ok(())
}

/// What must be so of every container, however it is installed.
#[test]
fn nothing_is_privileged() -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> =
        [("felix", &["NET_ADMIN"][..]), ("bgp-speaker", &["NET_ADMIN", "NET_BIND_SERVICE"])].into();
    for (overlay, ..) in VARIANTS {
        let objects = kustomize(&format!("kustomize/overlays/{overlay}"))?;
        for (name, pod) in
            objects.iter().filter_map(|(name, object)| Some((name, object.pointer("/spec/template/spec")?)))
        {
            ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{name}");
            ensure!(pod["priorityClassName"].as_str().is_some_and(|class| class.starts_with("system-")), "{name}");
            for field in ["hostPID", "hostIPC"] {
                ensure!(pod.get(field).is_none(), "{name}: {field}");
            }
            let containers =
                ["initContainers", "containers"].iter().filter_map(|field| pod[field].as_array()).flatten();
            for container in containers {
                let name = container["name"].as_str().unwrap_or_default();
                let context = &container["securityContext"];
                ensure!(context.get("privileged").is_none(), "{name}");
                ensure!(context["allowPrivilegeEscalation"] == false, "{name}");
                ensure!(context["readOnlyRootFilesystem"] == true, "{name}");
                ensure!(context["capabilities"]["drop"] == serde_json::json!(["ALL"]), "{name}");
                let added: Vec<&str> =
                    context["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                ensure!(added == allowed.get(name).copied().unwrap_or_default(), "{name} has {added:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_api_server_takes_everything() -> Result<()> {
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    let kubeconfig = server.kubeconfig();
    let run = |arguments: &[&str], input: Option<&str>| kubectl(&kubeconfig, arguments, input);
    // A dry run of what is of a kind that only another part of the same file defines is no use, so definitions are first.
    for (overlay, values, file) in VARIANTS {
        let group = if *overlay == "native-crds" { "native" } else { "classic" };
        let definitions = format!("{}/crds/{group}", objects::folder());
        run(&["apply", "--server-side", "-k", &definitions], None)?;
        run(&["wait", "--for=condition=Established", "crd", "--all"], None)?;
        let place = format!("{}/kustomize/overlays/{overlay}", objects::folder());
        run(&["apply", "--dry-run=server", "-k", &place], None).with_context(|| (*overlay).to_owned())?;
        run(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], Some(&objects::render_chart(values)?))
            .with_context(|| format!("the chart with {values:?}"))?;
        if let Some(file) = file {
            let path = format!("{}/{file}", objects::folder());
            run(&["apply", "--dry-run=server", "--validate=strict", "-f", &path], None)
                .with_context(|| (*file).to_owned())?;
        }
        run(&["delete", "--wait=true", "-k", &definitions], None)?;
    }
    Ok(())
}

/// The objects of what `kubectl apply -f` is given, those of the group that is installed by default.
fn mesh() -> Result<Objects> {
    kustomize("kustomize/overlays/mesh")
}
