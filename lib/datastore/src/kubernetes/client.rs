//! Requests to the API server: JSON out, JSON in, and every way to fail told apart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use super::connect::{self, Connection};
use super::credentials::{explained, is_about_certificates};
use super::limit::Limiter;
use crate::config::KubernetesConfig;

/// How long one request may take: an API server that is gone is known as such within five seconds.
const PATIENCE: Duration = Duration::from_millis(4500);
/// How long a watch may be silent. The server sends a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(150);

/// The first and the longest wait for a server that has too much to do.
const BUSY_FIRST: Duration = Duration::from_millis(50);
const BUSY_LONGEST: Duration = Duration::from_secs(1);

/// Content type of an object.
pub(super) const JSON: &str = "application/json";
/// Content type of a patch that replaces what it names, with null for what shall go.
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";
/// Content type of a patch that the server merges by its own types' rules.
pub(super) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// The API server answered, and refused.
    Refused(Box<Status>),
    /// It did not answer, or not in its language.
    Unreachable(String),
}

/// What the API server says when it refuses (`Status` of `meta/v1`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    /// HTTP's code.
    pub(super) code: u16,
    /// A word for programs.
    pub(super) reason: String,
    /// A sentence for people.
    pub(super) message: String,
    /// What it is about.
    pub(super) details: Option<Details>,
}

/// What a refusal is about.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    /// The object.
    pub(super) name: String,
    /// The plural of its kind.
    pub(super) kind: String,
    /// The fields.
    pub(super) causes: Vec<Cause>,
}

/// One reason of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Cause {
    /// A word for programs.
    pub(super) reason: String,
    /// The field it is about.
    pub(super) field: String,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The object as it is now, or was last.
    pub(super) object: Value,
}

/// Requests to an API server, as whoever our credentials say at the time.
pub(super) struct Client {
    config: KubernetesConfig,
    /// Replaced when the server does not accept it and the files behind it have changed.
    connection: Mutex<Arc<Connection>>,
    limiter: Option<Limiter>,
}

impl Client {
    /// Prepares the connection; no request is made.
    pub(super) async fn new(config: &KubernetesConfig) -> crate::Result<Self> {
        let connection = Mutex::new(Arc::new(connect::open(config).await?));
        let limiter = config.client_qps.and_then(|rate| Limiter::new(f64::from(rate), config.client_burst));
        Ok(Self { config: config.clone(), connection, limiter })
    }

    /// The server's URL, for people.
    pub(super) fn server(&self) -> String {
        self.connection().server.clone()
    }

    /// Why the server may not know us.
    pub(super) fn unknown(&self) -> String {
        self.connection().credentials.unknown(Timestamp::now())
    }

    fn connection(&self) -> Arc<Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection to use in place of one that the server did not accept; none if nothing about it has changed.
    async fn renewed(&self, refused: &Arc<Connection>) -> Option<Arc<Connection>> {
        let current = self.connection();
        if !Arc::ptr_eq(&current, refused) {
            return Some(current); // another request has just been here
        }
        let fresh = match connect::open(&self.config).await {
            Ok(fresh) if fresh.credentials != refused.credentials => Arc::new(fresh),
            Ok(_) => return None,
            Err(error) => {
                debug!(%error, "credentials cannot be read again");
                return None;
            }
        };
        info!(server = fresh.server, "credentials were replaced: going on with the new ones");
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Some(fresh)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.request(Method::GET, path, None).await
    }

    /// Sends `body` and returns the answer's object.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        mime: &'static str,
        body: &Value,
    ) -> Result<Value, Failure> {
        self.request(method, path, Some((mime, body))).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Value, Failure> {
        if let Some(limiter) = &self.limiter {
            limiter.pass().await;
        }
        let exchange = async {
            let response = self.open_patiently(method, path, body).await?;
            let octets = collect(response).await?;
            serde_json::from_slice(&octets)
                .map_err(|error| Failure::Unreachable(format!("its answer is not JSON: {error}")))
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(late()))
    }

    /// Opens a watch. The stream ends when the server ends it, and after the first error.
    pub(super) async fn events(&self, path: &str) -> Result<BoxStream<'static, Result<Event, Failure>>, Failure> {
        let response =
            timeout(PATIENCE, self.open_patiently(Method::GET, path, None)).await.unwrap_or_else(|_| Err(late()))?;
        let body = response.into_body().into_data_stream().map_err(|error| Failure::Unreachable(chain(&error)));
        let lines = Lines { body: body.boxed(), buffer: Vec::new(), seen: 0 };
        Ok(stream::unfold(Some(lines), |lines| async move {
            let mut lines = lines?;
            let line = match timeout(SILENCE, lines.next()).await {
                Ok(line) => line?,
                Err(_) => Err(Failure::Unreachable(format!("nothing came for {} s", SILENCE.as_secs()))),
            };
            let event = line.and_then(|line| parse(&line));
            let rest = event.is_ok().then_some(lines);
            Some((event, rest))
        })
        .boxed())
    }

    /// Sends a request, again and again while the server says that it has too much to do at the moment (429): it does so
    /// also for the first second of its life, while its caches fill. It has then not begun with the request.
    async fn open_patiently(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Body>, Failure> {
        let mut wait = BUSY_FIRST;
        let start = Instant::now();
        loop {
            match self.open(method.clone(), path, body).await {
                Err(Failure::Refused(status)) if status.code == 429 && start.elapsed() + wait < PATIENCE => {
                    sleep(wait).await;
                    wait = (wait * 2).min(BUSY_LONGEST);
                }
                other => return other,
            }
        }
    }

    /// Sends a request; once more if we are not accepted and have other credentials by now.
    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Body>, Failure> {
        let connection = self.connection();
        let failure = match open_on(&connection, method.clone(), path, body).await {
            Err(failure) if failure.is_of_credentials() => failure,
            other => return other,
        };
        match self.renewed(&connection).await {
            // The server has not begun with the request: it does not talk with whom it does not know.
            Some(fresh) => open_on(&fresh, method, path, body).await,
            None => Err(failure),
        }
    }
}

