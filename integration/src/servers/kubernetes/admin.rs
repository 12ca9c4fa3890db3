//! Requests of an administrator, from a thread that may live in another network namespace than its callers.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

type Request = http::Request<Vec<u8>>;

/// A handle on the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Admin {
    jobs: mpsc::Sender<(Request, mpsc::Sender<Result<String>>)>,
}

impl Admin {
    /// Starts the thread, in `network` if given.
    pub(super) fn new(kubeconfig: &Path, network: Option<OwnedFd>) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("our own kubeconfig")?;
        let (jobs, queue) = mpsc::channel::<(Request, mpsc::Sender<Result<String>>)>();
        let (began, beginning) = mpsc::channel();
        thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let start = || {
                if let Some(network) = &network {
                    calico_sys::namespace::enter(network.as_fd())?;
                }
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let client = runtime.block_on(async {
                    let config =
                        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
                    anyhow::Ok(kube::Client::try_from(config)?)
                })?;
                anyhow::Ok((runtime, client))
            };
            let (runtime, client) = match start() {
                Ok(started) => started,
                Err(error) => {
                    let _ = began.send(Err(error));
                    return;
                }
            };
            let _ = began.send(Ok(()));
            for (request, answer) in queue {
                let asked = tokio::time::timeout;
                let result = runtime.block_on(async { asked(PATIENCE, client.request_text(request)).await });
                let result = match result {
                    Ok(Ok(text)) => Ok(text),
                    // Its own text repeats itself, and then some.
                    Ok(Err(kube::Error::Api(status))) => Err(anyhow!("{}", status.message)),
                    Ok(Err(error)) => Err(anyhow!(error)),
                    Err(_) => Err(anyhow!("no answer within {} s", PATIENCE.as_secs())),
                };
                let _ = answer.send(result); // a caller that is gone needs none
            }
        })?;
        beginning.recv().context("the administrator's thread ended at once")??;
        Ok(Self { jobs })
    }

    /// GETs a path that may not answer with JSON.
    pub(super) fn text(&self, path: &str) -> Result<String> {
        self.ask(http::Request::get(path).body(Vec::new())?).with_context(|| format!("GET {path}"))
    }

    /// Sends `body` unless it is null; returns the answer's object.
    pub(super) fn request(&self, method: &str, path: &str, mime: &str, body: &Value) -> Result<Value> {
        let octets = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request =
            http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, mime).body(octets)?;
        let text = self.ask(request).with_context(|| format!("{method} {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("{method} {path}: the answer is not JSON: {text}"))
    }

    fn ask(&self, request: Request) -> Result<String> {
        let (answer, answered) = mpsc::channel();
        self.jobs.send((request, answer)).ok().context("the administrator's thread is gone")?;
        answered.recv().context("the administrator's thread ended")?
    }
}
