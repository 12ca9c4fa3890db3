//! A gate before the API server that counts what is written, and stops one write: before the server hears of it, or after,
//! so that only the answer is lost.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Where a write is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// The server does not hear of it.
    Before,
    /// The server has done it, and nobody hears of that.
    After,
}

/// What the gate is to do, and has done.
#[derive(Debug, Default)]
struct State {
    /// Which write from now on is to be stopped, and where.
    order: Option<(u32, Point)>,
    /// The write that is stopped.
    stopped: Option<String>,
}

/// The gate; it ends with the process.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    state: Arc<Mutex<State>>,
    /// Told when a write that is stopped may end.
    open: watch::Sender<()>,
}

impl Gate {
    /// Listens on `address` in `network` for the server `upstream`, whose certificate `authority` signed.
    pub(crate) fn start(
        network: OwnedFd,
        address: &'static str,
        upstream: &'static str,
        authority: &str,
        tls: Arc<ServerConfig>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let gate = Self { state: Arc::default(), open: watch::Sender::new(()) };
        let (ours, (began, beginning)) = (gate.clone(), std::sync::mpsc::channel());
        std::thread::Builder::new().name("gate".to_owned()).spawn(move || {
            let serve = || {
                calico_sys::namespace::enter(network.as_fd())?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let listener = runtime.block_on(TcpListener::bind(address))?;
                anyhow::Ok((runtime, listener))
            };
            let (runtime, listener) = match serve() {
                Ok(started) => started,
                Err(error) => return drop(began.send(Err(error))),
            };
            let _ = began.send(Ok(()));
            runtime.block_on(async {
                while let Ok((stream, _)) = listener.accept().await {
                    let (gate, tls, client) = (ours.clone(), tls.clone(), client.clone());
                    tokio::spawn(async move { gate.pass(stream, tls, client, upstream).await });
                }
            });
        })?;
        beginning.recv().context("the gate's thread ended at once")??;
        Ok(gate)
    }

    /// Stops the `number`-th write from now on.
    pub(crate) fn stop(&self, number: u32, point: Point) {
        *self.lock() = State { order: Some((number, point)), stopped: None };
    }

    /// The write that is stopped, if one is.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    /// Cuts off what is stopped; nothing else is stopped.
    pub(crate) fn open(&self) {
        *self.lock() = State::default();
        self.open.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request is the one to be stopped.
    fn counts(&self, method: &str) -> Option<Point> {
        if !["POST", "PUT", "PATCH", "DELETE"].contains(&method) {
            return None;
        }
        let mut state = self.lock();
        let (number, point) = state.order.take()?;
        if number > 1 {
            state.order = Some((number - 1, point));
            return None;
        }
        Some(point)
    }

    /// Says that a request is stopped, and waits until it may end.
    async fn wait(&self, request: &str) {
        let mut open = self.open.subscribe();
        self.lock().stopped = Some(request.to_owned());
        let _ = open.changed().await;
    }

    /// One connection of a client, for one request.
    async fn pass(
        &self,
        stream: TcpStream,
        tls: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        upstream: &str,
    ) -> Result<()> {
        let mut theirs = TlsAcceptor::from(tls).accept(stream).await?;
        let mut request = Vec::new();
        let end = loop {
            if let Some(at) = request.windows(4).position(|end| end == b"\r\n\r\n") {
                break at;
            }
            if theirs.read_buf(&mut request).await? == 0 {
                bail!("hung up");
            }
        };
        let head = String::from_utf8(request.get(..end).unwrap_or_default().to_vec())?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length: usize = header("content-length").map_or(Ok(0), |length| length.parse())?;
        while request.len() < end + 4 + length {
            if theirs.read_buf(&mut request).await? == 0 {
                bail!("hung up");
            }
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        let stop = self.counts(line.split(' ').next().unwrap_or_default());
        if stop == Some(Point::Before) {
            self.wait(&line).await;
            return Ok(());
        }
        let name = ServerName::IpAddress(upstream.parse::<std::net::SocketAddr>()?.ip().into());
        let mut ours = TlsConnector::from(client).connect(name, TcpStream::connect(upstream).await?).await?;
        // One request a connection, or those that follow it would pass unseen.
        ours.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        ours.write_all(request.get(end + 4..).unwrap_or_default()).await?;
        if line.contains("watch=true") {
            copy_bidirectional(&mut theirs, &mut ours).await?;
            return Ok(());
        }
        let mut answer = Vec::new();
        let read = ours.read_to_end(&mut answer).await;
        if answer.is_empty() {
            read?;
        }
        if stop == Some(Point::After) {
            self.wait(&line).await;
            return Ok(());
        }
        theirs.write_all(&answer).await?;
        Ok(theirs.shutdown().await?)
    }
}
