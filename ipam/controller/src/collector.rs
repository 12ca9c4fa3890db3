//! For how long something has looked like a leftover. No clock, no client.

use std::collections::HashMap;
use std::time::Duration;

use calico_api::{Key, Owner};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::image::Image;
use crate::pass::{Pass, Survey};

/// A point in time, as the caller's clocks show it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since some start, never going back: what waiting is measured by.
    pub elapsed: Duration,
    /// The calendar's: what release times in blocks are compared with.
    pub wall: Timestamp,
}

/// How long to wait before believing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For how long something must look like a leftover; `None` reports and never removes while the node exists.
    pub grace: Option<Duration>,
    /// The same for what was a deleted node's.
    pub settle: Duration,
}

impl Patience {
    /// Calico's: fifteen minutes.
    pub const DEFAULT_GRACE: Duration = Duration::from_secs(900);

    /// How long a deleted node must stay away, if the grace period is not shorter still.
    const SETTLE: Duration = Duration::from_secs(5);

    /// With this grace period; zero only reports.
    pub fn new(grace: Duration) -> Self {
        match grace {
            Duration::ZERO => Self { grace: None, settle: Self::SETTLE },
            grace => Self { grace: Some(grace), settle: Self::SETTLE.min(grace) },
        }
    }
}

/// Something that may be a leftover. It is the same suspect only as long as nobody has written to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Suspect {
    /// A node without an object.
    Node(String),
    /// An assignment.
    Address(IpNet, std::net::IpAddr, u64),
    /// A block that is empty, at a sequence number.
    Block(IpNet, u64),
    /// An affinity that leads nowhere, at a revision.
    Affinity(Owner, IpNet, String),
    /// A handle without addresses, at a revision.
    Handle(String, String),
    /// An endpoint without a pod or node.
    Endpoint(Key),
    /// A node of Calico's without one of Kubernetes'.
    CalicoNode(String),
}

/// Remembers what has looked like a leftover since when, and says what to do.
#[derive(Debug, Default)]
pub struct Collector {
    seen: HashMap<Suspect, Duration>,
}

impl Collector {
    /// A collector that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at everything once. Nothing is to be done on the first sight of anything; whatever is to be done must be
    /// confirmed by the store before it is.
    pub fn pass(&mut self, image: &mut Image, patience: Patience, now: Moment) -> Pass {
        let handles = image.handles.take();
        let kept = handles.is_none();
        let mut memory = Memory { before: &self.seen, seen: HashMap::new(), now: now.elapsed };
        let pass = Survey::new(image, patience, now, &mut memory).run(handles.as_deref());
        let mut seen = memory.seen;
        if kept {
            // Handles are not listed at every pass.
            let handles = self.seen.drain().filter(|(suspect, _)| matches!(suspect, Suspect::Handle(..)));
            seen.extend(handles);
        }
        self.seen = seen;
        pass
    }
}

/// What was suspected before this pass, and what is now.
pub(crate) struct Memory<'a> {
    before: &'a HashMap<Suspect, Duration>,
    seen: HashMap<Suspect, Duration>,
    now: Duration,
}

impl Memory<'_> {
    /// Notes a suspect; whether it was one in an earlier pass, `wait` ago or longer.
    pub(crate) fn confirms(&mut self, suspect: Suspect, wait: Option<Duration>) -> bool {
        let before = self.before.get(&suspect).copied();
        self.seen.insert(suspect, before.unwrap_or(self.now));
        match (before, wait) {
            (Some(since), Some(wait)) => self.now.saturating_sub(since) >= wait,
            _ => false,
        }
    }
}
