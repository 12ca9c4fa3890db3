//! What sessions do, alone and in pairs.

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;

use super::pair::End::{East, West};
use super::pair::{End, Pair, Wire, config, count, downs, epoch, is_up, seconds};
use super::*;
use crate::iana::ErrorCode;
use crate::{Asn, Capability, Context, HoldTime, Nlri, Open, Prefix, RouterId, Update};

#[test]
fn a_session_comes_up_and_agrees_on_what_both_have() {
    let pair = Pair::established(|end, config| {
        if end == West {
            config.families = Family::Ipv4Unicast.into();
            config.hold_time = HoldTime::try_from(90).unwrap();
            config.enhanced_refresh = false;
        }
    });
    for side in &pair.sides {
        let negotiated = side.session.negotiated().unwrap();
        assert_eq!(negotiated.families(), Family::Ipv4Unicast.into());
        assert_eq!(negotiated.hold_time.seconds(), 90);
        assert!(negotiated.context.four_octet_as && negotiated.route_refresh && !negotiated.context.enhanced_refresh);
        assert!(negotiated.notification_restart && negotiated.long_lived_aware);
        assert_eq!(side.session.info(), "Established");
    }
}

#[test]
fn keepalives_hold_a_session_for_days_and_hold_time_zero_needs_none() {
    for (hold, most) in [(240, 5000), (3, 400_000), (0, 2)] {
        let mut pair = Pair::established(|_, config| config.hold_time = HoldTime::try_from(hold).unwrap());
        let before = pair.sides[0].session.counters().sent;
        pair.run(seconds(3 * 86_400));
        assert_eq!(pair.states(), [State::Established; 2], "hold time {hold}");
        let sent = pair.sides[0].session.counters().sent - before;
        assert!(sent <= most, "{sent} messages");
        assert_eq!(sent == 0, hold == 0);
    }
}

#[test]
fn silence_for_the_hold_time_ends_a_session_and_it_comes_back_when_the_cable_does() {
    let mut pair = Pair::established(|_, config| config.graceful_restart = None);
    pair.told(East);
    pair.run(seconds(600));
    pair.cable = false;
    // The last keepalive came at most 80 s ago.
    pair.run(seconds(159));
    assert_eq!(pair.states(), [State::Established; 2]);
    pair.run(seconds(82));
    assert_eq!(downs(&pair.told(East)), [(Families::NONE, "BGP Error: Hold timer expired".to_owned())]);
    pair.cable = true;
    pair.run(seconds(60));
    assert_eq!(pair.states(), [State::Established; 2]);
}

#[test]
fn both_ends_dialling_at_once_leave_one_session() {
    let mut pair = Pair::new(|_, config| config.connect_delay = Duration::ZERO);
    pair.tell(East, Event::Start);
    pair.tell(West, Event::Start);
    pair.run(seconds(1));
    assert_eq!(pair.states(), [State::Established; 2]);
    assert_eq!(pair.links.values().filter(|ends| !ends.is_empty()).count(), 1, "one connection is left");
    // West has the higher identifier: the connection that it opened survives.
    assert_eq!(pair.sides[1].session.negotiated().unwrap().direction, Direction::Outgoing);
    pair.run(seconds(3600));
    let told = pair.told(East);
    assert_eq!((count(&told, is_up), downs(&told).len()), (1, 0), "and it is never disturbed");
}

#[test]
fn who_dials_may_change_while_a_session_is_there_and_while_it_is_not() {
    let mut pair = Pair::new(|_, config| config.passive = true);
    pair.tell(East, Event::Start);
    pair.tell(West, Event::Start);
    pair.run(seconds(60));
    assert_eq!(pair.states(), [State::Active; 2], "nobody dials");
    let set = |pair: &mut Pair, passive: bool| {
        let now = pair.now;
        let config = SessionConfig { passive, ..pair.sides[0].session.config().clone() };
        pair.sides[0].session.reconfigure(config, now);
        pair.run(seconds(60));
    };
    set(&mut pair, false);
    assert_eq!(pair.states(), [State::Established; 2]);
    pair.told(West);
    set(&mut pair, true);
    assert!(downs(&pair.told(West)).is_empty(), "and the session stays");
}

