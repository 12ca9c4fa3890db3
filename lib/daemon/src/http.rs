//! The HTTP server of a daemon: `/liveness`, `/readiness` and `/metrics`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::Health;

/// The server could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for health and metrics: {source}; choose another address, or stop who holds it")]
pub struct ServeError {
    /// Where.
    pub address: SocketAddr,
    /// The kernel's words.
    pub source: io::Error,
}

/// Listens on `address` and answers for ever, in a task of its own; returns where it listens.
///
/// # Errors
/// If it cannot listen there.
pub async fn serve_http(address: SocketAddr, health: Health, registry: Registry) -> Result<SocketAddr, ServeError> {
    let server = HttpServer::start(address, health, registry).await?;
    let local = server.address;
    server.task.detach();
    Ok(local)
}

/// A server that ends when this is dropped; conversations under way go on.
#[derive(Debug)]
pub struct HttpServer {
    /// Where it listens.
    pub address: SocketAddr,
    task: Task,
}

impl HttpServer {
    /// As [`serve_http`], until it is dropped.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub async fn start(address: SocketAddr, health: Health, registry: Registry) -> Result<Self, ServeError> {
        let failed = |source| ServeError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, task: Task(Some(tokio::spawn(accept(listener, health, registry)))) })
    }
}

#[derive(Debug)]
struct Task(Option<tokio::task::JoinHandle<()>>);

impl Task {
    fn detach(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, health: Health, registry: Registry) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: the next attempt would fail at once, too.
                tracing::warn!(%error, "health server cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let (health, registry) = (health.clone(), registry.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.method(), request.uri().path(), &health, &registry);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "health request broke off");
            }
        });
    }
}

fn answer(method: &Method, path: &str, health: &Health, registry: &Registry) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match path {
        "/liveness" => report(health.live(Instant::now())),
        "/readiness" => report(health.ready(Instant::now())),
        "/metrics" => {
            let mut body = Vec::new();
            match TextEncoder::new().encode(&registry.gather(), &mut body) {
                Ok(()) => text(StatusCode::OK, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "here are /liveness, /readiness and /metrics\n"),
    }
}

fn report(verdict: crate::Verdict) -> Response<Full<Bytes>> {
    text(if verdict.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, verdict.text)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::IntGauge;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_are_served() {
        let (health, registry) = (Health::default(), Registry::new());
        let part = health.reporter("Loop", None);
        let gauge = IntGauge::new("felix_resync_state", "State").unwrap();
        gauge.set(3);
        registry.register(Box::new(gauge)).unwrap();
        let address = serve_http("127.0.0.1:0".parse().unwrap(), health, registry).await.unwrap();

        assert!(get(address, "/liveness").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readiness").await.starts_with("HTTP/1.1 503"));
        part.report(true, true, "");
        assert!(get(address, "/readiness").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("felix_resync_state 3"));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

        let taken = serve_http(address, Health::default(), Registry::new()).await.unwrap_err();
        assert!(taken.to_string().contains(&address.to_string()));
    }
}
