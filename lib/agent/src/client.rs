//! The plugins' end of the socket: blocking, without a runtime.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{MAX_LINE, Reply, Request};

/// Why a conversation failed.
///
/// Only [`ClientError::NotThere`] leaves nothing behind for certain: an agent that is killed or slow may have taken addresses
/// before. Whoever asked for some must release them, on another connection or by the [spool](crate::spool).
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {socket}: {source}; check that felix runs on this node and that {socket} is mounted")]
    NotThere {
        /// Where it should be.
        socket: PathBuf,
        /// The kernel's words.
        source: std::io::Error,
    },
    /// It listens but did not answer in time.
    #[error("the agent on {socket} did not answer within {seconds} s; its log and the datastore's health tell why")]
    Silent {
        /// Where.
        socket: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// It hung up.
    #[error("the agent on {socket} closed the connection; it may be restarting")]
    Closed {
        /// Where.
        socket: PathBuf,
    },
    /// The request is longer than it reads.
    #[error("the request is {octets} octets long, the agent on {socket} reads {MAX_LINE}; ask for less at once")]
    TooLong {
        /// Where.
        socket: PathBuf,
        /// The request's length.
        octets: usize,
    },
    /// It said something else than a [`Reply`].
    #[error("the agent on {socket} speaks another language: {reason}; plugin and agent must be of one release")]
    Language {
        /// Where.
        socket: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// Connects; each answer may take `patience`.
    ///
    /// # Errors
    /// [`ClientError::NotThere`], at once.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Self, ClientError> {
        let not_there = |source| ClientError::NotThere { socket: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).map_err(not_there)?;
        Self::over(stream, socket, patience)
    }

    /// Speaks over a connection that somebody else opened to `socket`.
    ///
    /// # Errors
    /// [`ClientError::NotThere`] if the connection does not take a time limit.
    pub fn over(stream: UnixStream, socket: &Path, patience: Duration) -> Result<Self, ClientError> {
        let not_there = |source| ClientError::NotThere { socket: socket.to_owned(), source };
        stream.set_read_timeout(Some(patience)).map_err(not_there)?;
        stream.set_write_timeout(Some(patience)).map_err(not_there)?;
        Ok(Self { reader: BufReader::new(stream), socket: socket.to_owned(), patience })
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// Any but [`ClientError::NotThere`].
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.language(error.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            let (octets, socket) = (line.len(), self.socket.clone());
            return Err(ClientError::TooLong { socket, octets });
        }
        self.reader.get_mut().write_all(&line).map_err(|error| self.broken(&error))?;
        let mut answer = Vec::new();
        let limit = MAX_LINE as u64;
        (&mut self.reader).take(limit).read_until(b'\n', &mut answer).map_err(|error| self.broken(&error))?;
        if answer.is_empty() {
            return Err(ClientError::Closed { socket: self.socket.clone() });
        }
        serde_json::from_slice(&answer).map_err(|error| self.language(error.to_string()))
    }

    fn language(&self, reason: String) -> ClientError {
        ClientError::Language { socket: self.socket.clone(), reason }
    }

    fn broken(&self, error: &std::io::Error) -> ClientError {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        let socket = self.socket.clone();
        match error.kind() {
            TimedOut | WouldBlock => ClientError::Silent { socket, seconds: self.patience.as_secs() },
            _ => ClientError::Closed { socket },
        }
    }
}