#[test]
fn whenever_both_dial_the_first_session_stays() {
    for (latency, steps) in (1..=400).step_by(57).flat_map(|latency| (0..=24).map(move |steps| (latency, steps))) {
        let mut pair = Pair::new(|_, config| config.connect_delay = Duration::ZERO);
        pair.latency = Duration::from_millis(latency);
        pair.tell(East, Event::Start);
        pair.run(pair.latency * steps / 4);
        pair.tell(West, Event::Start);
        pair.run(seconds(30));
        assert_eq!(pair.states(), [State::Established; 2], "{latency} ms, {steps} quarters");
        for end in [East, West] {
            let told = pair.told(end);
            assert_eq!((count(&told, is_up), downs(&told).len()), (1, 0), "{latency} ms, {steps} quarters, {end:?}");
        }
    }
}

#[test]
fn a_connection_that_crosses_a_new_session_is_a_collision_unless_the_peer_says_that_it_restarted() {
    for restarting in [false, true] {
        let mut pair = Pair::established(|_, _| ());
        pair.told(West);
        pair.power_off(East, |config| {
            config.connect_delay = Duration::ZERO;
            config.graceful_restart.as_mut().unwrap().restarting = restarting;
        });
        pair.tell(East, Event::Start);
        pair.run(Duration::from_millis(100));
        let expect: &[_] = if restarting { &[(Families::ALL, "Error: Graceful restart".to_owned())] } else { &[] };
        assert_eq!(downs(&pair.told(West)), expect);
    }
}

#[test]
fn a_refused_connection_is_retried_and_the_status_says_why() {
    let mut pair = Pair::new(|end, config| config.passive = end == West);
    pair.listening = false;
    assert_eq!(pair.side(East).session.info(), "Idle");
    pair.tell(East, Event::Start);
    pair.tell(West, Event::Start);
    pair.run(seconds(10));
    assert_eq!(pair.side(East).session.info(), "Active Socket: Connection refused");
    assert_eq!(pair.side(West).session.info(), "Passive");
    let dials = count(&pair.told(East), |action| *action == Action::Connect);
    assert!((2..=4).contains(&dials), "after 2 s, then every 5 s, jittered: {dials}");
    pair.listening = true;
    pair.run(seconds(6));
    assert_eq!(pair.side(East).session.info(), "Established");
}

#[test]
fn a_dial_without_answer_is_given_up_and_repeated() {
    let mut pair = Pair::new(|_, _| ());
    pair.cable = false;
    pair.tell(East, Event::Start);
    pair.run(seconds(9));
    let told = pair.told(East);
    assert!(count(&told, |action| *action == Action::Abandon) >= 1);
    assert_eq!(pair.side(East).session.info(), "Connect Socket: Connection timed out");
}

#[test]
fn a_wrong_as_is_refused_with_2_2_and_the_pause_doubles() {
    let mut pair = Pair::new(|end, config| {
        config.passive = end == West;
        if end == West {
            config.peer_as = Asn(65000);
        }
    });
    pair.tell(East, Event::Start);
    pair.tell(West, Event::Start);
    pair.run(seconds(300));
    assert!(pair.side(East).session.info().ends_with("Received: Bad peer AS"), "{}", pair.side(East).session.info());
    assert!(pair.side(West).session.info().ends_with("BGP Error: Bad peer AS"));
    let dials = count(&pair.told(East), |action| *action == Action::Connect);
    assert!((9..=20).contains(&dials), "pauses of 5, 10, 20, then 30 seconds: {dials} dials in 300 s");
}

