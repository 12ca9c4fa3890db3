//! Two sessions in one process, with a network of the test's making between them and a clock that the test turns.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::{Asn, RouterId};
use bytes::{Bytes, BytesMut};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    East,
    West,
}

use End::{East, West};

impl End {
    pub(super) fn other(self) -> Self {
        if self == East { West } else { East }
    }
    pub(super) fn address(self) -> IpAddr {
        [192, 0, 2, if self == East { 1 } else { 2 }].into()
    }
    pub(super) fn router_id(self) -> RouterId {
        RouterId::try_from(std::net::Ipv4Addr::new(192, 0, 2, if self == East { 1 } else { 2 })).unwrap()
    }
}

/// One speaker, with what a shell would have done about its actions.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) session: Session,
    /// Everything but `Send`.
    pub(super) done: Vec<Action>,
    /// Up or down, as the RIB was told.
    pub(super) up: bool,
}

/// What is on its way.
#[derive(Debug)]
pub(super) enum Wire {
    Dial { from: End },
    Octets { link: u64, to: End, octets: Bytes },
    Closed { link: u64, to: End },
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) latency: Duration,
    /// Nothing arrives while the cable is out; TCP would try again, so neither side notices.
    pub(super) cable: bool,
    /// Whether the other end listens.
    pub(super) listening: bool,
    pub(super) sides: [Side; 2],
    pub(super) wire: VecDeque<(Instant, Wire)>,
    /// Ends at which a link is still open.
    pub(super) links: BTreeMap<u64, Vec<End>>,
    pub(super) next_link: u64,
}

/// Any instant: where a test's time begins. From there on it goes by the test's word.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be had otherwise")]
pub(super) fn epoch() -> Instant {
    Instant::now()
}

pub(super) fn config(end: End) -> SessionConfig {
    let config = SessionConfig::new(Asn(64512), end.router_id(), end.other().address(), Asn(64512));
    SessionConfig { seed: end as u64, ..config }
}

impl Pair {
    pub(super) fn new(change: impl Fn(End, &mut SessionConfig)) -> Self {
        let now = epoch();
        let side = |end| {
            let mut config = config(end);
            change(end, &mut config);
            Side { session: Session::new(config, now), done: Vec::new(), up: false }
        };
        Self {
            now,
            start: now,
            latency: Duration::from_millis(1),
            cable: true,
            listening: true,
            sides: [side(East), side(West)],
            wire: VecDeque::new(),
            links: BTreeMap::new(),
            next_link: 1,
        }
    }

    /// East dials, West waits; both started and up.
    pub(super) fn established(change: impl Fn(End, &mut SessionConfig)) -> Self {
        let mut pair = Self::new(|end, config| {
            config.passive = end == West;
            change(end, config);
        });
        pair.tell(East, Event::Start);
        pair.tell(West, Event::Start);
        pair.run(Duration::from_secs(3));
        assert_eq!(pair.states(), [State::Established; 2]);
        pair
    }

    pub(super) fn side(&mut self, end: End) -> &mut Side {
        &mut self.sides[end as usize]
    }

    pub(super) fn states(&self) -> [State; 2] {
        [self.sides[0].session.state(), self.sides[1].session.state()]
    }

    /// What the RIB and the log were told since last asked.
    pub(super) fn told(&mut self, end: End) -> Vec<Action> {
        std::mem::take(&mut self.side(end).done)
    }

    pub(super) fn tell(&mut self, end: End, event: Event) {
        let now = self.now;
        self.side(end).session.handle(event, now);
        self.perform(end);
    }

    /// Does what a session wants, as a shell does, and checks what always holds.
    pub(super) fn perform(&mut self, end: End) {
        while let Some(action) = self.side(end).session.poll() {
            let at = self.now + self.latency;
            match &action {
                Action::Connect => self.wire.push_back((at, Wire::Dial { from: end })),
                Action::Send(id, octets) => {
                    let link = id.0;
                    assert!(
                        self.links.get(&link).is_some_and(|ends| ends.contains(&end)),
                        "sends on a closed connection"
                    );
                    self.wire.push_back((at, Wire::Octets { link, to: end.other(), octets: octets.clone() }));
                    continue;
                }
                Action::Close(id) => self.close(id.0, end),
                Action::Up { .. } => {
                    assert!(!self.side(end).up, "up twice");
                    self.side(end).up = true;
                }
                Action::Down { .. } => {
                    assert!(self.side(end).up, "down without up");
                    self.side(end).up = false;
                }
                Action::Update(_) | Action::EndOfRib(_) | Action::RefreshRequested(_) | Action::RefreshBegins(_) => {
                    assert!(self.side(end).up, "{action:?} while down");
                }
                Action::Transition { from, to, .. } => assert_ne!(from, to),
                Action::Abandon | Action::Sweep(_) | Action::Faults(_) => {}
            }
            self.side(end).done.push(action);
        }
        let now = self.now;
        let Side { session, up, .. } = &self.sides[end as usize];
        assert_eq!(session.state() == State::Established, *up);
        assert!(session.deadline().is_none_or(|deadline| deadline > now), "a deadline that has passed");
        assert_eq!(session.negotiated().is_some(), session.state() == State::Established);
    }

