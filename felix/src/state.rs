//! What every part of Felix may need to know about the whole.

/// How the whole is doing; published on a [`tokio::sync::watch`] channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Everything in the store is known, and the kernel was made so once.
    pub(crate) in_sync: bool,
    /// `datastoreReady` of the ClusterInformation; `None` while there is none.
    pub(crate) datastore_ready: Option<bool>,
    /// Why the store does not answer, if it does not.
    pub(crate) trouble: Option<String>,
    /// MTU of new pods' interfaces, in octets.
    pub(crate) pod_mtu: u32,
    /// Whether the calculation must be told of profiles.
    pub(crate) needs_profiles: bool,
}
