//! The definitions of Calico's resources before a real API server: it takes them, takes a resource of every kind and keeps
//! every field of it, refuses what cannot be meant, and shows what users of kubectl look for.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use calico_api::Kind;
use integration::conformance::samples::sample;
use integration::programs::{self, KUBECTL, workspace};
use integration::servers::kubernetes::{ApiServer, Group, Listen};
use serde_json::{Value, json};

/// What a resource is asked: its kind, its name, its spec, and the words of the refusal if it must be one.
type Case = (Kind, &'static str, Value, Option<&'static str>);

/// The kinds that have a definition.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| !matches!(kind, Kind::Node | Kind::Profile | Kind::WorkloadEndpoint))
}

fn plural(group: Group, kind: Kind) -> &'static str {
    match (group, kind) {
        (Group::Classic, Kind::IPAMConfiguration) => "ipamconfigs",
        _ => kind.plural(),
    }
}

fn collection(group: Group, kind: Kind) -> String {
    let namespace = if kind.namespaced() { "/namespaces/default" } else { "" };
    format!("/apis/{}{namespace}/{}", group.api_version(), plural(group, kind))
}

fn object(group: Group, kind: Kind, name: &str, spec: &Value) -> Value {
    let word = if group == Group::Classic && kind == Kind::IPAMConfiguration { "IPAMConfig" } else { kind.as_str() };
    json!({"apiVersion": group.api_version(), "kind": word, "metadata": {"name": name}, "spec": spec})
}

/// Both specs of a kind's sample, as they are stored.
fn specs(group: Group, kind: Kind) -> [Value; 2] {
    let sample = sample(kind, "crd", 1);
    [sample.first, sample.second].map(|value| {
        let mut spec = value["spec"].clone();
        if group == Group::Classic && kind == Kind::BlockAffinity {
            spec["deleted"] = json!("false");
        }
        spec
    })
}

fn every_sample_is_kept(group: Group) -> Result<()> {
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    server.apply_crds(group)?;
    for kind in kinds() {
        let only = kind == Kind::BGPConfiguration || sample(kind, "crd", 1).key.name() == "default";
        let name = if only { "default" } else { "sample" };
        let [first, second] = specs(group, kind);
        let path = collection(group, kind);
        let made =
            server.request("POST", &path, &object(group, kind, name, &first)).with_context(|| format!("{kind}"))?;
        keeps(kind, &first, &made["spec"])?;
        let mut changed = made.clone();
        changed["spec"] = second.clone();
        let one = format!("{path}/{name}");
        let updated = server.request("PUT", &one, &changed).with_context(|| format!("update of {kind}"))?;
        keeps(kind, &second, &updated["spec"])?;
        let status = server.request("GET", &format!("{one}/status"), &Value::Null);
        ensure!(status.is_ok() == kind.has_status(), "{kind}: {status:?}");
    }
    Ok(())
}

/// Everything of `given` is in `stored`; defaults may have come to it.
fn keeps(kind: Kind, given: &Value, stored: &Value) -> Result<()> {
    let (Some(given), Some(stored)) = (given.as_object(), stored.as_object()) else {
        bail!("{kind}: no spec in {stored}")
    };
    for (field, value) in given {
        // A whole number is stored as one.
        let same = |kept: &Value| kept == value || (value.is_f64() && kept.as_f64() == value.as_f64());
        ensure!(stored.get(field).is_some_and(same), "{kind}.spec.{field} was {value} and is {:?}", stored.get(field));
    }
    Ok(())
}

#[test]
fn a_resource_of_every_kind_is_taken_and_kept_by_the_classic_group() -> Result<()> {
    every_sample_is_kept(Group::Classic)
}

#[test]
fn a_resource_of_every_kind_is_taken_and_kept_by_the_native_group() -> Result<()> {
    every_sample_is_kept(Group::Native)
}

