//! What a session is told before it starts.

use std::net::IpAddr;
use std::time::Duration;

use crate::{Asn, Families, HoldTime, RouterId};

/// The configuration of one session. A change of it needs a new session, but for [`GracefulRestart::restarting`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS towards this peer.
    pub local_as: Asn,
    /// The peer's AS; another one in its OPEN is refused with 2/2.
    pub peer_as: Asn,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// Whom to dial, and the tie-breaker of the decision process.
    pub peer_address: IpAddr,
    /// Never dials: the peer must.
    pub passive: bool,
    /// The hold time to propose; also how long an OPEN is waited for.
    pub hold_time: HoldTime,
    /// How often to send KEEPALIVE; `None` is a third of the negotiated hold time. Never longer than that third.
    pub keepalive: Option<Duration>,
    /// From the start to the first dial.
    pub connect_delay: Duration,
    /// From one dial to the next, and the longest that a dial may take.
    pub connect_retry: Duration,
    /// The pause after an error: it doubles from the first value to the second while errors go on.
    pub error_pause: (Duration, Duration),
    /// After so long without an error, the pause is the shortest again.
    pub error_forget: Duration,
    /// The families to speak.
    pub families: Families,
    /// Graceful restart; `None` neither offers nor helps.
    pub graceful_restart: Option<GracefulRestart>,
    /// Offer and answer ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// Mark refreshes off (RFC 7313).
    pub enhanced_refresh: bool,
    /// Families in which we can take several paths for a prefix (RFC 7911).
    pub add_path_receive: Families,
    /// Families in which we can send several.
    pub add_path_send: Families,
    /// Offer four-octet AS numbers (RFC 6793). Off only against peers that choke on it.
    pub four_octet_as: bool,
    /// Offer messages beyond 4096 octets (RFC 8654).
    pub extended_messages: bool,
    /// Say that long-lived stale paths are understood (RFC 9494).
    pub long_lived_aware: bool,
    /// From which the jitter of the timers comes (RFC 4271 §10). Any number; another for each session.
    pub seed: u64,
}

/// Graceful restart, as configured (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long we may take to be back: whole seconds, below 4096.
    pub restart_time: u16,
    /// This process has just started and holds its routes back until the peers told theirs: the R bit.
    pub restarting: bool,
    /// Families in which the kernel still has the routes of our last life: the F bit of the first OPEN. (Of later
    /// ones it is true anyway, since a session that breaks takes no route away.)
    pub preserved: Families,
    /// Also keep paths over NOTIFICATIONs and hold timers, if the peer does (RFC 8538): the N bit.
    pub notification: bool,
    /// How long stale paths may wait for the End-of-RIB of a peer that is back (RFC 4724 §4.2, last paragraph).
    pub stale_time: Duration,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            restart_time: 120,
            restarting: false,
            preserved: Families::NONE,
            notification: true,
            stale_time: Duration::from_secs(360),
        }
    }
}

impl SessionConfig {
    /// A session with the constants of Calico's speakers: hold time 240 s, first dial after 2 s, then every 5 s, pauses
    /// of 5 s to 30 s after errors, both families, graceful restart with 120 s, refresh, no ADD-PATH, no extended messages.
    pub fn new(local_as: Asn, router_id: RouterId, peer_address: IpAddr, peer_as: Asn) -> Self {
        Self {
            local_as,
            peer_as,
            router_id,
            peer_address,
            passive: false,
            hold_time: HoldTime::DEFAULT,
            keepalive: None,
            connect_delay: Duration::from_secs(2),
            connect_retry: Duration::from_secs(5),
            error_pause: (Duration::from_secs(5), Duration::from_secs(30)),
            error_forget: Duration::from_secs(300),
            families: Families::ALL,
            graceful_restart: Some(GracefulRestart::default()),
            route_refresh: true,
            enhanced_refresh: true,
            add_path_receive: Families::NONE,
            add_path_send: Families::NONE,
            four_octet_as: true,
            extended_messages: false,
            long_lived_aware: true,
            seed: 0,
        }
    }

    /// Whether the peer is in our AS.
    pub fn internal(&self) -> bool {
        self.local_as == self.peer_as
    }
}
