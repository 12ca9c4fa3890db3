//! What stands where the kernel's thread would, if the kernel's routes are not to be touched?
//!
//! A route reflector outside of the network that it serves programs nothing and asks nobody how next hops are reached.

use bgp_proto::Families;
use tokio::sync::{mpsc, watch};

use crate::kernel::{Command, Handle, Reachable};
use crate::status::KernelStatus;

/// A handle behind which nothing is programmed and nothing is known.
pub fn start() -> Handle {
    let (commands, mut inbox) = mpsc::channel(16);
    let (status_sender, status) = watch::channel(KernelStatus { in_sync: true, ..KernelStatus::default() });
    let (reachable_sender, reachable) = watch::channel(Reachable::default());
    let (route_sender, routes) = mpsc::channel(1);
    tokio::spawn(async move {
        // Dropped at the end: what the speaker listens to must not end before it.
        let _senders = (status_sender, reachable_sender);
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Complete(mut report, answer) => {
                    for path in report.paths.iter_mut().filter(|path| path.best && path.peer.is_some()) {
                        path.not_installed = Some("this process programs no kernel (--kernel none)".to_owned());
                    }
                    let _ = answer.send(*report); // the client may be gone
                }
                Command::Interest(_) => drop(route_sender.try_send(Vec::new())), // there are none
                _ => {}
            }
        }
    });
    // A restart of what forwards nothing takes no forwarding away (RFC 4724 §4.2, the F bit).
    Handle { commands, status, reachable, routes, preserved: Families::ALL }
}