#[test]
fn an_end_without_a_common_family_or_with_our_identifier_is_refused() {
    for (change, expect) in [
        (
            (|config| config.families = Family::Ipv6Unicast.into()) as fn(&mut SessionConfig),
            "Required capability missing",
        ),
        (|config| config.router_id = East.router_id(), "Bad BGP identifier"),
    ] {
        let mut pair = Pair::new(|end, config| {
            config.passive = end == West;
            config.families = Family::Ipv4Unicast.into();
            if end == West {
                change(config);
            }
        });
        pair.tell(East, Event::Start);
        pair.tell(West, Event::Start);
        pair.run(seconds(3));
        assert_eq!(pair.side(East).session.last_error().unwrap().to_string(), format!("BGP Error: {expect}"));
    }
}

#[test]
fn a_stop_tells_the_peer_why_and_a_restart_does_not() {
    for (stop, keep, reason) in [
        (StopReason::Shutdown(None), false, "Received: Hard reset: Administrative shutdown"),
        (StopReason::Shutdown(Some("moving".into())), false, "Received: Hard reset: Administrative shutdown: moving"),
        (StopReason::Deconfigured, false, "Received: Hard reset: Peer de-configured"),
        (StopReason::ConfigurationChange, true, "Received: Other configuration change"),
        (StopReason::Restart, true, "Socket: Connection closed"),
    ] {
        let mut pair = Pair::established(|_, _| ());
        pair.told(West);
        pair.tell(East, Event::Stop(stop));
        pair.run(seconds(1));
        let keep = if keep { Families::ALL } else { Families::NONE };
        assert_eq!(downs(&pair.told(West)), [(keep, reason.to_owned())]);
        assert_eq!(pair.states(), [State::Idle, State::Active]);
        pair.run(seconds(100));
        assert_eq!(pair.side(East).session.deadline(), None, "nothing to wait for");
    }
    let mut plain = Pair::established(|end, config| {
        if end == West {
            config.graceful_restart = None;
        }
    });
    plain.tell(East, Event::Stop(StopReason::Shutdown(None)));
    plain.run(seconds(1));
    assert_eq!(plain.side(West).session.info(), "Passive Received: Administrative shutdown");
}

#[test]
fn updates_and_refreshes_pass_only_while_up_and_only_for_what_was_agreed() {
    let mut pair = Pair::established(|_, config| config.families = Family::Ipv4Unicast.into());
    let nlri: Nlri = "10.65.0.0/26".parse::<Prefix>().unwrap().into();
    let update = Update { withdrawn: vec![nlri], advertised: vec![] };
    pair.told(West);
    pair.send(East, &Message::Update(update.clone()));
    pair.send(East, &Message::EndOfRib(Family::Ipv4Unicast));
    pair.send(East, &Message::refresh(Family::Ipv6Unicast, RefreshKind::Request)); // ignored
    pair.send(East, &Message::refresh(Family::Ipv4Unicast, RefreshKind::Begin));
    pair.send(East, &Message::refresh(Family::Ipv4Unicast, RefreshKind::End));
    pair.run(seconds(1));
    let v4 = Family::Ipv4Unicast;
    let expect = [Action::Update(update), Action::EndOfRib(v4), Action::RefreshBegins(v4), Action::Sweep(v4)];
    assert_eq!(pair.told(West), expect);
    pair.tell(West, Event::Refresh(Family::Ipv6Unicast)); // not spoken: nothing
    pair.tell(West, Event::Refresh(v4));
    pair.run(seconds(1));
    assert_eq!(count(&pair.told(East), |action| *action == Action::RefreshRequested(v4)), 1);
}

