//! How is another IPAM plugin called in the place of ours?
//!
//! As the specification has it: its program is looked for in `CNI_PATH`, gets our environment and our configuration, and
//! answers in its own version's shape. Its errors are passed on with their code; the text says whose they are.
//! One that does not know the configuration's version is asked again in an older one.
//!
//! Departs from the design's "one process": other plugins are programs, and there is no other way to ask them.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::conversation;
use crate::environment::Verb;
use crate::error::{Code, Error};
use crate::netconf::Netconf;
use crate::result::Received;
use crate::version::Version;

/// Stands for the node's network where it does not matter.
const ANY: [(&str, &str); 2] = [(POD_CIDR, "192.0.2.0/24"), (POD_CIDR_V6, "2001:db8::/64")];
/// What `host-local`'s subnet says for the node's IPv4 pod network.
const POD_CIDR: &str = "usePodCidr";
/// The same for IPv6.
const POD_CIDR_V6: &str = "usePodCidrIPv6";
/// How much of what a plugin says outside of the protocol is passed on, in characters.
const EXCERPT: usize = 300;

/// Takes addresses from another IPAM plugin.
///
/// # Errors
/// The plugin's; code 7 if it is not installed, 999 if it answers no address.
pub fn add(program: &str, netconf: &Netconf) -> Result<Received, Error> {
    let configuration = with_networks(netconf, true)?;
    let answer = call(program, Verb::Add, &configuration)?;
    let refuse = |wrong: String| {
        // What it has taken must not stay taken.
        let error = Error::new(Code::Other, format!("IPAM plugin {program} answered no result"), wrong);
        error.and_then(del(program, netconf))
    };
    let received = Received::read(&answer).map_err(refuse)?;
    if received.addresses.is_empty() {
        return Err(refuse("there is no address in it; its own configuration tells how to get one".to_owned()));
    }
    Ok(received)
}

/// Gives the addresses back. One that is not installed has none, unless ADD succeeded with it.
///
/// # Errors
/// The plugin's; code 11 if it is not installed any more.
pub fn del(program: &str, netconf: &Netconf) -> Result<(), Error> {
    if find(program).is_err() && netconf.previous.is_none() {
        return Ok(());
    }
    let configuration = with_networks(netconf, false)?;
    call(program, Verb::Del, &configuration).map(drop).map_err(|error| match error.code {
        Code::InvalidConfiguration => Error { code: Code::TryAgain, ..error },
        _ => error,
    })
}

/// Has the plugin compare.
///
/// # Errors
/// The plugin's.
pub fn check(program: &str, netconf: &Netconf) -> Result<(), Error> {
    call(program, Verb::Check, &with_networks(netconf, true)?).map(drop)
}

/// Has the plugin collect its garbage, or say whether it can serve, if it knows how to.
///
/// # Errors
/// The plugin's.
pub fn tell(program: &str, verb: Verb, netconf: &Netconf) -> Result<(), Error> {
    match call(program, verb, &with_networks(netconf, false)?) {
        // It is older than the verb.
        Err(Error { code: Code::Told(1 | 4), .. }) => Ok(()),
        answer => answer.map(drop),
    }
}

/// The configuration with the node's pod networks where `host-local`'s subnets ask for them.
fn with_networks(netconf: &Netconf, exactly: bool) -> Result<Value, Error> {
    let mut configuration = netconf.raw.clone();
    let Some(ipam) = configuration.get_mut("ipam") else { return Ok(configuration) };
    let mut subnets = Vec::new();
    gather(ipam, &mut subnets);
    if subnets.is_empty() {
        return Ok(configuration);
    }
    let networks = if exactly { conversation::pod_networks(netconf)? } else { Vec::new() };
    for subnet in subnets {
        let (wanted, stand_in) = if *subnet == POD_CIDR { ANY[0] } else { ANY[1] };
        let is_ipv6 = wanted == POD_CIDR_V6;
        let own = networks.iter().find(|network| network.contains(':') == is_ipv6);
        *subnet = match own {
            Some(own) => Value::from(own.as_str()),
            None if !exactly => Value::from(stand_in),
            None => {
                let details = format!(
                    "ipam asks for {wanted}, but the node has no pod network of that family; start kube-controller-manager \
                     with --allocate-node-cidrs, or write a subnet"
                );
                return Err(Error::configuration("the node has no pod network", details));
            }
        };
    }
    Ok(configuration)
}

