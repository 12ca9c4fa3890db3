//! How are tables read, and changed in one step?

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::batch::{Batch, border};
use super::read::{Contents, SetContents, assemble, is_of_table, parse_chain, parse_elements, parse_rule, parse_set};
use super::wire::{BATCH_BEGIN, BATCH_END, BATCH_GENERATION, GENERATION, TABLE, body, find, kind, set, wide};
use super::{Table, header};
use crate::error::{Cause, Error, Result};
use crate::message::{Request, messages};

/// How often a table is read again that is changed meanwhile.
const TRIES: usize = 20;
/// Room beside the octets of a batch that the kernel counts as well.
const MARGIN: usize = 64 << 10;
/// Room for the answers to a batch of which much is refused.
const ANSWERS: usize = 1 << 20;

/// What became of a batch that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// It is made.
    Made,
    /// Nothing is made: somebody changed something, in whatever table, since the generation that was named.
    Outdated,
}

/// A socket that reads and changes tables.
///
/// It belongs to the network namespace of the thread that opens it, for ever, wherever it is used.
#[derive(Debug)]
pub struct Socket {
    inner: crate::Socket,
    port: u32,
    room: usize,
}

impl Socket {
    /// Opens a socket; says nothing yet of whether the kernel has nf_tables.
    ///
    /// # Errors
    /// The kernel's: `EPROTONOSUPPORT` from one that has no netfilter.
    pub fn open() -> Result<Self> {
        let mut inner = crate::Socket::open_for(NETLINK_NETFILTER)?;
        let address = inner.inner.bind_auto().map_err(|error| Error::new("bind a netlink socket", error))?;
        // Without CAP_NET_ADMIN nothing could be changed anyway.
        let _ = calico_sys::socket::set_receive_buffer(&inner.inner, ANSWERS);
        Ok(Self { inner, port: address.port_number(), room: 0 })
    }

    /// The number by which the kernel tells that a change was made over this socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The number of transactions that were made in this network namespace, by anybody.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `EOPNOTSUPP` from one without nf_tables.
    pub fn generation(&mut self) -> Result<u32> {
        let request = Request::new(kind::GET_GENERATION, 0, &[0; 4]);
        self.inner.get(request, "ask for the generation of nf_tables", |message| {
            find(body(message.body)?.1, GENERATION).and_then(wide)
        })
    }

