//! Showing and changing resources of every kind alike.

mod delete;
mod get;
mod outcome;
mod pool;
mod rules;
mod write;

pub(crate) use delete::delete;
pub(crate) use get::get;
pub(crate) use write::{Verb, write};
