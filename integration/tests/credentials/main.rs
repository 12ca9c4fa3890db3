//! Felix and the speaker in a pod: with a service account's token, which ends and is replaced; and an API server that
//! refuses them, fails, or cannot be trusted. They stay alive and say what is wrong, and so does a plugin.

mod account;
mod proxy;

use std::sync::{MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use integration::servers::Server;
use integration::servers::kubernetes::{ApiServer, Group};
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};
use serde_json::{Value, json};

use account::Account;
use proxy::{Authority, Proxy, Validity};

/// Where the API server is, and where the proxy before it.
const SERVER: &str = "10.0.0.1:6443";
const PROXY: &str = "10.0.0.1:7443";

fn server(net: &Net) -> MutexGuard<'_, ApiServer> {
    match net.server() {
        Some(Server::Kubernetes(server)) => server.lock().unwrap_or_else(PoisonError::into_inner),
        _ => unreachable!("these topologies have an API server"),
    }
}

fn pool(name: &str, cidr: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}\n")
}

/// `calicoctl apply` as an administrator, whose file is not where the daemons would find it.
fn apply(node: &Node<'_>, text: &str) -> Result<()> {
    let script = format!(
        "cd /etc/calico; [ -e admin.cfg ] || mv calicoctl.cfg admin.cfg\n\
         /usr/local/bin/calicoctl --config admin.cfg apply -f - <<'END'\n{text}END\n"
    );
    node.run("sh", &["-c", &script]).map(drop)
}

/// Starts both daemons as containers of a pod see the world.
fn start_daemons(node: &Node<'_>, port: &str) -> Result<()> {
    let environment = [("KUBECONFIG", ""), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", port)];
    node.start("felix", &environment)?;
    node.start("bgp-speaker", &environment)
}

/// What the plugin says when a pod is not connected, which must be that it is to be tried later.
fn refused(pod: &Pod<'_, '_>) -> Result<String> {
    let error = format!("{:#}", pod.add().err().context("ADD succeeded")?);
    ensure!(error.contains("\"code\": 11") || error.contains("\"code\":11"), "{error}");
    Ok(error)
}

/// What a daemon has logged.
fn log(node: &Node<'_>, program: &str) -> Result<String> {
    node.daemon(program, |process| process.output())
}

fn says(node: &Node<'_>, program: &str, words: &[&str]) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{program} says {words:?}"), || {
        node.check()?;
        let log = log(node, program)?;
        Ok(words.iter().all(|word| log.contains(word)))
    })
    .with_context(|| node.last_lines(program))
}

#[test]
fn a_token_that_ends_is_replaced_by_the_next_one_at_once() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    let mut account = Account::new(&server(&net), "calico-node")?;
    account.grant_everything(&server(&net))?;
    account.write(&server(&net), &node, None)?;
    apply(&node, &pool("pods", "10.244.0.0/16"))?;
    start_daemons(&node, "6443")?;
    node.ready("felix", 9099)?;
    let pods = ["one", "two", "three", "four"].map(|name| Pod::sandbox(&node, name));
    let [one, two, three, four] = pods;
    let (one, two, three, four) = (one?, two?, three?, four?);
    one.add()?;

    // The account is made anew, and the kubelet has written its next token when the server forgets the old.
    account.make_anew(&server(&net))?;
    account.write(&server(&net), &node, None)?;
    account.wait_until_old_tokens_end(&net)?;
    two.add().context("the next token was not taken at once")?;

    // Now the kubelet is late.
    account.make_anew(&server(&net))?;
    account.wait_until_old_tokens_end(&net)?;
    let text = refused(&three)?;
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    for words in [file, "system:serviceaccount:kube-system:calico-node", "until the kubelet has replaced it"] {
        ensure!(text.contains(words), "{words:?} is not in: {text}");
    }
    account.write(&server(&net), &node, None)?;
    three.add().context("the late token was not taken at once")?;

    // Watches, which live on with the connection that they began on, begin anew with the new token.
    server(&net).kill()?;
    server(&net).restart()?;
    let late = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16, disabled: true}\n";
    apply(&node, &format!("{}---\n{late}", pool("late", "10.245.0.0/16")))?;
    wait::becomes(PATIENCE, "felix hears of the other pool", || {
        if four.add().is_ok() && four.address()?.to_string().starts_with("10.245.") {
            return Ok(true);
        }
        four.del()?;
        Ok(false)
    })?;
    for pod in [one, two, three, four] {
        pod.remove()?;
    }
    node.check()
}

