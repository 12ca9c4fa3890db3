//! The main job and other scenarios, played for a person: nodes, pods, BGP, pings, and what the real programs say of it.

mod cluster;
mod matrix;
mod modes;
mod rack;
mod reflectors;
mod report;
mod resources;
mod routers;
mod scenario;
mod sessions;

pub use cluster::{Check, ClusterReport, FullNode, Load, Show, Shown};
pub use matrix::{Matrix, Ping};
pub use modes::{Baseline, Mode, ModesOptions, ModesReport, Outcome, Step, Switch, modes};
pub use rack::{RackReport, Racks, RouterTable};
pub use reflectors::{Loss, NodeSessions, ReflectorsReport, reflectors};
pub use report::{NodeReport, PodReport, Report};
pub use routers::{Daemon, Table};
pub use scenario::{Lab, Options, Progress, established, routed};
pub use sessions::{Sessions, become_exactly, planned, running};
