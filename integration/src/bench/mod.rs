//! Measurements of whole programs, as ratios to peers of the same run.

mod cni;
mod idle;
mod sample;

pub use cni::{Plan, cni};
pub use idle::idle;