#[test]
fn a_server_that_fails_or_cannot_be_trusted_is_waited_for_and_the_cause_is_told() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    let mut account = Account::new(&server(&net), "calico-node")?;
    account.grant_everything(&server(&net))?;
    let authorities = (Authority::new("one")?, Authority::new("two")?);
    let sound = authorities.0.serves("10.0.0.1", Validity::Now)?;
    let own = std::fs::read_to_string(net.directory().join("kubernetes/ca.crt"))?;
    let proxy = Proxy::start(net.network()?, PROXY, SERVER, &own, sound.clone())?;
    account.write(&server(&net), &node, Some(authorities.0.pem()))?;
    apply(&node, &pool("pods", "10.244.0.0/16"))?;

    // From the start: nothing ends, and all goes well as soon as the server does.
    proxy.set(sound.refusing(500));
    start_daemons(&node, "7443")?;
    says(&node, "felix", &["etcdserver: injected (500)"])?;
    says(&node, "bgp-speaker", &["etcdserver: injected (500)"])?;
    proxy.set(sound.clone());
    node.ready("felix", 9099)?;

    let pod = Pod::sandbox(&node, "web-0")?;
    let cases = [
        (sound.refusing(500), "etcdserver: injected (500)"),
        (sound.refusing(503), "(503)"),
        (authorities.0.serves("10.0.0.1", Validity::Past)?, "its certificate is expired: renew it"),
        (authorities.0.serves("10.0.0.1", Validity::Future)?, "is this node's clock slow?"),
        (authorities.0.serves("192.0.2.1", Validity::Now)?, "check KUBERNETES_SERVICE_HOST"),
        (authorities.1.serves("10.0.0.1", Validity::Now)?, "not signed by the authority that we trust"),
    ];
    for (mode, words) in cases {
        proxy.set(mode);
        // The first may only see that its connection is cut.
        let mut text = String::new();
        wait::becomes(PATIENCE, "the cause is told", || {
            text = refused(&pod)?;
            Ok(text.contains(words))
        })
        .with_context(|| format!("{words:?} is not in: {text}"))?;
        node.check()?;
        if words.contains("authority") {
            break;
        }
        proxy.set(sound.clone());
        wait::becomes(PATIENCE, "the pod is connected again", || Ok(pod.add().is_ok()))?;
        pod.del()?;
    }
    // The server has another authority now, and the kubelet writes it down: nothing need be restarted.
    account.write(&server(&net), &node, Some(authorities.1.pem()))?;
    wait::becomes(PATIENCE, "the new authority is trusted", || Ok(pod.add().is_ok()))?;
    pod.remove()?;
    node.check()
}

#[test]
fn missing_rights_and_missing_definitions_are_named_and_waited_for() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    let mut account = Account::new(&server(&net), "calico-node")?;
    node.run("mv", &["/etc/calico/calicoctl.cfg", "/etc/calico/admin.cfg"])?;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server(&net).request("DELETE", definitions, &Value::Null)?;
    account.write(&server(&net), &node, None)?;
    start_daemons(&node, "6443")?;
    let account_and_role = [
        "User \\\"system:serviceaccount:kube-system:calico-node\\\" cannot ",
        "the ClusterRole calico-node of the manifests grants what service account kube-system/calico-node needs",
    ];
    let plain = account_and_role.map(|words| words.replace("\\\"", "\""));
    wait::becomes(PATIENCE, "felix names what is forbidden", || {
        node.check()?;
        let log = log(&node, "felix")?;
        Ok(plain.iter().zip(account_and_role).all(|(one, other)| log.contains(one) || log.contains(other)))
    })
    .with_context(|| node.last_lines("felix"))?;

    account.grant_everything(&server(&net))?;
    let advice = "kubectl apply --server-side -f manifests/crds/classic";
    says(&node, "felix", &[advice])?;
    says(&node, "bgp-speaker", &[advice])?;
    wait::becomes(PATIENCE, "the definitions are gone", || {
        let listed = server(&net).request("GET", definitions, &Value::Null)?;
        Ok(listed["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    server(&net).apply_crds(Group::Classic)?;
    apply(&node, &pool("pods", "10.244.0.0/16"))?;
    node.ready("felix", 9099)?;

    // A right that is taken away later: the pod is told which.
    let pod = Pod::sandbox(&node, "web-0")?;
    pod.add()?;
    pod.del()?;
    account
        .grant(&server(&net), &json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]))?;
    let other = Pod::sandbox(&node, "web-1")?;
    let text = refused(&other)?;
    ensure!(text.contains("cannot create resource") || text.contains("cannot update resource"), "{text}");
    ensure!(text.contains("ClusterRole calico-node of the manifests"), "{text}");
    // What was refused is not undone either, and the next ADD says so.
    let text = refused(&other)?;
    ensure!(text.contains("ClusterRole calico-node of the manifests"), "{text}");
    account.grant_everything(&server(&net))?;
    for pod in [pod, other] {
        wait::becomes(PATIENCE, "the pod is connected", || Ok(pod.add().is_ok()))?;
        pod.remove()?;
    }
    node.check()
}
