//! How is a socket read on which the kernel tells of changes?

use std::io;

use crate::error::{Cause, Result};
use crate::socket::receive;

/// Room for what happens while we are busy, in octets: some ten thousand routes, or elements of sets.
const BUFFER: usize = 8 << 20;

/// A socket that takes part in multicast groups and does not block.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) inner: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl Listener {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut inner = netlink_sys::Socket::new(protocol)?;
        inner.set_non_blocking(true)?;
        // Not allowed without CAP_NET_ADMIN; then overruns are only more likely.
        let _ = calico_sys::socket::set_receive_buffer(&inner, BUFFER);
        inner.bind_auto()?;
        for group in groups {
            inner.add_membership(*group)?;
        }
        Ok(Self { inner, buffer: Vec::new() })
    }

    /// Hands over every datagram that has come, in order, and `None` where some were lost. Reads until nothing is left, as
    /// edge-triggered polling needs.
    ///
    /// # Errors
    /// The socket's, which are final.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Option<&[u8]>)) -> Result<(), Cause> {
        loop {
            match receive(&self.inner, &mut self.buffer) {
                Ok(()) => each(Some(&self.buffer)),
                Err(Cause::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(Cause::Io(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => each(None),
                Err(Cause::Protocol(_)) => each(None),
                Err(cause) => return Err(cause),
            }
        }
    }
}
