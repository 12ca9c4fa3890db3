//! How is a request sent and its answer awaited?

use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::{Cause, Error, Result};
use crate::message::{Message, Request, messages};

/// The kernel fills a datagram of a dump to at most 32 KiB; one message never comes near.
const BUFFER: usize = 64 * 1024;
/// So many requests of a batch go out at once: even if each is refused, the answers fit the socket's buffer.
const CHUNK: usize = 64;
/// How often a dump is repeated that the kernel says was changed under its hands.
const DUMP_TRIES: usize = 20;

/// A socket of `NETLINK_ROUTE` with strict checking and extended acknowledgements.
///
/// It belongs to the network namespace of the thread that opens it, for ever, wherever it is used.
#[derive(Debug)]
pub struct Socket {
    pub(crate) inner: netlink_sys::Socket,
    pub(crate) sequence: u32,
    pub(crate) buffer: Vec<u8>,
}

/// Changes that are sent together: one system call for all, and one for all answers if none fails.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) requests: Vec<(Request, String)>,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn push(&mut self, request: Request, asked: impl Display) {
        self.requests.push((request, asked.to_string()));
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no descriptors left or knows no strict checking (before 4.20).
    pub fn open() -> Result<Self> {
        Self::open_for(netlink_sys::protocols::NETLINK_ROUTE)
    }

    /// Opens a socket of another part of the kernel than the routing one.
    pub(crate) fn open_for(protocol: isize) -> Result<Self> {
        let open = || {
            let socket = netlink_sys::Socket::new(protocol)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        let inner = open().map_err(|error: std::io::Error| Error::new("open a netlink socket", error))?;
        Ok(Self { inner, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Makes the changes of a batch in their order. A change that fails does not keep the later ones from being made.
    ///
    /// # Errors
    /// The first failure.
    pub fn execute(&mut self, batch: Batch) -> Result<()> {
        let (requests, asked): (Vec<_>, Vec<_>) = batch.requests.into_iter().unzip();
        let failures = self.change_all(requests);
        match failures.into_iter().next() {
            Some((index, cause)) => Err(Error::new(asked.get(index).map_or("a change", String::as_str), cause)),
            None => Ok(()),
        }
    }

    /// As [`Self::execute`], with all failures, each with the place of its change in the batch.
    pub fn execute_all(&mut self, batch: Batch) -> Vec<(usize, Error)> {
        let (requests, asked): (Vec<_>, Vec<_>) = batch.requests.into_iter().unzip();
        let explain = |(index, cause)| {
            let what: Option<&String> = asked.get(index);
            (index, Error::new(what.map_or("a change", String::as_str), cause))
        };
        self.change_all(requests).into_iter().map(explain).collect()
    }

    /// Whether checksums of what an interface sends are left to it.
    ///
    /// # Errors
    /// The kernel's, above all if it is of a kind that has no such switch.
    pub fn checksum_offload(&self, interface: &str) -> Result<bool> {
        calico_sys::ethtool::transmit_checksum_offload(&self.inner, interface)
            .map_err(|error| Error::new(format_args!("get checksum offload of {interface}"), error))
    }

    /// Leaves the checksums of what an interface sends to it, or not.
    ///
    /// # Errors
    /// As [`Self::checksum_offload`].
    pub fn set_checksum_offload(&mut self, interface: &str, on: bool) -> Result<()> {
        calico_sys::ethtool::set_transmit_checksum_offload(&self.inner, interface, on)
            .map_err(|error| Error::new(format_args!("set checksum offload of {interface}"), error))
    }

    /// Makes one change.
    pub(crate) fn change(&mut self, request: Request, asked: impl Display) -> Result<()> {
        match self.change_all([request]).pop() {
            Some((_, cause)) => Err(Error::new(asked, cause)),
            None => Ok(()),
        }
    }

    /// Makes many changes; the failures come with the index of their request, in order. A request is asked for only when it is
    /// about to be sent, so that sixty thousand of them never are there together.
    pub(crate) fn change_all(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<(usize, Cause)> {
        let mut requests = requests.into_iter();
        let mut failures = Vec::new();
        let mut start = 0;
        loop {
            let mut chunk: Vec<Request> = requests.by_ref().take(CHUNK).collect();
            let length = chunk.len();
            if length == 0 {
                return failures;
            }
            let mut told = Vec::new();
            match self.change_chunk(&mut chunk, &mut told) {
                Ok(()) => failures.extend(told.into_iter().map(|(index, cause)| (start + index, cause))),
                Err(cause) => {
                    // The socket is broken: nobody knows which of the others were made.
                    let text = cause.to_string();
                    failures.push((start, cause));
                    let other = |index| (index, Cause::Io(std::io::Error::other(text.clone())));
                    failures.extend((start + 1..start + length).map(other));
                }
            }
            start += length;
        }
    }

    fn change_chunk(&mut self, chunk: &mut [Request], failures: &mut Vec<(usize, Cause)>) -> Result<(), Cause> {
        let first = self.sequence.wrapping_add(1);
        let last = chunk.len() - 1;
        let mut octets = Vec::with_capacity(chunk.len() * 128);
        for (index, request) in chunk.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // Failures are told anyway; only the last one must also tell its success.
            let flags = if index == last { libc::NLM_F_ACK } else { 0 };
            octets.extend_from_slice(request.finish(self.sequence, flags)?);
        }
        self.send(&octets)?;
        loop {
            let mut finished = false;
            self.receive()?;
            for message in messages(&self.buffer).filter(|message| i32::from(message.kind) == libc::NLMSG_ERROR) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index > last {
                    continue;
                }
                let (errno, text) = message.error();
                if errno != 0 {
                    failures.push((index, Cause::Refused { errno, text }));
                }
                finished |= index == last;
            }
            if finished {
                return Ok(());
            }
        }
    }

    /// Asks for one object. `None` from `parse` is an answer that cannot be read.
    pub(crate) fn get<T>(
        &mut self,
        mut request: Request,
        asked: impl Display,
        parse: impl Fn(Message<'_>) -> Option<T>,
    ) -> Result<T> {
        self.get_inner(&mut request, parse).map_err(|cause| Error::new(asked, cause))
    }

    fn get_inner<T>(&mut self, request: &mut Request, parse: impl Fn(Message<'_>) -> Option<T>) -> Result<T, Cause> {
        self.sequence = self.sequence.wrapping_add(1);
        let octets = request.finish(self.sequence, 0)?.to_vec();
        self.send(&octets)?;
        loop {
            self.receive()?;
            for message in messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    return parse(message).ok_or(Cause::Protocol("the kernel's answer cannot be read"));
                }
                let (errno, text) = message.error();
                if errno != 0 {
                    return Err(Cause::Refused { errno, text });
                }
            }
        }
    }

    /// Asks for all objects; those that `parse` refuses are left out. A dump that was changed while it was read is
    /// read again.
    pub(crate) fn dump<T>(
        &mut self,
        mut request: Request,
        asked: impl Display,
        parse: impl Fn(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            match self.dump_once(&mut request, &parse) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) | Err(Cause::Refused { errno: libc::EINTR, .. }) => {}
                Err(cause) => return Err(Error::new(asked, cause)),
            }
        }
        Err(Error::new(asked, Cause::Protocol("it changes faster than it can be read; try again")))
    }

    /// `None` if it was interrupted.
    fn dump_once<T>(
        &mut self,
        request: &mut Request,
        parse: impl Fn(Message<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Cause> {
        /// `NLM_F_DUMP_INTR`: the objects changed between two parts of the dump.
        const INTERRUPTED: u16 = 0x10;
        self.sequence = self.sequence.wrapping_add(1);
        let octets = request.finish(self.sequence, libc::NLM_F_DUMP)?.to_vec();
        self.send(&octets)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for message in messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & INTERRUPTED != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        let (errno, text) = message.error();
                        return match errno {
                            0 => Ok((!interrupted).then_some(found)),
                            _ => Err(Cause::Refused { errno, text }),
                        };
                    }
                    _ => found.extend(parse(message)),
                }
            }
        }
    }

    pub(crate) fn send(&self, octets: &[u8]) -> Result<(), Cause> {
        loop {
            match self.inner.send(octets, 0) {
                Ok(sent) if sent == octets.len() => return Ok(()),
                Ok(_) => return Err(Cause::Protocol("the kernel took only a part of the request")),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the next datagram into the buffer.
    pub(crate) fn receive(&mut self) -> Result<(), Cause> {
        receive(&self.inner, &mut self.buffer)
    }
}

/// Reads the next datagram.
pub(crate) fn receive(socket: &netlink_sys::Socket, buffer: &mut Vec<u8>) -> Result<(), Cause> {
    loop {
        buffer.clear();
        buffer.reserve(BUFFER);
        match socket.recv(buffer, libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(Cause::Protocol("the kernel's answer is too long")),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