/// What both groups say of pools, peers and filters.
fn cases() -> Vec<Case> {
    let pool = |name, spec, refusal| (Kind::IPPool, name, spec, refusal);
    let peer = |name, spec, refusal| (Kind::BGPPeer, name, spec, refusal);
    let filter = |name, rule: Value, refusal| (Kind::BGPFilter, name, json!({ "exportV4": [rule] }), refusal);
    vec![
        pool("plain", json!({"cidr": "10.0.0.0/16"}), None),
        pool("v6", json!({"cidr": "fd00::/48", "blockSize": 122, "vxlanMode": "Always"}), None),
        pool("text", json!({"cidr": "ten"}), Some("cidr")),
        pool("none", json!({"natOutgoing": true}), Some("spec.cidr: Required")),
        pool(
            "both",
            json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet"}),
            Some("cannot both be on"),
        ),
        pool("ipip6", json!({"cidr": "fd00::/48", "ipipMode": "Always"}), Some("IPIP carries IPv4")),
        pool("coarse", json!({"cidr": "10.0.0.0/8", "blockSize": 19}), Some("20 to 32")),
        pool("coarse6", json!({"cidr": "fd00::/48", "blockSize": 64}), Some("116 to 128")),
        pool("tiny", json!({"cidr": "10.0.0.0/28", "blockSize": 26}), Some("smaller than one of its blocks")),
        pool("off", json!({"cidr": "10.0.0.0/28", "blockSize": 26, "disabled": true}), None),
        pool("lb", json!({"cidr": "10.1.0.0/24", "allowedUses": ["LoadBalancer"], "nodeSelector": "all()"}), None),
        pool(
            "mixed",
            json!({"cidr": "10.1.0.0/24", "allowedUses": ["LoadBalancer", "Workload"]}),
            Some("goes with no other"),
        ),
        pool(
            "hidden",
            json!({"cidr": "10.1.0.0/24", "allowedUses": ["LoadBalancer"], "disableBGPExport": true}),
            Some("are exported"),
        ),
        pool(
            "placed",
            json!({"cidr": "10.1.0.0/24", "allowedUses": ["LoadBalancer"], "nodeSelector": "a == 'b'"}),
            Some("of no node"),
        ),
        peer("rack", json!({"peerIP": "192.0.2.1", "asNumber": 64512, "nodeSelector": "all()"}), None),
        peer("dotted", json!({"peerIP": "192.0.2.1", "asNumber": "1.10"}), None),
        peer("nodes", json!({"peerSelector": "rr == 'true'", "nodeSelector": "all()"}), None),
        peer("old", json!({"peerSelector": "rr == 'true'", "asNumber": 0, "node": "", "nodeSelector": "all()"}), None),
        peer(
            "two",
            json!({"peerIP": "192.0.2.1", "asNumber": 1, "node": "a", "nodeSelector": "all()"}),
            Some("node and nodeSelector"),
        ),
        peer("where", json!({"peerIP": "192.0.2.1", "peerSelector": "all()"}), Some("peerIP and peerSelector")),
        peer("whose", json!({"peerSelector": "all()", "asNumber": 64512}), Some("leave asNumber out")),
        peer("local", json!({"localWorkloadSelector": "all()", "asNumber": 64512}), None),
        peer("nobody", json!({"localWorkloadSelector": "all()"}), Some("needs asNumber")),
        peer("through", json!({"peerSelector": "all()", "reachableBy": "192.0.2.9"}), Some("reachableBy needs peerIP")),
        peer("ttl", json!({"peerIP": "192.0.2.1", "asNumber": 1, "ttlSecurity": 256}), Some("ttlSecurity")),
        filter("all", json!({"action": "Accept"}), None),
        filter("half", json!({"action": "Accept", "cidr": "10.0.0.0/8"}), Some("go together")),
        filter("bare", json!({"action": "Accept", "prefixLength": {"min": 24}}), Some("needs cidr")),
        filter(
            "painted",
            json!({"action": "Reject", "operations": [{"setPriority": {"value": 5}}]}),
            Some("need Accept"),
        ),
        filter(
            "long",
            json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}}),
            Some("33"),
        ),
        (Kind::BGPConfiguration, "default", json!({"communities": [{"name": "a", "value": "x"}]}), Some("communities")),
        (Kind::FelixConfiguration, "default", json!({"bpfEnabled": false, "iptablesRefreshInterval": "60s"}), None),
    ]
}

