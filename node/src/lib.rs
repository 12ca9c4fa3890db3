//! The small program of the node's pod: it installs the CNI plugins and answers the kubelet's probes.
//!
//! Its commands are Calico's, in the old spelling (`calico-node -felix-live`) and in the new one
//! (`calico-node component node health --felix-live`); [`arguments`] makes one of the two. It runs for milliseconds, or,
//! as an installer that stays ([`install`] with `SLEEP=true`), waits without a runtime: there is no tokio in it.

pub mod arguments;
pub mod health;
pub mod install;
