//! The modes of a pool, and the ways through all changes from one to another.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How packets of a pool's pods travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As they are.
    Never,
    /// In IPIP.
    Ipip,
    /// In IPIP, where a router is between the nodes.
    IpipCrosssubnet,
    /// In VXLAN.
    Vxlan,
    /// In VXLAN, where a router is between the nodes.
    VxlanCrosssubnet,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Never, Self::Ipip, Self::IpipCrosssubnet, Self::Vxlan, Self::VxlanCrosssubnet];

    /// As a person reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "Never",
            Self::Ipip => "IPIP Always",
            Self::IpipCrosssubnet => "IPIP CrossSubnet",
            Self::Vxlan => "VXLAN Always",
            Self::VxlanCrosssubnet => "VXLAN CrossSubnet",
        }
    }

    /// Whether it takes a kernel with ipip.
    pub fn is_ipip(self) -> bool {
        matches!(self, Self::Ipip | Self::IpipCrosssubnet)
    }

    /// The pool's `ipipMode` and `vxlanMode`.
    pub fn fields(self) -> [&'static str; 2] {
        match self {
            Self::Never => ["Never", "Never"],
            Self::Ipip => ["Always", "Never"],
            Self::IpipCrosssubnet => ["CrossSubnet", "Never"],
            Self::Vxlan => ["Never", "Always"],
            Self::VxlanCrosssubnet => ["Never", "CrossSubnet"],
        }
    }

    /// The lab's pool in this mode, for `calicoctl apply`.
    pub fn pool(self) -> String {
        let [ipip, vxlan] = self.fields();
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: default-ipv4-ippool}}\nspec:\n  \
             cidr: 10.244.0.0/16\n  blockSize: 26\n  nodeSelector: all()\n  ipipMode: {ipip}\n  vxlanMode: {vxlan}\n"
        )
    }

    /// The device by which a packet leaves for a pod whose node is, or is not, behind a router.
    pub fn device(self, crosses: bool) -> &'static str {
        match self {
            Self::Ipip => "tunl0",
            Self::Vxlan => "vxlan.calico",
            Self::IpipCrosssubnet if crosses => "tunl0",
            Self::VxlanCrosssubnet if crosses => "vxlan.calico",
            _ => "eth0",
        }
    }
}

/// The octets that a device adds to each packet.
pub(super) fn overhead(device: &str) -> u32 {
    match device {
        "tunl0" => 20,
        "vxlan.calico" => 50,
        _ => 0,
    }
}

/// A walk that makes each of these changes exactly once: every mode is left as often as it is entered, so there is one
/// (Euler's, found as Hierholzer did). Empty if there is no change.
pub(super) fn walk(changes: &[(Mode, Mode)]) -> Vec<Mode> {
    let Some((start, _)) = changes.first() else { return Vec::new() };
    let mut left = changes.to_vec();
    let (mut stack, mut walk) = (vec![*start], Vec::new());
    while let Some(here) = stack.last() {
        match left.iter().position(|(from, _)| from == here) {
            Some(at) => stack.push(left.remove(at).1),
            None => walk.extend(stack.pop()),
        }
    }
    walk.reverse();
    walk
}

/// Every change from one of these modes to another.
pub(super) fn changes(modes: &[Mode]) -> Vec<(Mode, Mode)> {
    let pairs = modes.iter().flat_map(|from| modes.iter().map(move |to| (*from, *to)));
    pairs.filter(|(from, to)| from != to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: &[(Mode, Mode)]) {
        let walk = walk(wanted);
        let mut made: Vec<_> = walk.windows(2).map(|pair| (pair[0], pair[1])).collect();
        made.sort();
        let mut wanted = wanted.to_vec();
        wanted.sort();
        assert_eq!(made, wanted, "{walk:?}");
    }

    #[test]
    fn a_walk_makes_every_change_once() {
        let all = changes(&Mode::ALL);
        assert_eq!(all.len(), 20);
        check(&all);
        let (ipip, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(from, to)| from.is_ipip() || to.is_ipip());
        assert_eq!((ipip.len(), others.len()), (14, 6));
        check(&ipip);
        check(&others);
        check(&[]);
    }

    #[test]
    fn a_mode_uses_the_tunnel_only_where_it_says() {
        let device = |mode: Mode| [mode.device(false), mode.device(true)];
        assert_eq!(device(Mode::Never), ["eth0", "eth0"]);
        assert_eq!(device(Mode::Ipip), ["tunl0", "tunl0"]);
        assert_eq!(device(Mode::VxlanCrosssubnet), ["eth0", "vxlan.calico"]);
    }
}
