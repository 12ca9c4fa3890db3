//! The kernel calls that no safe crate offers, each behind a safe function.
//!
//! This is the only crate of the project with `unsafe`. Each use states in a `SAFETY` comment why it is sound.
#![allow(unsafe_code, reason = "this crate exists so that no other needs it")]

pub mod ethtool;
pub mod memory;
pub mod namespace;
pub mod socket;
