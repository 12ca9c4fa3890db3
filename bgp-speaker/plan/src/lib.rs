//! What follows from the resources: which sessions a node has, what it tells and believes, what it originates.
//!
//! Pure: values in, values out, no memory of what was before. The speaker applies the difference between what follows
//! now and what followed before; `calicoctl` prints it, also for files that are not applied yet.
//!
//! [`inputs`] is an image of the datastore. From it follow the [`sessions`] of a node (and, for a whole cluster,
//! [`topology`] and [`difference`]), the service prefixes that it originates ([`services`]), and, for each session, what
//! is told and believed ([`policies`], made of [`filter`]s and [`communities`]). [`workloads`] says which local
//! workloads are peers, [`passwords`] what a session's password is.
//!
//! Felix asks the same questions where its answers must be ours: whose a class of routes is ([`owners`]), which subnet a
//! node is in ([`subnet`]), what a pool is ([`inputs::Pool`]).

pub mod communities;
pub mod difference;
pub mod filter;
pub mod inputs;
mod listing;
mod nets;
pub mod owners;
pub mod passwords;
pub mod policies;
pub mod services;
pub mod sessions;
pub mod subnet;
pub mod topology;
pub mod workloads;
