//! Who asks for status, and how is it answered? Unix sockets: JSON, and the dialect of BIRD.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use crate::bird::{self, Family};
use crate::status::{Overview, PathStatus, Question, Report, Selection, ServiceStatus, SessionStatus};

/// The longest request, in octets.
const LINE_LIMIT: u64 = 4096;
/// How long a client may stay silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many clients may be connected to a socket at once; more wait to be accepted.
const CLIENTS: usize = 64;
/// How long a client waits for the speaker.
const ANSWER: Duration = Duration::from_secs(10);

/// A question, and where the answer goes.
pub type Query = (Question, oneshot::Sender<Report>);

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {source}; is the folder there and writable?")]
pub struct ListenError {
    /// The socket's path.
    pub path: PathBuf,
    /// The system's words.
    pub source: io::Error,
}

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One JSON request a line, one JSON document a line.
    Json,
    /// BIRD's, for one family.
    Bird(Family),
}

/// A JSON request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    show: Show,
    /// With `routes`: only what equals this prefix or lies in it; for an address, what covers it.
    prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Show {
    Status,
    Sessions,
    Neighbors,
    Routes,
}

/// What is wrong with a request.
fn understand(line: &str) -> Result<(Show, Question), String> {
    let request: Request = serde_json::from_str(line).map_err(|error| {
        format!("{error}; ask {{\"show\":\"status\"}}, \"sessions\", \"neighbors\" or \"routes\", this with a \"prefix\" if need be")
    })?;
    let prefix = match (request.show, request.prefix.as_deref()) {
        (_, None) => None,
        (Show::Routes, Some(text)) => {
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            let prefix = text.parse::<IpNet>().ok().or_else(address);
            Some(prefix.ok_or_else(|| format!("prefix is \"{text}\", expected 10.244.0.0/26 or 10.244.0.1"))?.trunc())
        }
        (_, Some(_)) => return Err("only \"routes\" go with a prefix".to_owned()),
    };
    let question = match request.show {
        Show::Status => Question::Status,
        Show::Sessions | Show::Neighbors => Question::Sessions,
        Show::Routes => {
            let around = request.prefix.as_deref().is_some_and(|text| !text.contains('/'));
            Question::Routes(Selection { prefix, around, audience: true })
        }
    };
    Ok((request.show, question))
}

