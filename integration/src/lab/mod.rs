//! The main job, played for a person: nodes, pods, BGP, pings, and what the real programs say of it.

mod matrix;
mod report;
mod scenario;

pub use matrix::{Matrix, Ping};
pub use report::{NodeReport, PodReport, Report};
pub use scenario::{Lab, Options, Progress, established, routed};
