//! What was asked of the kernel, and why it did not do it.

use std::io;

/// What every function of this crate that talks to the kernel returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A request that failed: what was asked, in words, then what the kernel said.
///
/// `add route 10.0.0.0/26 via 10.1.0.2: Nexthop has invalid gateway: Network is unreachable (os error 101)`
#[derive(Debug, thiserror::Error)]
#[error("{asked}: {cause}")]
pub struct Error {
    asked: String,
    cause: Cause,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// The kernel refused, with a number and perhaps a text (extended acknowledgement).
    #[error("{}{}", if text.is_empty() { String::new() } else { format!("{text}: ") }, io::Error::from_raw_os_error(*errno))]
    Refused {
        /// The positive error number.
        errno: i32,
        /// The kernel's own words, often empty.
        text: String,
    },
    /// The socket or file failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A route of somebody else is in the way.
    #[error("its place is held by a route of protocol {protocol}, which is left alone")]
    Foreign {
        /// The other route's protocol number.
        protocol: u8,
    },
    /// The request or its answer is not what it should be.
    #[error("{0}")]
    Protocol(&'static str),
}

impl Error {
    pub(crate) fn new(asked: impl ToString, cause: impl Into<Cause>) -> Self {
        Self { asked: asked.to_string(), cause: cause.into() }
    }

    /// Of something that the system did not do, with what was asked of it.
    pub fn io(asked: impl ToString, error: io::Error) -> Self {
        Self::new(asked, error)
    }

    /// The kernel's error number, if it was the kernel who refused.
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Refused { errno, .. } => Some(*errno),
            Cause::Io(error) => error.raw_os_error(),
            Cause::Foreign { .. } => Some(libc::EEXIST),
            Cause::Protocol(_) => None,
        }
    }

    /// Whether it, or something in its place, exists already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether what should be changed or removed is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL))
    }
}
