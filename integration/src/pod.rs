//! A pod: a network namespace that the real plugins fill, called as a container runtime calls them.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::node::Node;
use crate::process::run;

/// Tells the containers of one process apart.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// The namespace that our pods are in.
pub const NAMESPACE: &str = "default";

/// What ADD gave.
#[derive(Debug, Default)]
struct Made {
    addresses: Vec<IpAddr>,
    took: Duration,
}

/// A pod's sandbox.
#[derive(Debug)]
pub struct Pod<'node, 'net> {
    node: &'node Node<'net>,
    name: String,
    container: String,
    made: Mutex<Made>,
}

impl<'node, 'net> Pod<'node, 'net> {
    /// Makes the pod's network namespace; no plugin has been called.
    ///
    /// # Errors
    /// If the namespace cannot be made.
    pub fn sandbox(node: &'node Node<'net>, name: &str) -> Result<Self> {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let container = format!("{:032x}{:032x}", u64::from(std::process::id()) << 20 | count, 0x0c1c_a700_u64 + count);
        node.run("ip", &["netns", "add", &format!("cni-{name}")])?;
        node.run("ip", &["-n", &format!("cni-{name}"), "link", "set", "lo", "up"])?;
        if let Some(server) = node.net().server() {
            server.create_pod(NAMESPACE, name, node.name())?;
        }
        Ok(Self { node, name: name.to_owned(), container, made: Mutex::default() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its node.
    pub fn node(&self) -> &'node Node<'net> {
        self.node
    }

    /// Its container's id.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The path of its network namespace, as its node sees it.
    pub fn netns(&self) -> String {
        format!("/run/netns/cni-{}", self.name)
    }

    /// Its first address.
    ///
    /// # Errors
    /// If it has none.
    pub fn address(&self) -> Result<IpAddr> {
        self.made().addresses.first().copied().with_context(|| format!("pod {} has no address", self.name))
    }

    /// How long its ADD took, from exec of the first plugin to the end of the last.
    pub fn took(&self) -> Duration {
        self.made().took
    }

    /// ADD of every plugin of the node's network configuration.
    ///
    /// # Errors
    /// With what the failing plugin said.
    pub fn add(&self) -> Result<Value> {
        let list = self.network_list()?;
        let start = Instant::now();
        let mut result = Value::Null;
        for plugin in list["plugins"].as_array().context("the conflist has no plugins")? {
            result = self.exec("ADD", &list, plugin, (!result.is_null()).then_some(&result))?;
        }
        let took = start.elapsed();
        let addresses = result["ips"].as_array().into_iter().flatten();
        let addresses = addresses.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        *self.made() = Made { addresses, took };
        Ok(result)
    }

    /// DEL of every plugin, in reverse.
    ///
    /// # Errors
    /// With what the failing plugin said.
    pub fn del(&self) -> Result<()> {
        let list = self.network_list()?;
        for plugin in list["plugins"].as_array().context("the conflist has no plugins")?.iter().rev() {
            self.exec("DEL", &list, plugin, None)?;
        }
        Ok(())
    }

    /// DEL, and the sandbox goes too.
    ///
    /// # Errors
    /// With what the failing plugin said.
    pub fn remove(self) -> Result<()> {
        self.del()?;
        self.node.run("ip", &["netns", "del", &format!("cni-{}", self.name)])?;
        if let Some(server) = self.node.net().server() {
            server.delete_pod(NAMESPACE, &self.name)?;
        }
        Ok(())
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn network_list(&self) -> Result<Value> {
        let path = self.node.holder().inside("/etc/cni/net.d/10-calico.conflist");
        Ok(serde_json::from_slice(&std::fs::read(&path).with_context(|| path.display().to_string())?)?)
    }

    /// Executes one plugin with one verb, as a runtime does.
    ///
    /// # Errors
    /// With the plugin's own error.
    pub fn exec(&self, verb: &str, list: &Value, plugin: &Value, previous: Option<&Value>) -> Result<Value> {
        let mut netconf = plugin.clone();
        netconf["name"] = list["name"].clone();
        netconf["cniVersion"] = list["cniVersion"].clone();
        if let Some(previous) = previous {
            netconf["prevResult"] = previous.clone();
        }
        if plugin["capabilities"]["portMappings"] == json!(true) {
            netconf["runtimeConfig"] = json!({ "portMappings": [] });
        }
        let program = plugin["type"].as_str().context("a plugin has no type")?;
        let output = self.exec_raw(program, verb, netconf.to_string().as_bytes())?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("{program} {verb} of pod {} failed: {stdout}{}", self.name, String::from_utf8_lossy(&output.stderr));
        }
        if stdout.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&stdout)?) }
    }

    /// Executes one plugin with these octets on its standard input; returns whatever comes out.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn exec_raw(&self, program: &str, verb: &str, input: &[u8]) -> Result<std::process::Output> {
        let mut child = self
            .node
            .command(&format!("/opt/cni/bin/{program}"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", self.netns())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
                    self.name, self.container
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // A plugin that refuses early may not read its input.
        let _ = child.stdin.take().context("its input was to be written")?.write_all(input);
        Ok(child.wait_with_output()?)
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// If it is gone.
    pub fn network(&self) -> Result<OwnedFd> {
        let path = self.node.holder().inside(&self.netns());
        calico_sys::namespace::open(&path).with_context(|| path.display().to_string())
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.node.command("ip");
        command.args(["netns", "exec", &format!("cni-{}", self.name), program]).args(arguments);
        run(&mut command).with_context(|| format!("in pod {}", self.name))
    }

    /// One ping; returns its round-trip time.
    ///
    /// # Errors
    /// If there is no answer within a second.
    pub fn ping(&self, address: IpAddr) -> Result<Duration> {
        let output = self.run("ping", &["-n", "-c", "1", "-W", "1", &address.to_string()])?;
        let time = output.split("time=").nth(1).and_then(|rest| rest.split(' ').next());
        let milliseconds: f64 = time.and_then(|time| time.parse().ok()).with_context(|| output.clone())?;
        Ok(Duration::from_secs_f64(milliseconds / 1000.0))
    }
}