impl Failure {
    /// Whether other credentials may help.
    fn is_of_credentials(&self) -> bool {
        match self {
            Self::Refused(status) => status.code == 401,
            Self::Unreachable(words) => is_about_certificates(words),
        }
    }
}

/// Sends a request; a refusal is read to its end and becomes a failure.
async fn open_on(
    connection: &Connection,
    method: Method,
    path: &str,
    body: Option<(&'static str, &Value)>,
) -> Result<Response<Body>, Failure> {
    let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, JSON);
    let mut octets = Vec::new();
    if let Some((mime, body)) = body {
        request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(mime));
        octets = body.to_string().into_bytes();
    }
    let request = request
        .body(Body::from(octets))
        .map_err(|error| Failure::Unreachable(format!("{path} is no path: {error}")))?;
    let response =
        connection.http.send(request).await.map_err(|error| Failure::Unreachable(explained(chain(&error))))?;
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let octets = collect(response).await?;
    // A path that nothing serves is answered in plain text.
    let mut status: Status = serde_json::from_slice(&octets).unwrap_or_default();
    status.code = code.as_u16();
    if status.message.is_empty() {
        status.message = format!("{code}: {}", String::from_utf8_lossy(&octets).trim());
    }
    Err(Failure::Refused(Box::new(status)))
}

fn late() -> Failure {
    Failure::Unreachable(format!("no answer within {} s", PATIENCE.as_secs_f32()))
}

async fn collect(response: Response<Body>) -> Result<Vec<u8>, Failure> {
    let collected = response.into_body().collect().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
    Ok(collected.to_bytes().to_vec())
}

/// An error with its causes; the outer ones of an HTTP client say little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

fn parse(line: &[u8]) -> Result<Event, Failure> {
    let event: Event = serde_json::from_slice(line)
        .map_err(|error| Failure::Unreachable(format!("a line of its watch is not JSON: {error}")))?;
    if event.kind != "ERROR" {
        return Ok(event);
    }
    let status = serde_json::from_value(event.object.clone()).unwrap_or_else(|_| Status {
        code: 500,
        message: event.object.to_string(),
        ..Status::default()
    });
    Err(Failure::Refused(Box::new(status)))
}

/// Cuts a body into lines.
struct Lines {
    body: BoxStream<'static, Result<bytes::Bytes, Failure>>,
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no line end.
    seen: usize,
}

impl Lines {
    async fn next(&mut self) -> Option<Result<Vec<u8>, Failure>> {
        loop {
            let unseen = self.buffer.get(self.seen..).unwrap_or_default();
            if let Some(end) = unseen.iter().position(|octet| *octet == b'\n') {
                let rest = self.buffer.split_off(self.seen + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.seen = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some(Ok(line));
            }
            self.seen = self.buffer.len();
            match self.body.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(failure)) => return Some(Err(failure)),
                None => return None,
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("limited", &self.limiter.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn cut(chunks: &[&'static str]) -> Vec<String> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(bytes::Bytes::from_static(chunk.as_bytes()))).collect();
        let mut lines = Lines { body: stream::iter(chunks).boxed(), buffer: Vec::new(), seen: 0 };
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(String::from_utf8(line.unwrap()).unwrap().trim().to_owned());
        }
        found
    }

    #[tokio::test]
    async fn lines_are_cut_wherever_the_chunks_end() {
        assert_eq!(cut(&["a\nb", "c\n", "\n", "d", "e", "\nf\n"]).await, ["a", "bc", "de", "f"]);
        assert_eq!(cut(&["half a line"]).await, [""; 0], "a line without its end was cut off by a lost connection");
    }

    #[test]
    fn an_error_event_is_a_refusal() {
        let line = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        match parse(line) {
            Err(Failure::Refused(status)) => assert_eq!((status.code, &*status.reason), (410, "Expired")),
            other => panic!("{other:?}"),
        }
        assert!(matches!(parse(b"{"), Err(Failure::Unreachable(_))));
    }
}