#[test]
fn a_malformed_update_resets_and_a_faulty_attribute_does_not() {
    let mut pair = Pair::established(|_, config| config.graceful_restart = None);
    pair.told(West);
    let raw = |pair: &mut Pair, body: &[u8]| {
        let link = pair.sides[0].session.connection().unwrap().0;
        let mut octets = vec![0xff; 16];
        octets.extend((19 + body.len() as u16).to_be_bytes());
        octets.push(2);
        octets.extend(body);
        pair.wire.push_back((pair.now, Wire::Octets { link, to: West, octets: octets.into() }));
        pair.run(seconds(1));
        pair.told(West)
    };
    let told = raw(&mut pair, &[0, 0, 0, 4, 0x40, 1, 1, 9, 8, 10]);
    assert!(matches!(&told[..], [Action::Faults(faults), Action::Update(_)] if faults.len() == 3), "{told:?}");
    let told = raw(&mut pair, &[0, 0, 0, 0, 33, 10]);
    assert_eq!(downs(&told), [(Families::NONE, "BGP Error: Invalid network field".to_owned())]);
}

// --- graceful restart ---

#[test]
fn a_killed_peer_that_preserved_its_routes_costs_none_and_end_of_rib_sweeps() {
    let mut pair = Pair::established(|_, _| ());
    pair.told(West);
    pair.kill(East, |config| {
        let restart = config.graceful_restart.as_mut().unwrap();
        (restart.restarting, restart.preserved) = (true, Families::ALL);
    });
    pair.run(seconds(1));
    assert_eq!(downs(&pair.told(West)), [(Families::ALL, "Socket: Connection closed".to_owned())]);
    pair.tell(East, Event::Start);
    pair.run(seconds(3));
    assert_eq!(pair.states(), [State::Established; 2]);
    let restart = pair.sides[1].session.negotiated().unwrap().graceful_restart.clone().unwrap();
    assert!(restart.restarting && restart.family(Family::Ipv4Unicast) == Some(true));
    let told = pair.told(West);
    assert_eq!(count(&told, |action| matches!(action, Action::Sweep(_))), 0, "stale until End-of-RIB: {told:?}");
    pair.send(East, &Message::EndOfRib(Family::Ipv4Unicast));
    pair.run(seconds(1));
    let v4 = Family::Ipv4Unicast;
    assert_eq!(pair.told(West), [Action::EndOfRib(v4), Action::Sweep(v4)]);
    assert_eq!(pair.side(West).session.stale(), Family::Ipv6Unicast.into());
    pair.run(seconds(361));
    assert_eq!(pair.told(West), [Action::Sweep(Family::Ipv6Unicast)], "patience with the other family ends");
    // Once recovered, a lost connection is no restart, but what was learned is kept all the same.
    pair.tell(East, Event::Recovered);
    let link = pair.side(East).session.connection().unwrap();
    for end in [East, West] {
        pair.links.clear();
        pair.tell(end, Event::Closed { connection: link, error: Some("Connection reset by peer".to_owned()) });
    }
    pair.run(seconds(5));
    let restart = pair.sides[1].session.negotiated().unwrap().graceful_restart.clone().unwrap();
    assert!(!restart.restarting && restart.family(v4) == Some(true));
}

#[test]
fn a_peer_that_lost_its_routes_or_the_family_is_swept_when_it_is_back() {
    for lost in [false, true] {
        let mut pair = Pair::established(|_, _| ());
        pair.kill(East, |config| match lost {
            false => config.graceful_restart.as_mut().unwrap().preserved = Families::NONE, // rebooted: F is 0
            true => config.families = Family::Ipv6Unicast.into(),
        });
        pair.tell(East, Event::Start);
        pair.run(seconds(3));
        let sweeps = count(&pair.told(West), |action| matches!(action, Action::Sweep(_)));
        assert_eq!(sweeps, 2);
        assert!(pair.side(West).session.stale().is_empty());
    }
}

#[test]
fn a_peer_that_does_not_come_back_is_swept_after_its_own_restart_time() {
    let mut pair = Pair::established(|end, config| {
        config.graceful_restart.as_mut().unwrap().restart_time = if end == East { 40 } else { 120 };
    });
    pair.told(West);
    pair.kill(East, |_| ());
    pair.run(seconds(39));
    assert_eq!(count(&pair.told(West), |action| matches!(action, Action::Sweep(_))), 0);
    pair.run(seconds(2));
    assert_eq!(count(&pair.told(West), |action| matches!(action, Action::Sweep(_))), 2);
}

