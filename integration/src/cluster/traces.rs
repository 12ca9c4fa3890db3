//! What a network leaves on a node: its links, addresses, routes, rules, packet filters, files and processes, compared
//! before and after.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Node;

/// What was found on a node, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

/// What to look at; each line of output is one finding.
const LOOK: &str = r#"
say() { while read -r line; do echo "$1: $line"; done; }
ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/\1/' | say link
ip -o address | awk '{print $2, $4}' | grep -v ' fe80:' | say address
ip -4 route show table all | grep -v '^broadcast' | say route
ip -6 route show table all | grep -v -e fe80 -e '^multicast' | sed 's/ expires .*//' | say route6
ip -4 rule | say rule
ip -6 rule | say rule6
ip neigh show nud permanent | say neighbour
# kube-proxy makes its own when it starts.
nft list tables | grep -v -w kube-proxy | say table
# Chains and sets of kube-proxy and the kubelet come and go; ours have our names.
{ nft -s list ruleset; iptables-save; ip6tables-save; } 2>/dev/null | grep -i -e cali -e ocicat | say filter
# Not the kubelet's and containerd's own: what lies in them belongs to pods; nor the folder of the runtime's results.
find "$NODE/upper" "$NODE/disk" \( -path '*/var/lib/containerd' -o -path '*/var/lib/kubelet' -o -path '*/var/log/pods' \
    -o -path '*/var/log/containers' \) -prune -o -print | sed "s#^$NODE/[a-z]*##" |
    grep -v -x -e /var/lib/cni -e /var/lib/cni/results | say file
find /run /tmp \( -path "$LOGS" -o -path /run/containerd -o -path /run/xtables.lock -o -path /run/lock \) -prune -o -print | say file
ps -e -o comm= | grep -x -e felix -e bgp-speaker -e 'calico.*' -e 'ipam-.*' | say process
true
"#;

impl Traces {
    /// Looks at a node.
    ///
    /// # Errors
    /// If it is switched off.
    pub fn of(node: &Node) -> Result<Self> {
        // The lab's own logs may lie where every node sees them.
        let script = format!("NODE={}\nLOGS={}\n{LOOK}", node.folder().display(), super::logs().display());
        Ok(Self(node.script(&script)?.lines().map(str::to_owned).collect()))
    }

    /// What is here and was not there before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Whether there is anything of this kind whose line has this text.
    pub fn has(&self, kind: &str, text: &str) -> bool {
        self.0
            .iter()
            .any(|line| line.strip_prefix(kind).is_some_and(|line| line.starts_with(": ") && line.contains(text)))
    }
}
