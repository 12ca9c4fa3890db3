//! Lines in, lines out: each within its length and its time.

use std::time::Duration;

use calico_agent::{Failure, MAX_LINE, Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::code;

/// How long a plugin may take to read an answer.
const WRITE: Duration = Duration::from_secs(5);

/// Why no request came.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The plugin hung up, or its connection broke.
    HungUp,
    /// It said nothing in time.
    TimedOut,
    /// It said something else.
    Nonsense(Failure),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: BufReader<UnixStream>,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::with_capacity(1024, stream) }
    }

    /// The next request, if it comes within `patience`.
    ///
    /// # Errors
    /// [`Silence`].
    pub(crate) async fn request(&mut self, patience: Duration) -> Result<Request, Silence> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_LINE as u64);
        match timeout(patience, limited.read_until(b'\n', &mut line)).await {
            Err(_) => return Err(Silence::TimedOut),
            Ok(Err(_)) => return Err(Silence::HungUp),
            Ok(Ok(0)) => return Err(Silence::HungUp),
            Ok(Ok(_)) if line.last() != Some(&b'\n') && line.len() < MAX_LINE => return Err(Silence::HungUp),
            Ok(Ok(_)) => {}
        }
        serde_json::from_slice(&line).map_err(|error| {
            Silence::Nonsense(Failure {
                code: code::INVALID,
                message: "the agent does not understand the request".to_owned(),
                details: format!("{error}; plugin and agent must be of one release"),
            })
        })
    }

    /// Sends an answer; whether it went out.
    pub(crate) async fn answer(&mut self, reply: &Reply) -> bool {
        let mut line = serde_json::to_vec(reply).expect("a reply has nothing that JSON cannot hold");
        line.push(b'\n');
        matches!(timeout(WRITE, self.stream.get_mut().write_all(&line)).await, Ok(Ok(())))
    }
}
