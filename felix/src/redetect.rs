//! The node's addresses are looked at again: now and then, when the kernel tells of a change, and when the Node is another.
//!
//! What was detected once is never taken back because it is out of sight for a moment. Departs from Calico, which clears it
//! and so takes the node out of everybody's mesh.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use calico_api::{Node, NodeSpec};
use calico_datastore::{Entry, decode};
use calico_netlink::{Event, Monitor};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::bring_up::autodetect::is_global;
use crate::bring_up::{Note, Occasion, Site, register};
use crate::feed::held;

/// An interface that comes up gets its addresses one after the other: for so long there must be silence.
const SETTLE: Duration = Duration::from_secs(1);
/// But no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// When to look next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    interval: Duration,
    poll: Instant,
    /// When the first and the last change were told that nobody has looked at.
    told: Option<(Instant, Instant)>,
}

impl Schedule {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, poll: now + interval, told: None }
    }

    /// When to look.
    fn next(&self) -> Instant {
        self.told.map_or(self.poll, |(first, last)| self.poll.min(last + SETTLE).min(first + PATIENCE))
    }

    /// Something changed.
    fn tell(&mut self, now: Instant) {
        self.told = Some((self.told.map_or(now, |(first, _)| first), now));
    }

    /// It has been looked at.
    fn looked(&mut self, now: Instant) {
        *self = Self::new(self.interval, now);
    }
}

/// Looks again for ever. `node` is the Node as it is stored, if it is; `made_anew` is counted up when it is another one; `calc`
/// hears of the interfaces' subnets.
pub(crate) async fn run(
    site: Site,
    mut node: watch::Receiver<Option<Entry>>,
    made_anew: watch::Sender<u64>,
    calc: mpsc::Sender<felix_calc::Update>,
) {
    let mut schedule = Schedule::new(site.config.node.poll_interval, Instant::now());
    let mut notices = Notices::open();
    let mut said: (Option<String>, Vec<Note>) = Default::default();
    // The Node of the start is the one that bring-up has written.
    let mut uid = None;
    let mut identity = None;
    loop {
        tokio::select! {
            () = sleep_until(schedule.next()) => {
                // Also if there are no notices.
                if !tell_subnets(&site, &calc).await {
                    return;
                }
                let known = node.borrow().clone().and_then(|entry| decode::<NodeSpec>(entry).ok());
                look(&site, known, &mut said).await;
                schedule.looked(Instant::now());
            }
            () = notices.next() => {
                schedule.tell(Instant::now());
                if !tell_subnets(&site, &calc).await {
                    return;
                }
            }
            changed = node.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = node.borrow_and_update().as_ref().map(identity_of);
                let before = std::mem::replace(&mut identity, now.clone());
                let Some(now) = now else {
                    if before.is_some() {
                        warn!(node = site.name, "the node was deleted from the datastore; pods that run stay connected");
                    }
                    continue;
                };
                // A Node that is made again lacks all that was written to the old one.
                if uid.replace(now.uid.clone()).is_some_and(|before| before != now.uid) {
                    made_anew.send_modify(|count| *count += 1);
                }
                if before.as_ref() != Some(&now) {
                    schedule.tell(Instant::now());
                }
            }
        }
    }
}

/// Tells the subnets of the node's interfaces, if they can be listed; false if nobody listens.
async fn tell_subnets(site: &Site, calc: &mpsc::Sender<felix_calc::Update>) -> bool {
    match held(&site.config.interface_prefixes) {
        Some(held) => calc.send(felix_calc::Update::Subnets(held)).await.is_ok(),
        None => true,
    }
}

/// Which Node it is, and what it says of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    uid: Option<String>,
    bgp: Option<serde_json::Value>,
}

fn identity_of(entry: &Entry) -> Identity {
    let uid = entry.value.pointer("/metadata/uid").and_then(|uid| uid.as_str()).map(str::to_owned);
    let field = |name: &str| entry.value.pointer(&format!("/spec/bgp/{name}")).cloned().unwrap_or_default();
    let bgp = entry
        .value
        .pointer("/spec/bgp")
        .map(|_| serde_json::Value::Array(["ipv4Address", "ipv6Address", "asNumber"].map(field).to_vec()));
    Identity { uid, bgp }
}

