//! A sandbox as a runtime makes it, whose plugin may be killed on the way.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use calico_api::pod_interface_name;
use integration::{Node, PATIENCE, wait};
use serde_json::{Value, json};

use crate::bed::pool;

/// A sandbox of a pod.
pub(crate) struct Sandbox {
    pub(crate) container: String,
    pub(crate) pod: String,
    pub(crate) pool: u16,
    /// The node's side of its interface.
    pub(crate) interface: String,
    /// What ADD gave.
    pub(crate) addresses: Vec<IpAddr>,
}

/// How a plugin ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With success.
    Done,
    /// With an error, which it told.
    Failed(String),
    /// It was killed.
    Killed,
}

impl Sandbox {
    /// Makes the namespace of a container for a pod (and the pod, where the store has such).
    pub(crate) fn new(node: &Node<'_>, container: &str, pod: &str, pool: u16) -> Result<Self> {
        node.run("ip", &["netns", "add", container])?;
        if let Some(server) = node.net().server() {
            // Of several sandboxes of a pod the first makes it.
            let _ = server.create_pod("default", pod, node.name());
        }
        let interface = pod_interface_name("cali", "default", pod);
        Ok(Self { container: container.to_owned(), pod: pod.to_owned(), pool, interface, addresses: Vec::new() })
    }

    /// What its addresses are taken under.
    pub(crate) fn handle(&self) -> String {
        format!("k8s-pod-network.{}", self.container)
    }

    /// Calls the plugin.
    pub(crate) fn call(&mut self, node: &Node<'_>, verb: &str) -> Result<End> {
        let mut command = node.command("/opt/cni/bin/calico");
        let child = self.start(&mut command, verb)?;
        self.end(child, verb)
    }

    /// Calls the plugin under `strace`, which is given these arguments.
    pub(crate) fn call_traced(&mut self, node: &Node<'_>, verb: &str, arguments: &[String]) -> Result<End> {
        let child = self.start_traced(node, verb, arguments)?;
        self.end(child, verb)
    }

    /// Starts the plugin under `strace`.
    pub(crate) fn start_traced(&self, node: &Node<'_>, verb: &str, arguments: &[String]) -> Result<Child> {
        let mut command = node.command("strace");
        command.arg("-f").args(arguments).args(["--", "/opt/cni/bin/calico"]);
        self.start(&mut command, verb)
    }

    /// Starts the plugin with its input given.
    pub(crate) fn start(&self, command: &mut Command, verb: &str) -> Result<Child> {
        let netconf = json!({
            "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico", "policy": { "type": "k8s" },
            "ipam": { "type": "calico-ipam", "ipv4_pools": [pool(self.pool)] }, "log_level": "none",
        });
        let mut child = command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", format!("/run/netns/{}", self.container))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.pod))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // It may be dead by now.
        let _ = child.stdin.take().context("its input was to be written")?.write_all(netconf.to_string().as_bytes());
        Ok(child)
    }

    /// Waits for the plugin's end.
    pub(crate) fn end(&mut self, child: Child, verb: &str) -> Result<End> {
        let output = child.wait_with_output()?;
        if output.status.signal().is_some() {
            return Ok(End::Killed);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Ok(End::Failed(text + &String::from_utf8_lossy(&output.stderr)));
        }
        let result: Value = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        if verb == "ADD" {
            let ips = result["ips"].as_array().into_iter().flatten();
            self.addresses = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        }
        Ok(End::Done)
    }

    /// ADD as a kubelet has it done: again while it is told to try later.
    pub(crate) fn add(&mut self, node: &Node<'_>) -> Result<()> {
        self.patiently(node, "ADD")
    }

    /// DEL, likewise; the namespace goes with it.
    pub(crate) fn del(&mut self, node: &Node<'_>) -> Result<()> {
        self.patiently(node, "DEL")?;
        self.addresses.clear();
        node.run("ip", &["netns", "del", &self.container]).map(drop)
    }

    fn patiently(&mut self, node: &Node<'_>, verb: &str) -> Result<()> {
        wait::becomes(PATIENCE, &format!("{verb} of {} succeeds", self.container), || match self.call(node, verb)? {
            End::Done => Ok(true),
            End::Failed(error) => bail!("{error}"),
            End::Killed => bail!("it was killed, and not by us"),
        })
    }

    /// The node pings it.
    pub(crate) fn ping(&self, node: &Node<'_>) -> Result<()> {
        for address in &self.addresses {
            let address = address.to_string();
            wait::becomes(Duration::from_secs(5), &format!("{} answers", self.container), || {
                Ok(node.run("ping", &["-n", "-c", "1", "-W", "1", &address]).is_ok())
            })?;
        }
        Ok(())
    }
}