    /// Reads a table with the generation of which it is; `None` if there is no such table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&mut self, table: &Table) -> Result<(u32, Option<Contents>)> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            let contents = match self.read_once(table) {
                // A set that was there is not there any more.
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            if self.generation()? == before {
                return Ok((before, contents));
            }
        }
        Err(Error::new(
            format!("read table {table}"),
            Cause::Protocol("it changes faster than it can be read; try again"),
        ))
    }

    /// Whether there is such a table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn exists(&mut self, table: &Table) -> Result<bool> {
        let mut request = Request::new(kind::GET_TABLE, 0, &header(table.family));
        request.text(TABLE, &table.name);
        match self.inner.get(request, format!("look for table {table}"), |_| Some(())) {
            Err(error) if error.is_not_found() => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn read_once(&mut self, table: &Table) -> Result<Option<Contents>> {
        let ask = |kind: u16| {
            let mut request = Request::new(kind, 0, &header(table.family));
            request.text(TABLE, &table.name);
            request
        };
        let asked = |what: &str| format!("read {what} of table {table}");
        if !self.exists(table)? {
            return Ok(None);
        }
        let mut contents = Contents::default();
        // The kernel does not choose chains by their table.
        let all = Request::new(kind::GET_CHAIN, 0, &header(table.family));
        contents.chains.extend(self.inner.dump(all, asked("chains"), |message| parse_chain(&message, table))?);
        for (chain, rule) in
            self.inner.dump(ask(kind::GET_RULE), asked("rules"), |message| parse_rule(&message, table))?
        {
            contents.chains.entry(chain).or_default().rules.push(rule);
        }
        for (name, shape) in self.inner.dump(ask(kind::GET_SET), asked("sets"), |message| parse_set(&message, table))? {
            let mut request = ask(kind::GET_ELEMENTS);
            request.text(set::NAME, &name);
            let told = self.inner.dump(request, asked(&name), |message| parse_elements(&message, table))?;
            let contained: SetContents = assemble(shape, told.into_iter().flatten().collect());
            contents.sets.insert(name, contained);
        }
        for kind in [kind::GET_OBJECT, kind::GET_FLOW_TABLE] {
            // Kernels that do not know these have none.
            let found =
                self.inner.dump(ask(kind), asked("objects"), |message| is_of_table(&message, table).then_some(()));
            contents.others |= found.is_ok_and(|found| !found.is_empty());
        }
        Ok(Some(contents))
    }

    /// Makes the changes of a batch, all or none; with a generation, only if it is still that one.
    ///
    /// # Errors
    /// The kernel's, for the first object that it refuses; then nothing is changed.
    pub fn commit(&mut self, batch: Batch, generation: Option<u32>) -> Result<Commit> {
        self.send(batch, generation, true)
    }

    /// Says whether the kernel would make the changes, and makes none.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn rehearse(&mut self, batch: Batch) -> Result<()> {
        // What is not ended is undone.
        self.send(batch, None, false).map(|_| ())
    }

    fn send(&mut self, batch: Batch, generation: Option<u32>, end: bool) -> Result<Commit> {
        let Some(last) = batch.requests.len().checked_sub(1) else { return Ok(Commit::Made) };
        let failed = |cause: Cause| Error::new("change nf_tables", cause);
        let first = self.inner.sequence.wrapping_add(1);
        let sequence = |index: usize| first.wrapping_add(1).wrapping_add(index as u32);
        self.inner.sequence = sequence(last).wrapping_add(1);

        let mut octets = Vec::with_capacity(4096);
        let mut begin = border(BATCH_BEGIN);
        if let Some(generation) = generation {
            begin.wide(BATCH_GENERATION, generation);
        }
        octets.extend_from_slice(begin.finish(first, 0).map_err(failed)?);
        let mut asked = Vec::with_capacity(batch.requests.len());
        for (index, (mut request, name)) in batch.requests.into_iter().enumerate() {
            // Failures are told anyway; only the last one must also tell its success.
            let flags = if index == last { libc::NLM_F_ACK } else { 0 };
            match request.finish(sequence(index), flags) {
                Ok(request) => octets.extend_from_slice(request),
                Err(cause) => return Err(Error::new(name, cause)),
            }
            asked.push(name);
        }
        if end {
            octets.extend_from_slice(border(BATCH_END).finish(sequence(last + 1), 0).map_err(failed)?);
        }
        self.make_room(octets.len());
        self.inner.send(&octets).map_err(failed)?;
        self.outcome(first, &asked)
    }

    /// A datagram must fit the socket's buffer whole.
    fn make_room(&mut self, octets: usize) {
        let wanted = octets + MARGIN;
        if wanted > self.room && calico_sys::socket::set_send_buffer(&self.inner.inner, wanted).is_ok() {
            self.room = wanted;
        }
    }

    /// Reads the answers until the one to the last change: the kernel gives them in order, when all is decided.
    fn outcome(&mut self, first: u32, asked: &[String]) -> Result<Commit> {
        let mut refused = None;
        loop {
            self.inner.receive().map_err(|cause| Error::new("read the answer of nf_tables", cause))?;
            for message in messages(&self.inner.buffer) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if i32::from(message.kind) != libc::NLMSG_ERROR || index > asked.len() {
                    continue;
                }
                let (errno, text) = message.error();
                match (index, errno) {
                    // Only refusals of the whole are told of the beginning, and nothing after them.
                    (0, 0) => continue,
                    (0, libc::ERESTART) => return Ok(Commit::Outdated),
                    (0, _) => return Err(Error::new("change nf_tables", Cause::Refused { errno, text })),
                    (_, 0) => {}
                    (_, _) if refused.is_none() => {
                        let name = asked.get(index - 1).map_or("change nf_tables", String::as_str);
                        refused = Some(Error::new(name, Cause::Refused { errno, text }));
                    }
                    _ => {}
                }
                if index == asked.len() {
                    return match refused {
                        Some(error) => Err(error),
                        None => Ok(Commit::Made),
                    };
                }
            }
        }
    }
}
