//! Which code means what: the IANA registries of BGP, each as an enum that keeps unknown codes as a number.
//!
//! <https://www.iana.org/assignments/bgp-parameters>, <https://www.iana.org/assignments/capability-codes>.

/// Makes an enum of a registry, with conversions from and to the code that lose nothing.
macro_rules! registry {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
            /// A code that this speaker does not know.
            Unknown(u8),
        }

        impl From<u8> for $name {
            fn from(code: u8) -> Self {
                match code {
                    $($code => Self::$item,)*
                    other => Self::Unknown(other),
                }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$item => $code,)*
                    $name::Unknown(code) => code,
                }
            }
        }
    };
}

registry! {
    /// BGP Message Types.
    MessageType {
        /// RFC 4271 §4.2.
        Open = 1,
        /// RFC 4271 §4.3.
        Update = 2,
        /// RFC 4271 §4.5.
        Notification = 3,
        /// RFC 4271 §4.4.
        Keepalive = 4,
        /// RFC 2918 §3.
        RouteRefresh = 5,
    }
}

registry! {
    /// BGP Path Attributes.
    AttributeCode {
        /// RFC 4271 §5.1.1.
        Origin = 1,
        /// RFC 4271 §5.1.2.
        AsPath = 2,
        /// RFC 4271 §5.1.3.
        NextHop = 3,
        /// RFC 4271 §5.1.4.
        MultiExitDisc = 4,
        /// RFC 4271 §5.1.5.
        LocalPref = 5,
        /// RFC 4271 §5.1.6.
        AtomicAggregate = 6,
        /// RFC 4271 §5.1.7.
        Aggregator = 7,
        /// RFC 1997.
        Communities = 8,
        /// RFC 4456 §8.
        OriginatorId = 9,
        /// RFC 4456 §8.
        ClusterList = 10,
        /// RFC 4760 §3.
        MpReachNlri = 14,
        /// RFC 4760 §4.
        MpUnreachNlri = 15,
        /// RFC 4360.
        ExtendedCommunities = 16,
        /// RFC 6793 §3.
        As4Path = 17,
        /// RFC 6793 §3.
        As4Aggregator = 18,
        /// RFC 8092.
        LargeCommunities = 32,
    }
}

registry! {
    /// Capability Codes (RFC 5492).
    CapabilityCode {
        /// RFC 4760 §8.
        Multiprotocol = 1,
        /// RFC 2918 §2.
        RouteRefresh = 2,
        /// RFC 8950 §4.
        ExtendedNextHop = 5,
        /// RFC 8654 §3.
        ExtendedMessage = 6,
        /// RFC 9234 §4.1.
        Role = 9,
        /// RFC 4724 §3.
        GracefulRestart = 64,
        /// RFC 6793 §3.
        FourOctetAs = 65,
        /// RFC 7911 §4.
        AddPath = 69,
        /// RFC 7313 §3.1.
        EnhancedRouteRefresh = 70,
        /// RFC 9494 §3.1.
        LongLivedGracefulRestart = 71,
        /// draft-walton-bgp-hostname-capability.
        Fqdn = 73,
    }
}

registry! {
    /// BGP Error (Notification) Codes.
    ErrorCode {
        /// RFC 4271 §6.1.
        MessageHeader = 1,
        /// RFC 4271 §6.2.
        OpenMessage = 2,
        /// RFC 4271 §6.3.
        UpdateMessage = 3,
        /// RFC 4271 §6.5.
        HoldTimerExpired = 4,
        /// RFC 4271 §6.6, RFC 6608.
        FiniteStateMachine = 5,
        /// RFC 4271 §6.7, RFC 4486.
        Cease = 6,
        /// RFC 7313 §5.
        RouteRefreshMessage = 7,
        /// RFC 9687.
        SendHoldTimerExpired = 8,
    }
}
