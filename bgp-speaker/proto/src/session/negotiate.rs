//! What two OPENs agree on.

use std::net::IpAddr;

use bytes::BytesMut;

use super::{Direction, SessionConfig};
use crate::capability::{AddPath, GracefulRestart, RestartFamily};
use crate::{Asn, Capability, Context, Families, Family, HoldTime, Open, OpenError, RouterId};

/// What a session agreed on. It exists from OpenConfirm on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS.
    pub peer_as: Asn,
    /// The peer's identifier.
    pub router_id: RouterId,
    /// The lesser of both proposals (RFC 4271 §4.2).
    pub hold_time: HoldTime,
    /// On which facts messages are coded, among them the families.
    pub context: Context,
    /// Both answer ROUTE-REFRESH.
    pub route_refresh: bool,
    /// The peer's graceful restart capability, if we have it as well.
    pub graceful_restart: Option<GracefulRestart>,
    /// Both keep paths over NOTIFICATIONs (RFC 8538).
    pub notification_restart: bool,
    /// The peer understands long-lived stale paths (RFC 9494).
    pub long_lived_aware: bool,
    /// Our end's address.
    pub local_address: IpAddr,
    /// Who opened the connection.
    pub direction: Direction,
    /// What we offered.
    pub sent: Vec<Capability>,
    /// What the peer offered.
    pub received: Vec<Capability>,
}

impl Negotiated {
    /// The families spoken.
    pub fn families(&self) -> Families {
        self.context.families
    }

    /// The families whose paths are kept while the peer restarts.
    pub fn restart_families(&self) -> Families {
        let kept = |family: &Family| self.graceful_restart.as_ref().is_some_and(|gr| gr.family(*family).is_some());
        self.families().iter().filter(kept).collect()
    }
}

impl SessionConfig {
    /// The capabilities to offer, in the order of Calico's speakers. `again` is whether the session was up before.
    pub(super) fn capabilities(&self, again: bool) -> Vec<Capability> {
        let families = || self.families.iter();
        let mut offer: Vec<_> = families().map(Capability::multiprotocol).collect();
        if self.route_refresh {
            offer.push(Capability::RouteRefresh);
        }
        if self.extended_messages {
            offer.push(Capability::ExtendedMessage);
        }
        if let Some(restart) = self.graceful_restart {
            let family = |family: Family| RestartFamily {
                afi: family.afi(),
                safi: family.safi(),
                preserved: again || restart.preserved.contains(family),
            };
            offer.push(Capability::GracefulRestart(GracefulRestart {
                restarting: restart.restarting,
                notification: restart.notification,
                restart_time: restart.restart_time.min(4095),
                families: families().map(family).collect(),
            }));
        }
        if self.four_octet_as {
            offer.push(Capability::FourOctetAs(self.local_as));
        }
        let add_path = |family: Family| AddPath {
            afi: family.afi(),
            safi: family.safi(),
            receive: self.add_path_receive.contains(family),
            send: self.add_path_send.contains(family),
        };
        let add_path: Vec<_> = families().map(add_path).filter(|entry| entry.receive || entry.send).collect();
        if !add_path.is_empty() {
            offer.push(Capability::AddPath(add_path));
        }
        if self.enhanced_refresh {
            offer.push(Capability::EnhancedRouteRefresh);
        }
        if self.long_lived_aware {
            offer.push(Capability::LongLivedGracefulRestart(bytes::Bytes::new()));
        }
        offer
    }

    /// The OPEN to send.
    pub(super) fn open(&self, again: bool) -> Open {
        Open {
            my_as: self.local_as.two_octets(),
            hold_time: self.hold_time,
            router_id: self.router_id,
            capabilities: self.capabilities(again),
        }
    }

    /// What follows from the peer's OPEN and ours.
    ///
    /// # Errors
    /// [`OpenError`], to be answered with a NOTIFICATION: another AS, our own identifier in our own AS (RFC 6286 §2.2),
    /// or no family in common.
    pub(super) fn negotiate(
        &self,
        sent: Vec<Capability>,
        open: Open,
        local_address: IpAddr,
        direction: Direction,
    ) -> Result<Negotiated, OpenError> {
        let peer_as = open.asn();
        if peer_as != self.peer_as || peer_as.0 == 0 {
            return Err(OpenError::PeerAs { expected: self.peer_as, got: peer_as });
        }
        if self.internal() && open.router_id == self.router_id {
            return Err(OpenError::Identifier(open.router_id.address()));
        }
        let families = self.families.and(offered_families(&open.capabilities));
        if families.is_empty() {
            let mut required = BytesMut::new();
            self.families.iter().for_each(|family| Capability::multiprotocol(family).write(&mut required));
            return Err(OpenError::MissingCapability { required: required.freeze() });
        }
        let has = |capability: Capability| open.capabilities.contains(&capability);
        let four_octet_as = open.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
        let (peer_receives, peer_sends) = add_path(&open.capabilities);
        let restart = open.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart.clone()),
            _ => None,
        });
        let graceful_restart = restart.filter(|_| self.graceful_restart.is_some());
        let notification = |ours: super::GracefulRestart| ours.notification;
        Ok(Negotiated {
            peer_as,
            router_id: open.router_id,
            hold_time: self.hold_time.min(open.hold_time),
            context: Context {
                four_octet_as: self.four_octet_as && four_octet_as,
                internal: self.internal(),
                families,
                add_path_receive: families.and(self.add_path_receive).and(peer_sends),
                add_path_send: families.and(self.add_path_send).and(peer_receives),
                extended_messages: self.extended_messages && has(Capability::ExtendedMessage),
                enhanced_refresh: self.enhanced_refresh && has(Capability::EnhancedRouteRefresh),
            },
            route_refresh: self.route_refresh && has(Capability::RouteRefresh),
            notification_restart: graceful_restart.as_ref().is_some_and(|restart| restart.notification)
                && self.graceful_restart.is_some_and(notification),
            graceful_restart,
            long_lived_aware: open.capabilities.iter().any(|c| matches!(c, Capability::LongLivedGracefulRestart(_))),
            local_address,
            direction,
            sent,
            received: open.capabilities,
        })
    }
}

/// The families a peer offers; IPv4 unicast if it says nothing about families (RFC 4760 §8).
fn offered_families(capabilities: &[Capability]) -> Families {
    let mut silent = true;
    let mut families = Families::NONE;
    for capability in capabilities {
        if let Capability::Multiprotocol { afi, safi } = capability {
            silent = false;
            families = families.or(Family::from_codes(*afi, *safi).into_iter().collect());
        }
    }
    if silent { Family::Ipv4Unicast.into() } else { families }
}

/// In which families the peer can receive, and can send, several paths.
fn add_path(capabilities: &[Capability]) -> (Families, Families) {
    let (mut receive, mut send) = (Families::NONE, Families::NONE);
    for capability in capabilities {
        let Capability::AddPath(entries) = capability else { continue };
        for entry in entries {
            let Some(family) = Family::from_codes(entry.afi, entry.safi) else { continue };
            if entry.receive {
                receive.insert(family);
            }
            if entry.send {
                send.insert(family);
            }
        }
    }
    (receive, send)
}
