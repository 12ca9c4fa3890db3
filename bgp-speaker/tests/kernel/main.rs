//! The kernel's thread against a real kernel, in a network namespace of its own. Needs root.

mod bed;
mod handover;
mod next_hops;
mod others;
mod replaced;
mod routes;