#[test]
fn a_peer_that_connects_anew_while_we_think_it_up_has_restarted() {
    for graceful in [true, false] {
        let mut pair = Pair::established(|_, config| {
            if !graceful {
                config.graceful_restart = None;
            }
        });
        pair.told(West);
        pair.power_off(East, |_| ());
        pair.tell(East, Event::Start);
        pair.run(seconds(10));
        let downs = downs(&pair.told(West));
        if graceful {
            assert_eq!(downs, [(Families::ALL, "Error: Graceful restart".to_owned())]);
            assert_eq!(pair.states(), [State::Established; 2]);
        } else {
            // RFC 4271 §6.8: the established one stays, until its hold timer ends it.
            assert_eq!(downs, []);
            let received = pair.side(East).session.last_error().unwrap().to_string();
            assert_eq!(received, "Received: Connection collision resolution");
            pair.run(seconds(260));
            assert_eq!(pair.states(), [State::Established; 2]);
        }
    }
}

#[test]
fn an_expired_hold_timer_keeps_paths_only_if_both_ends_say_so() {
    for both in [true, false] {
        let mut pair = Pair::established(|end, config| {
            config.graceful_restart.as_mut().unwrap().notification = both || end == East;
        });
        pair.told(East);
        pair.cable = false;
        pair.run(seconds(250));
        let keep = if both { Families::ALL } else { Families::NONE };
        assert_eq!(downs(&pair.told(East)), [(keep, "BGP Error: Hold timer expired".to_owned())]);
    }
}

// --- the state machine alone ---

/// What the peer may say first.
fn open(asn: u32, id: [u8; 4]) -> Message {
    Message::Open(Open {
        my_as: Asn(asn).two_octets(),
        hold_time: HoldTime::DEFAULT,
        router_id: RouterId::try_from(std::net::Ipv4Addr::from(id)).unwrap(),
        capabilities: vec![Capability::multiprotocol(Family::Ipv4Unicast), Capability::FourOctetAs(Asn(asn))],
    })
}

#[test]
fn a_connection_that_comes_to_nothing_makes_way_for_the_peers_next_one_after_a_while() {
    let now = epoch();
    let mut octets = BytesMut::new();
    open(64512, [192, 0, 2, 9]).encode(&Context::default(), &mut octets).unwrap();
    let octets = octets.freeze();
    let mut session = Session::new(config(East), now);
    session.handle(Event::Start, now);
    let mut connects = |id, at| {
        let (connection, direction, local) = (ConnectionId(id), Direction::Incoming, East.address());
        session.handle(Event::Connected { connection, direction, local }, at);
        let closed = std::iter::from_fn(|| session.poll())
            .find_map(|action| if let Action::Close(id) = action { Some(id) } else { None });
        // The third gets as far as OpenConfirm.
        if id == 3 {
            session.handle(Event::Received { connection, octets: octets.clone() }, at);
            assert_eq!(session.state(), State::OpenConfirm);
        }
        closed
    };
    assert_eq!(connects(1, now), None);
    assert_eq!(connects(2, now + seconds(4)), Some(ConnectionId(2)), "the first may still be about to speak");
    assert_eq!(connects(3, now + seconds(5)), Some(ConnectionId(1)), "the third takes its place");
    assert_eq!(connects(4, now + seconds(9)), Some(ConnectionId(4)));
    assert_eq!(connects(5, now + seconds(10)), Some(ConnectionId(3)));
}

