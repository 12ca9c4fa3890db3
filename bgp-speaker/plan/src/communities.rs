//! Which communities does a prefix get when it leaves? (`bgp.md` §2.6)