/// Reads a line as a JSON request: for those who throw anything at the reader.
///
/// # Errors
/// What the client is told is wrong with it.
#[doc(hidden)]
pub fn understand_anything(line: &str) -> Result<Question, String> {
    understand(line).map(|(_, question)| question)
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Status(&'a Overview),
    Sessions {
        status: &'a Overview,
        sessions: &'a [SessionStatus],
    },
    Neighbors {
        status: &'a Overview,
        neighbors: &'a [SessionStatus],
    },
    Routes {
        routes: &'a [PathStatus],
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        services: &'a [ServiceStatus],
    },
    Error {
        error: String,
    },
}

/// Answers on a socket at `path`, for ever, in a task of its own. A socket that a dead process left is replaced.
///
/// # Errors
/// If the folder or the socket cannot be made.
pub fn serve(path: &Path, dialect: Dialect, queries: mpsc::Sender<Query>) -> Result<(), ListenError> {
    let listener = listen(path).map_err(|source| ListenError { path: path.to_owned(), source })?;
    let clients = Arc::new(Semaphore::new(CLIENTS));
    tokio::spawn(async move {
        loop {
            let Ok(place) = clients.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let queries = queries.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, dialect, &queries).await {
                            debug!(%error, "status client lost");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the next attempt would fail at once, too.
                    warn!(%error, "status socket cannot accept");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Bound under another name and renamed: at no time is there a socket with wider permissions, and a client of a
    // predecessor that is being replaced finds one or the other.
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

async fn converse(stream: UnixStream, dialect: Dialect, queries: &mpsc::Sender<Query>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::with_capacity(512, read);
    if matches!(dialect, Dialect::Bird(_)) {
        send(&mut write, bird::greeting().as_bytes(), PATIENCE).await?;
    }
    while let Some(line) = next_line(&mut lines).await? {
        let reply = match dialect {
            Dialect::Json => json(&line, queries).await,
            Dialect::Bird(family) => match bird::parse(&line) {
                Err(refusal) => refusal,
                Ok(command) => match ask(queries, command.question()).await {
                    Some(report) => command.answer(&report, family, &TimeZone::system()),
                    None => return Ok(()), // stopping or overloaded
                },
            },
        };
        send(&mut write, reply.as_bytes(), PATIENCE).await?;
    }
    Ok(())
}

/// Sends a reply to a client that reads it: one that does not for a while is given up, and its reply's memory with it.
async fn send(to: &mut (impl AsyncWrite + Unpin), mut octets: &[u8], patience: Duration) -> io::Result<()> {
    while !octets.is_empty() {
        let written = tokio::time::timeout(patience, to.write(octets)).await.map_err(io::Error::from)??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        octets = octets.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// The next line; `None` at the end, after silence, or if the line is too long.
async fn next_line(lines: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    match tokio::time::timeout(PATIENCE, lines.take(LINE_LIMIT).read_until(b'\n', &mut line)).await {
        Err(_) | Ok(Ok(0)) => Ok(None),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) if line.len() as u64 == LINE_LIMIT && line.last() != Some(&b'\n') => Ok(None),
        Ok(Ok(_)) => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
    }
}

async fn json(line: &str, queries: &mpsc::Sender<Query>) -> String {
    let (show, question) = match understand(line) {
        Ok(understood) => understood,
        Err(error) => return document(&Answer::Error { error }),
    };
    let Some(report) = ask(queries, question).await else {
        return document(&Answer::Error {
            error: "the speaker does not answer: it is stopping or overloaded".to_owned(),
        });
    };
    let (status, sessions) = (&report.overview, report.sessions.as_slice());
    document(&match show {
        Show::Status => Answer::Status(status),
        Show::Sessions => Answer::Sessions { status, sessions },
        Show::Neighbors => Answer::Neighbors { status, neighbors: sessions },
        Show::Routes => Answer::Routes { routes: &report.paths, services: &report.services },
    })
}

fn document(answer: &Answer<'_>) -> String {
    let mut text = serde_json::to_string(answer).expect("the answer's types have text keys only");
    text.push('\n');
    text
}

async fn ask(queries: &mpsc::Sender<Query>, question: Question) -> Option<Report> {
    let (sender, receiver) = oneshot::channel();
    let answer = async {
        queries.send((question, sender)).await.ok()?;
        receiver.await.ok()
    };
    tokio::time::timeout(ANSWER, answer).await.ok()?
}

/// Answers while there is no speaker yet: there are no sessions and no paths, and the overview says why.
pub async fn answer_meanwhile(queries: &mut mpsc::Receiver<Query>, overview: impl Fn() -> Overview) -> Infallible {
    while let Some((_, answer)) = queries.recv().await {
        let report = Report { overview: overview(), sessions: Vec::new(), paths: Vec::new(), services: Vec::new() };
        let _ = answer.send(report); // the client may be gone
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn status_clients_are_answered_before_there_is_a_speaker() {
        let (asked, mut queries) = mpsc::channel(1);
        let trouble = "connection refused";
        let answer = tokio::select! {
            answer = json("{\"show\":\"sessions\"}", &asked) => answer,
            never = answer_meanwhile(&mut queries, || Overview::without_datastore("a", Some(trouble.to_owned()))) => {
                match never {}
            }
        };
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["sessions"], serde_json::json!([]));
        assert_eq!(answer["status"]["datastore_trouble"], trouble);
        assert_eq!(answer["status"]["datastore_in_sync"], false);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_given_up_and_one_that_reads_in_small_steps_gets_everything() {
        let (mut ours, theirs) = tokio::io::duplex(16);
        let error = send(&mut ours, &[b'x'; 64], Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        let (mut ours, mut theirs) = tokio::io::duplex(16);
        let mut read = Vec::new();
        let reader = async { while theirs.read_buf(&mut read).await.unwrap() > 0 {} };
        let writer = async {
            send(&mut ours, &[b'x'; 256], PATIENCE).await.unwrap();
            drop(ours);
        };
        tokio::join!(reader, writer);
        assert_eq!(read, [b'x'; 256]);
    }

    #[test]
    fn a_request_is_understood_or_named() {
        let (_, question) = understand("{\"show\":\"routes\",\"prefix\":\"10.244.1.9/26\"}").unwrap();
        let Question::Routes(selection) = question else { panic!("{question:?}") };
        let admits = |text: &str| selection.admits(&text.parse().unwrap());
        assert!(admits("10.244.1.0/26") && admits("10.244.1.1/32") && !admits("10.244.0.0/16"));
        let (_, question) = understand("{\"show\":\"routes\",\"prefix\":\"10.244.1.9\"}").unwrap();
        let Question::Routes(selection) = question else { panic!("{question:?}") };
        let admits = |text: &str| selection.admits(&text.parse().unwrap());
        assert!(admits("10.244.1.0/26") && admits("10.244.0.0/16") && !admits("10.244.1.64/26") && !admits("fd00::/8"));
        for (line, words) in [
            ("{\"show\":\"nonsense\"}", "unknown variant"),
            ("{\"show\":\"routes\",\"prefix\":\"ten\"}", "prefix is \"ten\""),
            ("{\"show\":\"status\",\"prefix\":\"10.0.0.1\"}", "only \"routes\""),
        ] {
            let error = understand(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
