//! Which sessions does this node have? One function of the resources, without memory of what was before.
//!
//! Families are independent: a session carries one family, over that family's transport. Addresses are compared
//! as text where Calico does (the passive rule), since both ends of a session must come to the same answer.
//!
//! [`Peering`] is a BGPPeer that is understood, [`Cluster`] an index of all inputs from which the [`Plan`] of any node
//! follows, [`changes`](SessionConfig::changes_to) says what it takes to get from one configuration to another.

mod change;
mod cluster;
mod config;
mod peering;
mod plan;
#[cfg(test)]
mod vectors;
mod warning;

pub use self::change::{Change, Field, FieldChange, Pairs};
pub use self::cluster::Cluster;
pub use self::config::{Listen, NextHopMode, Origin, Plan, RESTART_TIME, SessionConfig};
pub use self::peering::{LocalSide, Peering, RemoteSide};
pub use self::plan::{plan, waits_for};
pub use self::warning::Warning;