/// The subnets that stand for the node's networks: of `ipam` itself, and of its lists of ranges.
fn gather<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match name.as_str() {
                    "subnet" if field == POD_CIDR || field == POD_CIDR_V6 => found.push(field),
                    "ranges" => gather(field, found),
                    _ => {}
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| gather(value, found)),
        _ => {}
    }
}

/// Calls a plugin and returns what it wrote.
fn call(program: &str, verb: Verb, configuration: &Value) -> Result<Value, Error> {
    let path = find(program)?;
    let answer = execute(program, &path, verb, configuration);
    let newest = Version::of(configuration).is_ok_and(|version| version == Version::NEWEST);
    match answer {
        Err(Error { code: Code::Told(1), .. }) if newest && !matches!(verb, Verb::Gc | Verb::Status) => {
            let mut older = configuration.clone();
            older["cniVersion"] = Version::COMMON.as_str().into();
            if let Some(previous) = older.get_mut("prevResult").filter(|previous| previous.is_object()) {
                previous["cniVersion"] = Version::COMMON.as_str().into();
            }
            execute(program, &path, verb, &older)
        }
        answer => answer,
    }
}

fn execute(program: &str, path: &PathBuf, verb: Verb, configuration: &Value) -> Result<Value, Error> {
    let failed = |error: std::io::Error| {
        let details = format!("{}: {error}; see that it is a program of this machine's kind", path.display());
        Error::new(Code::Io, format!("could not run IPAM plugin {program}"), details)
    };
    let mut child = Command::new(path)
        .env("CNI_COMMAND", verb.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that refuses its verb may have ended before it reads.
        let _ = input.write_all(configuration.to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let told = serde_json::from_slice::<Value>(&output.stdout);
    if output.status.success() {
        return match told {
            Ok(value) => Ok(value),
            Err(_) if output.stdout.trim_ascii().is_empty() => Ok(Value::Null),
            Err(error) => {
                let details = format!("{error}: {}", excerpt(&output));
                Err(Error::new(
                    Code::Other,
                    format!("IPAM plugin {program} answered no JSON to {}", verb.as_str()),
                    details,
                ))
            }
        };
    }
    let message = format!("IPAM plugin {program} failed to {}", verb.as_str());
    Err(match told.ok().as_ref().and_then(Error::from_json) {
        Some(error) => Error::new(error.code, message, error.to_string()),
        None => Error::new(Code::Other, message, format!("{}: {}", output.status, excerpt(&output))),
    })
}

/// The beginning of what a plugin said.
fn excerpt(output: &Output) -> String {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text: String = String::from_utf8_lossy(said).trim().chars().take(EXCERPT).collect();
    if text.is_empty() { "it said nothing".to_owned() } else { text }
}

/// Where a plugin's program is.
fn find(program: &str) -> Result<PathBuf, Error> {
    let path = env::var_os("CNI_PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let path = path.to_string_lossy();
        let details = format!("it is not in CNI_PATH ({path}); install it there, or correct ipam.type");
        Error::configuration(format!("there is no IPAM plugin {program}"), details)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_subnets_stand_for_the_nodes_networks() {
        let netconf = json!({ "name": "net", "ipam": {
            "type": "host-local", "subnet": "usePodCidr", "dataDir": "usePodCidr",
            "ranges": [[{ "subnet": "usePodCidrIPv6" }], [{ "subnet": "10.1.0.0/24" }]],
        } });
        let written = with_networks(&Netconf::read(&netconf).unwrap(), false).unwrap();
        assert_eq!(
            written["ipam"],
            json!({
                "type": "host-local", "subnet": "192.0.2.0/24", "dataDir": "usePodCidr",
                "ranges": [[{ "subnet": "2001:db8::/64" }], [{ "subnet": "10.1.0.0/24" }]],
            })
        );
    }
}