/// What only the native group says: before the classic one stand Calico's own clients.
fn native_cases() -> Vec<Case> {
    let tier = |name, spec, refusal| (Kind::Tier, name, spec, refusal);
    vec![
        (Kind::BGPConfiguration, "node.a", json!({"logSeverityScreen": "Debug"}), None),
        (Kind::BGPConfiguration, "node.b", json!({"asNumber": 64512}), Some("of the whole cluster")),
        (Kind::ClusterInformation, "other", json!({"datastoreReady": true}), Some("called default")),
        (Kind::IPAMConfiguration, "other", json!({}), Some("called default")),
        tier("mine", json!({"order": 5.5, "defaultAction": "Pass"}), None),
        tier("default", json!({"order": 1, "defaultAction": "Deny"}), Some("built-in tier")),
        tier("default", json!({"order": 1_000_000.0, "defaultAction": "Deny"}), None),
        tier("kube-admin", json!({"order": 1000.0, "defaultAction": "Deny"}), Some("built-in tier")),
        tier("kube-admin", json!({"order": 1000.0, "defaultAction": "Pass"}), None),
    ]
}

fn judged(server: &ApiServer, group: Group, cases: &[Case]) -> Result<()> {
    for (kind, name, spec, refusal) in cases {
        let answer = server.request("POST", &collection(group, *kind), &object(group, *kind, name, spec));
        match (answer, refusal) {
            (Ok(_), None) => {}
            (Err(error), Some(words)) => {
                let text = format!("{error:#}");
                ensure!(text.contains(words), "{kind} {name}: {words:?} is not in {text}");
            }
            (Ok(_), Some(words)) => bail!("{kind} {name} was taken; expected a refusal with {words:?}"),
            (Err(error), None) => return Err(error.context(format!("{kind} {name} was refused"))),
        }
    }
    Ok(())
}