/// Detects and writes; what is wrong is told once.
async fn look(site: &Site, known: Option<Node>, said: &mut (Option<String>, Vec<Note>)) {
    match register(site, Occasion::Again, known).await {
        Ok(registered) => {
            if said.0.take().is_some() {
                info!("the node's addresses are known again");
            }
            registered.notes.iter().filter(|note| !said.1.contains(note)).for_each(Note::log);
            said.1 = registered.notes;
        }
        Err(error) => {
            let error = error.to_string();
            if said.0.as_ref() != Some(&error) {
                warn!(error, "the node's addresses could not be looked at again, they stay as stored");
                said.0 = Some(error);
            }
        }
    }
}

/// The kernel's notifications of addresses; none if there is no socket for them, for then there is the interval.
struct Notices(Option<(Monitor, AsyncFd<OwnedFd>)>);

impl Notices {
    fn open() -> Self {
        let opened = Monitor::of_addresses().map_err(|error| error.to_string()).and_then(|monitor| {
            let descriptor = watched(&monitor).map_err(|error| error.to_string())?;
            Ok((monitor, descriptor))
        });
        match opened {
            Ok(opened) => Self(Some(opened)),
            Err(error) => {
                warn!(error, "changes of addresses are noticed at intervals only");
                Self(None)
            }
        }
    }

    /// Resolves when an address that others could use has come or gone.
    async fn next(&mut self) {
        loop {
            let Some((monitor, descriptor)) = &mut self.0 else { return std::future::pending().await };
            let events = match descriptor.readable().await {
                Ok(mut ready) => {
                    ready.clear_ready();
                    monitor.receive().map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match events {
                Ok(events) if events.iter().any(concerns) => return,
                Ok(_) => {}
                Err(error) => {
                    warn!(error, "changes of addresses are noticed at intervals only");
                    self.0 = None;
                }
            }
        }
    }
}

/// Pods' interfaces come and go with link-local addresses only.
fn concerns(event: &Event) -> bool {
    match event {
        Event::Address(address) | Event::AddressGone(address) => is_global(address.network.addr()),
        Event::Overrun => true,
        _ => false,
    }
}

/// A descriptor of the notifications, to be waited for; closed with the value, and never before.
#[expect(
    deprecated,
    reason = "the constructor that replaces it is unsafe, for types that do not own their descriptor; OwnedFd does"
)]
fn watched(monitor: &Monitor) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(monitor.as_fd().try_clone_to_owned()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_looked_at_when_all_is_quiet_and_before_long_in_any_case() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let mut schedule = Schedule::new(Duration::from_secs(60), start);
        assert_eq!(schedule.next(), at(60_000));
        schedule.tell(at(10_000));
        assert_eq!(schedule.next(), at(11_000));
        schedule.tell(at(10_500));
        assert_eq!(schedule.next(), at(11_500), "it has not settled");
        for more in 1..100 {
            schedule.tell(at(10_500 + more * 100));
        }
        assert_eq!(schedule.next(), at(15_000), "it never settles");
        schedule.looked(at(15_000));
        assert_eq!(schedule.next(), at(75_000));
        schedule.tell(at(74_900));
        assert_eq!(schedule.next(), at(75_000), "it is time anyway");
    }

    #[test]
    fn link_local_addresses_of_pods_interfaces_are_nobodys_concern() {
        let event = |text: &str| Event::Address(calico_netlink::Address::new(3, text.parse().unwrap()));
        assert!(!concerns(&event("fe80::ecee:eeff:feee:eeee/64")));
        assert!(!concerns(&event("169.254.1.1/32")));
        assert!(concerns(&event("192.0.2.1/24")) && concerns(&event("2001:db8::1/64")) && concerns(&Event::Overrun));
    }
}
