//! What of IPAM is left over in a cluster, and how it is collected without ever touching what is in use.
//!
//! The pure half is given updates and a time: [`Image`] is what the store holds as far as the watch has told, [`judge`] says
//! whether an address is in use, and [`Collector`] remembers for how long something has looked like a leftover and says
//! what to do. The other half asks the store once more and writes by compare-and-swap ([`perform`]), for the one replica
//! that leads ([`election`], [`seat`]). `DESIGN.md` beside this crate has the rules.

pub mod allocation;
mod collector;
pub mod election;
mod image;
pub mod judge;
mod labels;
pub mod live;
pub mod metrics;
mod pass;
pub mod perform;
pub mod pods;
pub mod seat;
pub mod settings;

pub use collector::{Collector, Moment, Patience};
pub use image::{Image, Mode, Source};
pub use pass::{Action, Candidate, Census, Oddity, Pass};
