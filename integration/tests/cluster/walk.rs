//! `kill -9` of containerd while the plugin stands at a step of ADD or DEL, walked and not sampled: there is a pod for each
//! step, and all stand at theirs when containerd ends. Then the plugins go on without it, and a new one and the kubelet do
//! what they do: no address is two pods', and after the collection none is nobody's.
//! Needs Debian's `strace`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Node, PATIENCE, PAUSE, ping_all};
use integration::lab::Show;
use integration::wait;
use serde_json::{Value, json};

use crate::steps::{Step, recording, steps};

/// Where a node keeps what belongs to this.
const FOLDER: &str = "/run/ocicat-walk";

/// Stands in the plugin's place: a call that a file with arguments of `strace` is there for is traced, once.
const INSTALL: &str = r#"
set -e
mkdir /run/ocicat-walk
cp /opt/cni/bin/calico /run/ocicat-walk/calico
cat > /opt/cni/bin/calico.new <<'END'
#!/bin/sh
pod=${CNI_ARGS##*K8S_POD_NAME=}
file=/run/ocicat-walk/$CNI_COMMAND-${pod%%;*}
if mv "$file" "$file.taken" 2>/dev/null; then
    exec strace -f $(cat "$file.taken") -- /run/ocicat-walk/calico
fi
exec /run/ocicat-walk/calico
END
chmod 755 /opt/cni/bin/calico.new
mv /opt/cni/bin/calico.new /opt/cni/bin/calico
"#;

/// And back. Network namespaces that containerd forgot, as it does when it ends between making one and writing that down,
/// are nobody's.
const REMOVE: &str = r#"
set -e
cp /run/ocicat-walk/calico /opt/cni/bin/calico.new
mv /opt/cni/bin/calico.new /opt/cni/bin/calico
rm -r /run/ocicat-walk
for name in $(ls /run/netns); do
    # What cannot be looked at or deleted must be gone: containerd may be removing it at this moment.
    if pids=$(ip netns pids "$name"); then
        [ -n "$pids" ] || ip netns delete "$name" || [ ! -e "/run/netns/$name" ]
    else
        [ ! -e "/run/netns/$name" ]
    fi
done
"#;

/// What leaks is collected at once.
const IMPATIENT: &str = "{apiVersion: crd.projectcalico.org/v1, kind: KubeControllersConfiguration, \
     metadata: {name: default}, spec: {controllers: {node: {leakGracePeriod: 1s}}}}";

/// Kills containerd of a node twice. Returns at how many steps of ADD and of DEL a plugin stood meanwhile.
pub(crate) fn walk(cluster: &Cluster, show: &Show<'_>, node: &Node) -> Result<(usize, usize)> {
    cluster.apply(IMPATIENT)?;
    node.script(INSTALL)?;
    let interfaces = interfaces(node)?;

    // Which steps there are.
    let record = ["record".to_owned()];
    let order = |verb: &str, pod: &str, arguments: &dyn Fn(&Path) -> Vec<String>| -> Result<()> {
        let log = format!("{FOLDER}/{verb}-{pod}.log");
        let words = arguments(Path::new(&log)).join(" ");
        std::fs::write(node.path(&format!("{FOLDER}/{verb}-{pod}"))?, words).context("the node's folder")
    };
    order("ADD", "record", &recording)?;
    order("DEL", "record", &recording)?;
    create(cluster, node, &record)?;
    running(cluster, &record)?;
    delete(cluster, &record)?;
    wait::becomes(PATIENCE, "the first pod is gone", || Ok(self::interfaces(node)? == interfaces))?;
    wait::becomes(PATIENCE, "no plugin is traced", || Ok(node.run(&["pgrep", "-x", "strace"]).is_err()))?;
    let recorded = |verb: &str, least| steps(&node.path(&format!("{FOLDER}/{verb}-record.log"))?, least);
    let (add, del) = (recorded("ADD", 9)?, recorded("DEL", 2)?);

    // A pod for each.
    let pods: Vec<String> = (0..add.len().max(del.len())).map(|number| format!("step-{number}")).collect();
    let orders = |verb: &str, steps: &[Step]| {
        pods.iter().zip(steps).try_for_each(|(pod, step)| order(verb, pod, &|log| step.stopping(log)))
    };
    orders("ADD", &add)?;
    create(cluster, node, &pods)?;
    let at_add = kill(node, "ADD", add.len())?;
    running(cluster, &pods)?;
    let found = cluster.pods("default", "app=walk")?;
    ensure!(found.len() == pods.len(), "{} of {} pods run", found.len(), pods.len());
    let lost = ping_all(&found)?.lost;
    ensure!(lost.is_empty(), "after containerd was killed in ADD, these were not answered: {lost:?}");
    wait::becomes(PATIENCE, "the addresses taken are those of pods", || show.addresses_are_those_of_pods())?;

    orders("DEL", &del)?;
    delete(cluster, &pods)?;
    let at_del = kill(node, "DEL", del.len())?;
    wait::becomes(PATIENCE, "no interface of a pod is left", || Ok(self::interfaces(node)? == interfaces))?;
    wait::becomes(PATIENCE, "the addresses taken are those of pods", || show.addresses_are_those_of_pods())?;
    node.script(REMOVE)?;
    Ok((at_add, at_del))
}

/// Waits until every traced call stands still or has ended, kills containerd, and lets those that stand go on. Returns how
/// many stood.
fn kill(node: &Node, verb: &str, calls: usize) -> Result<usize> {
    // A step may not be reached: a call is not always made equally often.
    let ended = format!(
        "cd {FOLDER}; ls {verb}-*.taken | wc -l; grep -l 'stopped by SIGSTOP' {verb}-step-*.log | wc -l; pgrep -x -c strace; true"
    );
    let stood = wait::until(PATIENCE, &format!("all {calls} plugins stand at their step of {verb}"), || {
        let text = node.script(&ended)?;
        let numbers = text.lines().map(|line| Ok(line.trim().parse::<usize>()?)).collect::<Result<Vec<_>>>()?;
        let [taken, stopped, traced] = numbers[..] else { anyhow::bail!("{text}") };
        // The record is one of those that were taken.
        Ok((taken == calls + 1 && stopped == traced).then_some(stopped))
    })?;
    node.kill("containerd")?;
    node.script("pkill -CONT -x calico; true")?;
    wait::becomes(PATIENCE, "containerd answers again", || Ok(node.ctr(&["version"]).is_ok()))?;
    Ok(stood)
}

fn create(cluster: &Cluster, node: &Node, names: &[String]) -> Result<()> {
    let pods: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "walk"}},
                "spec": {
                    "nodeName": node.name(), "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "pause", "image": PAUSE}],
                },
            })
        })
        .collect();
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string()).map(drop)
}

/// Waits until they run.
fn running(cluster: &Cluster, names: &[String]) -> Result<()> {
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    let mut words = vec!["wait", "--for=condition=Ready", "pod", &limit];
    words.extend(names.iter().map(String::as_str));
    cluster.kubectl(&words).map(drop).with_context(|| {
        cluster
            .kubectl(&["get", "events", "--sort-by=.lastTimestamp", "--field-selector=type!=Normal"])
            .unwrap_or_default()
    })
}

fn delete(cluster: &Cluster, names: &[String]) -> Result<()> {
    let mut words = vec!["delete", "pod", "--timeout=120s"];
    words.extend(names.iter().map(String::as_str));
    cluster.kubectl(&words).map(drop)
}

/// The node's sides of its pods' interfaces.
fn interfaces(node: &Node) -> Result<BTreeSet<String>> {
    let text = node.run(&["ip", "-o", "link"])?;
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    Ok(names.filter(|name| name.starts_with("cali")).map(str::to_owned).collect())
}
