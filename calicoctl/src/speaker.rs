//! What does this node's BGP speaker say? Its status socket: one JSON request a line, one JSON document a line.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long an answer may take; the speaker itself gives up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// The most that is read of an answer, in octets: some hundred thousand paths.
const LIMIT: u64 = 512 << 20;

/// A session as the speaker tells it. What an older or newer speaker does not tell is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Session {
    pub(crate) name: String,
    /// Address and port.
    pub(crate) peer: String,
    #[serde(rename = "type")]
    pub(crate) origin: String,
    /// `up`, `start`, `wait` or `down`.
    pub(crate) state: String,
    pub(crate) fsm: String,
    pub(crate) since: String,
    pub(crate) uptime_seconds: Option<u64>,
    pub(crate) last_error: Option<String>,
    pub(crate) remedy: Option<String>,
    pub(crate) last_error_code: Option<String>,
    pub(crate) local_as: u32,
    pub(crate) peer_as: u32,
    pub(crate) passive: bool,
    pub(crate) client: bool,
    pub(crate) agreement: Option<Agreement>,
    pub(crate) prefixes: Prefixes,
    pub(crate) messages: Messages,
    pub(crate) source: Option<String>,
    pub(crate) ttl_security: Option<u8>,
    pub(crate) filters: Vec<String>,
    pub(crate) password: Option<Password>,
    pub(crate) flaps: u64,
    pub(crate) resets: u64,
    pub(crate) live_changes: u64,
    pub(crate) refreshes: u64,
    pub(crate) faults: u64,
    pub(crate) stale: bool,
}

/// What is agreed with an established peer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Agreement {
    pub(crate) router_id: String,
    pub(crate) local_address: Option<String>,
    pub(crate) hold_time: u16,
    pub(crate) keepalive: u16,
    pub(crate) capabilities: Vec<String>,
    pub(crate) peer_restart_time: Option<u16>,
}

/// How many prefixes went which way.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Prefixes {
    pub(crate) received: u64,
    pub(crate) accepted: u64,
    pub(crate) stale: u64,
    pub(crate) advertised: u64,
}

/// How many messages went which way.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Messages {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// How it is about the password of a session that has one configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Password {
    Set,
    Missing(String),
}

/// A path of a prefix.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Route {
    pub(crate) prefix: String,
    /// The session it came by, or BIRD's name of what an own route is from.
    pub(crate) source: String,
    /// What an own route is for.
    pub(crate) kind: Option<String>,
    pub(crate) peer: Option<String>,
    pub(crate) path_id: u32,
    pub(crate) best: bool,
    pub(crate) standing: String,
    pub(crate) next_hop: Option<String>,
    pub(crate) via: Option<Via>,
    pub(crate) interface: Option<String>,
    pub(crate) installed: bool,
    pub(crate) not_installed: Option<String>,
    pub(crate) stale: bool,
    pub(crate) local_pref: Option<u32>,
    pub(crate) med: Option<u32>,
    pub(crate) as_path: String,
    pub(crate) origin: String,
    pub(crate) communities: Vec<String>,
    pub(crate) originator: Option<String>,
    pub(crate) cluster_list: Vec<String>,
    pub(crate) advertised_to: Vec<String>,
    pub(crate) not_advertised_to: BTreeMap<String, String>,
}

/// A gateway and the interface towards it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Via {
    pub(crate) gateway: String,
    pub(crate) interface: String,
}

/// What becomes of one address of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceAddress {
    pub(crate) service: String,
    pub(crate) address: String,
    pub(crate) advertised: bool,
    pub(crate) reason: String,
}

/// The speaker as a whole.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Overview {
    pub(crate) node: String,
    pub(crate) warnings: Vec<String>,
}

/// The answer about sessions.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Neighbors {
    #[serde(default)]
    pub(crate) status: Overview,
    /// As they came, for who wants JSON.
    pub(crate) neighbors: Vec<Value>,
}

/// The answer about paths.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Routes {
    /// As they came, for who wants JSON.
    pub(crate) routes: Vec<Value>,
    #[serde(default)]
    pub(crate) services: Vec<ServiceAddress>,
}

/// All sessions.
///
/// # Errors
/// As [`routes`].
pub(crate) fn neighbors(socket: &Path) -> Result<Neighbors> {
    understand(ask(socket, &json!({"show": "neighbors"})).map_err(|error| unreachable_speaker(socket, &error))?)
}

/// The paths of all prefixes, or of those that a prefix or an address selects.
///
/// # Errors
/// If the speaker does not answer, or refuses the question.
pub(crate) fn routes(socket: &Path, prefix: Option<&str>) -> Result<Routes> {
    let mut question = json!({"show": "routes"});
    if let Some(prefix) = prefix {
        question["prefix"] = prefix.into();
    }
    understand(ask(socket, &question).map_err(|error| unreachable_speaker(socket, &error))?)
}

/// The same as values with names.
///
/// # Errors
/// If the speaker speaks of something else.
pub(crate) fn typed<T: DeserializeOwned>(values: &[Value]) -> Result<Vec<T>> {
    let typed = |value: &Value| T::deserialize(value).context("the speaker's answer is not understood");
    values.iter().map(typed).collect()
}

fn understand<T: DeserializeOwned>(answer: Value) -> Result<T> {
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("the speaker says: {error}");
    }
    serde_json::from_value(answer).context("the speaker's answer is not understood; is it of another version?")
}

fn unreachable_speaker(socket: &Path, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "does bgp-speaker run on this node?",
        io::ErrorKind::PermissionDenied => "run it as root",
        _ => "is the speaker overloaded?",
    };
    anyhow!("cannot ask the BGP speaker of this node on {}: {error}; {advice}", socket.display())
}

fn ask(socket: &Path, question: &Value) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(stream.take(LIMIT)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends in its middle"));
    }
    serde_json::from_slice(&line).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_speaker_that_is_not_there_or_refuses_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bgp.sock");
        let error = neighbors(&path).unwrap_err().to_string();
        assert!(error.contains("does bgp-speaker run on this node?") && error.contains("bgp.sock"), "{error}");

        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["{\"error\":\"prefix is \\\"ten\\\"\"}\n", "{\"routes\":[{\"prefix\":", "{\"paths\":[]}\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                assert_eq!(question, "{\"prefix\":\"ten\",\"show\":\"routes\"}\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let said = || format!("{:#}", routes(&path, Some("ten")).unwrap_err());
        assert_eq!(said(), "the speaker says: prefix is \"ten\"");
        assert!(said().contains("the answer ends in its middle"));
        assert!(said().contains("is it of another version?"));
        server.join().unwrap();
    }
}