/// Each state met by each message: where it leads, and what is answered (RFC 4271 §8.2.2, RFC 6608).
#[test]
fn every_message_in_every_state() {
    let nlri: Nlri = "10.65.0.0/26".parse::<Prefix>().unwrap().into();
    let update = Message::Update(Update { withdrawn: vec![nlri], advertised: vec![] });
    let good = open(64512, [192, 0, 2, 9]);
    let other = open(64512, [192, 0, 2, 10]);
    let refresh = Message::refresh(Family::Ipv4Unicast, RefreshKind::Request);
    let cease = Message::Notification(Notification::ADMINISTRATIVE_SHUTDOWN);
    let fatal = Message::Notification(Notification::new(ErrorCode::OpenMessage, 2));
    use State::*;
    let table = [
        (OpenSent, &good, OpenConfirm, None),
        (OpenSent, &Message::Keepalive, Idle, Some((5, 1))),
        (OpenSent, &update, Idle, Some((5, 1))),
        (OpenSent, &refresh, Idle, Some((5, 1))),
        (OpenSent, &cease, Active, None),
        (OpenSent, &fatal, Idle, None),
        (OpenConfirm, &good, OpenConfirm, None),
        (OpenConfirm, &other, Idle, Some((5, 2))),
        (OpenConfirm, &Message::Keepalive, Established, None),
        (OpenConfirm, &update, Established, None),
        (OpenConfirm, &Message::EndOfRib(Family::Ipv4Unicast), Established, None),
        (OpenConfirm, &refresh, Idle, Some((5, 2))),
        (OpenConfirm, &cease, Active, None),
        (OpenConfirm, &fatal, Idle, None),
        (Established, &good, Idle, Some((5, 3))),
        (Established, &Message::Keepalive, Established, None),
        (Established, &update, Established, None),
        (Established, &refresh, Established, None),
        (Established, &cease, Active, None),
        (Established, &fatal, Idle, None),
    ];
    for (from, message, to, answer) in table {
        let now = epoch();
        let mut session = Session::new(config(East), now);
        let connection = ConnectionId(1);
        let encode = |message: &Message| {
            let mut octets = BytesMut::new();
            message.encode(&Context { families: Families::ALL, ..Context::default() }, &mut octets).unwrap();
            Event::Received { connection, octets: octets.freeze() }
        };
        session.handle(Event::Start, now);
        let (direction, local) = (Direction::Incoming, East.address());
        session.handle(Event::Connected { connection, direction, local }, now);
        for (state, said) in [(OpenConfirm, &good), (Established, &Message::Keepalive)] {
            if from >= state {
                session.handle(encode(said), now);
            }
        }
        assert_eq!(session.state(), from);
        while session.poll().is_some() {}
        session.handle(encode(message), now);
        assert_eq!(session.state(), to, "{from} met by {message:?}");
        let sent = std::iter::from_fn(|| session.poll()).find_map(|action| match action {
            Action::Send(_, octets) => match Message::decode(&octets, &Context::default()).unwrap().0 {
                Message::Notification(notification) => Some((u8::from(notification.code), notification.subcode)),
                _ => None,
            },
            _ => None,
        });
        assert_eq!(sent, answer, "{from} met by {message:?}");
    }
}

// --- anything may happen ---