    pub(super) fn close(&mut self, link: u64, end: End) {
        if let Some(ends) = self.links.get_mut(&link) {
            ends.retain(|other| *other != end);
            self.wire.push_back((self.now + self.latency, Wire::Closed { link, to: end.other() }));
        }
    }

    /// The process at `end` dies: the kernel closes its connections, its session is gone and another takes its place.
    pub(super) fn kill(&mut self, end: End, change: impl Fn(&mut SessionConfig)) {
        let links: Vec<_> = self.links.iter().filter(|(_, ends)| ends.contains(&end)).map(|(link, _)| *link).collect();
        links.into_iter().for_each(|link| self.close(link, end));
        self.replace(end, change);
    }

    /// The machine at `end` loses power: its connections are gone without a trace.
    pub(super) fn power_off(&mut self, end: End, change: impl Fn(&mut SessionConfig)) {
        self.links.values_mut().for_each(|ends| ends.retain(|other| *other != end));
        self.replace(end, change);
    }

    pub(super) fn replace(&mut self, end: End, change: impl Fn(&mut SessionConfig)) {
        let mut config = self.side(end).session.config().clone();
        change(&mut config);
        let session = Session::new(config, self.now);
        *self.side(end) = Side { session, done: Vec::new(), up: false };
    }

    pub(super) fn deliver(&mut self, wire: Wire) {
        match wire {
            Wire::Dial { from } if !self.listening => {
                self.tell(from, Event::ConnectFailed("Connection refused".to_owned()));
            }
            Wire::Dial { from } => {
                let link = self.next_link;
                self.next_link += 1;
                self.links.insert(link, vec![East, West]);
                for (end, direction) in [(from.other(), Direction::Incoming), (from, Direction::Outgoing)] {
                    // The one told first may have closed it at once; the other then hears of that in its turn.
                    let connection = ConnectionId(link);
                    self.tell(end, Event::Connected { connection, direction, local: end.address() });
                }
            }
            Wire::Octets { link, to, octets } => {
                if self.links.get(&link).is_some_and(|ends| ends.contains(&to)) {
                    // In two pieces, as TCP might.
                    let (first, second) = (octets.slice(..octets.len() / 2), octets.slice(octets.len() / 2..));
                    for octets in [first, second] {
                        self.tell(to, Event::Received { connection: ConnectionId(link), octets });
                    }
                }
            }
            Wire::Closed { link, to } => {
                if let Some(ends) = self.links.get_mut(&link).filter(|ends| ends.contains(&to)) {
                    ends.retain(|other| *other != to);
                    self.tell(to, Event::Closed { connection: ConnectionId(link), error: None });
                }
            }
        }
    }

    /// Lets time pass, with everything that happens in it in order.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            // Latency is the same for all, so the queue is in order.
            let arrival = self.wire.front().filter(|_| self.cable).map(|(at, _)| (*at).max(self.now));
            let deadlines = self.sides.iter().filter_map(|side| side.session.deadline());
            let Some(next) = deadlines.chain(arrival).min().filter(|next| *next <= end) else { break };
            self.now = next;
            if arrival == Some(next) {
                let (_, wire) = self.wire.pop_front().unwrap();
                self.deliver(wire);
            } else {
                for side in [East, West] {
                    self.tell(side, Event::Timeout);
                }
            }
        }
        self.now = end;
    }

    /// Sends a message as the RIB at `from` would.
    pub(super) fn send(&mut self, from: End, message: &Message) {
        let session = &self.side(from).session;
        let (link, cx) = (session.connection().unwrap().0, session.negotiated().unwrap().context);
        let mut octets = BytesMut::new();
        message.encode(&cx, &mut octets).unwrap();
        self.wire
            .push_back((self.now + self.latency, Wire::Octets { link, to: from.other(), octets: octets.freeze() }));
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn downs(actions: &[Action]) -> Vec<(Families, String)> {
    let down = |action: &Action| match action {
        Action::Down { keep, reason } => Some((*keep, reason.to_string())),
        _ => None,
    };
    actions.iter().filter_map(down).collect()
}

pub(super) fn count(actions: &[Action], is: impl Fn(&Action) -> bool) -> usize {
    actions.iter().filter(|action| is(action)).count()
}

pub(super) fn is_up(action: &Action) -> bool {
    matches!(action, Action::Up { .. })
}
