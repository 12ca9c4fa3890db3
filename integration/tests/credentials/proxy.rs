//! What stands between a node and its API server when something is wrong there: another certificate, or refusals.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority that signs servers' certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Now.
    Now,
    /// Not any more.
    Past,
    /// Not yet: what a node sees whose clock is slow.
    Future,
}

/// What the proxy does to those that connect. A change cuts all connections.
#[derive(Clone)]
pub(crate) struct Mode {
    tls: Arc<ServerConfig>,
    /// An HTTP code to answer with, instead of asking the server.
    refusal: Option<u16>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server with a certificate of this authority for `address`.
    pub(crate) fn serves(&self, address: &str, validity: Validity) -> Result<Mode> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(address.parse()?)];
        (params.not_before, params.not_after) = match validity {
            Validity::Now => (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2090, 1, 1)),
            Validity::Past => (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1)),
            Validity::Future => (rcgen::date_time_ymd(2080, 1, 1), rcgen::date_time_ymd(2090, 1, 1)),
        };
        let key = KeyPair::generate()?;
        let certificate = CertificateDer::from_pem_slice(params.signed_by(&key, &self.0)?.pem().as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        Ok(Mode { tls: Arc::new(config), refusal: None })
    }
}

impl Mode {
    /// What it shows to those that connect.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    /// The same, but every request is answered with this code.
    pub(crate) fn refusing(&self, code: u16) -> Self {
        Self { refusal: Some(code), ..self.clone() }
    }
}

/// A proxy; it ends with the process.
pub(crate) struct Proxy(watch::Sender<Mode>);

impl Proxy {
    /// Listens on `address` in `network`, for the server `upstream` whose certificate `authority` signed.
    pub(crate) fn start(network: OwnedFd, address: &str, upstream: &str, authority: &str, mode: Mode) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let (sender, modes) = watch::channel(mode);
        let (began, beginning) = std::sync::mpsc::channel();
        let (address, upstream) = (address.to_owned(), upstream.to_owned());
        std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            let result = calico_sys::namespace::enter(network.as_fd())
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            let runtime = match result {
                Ok(runtime) => runtime,
                Err(error) => return drop(began.send(Err(anyhow::anyhow!(error)))),
            };
            runtime.block_on(async {
                let listener = match TcpListener::bind(&address).await {
                    Ok(listener) => listener,
                    Err(error) => return drop(began.send(Err(anyhow::anyhow!(error)))),
                };
                let _ = began.send(Ok(()));
                while let Ok((stream, _)) = listener.accept().await {
                    let (mut modes, upstream, client) = (modes.clone(), upstream.clone(), client.clone());
                    let mode = modes.borrow_and_update().clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = serve(stream, mode, &upstream, client) => {}
                            _ = modes.changed() => {}
                        }
                    });
                }
            });
        })?;
        beginning.recv().context("the proxy's thread ended at once")??;
        Ok(Self(sender))
    }

    /// Does from now on as `mode` says.
    pub(crate) fn set(&self, mode: Mode) {
        self.0.send_replace(mode);
    }
}

async fn serve(stream: TcpStream, mode: Mode, upstream: &str, client: Arc<ClientConfig>) -> Result<()> {
    let mut theirs = TlsAcceptor::from(mode.tls()).accept(stream).await?;
    if let Some(code) = mode.refusal {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = tokio::time::timeout(Duration::from_secs(60), theirs.read_buf(&mut head)).await??;
            if read == 0 {
                bail!("hung up");
            }
        }
        let body = format!(
            "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"etcdserver: injected\",\"code\":{code}}}"
        );
        let head = format!("HTTP/1.1 {code} Injected\r\nContent-Type: application/json\r\nConnection: close\r\n");
        theirs.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
        return Ok(theirs.shutdown().await?);
    }
    let name = ServerName::IpAddress(upstream.parse::<std::net::SocketAddr>()?.ip().into());
    let mut ours = TlsConnector::from(client).connect(name, TcpStream::connect(upstream).await?).await?;
    copy_bidirectional(&mut theirs, &mut ours).await?;
    Ok(())
}