/// What a change of a pool is answered.
fn pools_change(server: &ApiServer, group: Group) -> Result<()> {
    let path = collection(group, Kind::IPPool);
    let made = server.request(
        "POST",
        &path,
        &object(group, Kind::IPPool, "fixed", &json!({"cidr": "10.9.0.0/16", "blockSize": 26})),
    )?;
    let balancers = server.request("GET", &format!("{path}/lb"), &Value::Null)?;
    for (pool, field, value, refusal) in [
        (&made, "cidr", json!("10.10.0.0/16"), Some("cannot be changed")),
        (&made, "blockSize", json!(27), Some("cannot be changed")),
        (&made, "disabled", json!(true), None),
        (&balancers, "allowedUses", json!(["Workload"]), Some("stays one")),
    ] {
        let mut changed = pool.clone();
        changed["spec"][field] = value;
        let name = pool["metadata"]["name"].as_str().context("a pool without a name")?;
        let answer = server.request("PUT", &format!("{path}/{name}"), &changed);
        match refusal {
            None => drop(answer?),
            Some(words) => {
                let text = format!("{:#}", answer.err().with_context(|| format!("{field} was changed"))?);
                ensure!(text.contains(words), "{text}");
            }
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_meant_is_refused_by_the_classic_group() -> Result<()> {
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    server.apply_crds(Group::Classic)?;
    judged(&server, Group::Classic, &cases())?;
    pools_change(&server, Group::Classic)
}

#[test]
fn what_cannot_be_meant_is_refused_by_the_native_group_and_built_in_tiers_stay() -> Result<()> {
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    server.apply_crds(Group::Native)?;
    judged(&server, Group::Native, &cases())?;
    judged(&server, Group::Native, &native_cases())?;
    pools_change(&server, Group::Native)?;

    // The policies of admission take a moment to be in force.
    let policies = workspace().join("manifests/kustomize/components/native/native-policies.yaml");
    kubectl(&server, &["apply", "-f", &policies.display().to_string()])?;
    let tier = |name: &str| format!("{}/{name}", collection(Group::Native, Kind::Tier));
    integration::wait::becomes(integration::PATIENCE, "the built-in tiers are protected", || {
        let rehearsal = server.request("DELETE", &format!("{}?dryRun=All", tier("kube-admin")), &Value::Null);
        Ok(rehearsal.is_err_and(|error| format!("{error:#}").contains("cannot be deleted")))
    })?;
    for name in ["default", "kube-admin"] {
        ensure!(server.request("DELETE", &tier(name), &Value::Null).is_err(), "tier {name} was deleted");
    }
    server.request("DELETE", &tier("mine"), &Value::Null).map(drop)
}

fn kubectl(server: &ApiServer, arguments: &[&str]) -> Result<String> {
    let kubectl: PathBuf =
        programs::ensure_built(&[KUBECTL])?.into_iter().next().context("one program was asked for")?;
    let output = Command::new(kubectl).arg("--kubeconfig").arg(server.kubeconfig()).args(arguments).output()?;
    ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn kubectl_knows_the_native_kinds_by_their_short_names_and_shows_their_columns() -> Result<()> {
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    server.apply_crds(Group::Native)?;
    let make = |kind, name, spec: Value| {
        server.request("POST", &collection(Group::Native, kind), &object(Group::Native, kind, name, &spec))
    };
    make(
        Kind::IPPool,
        "pods",
        json!({"cidr": "10.0.0.0/16", "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": true}),
    )?;
    make(Kind::BGPPeer, "rack", json!({"peerIP": "192.0.2.1", "asNumber": 64512, "nodeSelector": "all()"}))?;
    make(Kind::Tier, "mine", json!({"order": 5, "defaultAction": "Pass"}))?;
    make(Kind::GlobalNetworkPolicy, "a", json!({"tier": "default", "order": 1}))?;
    make(Kind::GlobalNetworkPolicy, "mine.b", json!({"tier": "mine", "order": 2}))?;
    let shows = |what: &str, lines: [&[&str]; 2]| {
        let text = kubectl(&server, &["get", what])?;
        for (line, words) in text.lines().zip(lines) {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            let expected = words.join(" ");
            ensure!(line.starts_with(&expected), "kubectl get {what}: expected {expected:?} in\n{text}");
        }
        Ok(())
    };
    shows(
        "ippools",
        [
            &["NAME", "CIDR", "VXLAN", "IPIP", "NAT", "ALLOCATABLE", "AGE"],
            &["pods", "10.0.0.0/16", "Never", "Never", "true"],
        ],
    )?;
    shows(
        "bgppeers",
        [
            &["NAME", "NODE SELECTOR", "NODE", "LOCAL ASN", "PEER SELECTOR", "PEER IP", "PEER ASN", "AGE"],
            &["rack", "all()", "192.0.2.1", "64512"],
        ],
    )?;
    shows("tiers", [&["NAME", "ORDER", "DEFAULTACTION", "STATUS", "AGE"], &["mine", "5", "Pass"]])?;
    let selected = kubectl(&server, &["get", "gnp", "--field-selector", "spec.tier=mine", "-o", "name"])?;
    ensure!(selected.trim() == "globalnetworkpolicy.projectcalico.org/mine.b", "{selected}");
    for short in [
        "bgpconfig",
        "affinity",
        "clusterinfo",
        "cgnp",
        "gns",
        "hep",
        "ipamconfig",
        "kcc",
        "cnp",
        "sgnp",
        "sknp",
        "scnp",
        "snp",
    ] {
        kubectl(&server, &["get", short])?;
    }
    Ok(())
}