#[derive(Clone, Debug)]
enum Op {
    AdvanceClock(u64),
    Cable(bool),
    Listen(bool),
    Start(bool),
    Stop(bool, u8),
    Kill(bool),
    PowerOff(bool),
    BreakLink(u8),
    Garbage(bool, Vec<u8>),
    Say(bool, u8),
    Refresh(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let end = any::<bool>;
    prop_oneof![
        6 => (0..30_000_u64).prop_map(Op::AdvanceClock),
        1 => (200_000..600_000_u64).prop_map(Op::AdvanceClock),
        1 => any::<bool>().prop_map(Op::Cable),
        1 => any::<bool>().prop_map(Op::Listen),
        3 => end().prop_map(Op::Start),
        1 => (end(), 0..6_u8).prop_map(|(end, reason)| Op::Stop(end, reason)),
        1 => end().prop_map(Op::Kill),
        1 => end().prop_map(Op::PowerOff),
        1 => any::<u8>().prop_map(Op::BreakLink),
        1 => (end(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(end, octets)| Op::Garbage(end, octets)),
        2 => (end(), 0..6_u8).prop_map(|(end, what)| Op::Say(end, what)),
        1 => end().prop_map(Op::Refresh),
    ]
}

fn end(east: bool) -> End {
    if east { East } else { West }
}

impl Pair {
    fn apply(&mut self, op: Op) {
        match op {
            Op::AdvanceClock(milliseconds) => self.run(Duration::from_millis(milliseconds)),
            Op::Cable(there) => self.cable = there,
            Op::Listen(there) => self.listening = there,
            Op::Start(at) => self.tell(end(at), Event::Start),
            Op::Stop(at, reason) => {
                let reason = match reason {
                    0 => StopReason::Restart,
                    1 => StopReason::Shutdown(None),
                    2 => StopReason::Reset,
                    3 => StopReason::Deconfigured,
                    4 => StopReason::ConfigurationChange,
                    _ => StopReason::TooManyPrefixes,
                };
                self.tell(end(at), Event::Stop(reason));
            }
            Op::Kill(at) => self.kill(end(at), |_| ()),
            Op::PowerOff(at) => self.power_off(end(at), |_| ()),
            Op::BreakLink(which) => {
                let open: Vec<_> =
                    self.links.iter().filter(|(_, ends)| !ends.is_empty()).map(|(link, _)| *link).collect();
                if let Some(link) = open.get(usize::from(which) % open.len().max(1)) {
                    for at in self.links.remove(link).unwrap() {
                        let error = Some("Connection reset by peer".to_owned());
                        self.tell(at, Event::Closed { connection: ConnectionId(*link), error });
                    }
                }
            }
            Op::Garbage(at, octets) => {
                let mine = self.links.iter().find(|(_, ends)| ends.contains(&end(at))).map(|(link, _)| *link);
                if let Some(link) = mine {
                    self.tell(end(at), Event::Received { connection: ConnectionId(link), octets: octets.into() });
                }
            }
            Op::Say(at, what) => {
                if self.side(end(at)).session.state() == State::Established {
                    let family = Family::ALL[usize::from(what % 2)];
                    let message = match what / 2 {
                        0 => Message::EndOfRib(family),
                        1 => Message::refresh(family, RefreshKind::Begin),
                        _ => Message::refresh(family, RefreshKind::End),
                    };
                    self.send(end(at), &message);
                }
            }
            Op::Refresh(at) => self.tell(end(at), Event::Refresh(Family::Ipv4Unicast)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// What always holds is asserted in [`Pair::perform`]; at the end, two started ends with a network are up.
    #[test]
    fn whatever_happens_the_session_stays_sane_and_comes_back(
        ops in prop::collection::vec(op(), 1..60),
        passive in any::<bool>(),
        graceful in any::<[bool; 2]>(),
        hold in prop_oneof![Just(9_u16), Just(90), Just(240)],
    ) {
        let mut pair = Pair::new(|end, config| {
            config.passive = passive && end == West;
            config.hold_time = HoldTime::try_from(hold).unwrap();
            if !graceful[end as usize] {
                config.graceful_restart = None;
            }
        });
        for op in ops {
            pair.apply(op);
        }
        (pair.cable, pair.listening) = (true, true);
        pair.tell(East, Event::Start);
        pair.tell(West, Event::Start);
        // The longest wait is for a dead connection's hold timer, then a pause after that error.
        pair.run(seconds(600));
        prop_assert_eq!(pair.states(), [State::Established; 2]);
        let before = pair.sides[0].session.counters().established;
        pair.run(seconds(900));
        prop_assert_eq!(pair.states(), [State::Established; 2]);
        prop_assert_eq!(pair.sides[0].session.counters().established, before, "it does not flap");
        for side in &pair.sides {
            prop_assert!(side.session.stale().is_empty());
        }
        prop_assert!(pair.now > pair.start);
    }
}
