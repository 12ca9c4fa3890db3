//! Showing and changing resources of every kind alike.

mod delete;
mod get;
mod label;
mod merge;
mod operations;
mod outcome;
mod patch;
mod pool;
pub(crate) mod rules;
mod write;

pub(crate) use delete::delete;
pub(crate) use get::get;
pub(crate) use label::label;
pub(crate) use patch::patch;
pub(crate) use write::{Verb, write};
