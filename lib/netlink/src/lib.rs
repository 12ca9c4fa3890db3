//! Links, addresses, routes, neighbours and forwarding entries of the kernel, read, changed and watched over rtnetlink.
//!
//! - [`Socket`] asks and changes, one request or one batch at a time, without an async runtime;
//! - [`Monitor`] tells what anybody changed; its descriptor can be polled;
//! - [`RouteTable`] keeps the routes of one owner as they are desired and leaves everybody else's alone;
//! - [`nftables`] does the same for packet rules, all or none in one step;
//! - [`sysctl`] and [`namespace`] are the two neighbours of netlink that one always needs with it.
//!
//! Requests are encoded and answers decoded here (`message.rs`), attribute by attribute and only those that are
//! used: an attribute that a newer kernel adds or changes cannot make a whole answer unreadable, and a plugin that
//! makes one veth pair does not carry the codecs of all kinds of links.

mod address;
mod error;
mod fdb;
mod link;
mod listener;
mod message;
mod monitor;
mod neighbour;
pub mod nftables;
mod route;
mod routes;
mod socket;
pub mod sysctl;
mod table;
mod vxlan;

pub use address::Address;
pub use calico_sys::namespace;
pub use error::{Error, Result};
pub use fdb::Forwarding;
pub use link::{Link, LinkChange, Mac, MacError, Veth};
#[doc(hidden)]
pub use message::read_anything;
pub use monitor::{Event, Monitor};
pub use neighbour::Neighbour;
pub use route::{NextHop, Route, RouteKey, RouteKind, TABLE_MAIN};
pub use routes::RouteFilter;
pub use socket::{Batch, Socket};
pub use table::{Changes, RouteTable};
pub use vxlan::Vxlan;
