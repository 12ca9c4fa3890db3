//! The CNI project's own `cnitool` drives every verb of our plugin, in the newest version of the specification.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::programs::{CNITOOL, ensure_built};
use integration::{Net, Node, PATIENCE, StoreKind, wait};
use serde_json::{Value, json};

const POOL: &str =
    "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16}\n";

/// `cnitool` on a node.
struct Cnitool<'a> {
    node: &'a Node<'a>,
    program: String,
}

impl Cnitool<'_> {
    /// Calls it for a namespace; an error is what it said.
    fn call(&self, verb: &str, namespace: &str) -> Result<String> {
        let mut command = self.node.command(&self.program);
        command.args([verb, "tool-net", &format!("/run/netns/{namespace}")]);
        command.env("NETCONFPATH", "/etc/cni/net.d").env("CNI_PATH", "/opt/cni/bin").env_remove("CNI_ARGS");
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "cnitool {verb} {namespace}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    fn fails(&self, verb: &str, namespace: &str, text: &str) -> Result<()> {
        match self.call(verb, namespace) {
            Ok(said) => anyhow::bail!("cnitool {verb} {namespace} was to fail: {said}"),
            Err(error) => {
                ensure!(error.to_string().contains(text), "{error} lacks {text:?}");
                Ok(())
            }
        }
    }

    /// ADD in a new namespace; the address.
    fn add(&self, namespace: &str) -> Result<String> {
        self.node.run("ip", &["netns", "add", namespace])?;
        let said = self.call("add", namespace)?;
        let result: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(result["cniVersion"] == "1.1.0", "{said}");
        ensure!(result["interfaces"][1]["sandbox"] == format!("/run/netns/{namespace}"), "{said}");
        let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        let address = address.with_context(|| said.clone())?.to_owned();
        self.node.run("ping", &["-n", "-c", "1", "-W", "2", &address])?;
        Ok(address)
    }

    /// A DEL is answered when nobody can use the address any more; what is stored goes a little later, with that of others.
    fn becomes_free(&self, address: &str) -> Result<()> {
        wait::becomes(PATIENCE, &format!("{address} is free"), || {
            Ok(self.node.calicoctl(&["ipam", "show", "--ip", address])?.contains("is not assigned"))
        })
    }
}

#[test]
fn cnitool_drives_every_verb() -> Result<()> {
    let program = ensure_built(&[CNITOOL])?.remove(0).display().to_string();
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    // With a field that nobody knows: it is told in the log and hurts nobody.
    let plugin = json!({ "type": "calico", "colour": "red", "ipam": { "type": "calico-ipam", "assign_ipv6": "false" },
        "log_file_path": "/run/cni.log", "policy_setup_timeout_seconds": 5 });
    let list = json!({ "name": "tool-net", "cniVersion": "1.1.0", "plugins": [plugin] });
    fs::write(node.holder().inside("/etc/cni/net.d/05-tool.conflist"), list.to_string())?;
    node.apply(POOL)?;
    let tool = Cnitool { node: &node, program };

    tool.fails("status", "any", "could not ask the agent on this node")?;
    node.start_felix()?;
    tool.call("status", "any")?;

    let address = tool.add("one")?;
    tool.call("check", "one")?;
    node.run("ip", &["-n", "one", "route", "del", "default"])?;
    tool.fails("check", "one", "route")?;
    tool.call("del", "one")?;
    tool.becomes_free(&address)?;
    // Gone already: DEL goes well, and CHECK has nothing to compare with.
    tool.call("del", "one")?;
    ensure!(tool.call("check", "one").is_err());
    let log = fs::read_to_string(node.holder().inside("/run/cni.log"))?;
    ensure!(
        log.contains("[WARNING] calico ADD: the network configuration has fields that mean nothing: colour"),
        "{log}"
    );

    // GC of cnitool keeps nothing of its network: a sandbox that is there and one that has vanished.
    node.run("ip", &["netns", "del", "one"])?;
    let kept = [tool.add("two")?, tool.add("three")?];
    node.run("ip", &["netns", "del", "three"])?;
    tool.call("gc", "two")?;
    for address in kept {
        tool.becomes_free(&address)?;
    }
    wait::becomes(PATIENCE, "no endpoint is left", || {
        let endpoints = node.calicoctl(&["get", "workloadendpoint", "--all-namespaces", "--output", "json"])?;
        let endpoints: Value = serde_json::from_str(&endpoints)?;
        Ok(endpoints["items"].as_array().is_none_or(Vec::is_empty))
    })?;
    // Nothing is left, which is fine for GC, too.
    tool.call("gc", "two")?;
    node.check()
}
