//! What the lab prints: everything from the real programs and the kernel.

use std::fmt;

use serde::Serialize;

use super::Matrix;

/// A node, as its own programs show it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// `calicoctl node status`.
    pub status: String,
    /// Sessions that are up.
    pub established: usize,
    /// `ip route`.
    pub routes: String,
}

/// A pod.
#[derive(Clone, Debug, Serialize)]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub address: String,
    /// Milliseconds from exec of the first plugin to the end of the last.
    pub add_milliseconds: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version and commit.
    pub version: String,
    /// Which store.
    pub datastore: String,
    /// `calicoctl get nodes -o wide`.
    pub nodes_table: String,
    /// `calicoctl get ippool -o wide`.
    pub pools_table: String,
    /// `calicoctl ipam show --show-blocks`.
    pub ipam_table: String,
    /// The nodes.
    pub nodes: Vec<NodeReport>,
    /// The pods.
    pub pods: Vec<PodReport>,
    /// The pings.
    pub pings: Matrix,
    /// The phases and how many seconds each took.
    pub phases: Vec<(String, f64)>,
}

impl Report {
    /// Whether everything was as it should be.
    pub fn good(&self) -> bool {
        self.pings.failures() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section =
            |f: &mut fmt::Formatter<'_>, command: &str, text: &str| writeln!(f, "$ {command}\n{}\n", text.trim_end());
        section(f, "calicoctl get nodes -o wide", &self.nodes_table)?;
        section(f, "calicoctl get ippool -o wide", &self.pools_table)?;
        section(f, "calicoctl ipam show --show-blocks", &self.ipam_table)?;
        for node in &self.nodes {
            section(f, &format!("calicoctl node status    # on {}", node.name), &node.status)?;
        }
        if let Some(node) = self.nodes.first() {
            section(f, &format!("ip route    # on {}", node.name), &node.routes)?;
        }
        writeln!(f, "Pods:")?;
        for pod in &self.pods {
            writeln!(
                f,
                "  {:<12} {:<10} {:<16} ADD took {:.1} ms",
                pod.name, pod.node, pod.address, pod.add_milliseconds
            )?;
        }
        writeln!(f, "\nPings in milliseconds, from the left to the top:\n{}\n", self.pings.table())?;
        for ping in self.pings.pings.iter().filter(|ping| ping.error.is_some()) {
            writeln!(f, "LOST {} -> {}: {}", ping.from, ping.to, ping.error.as_deref().unwrap_or_default().trim())?;
        }
        writeln!(f, "Phases:")?;
        for (phase, seconds) in &self.phases {
            writeln!(f, "  {phase:<44} {seconds:>6.2} s")?;
        }
        let all = self.pings.pings.len();
        let total: f64 = self.phases.iter().map(|(_, seconds)| seconds).sum();
        writeln!(
            f,
            "\n{} of {all} pings answered; {} nodes, {} pods, {} datastore, {total:.1} s.",
            all - self.pings.failures(),
            self.nodes.len(),
            self.pods.len(),
            self.datastore,
        )
    }
}
