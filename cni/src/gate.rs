//! What must a plugin wait for before it begins (`readiness_gates`), and after it is done (`policy_setup_timeout_seconds`)?

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use calico_probe::Target;

use crate::environment::Environment;
use crate::error::{Code, Error};
use crate::log::{Level, Log};
use crate::netconf::Netconf;

/// How long each gate may stay closed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one question at a gate may take.
const QUESTION: Duration = Duration::from_secs(5);
/// The pause between two questions at a gate. Calico asks every five seconds, which a pod would wait in vain.
const GATE_STEP: Duration = Duration::from_millis(250);
/// The pause between two looks for felix's file.
const FILE_STEP: Duration = Duration::from_millis(5);

/// A server that must answer well before a pod is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// As the configuration has it.
    url: String,
    target: Target,
    path: String,
}

impl Gate {
    /// From `http://host[:port][/path]`; `None` for anything else. Plugins speak no TLS.
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let good = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic());
        if !good(authority) || authority.contains('@') || !(path.is_empty() || good(path)) {
            return None;
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let target = if has_port { Target::parse(authority)? } else { Target::new(authority, 80) };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { url: url.to_owned(), target, path })
    }

    fn ask(&self) -> Result<(), String> {
        match calico_probe::get(&self.target, &self.path, Instant::now() + QUESTION) {
            Ok(answer) if answer.is_good() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.code)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Waits until every gate of the configuration is open.
///
/// # Errors
/// Code 11 naming the gate that stays closed and why.
pub fn wait(netconf: &Netconf) -> Result<(), Error> {
    netconf.gates.iter().try_for_each(|gate| open(gate, PATIENCE))
}

fn open(gate: &Gate, patience: Duration) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        let Err(reason) = gate.ask() else { return Ok(()) };
        if start.elapsed() >= patience {
            let details = format!("{}: {reason}; it is one of readiness_gates", gate.url);
            return Err(Error::new(Code::TryAgain, "a readiness gate of the network configuration is closed", details));
        }
        thread::sleep(GATE_STEP);
    }
}

/// Waits until felix says that a pod's policies are in force, if the configuration wants that. A pod is not kept from
/// starting by it: the log has a warning.
///
/// Felix programs policies before it lets a pod be connected, and writes its file then; the wait is for what reads files.
pub fn await_policy(netconf: &Netconf, environment: &Environment) {
    let Some(pod) = environment.pod.as_ref().filter(|_| !netconf.policy_timeout.is_zero()) else { return };
    let workload = format!("{}/{}", pod.namespace, pod.name);
    let file = netconf.status_folder.join(format!("k8s {} eth0", escaped(&workload)));
    if !appears(&file, netconf.policy_timeout) {
        let seconds = netconf.policy_timeout.as_secs();
        Log::of(&netconf.raw).write(
            Level::Warning,
            format_args!(
                "felix did not say within {seconds} s that the policies of pod {workload} are in force; {} is not there",
                file.display()
            ),
        );
    }
}

fn appears(file: &Path, patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        if file.exists() {
            return true;
        }
        if start.elapsed() >= patience {
            return false;
        }
        thread::sleep(FILE_STEP);
    }
}

/// As felix names its files: Go's `url.PathEscape`. A pod's name and namespace hold nothing else that is escaped.
fn escaped(text: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.~$&+:=@".contains(&octet);
    text.bytes()
        .map(|octet| if plain(octet) { char::from(octet).to_string() } else { format!("%{octet:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use calico_agent::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gate_is_a_plain_http_address() {
        #[track_caller]
        fn check(url: &str, host: &str, port: u16, path: &str) {
            let gate = Gate { url: url.to_owned(), target: Target::new(host, port), path: path.to_owned() };
            assert_eq!(Gate::parse(url), Some(gate));
        }
        check("http://localhost:9099/readiness", "localhost", 9099, "/readiness");
        check("http://127.0.0.1", "127.0.0.1", 80, "/");
        check("http://[::1]/a/b?c=d#e", "::1", 80, "/a/b?c=d");
        check("http://[::1]:8080?x", "::1", 8080, "/?x");
        for url in [
            "",
            "localhost:9099",
            "https://localhost/",
            "http://",
            "http:///x",
            "http://a b/",
            "http://a:b/",
            "http://u@h/",
        ] {
            assert_eq!(Gate::parse(url), None, "{url}");
        }
    }

    #[test]
    fn a_closed_gate_is_asked_until_it_opens_or_patience_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Gate::parse(&format!("http://{}/ready", listener.local_addr().unwrap())).unwrap();
        let server = thread::spawn(move || {
            for status in ["503 Not yet", "200 OK"] {
                let mut stream = listener.accept().unwrap().0;
                let mut request = [0; 512];
                assert!(stream.read(&mut request).unwrap() > 0);
                write!(stream, "HTTP/1.1 {status}\r\n\r\n").unwrap();
            }
        });
        open(&gate, PATIENCE).unwrap();
        server.join().unwrap();
        let error = open(&gate, Duration::ZERO).unwrap_err();
        assert_eq!(error.code, Code::TryAgain);
        assert!(error.details.contains(&gate.url) && error.details.contains("readiness_gates"), "{error}");
    }

    #[test]
    fn felixs_file_is_waited_for_and_a_missing_one_is_only_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("cni.log");
        let netconf = json!({ "name": "net", "policy_setup_timeout_seconds": 1, "endpoint_status_dir": folder.path(),
            "log_file_path": log, "ipam": { "type": "calico-ipam" } });
        let netconf = Netconf::read(&netconf).unwrap();
        let pod = Pod { namespace: "shop".to_owned(), name: "web-0".to_owned() };
        let environment = Environment { pod: Some(pod), ..Environment::default() };
        await_policy(&netconf, &environment);
        let told = fs::read_to_string(&log).unwrap();
        assert!(told.contains("[WARNING]") && told.contains("pod shop/web-0") && told.contains("1 s"), "{told}");
        fs::write(folder.path().join("k8s shop%2Fweb-0 eth0"), "{}").unwrap();
        let start = Instant::now();
        await_policy(&netconf, &environment);
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(fs::read_to_string(&log).unwrap(), told);
    }
}
