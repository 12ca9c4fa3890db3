//! Measurements of whole programs, as ratios to peers of the same run.

mod cni;
mod dataplane;
mod idle;
mod sample;
mod scale;

pub use cni::{Plan, cni};
pub use dataplane::{DataplanePlan, dataplane};
pub use idle::{IdlePlan, idle};
pub use scale::{ScalePlan, scale};
