//! How does a plugin come from its call to its exit?

use std::env;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::conversation;
use crate::environment::{Environment, Verb};
use crate::error::{Code, Error};
use crate::log::{Level, Log};
use crate::netconf::{Netconf, decode};
use crate::version::{self, Version};

/// The longest configuration that is read, in octets.
const MAX_INPUT: u64 = 16 << 20;

/// A plugin's name and its own verbs.
#[derive(Debug)]
pub struct Plugin {
    /// Its program's name.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// ADD: returns the result.
    pub add: fn(&Netconf, &Environment) -> Result<Value, Error>,
    /// DEL.
    pub del: fn(&Netconf, &Environment) -> Result<(), Error>,
    /// CHECK.
    pub check: fn(&Netconf, &Environment) -> Result<(), Error>,
    /// GC.
    pub gc: fn(&Netconf) -> Result<(), Error>,
    /// STATUS.
    pub status: fn(&Netconf) -> Result<(), Error>,
}

/// Runs a plugin: a verb from the environment, or one of two flags for people.
pub fn main(plugin: &Plugin) -> ExitCode {
    match env::args_os().nth(1).as_ref().and_then(|argument| argument.to_str()) {
        Some("-v" | "--version") => return say(&format!("{} {}", plugin.name, calico_version::LONG)),
        Some("-h" | "--help") => return say(&help(plugin)),
        Some("-t") => return test_connection(),
        // What an init container of Calico's manifests calls must not fail, and nothing is left for it to do.
        Some("-upgrade" | "--upgrade") => return say(UPGRADE),
        _ => {}
    }
    let get = |name: &str| env::var(name).ok();
    // A panic would leave the runtime without an answer that it can read.
    let call = AssertUnwindSafe(|| call(plugin, &get));
    let (version, answer) = catch_unwind(call).unwrap_or_else(|_| {
        let details = "its panic is on standard error; please report it";
        (Version::NEWEST, Err(Error::new(Code::Other, "the plugin failed by a defect of its own", details)))
    });
    match answer {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => say(&result.to_string()),
        Err(error) => {
            say(&error.to_json(version).to_string());
            ExitCode::FAILURE
        }
    }
}

fn help(plugin: &Plugin) -> String {
    format!(
        "{} {}\n{}.\n\n\
         A container runtime calls it with CNI_COMMAND=ADD, DEL, CHECK, STATUS, GC or VERSION and other CNI_ variables\n\
         in the environment and a network configuration on standard input; see https://www.cni.dev/docs/spec/.\n\
         The agent is asked on {} unless the configuration has an agent_socket.\n\n\
         Options:\n  -v, --version  print the version\n  -h, --help     print this\n  \
         -t             ask the agent whether it serves, as STATUS does; the configuration is on standard input",
        plugin.name,
        calico_version::LONG,
        plugin.about,
        calico_agent::SOCKET,
    )
}

/// Said to `-upgrade`.
const UPGRADE: &str = "nothing to do here: felix takes over the addresses of host-local (/var/lib/cni/networks/k8s-pod-network) \
                       itself, before it serves the first pod, if it is started with UPGRADE_HOST_LOCAL=true";

/// How long `-t` may take.
const TEST: Duration = Duration::from_secs(2);

/// Whether the agent of the configuration on standard input serves; like a failed verb if not.
fn test_connection() -> ExitCode {
    let mut input = Vec::new();
    let read = io::stdin().take(MAX_INPUT).read_to_end(&mut input);
    let read = read.map_err(|error| Error::new(Code::Io, "could not read standard input", error.to_string()));
    let tested = read.and_then(|_| decode(&input)).and_then(|value| Netconf::read(&value)).and_then(|netconf| {
        let asked = conversation::serves(&netconf, TEST);
        asked.map_err(|error| Error { code: Code::ConnectionTest, ..error })
    });
    match tested {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_json(Version::NEWEST).to_string());
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard output.
fn say(text: &str) -> ExitCode {
    match io::stdout().write_all(format!("{text}\n").as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One verb: the version to answer in, and the answer.
fn call(plugin: &Plugin, get: &impl Fn(&str) -> Option<String>) -> (Version, Result<Option<Value>, Error>) {
    let start = Instant::now();
    let verb = match Verb::read(get) {
        Ok(verb) => verb,
        Err(error) => return (Version::NEWEST, Err(error)),
    };
    let mut input = Vec::new();
    let read = io::stdin().take(MAX_INPUT).read_to_end(&mut input);
    if verb == Verb::Version {
        let asked = decode(&input).unwrap_or(Value::Null);
        return (Version::NEWEST, Ok(Some(version::answer(&asked))));
    }
    let read = read.map_err(|error| Error::new(Code::Io, "could not read standard input", error.to_string()));
    let configuration = match read.and_then(|_| decode(&input)) {
        Ok(configuration) => configuration,
        Err(error) => return (Version::NEWEST, Err(error)),
    };
    let version = Version::of(&configuration).unwrap_or(Version::NEWEST);
    let log = Log::of(&configuration);
    let answer = perform(plugin, verb, &configuration, get);
    let container = get("CNI_CONTAINERID").unwrap_or_default();
    let took = start.elapsed().as_micros();
    match &answer {
        Ok(result) => {
            let result = result.as_ref().map_or_else(String::new, |result| format!(" {result}"));
            log.write(
                Level::Info,
                format_args!("{} {} {container}: done in {took} us{result}", plugin.name, verb.as_str()),
            );
        }
        Err(error) => {
            let code = error.code.number();
            log.write(
                Level::Error,
                format_args!("{} {} {container}: code {code}: {error}", plugin.name, verb.as_str()),
            );
        }
    }
    (version, answer)
}

fn perform(
    plugin: &Plugin,
    verb: Verb,
    configuration: &Value,
    get: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Value>, Error> {
    let netconf = Netconf::read(configuration)?;
    if verb == Verb::Add && !netconf.unknown.is_empty() {
        let unknown = netconf.unknown.join(", ");
        let line =
            format_args!("{} ADD: the network configuration has fields that mean nothing: {unknown}", plugin.name);
        Log::of(configuration).write(Level::Warning, line);
    }
    let since = |oldest: Version| {
        let details =
            format!("cniVersion is {}; {} came with {}", netconf.version.as_str(), verb.as_str(), oldest.as_str());
        if netconf.version >= oldest {
            Ok(())
        } else {
            Err(Error::new(Code::IncompatibleVersion, "this CNI version does not have the verb", details))
        }
    };
    match verb {
        Verb::Add => (plugin.add)(&netconf, &Environment::read(verb, get)?).map(Some),
        Verb::Del => (plugin.del)(&netconf, &Environment::read(verb, get)?).map(|()| None),
        Verb::Check => {
            since(Version::CHECK)?;
            (plugin.check)(&netconf, &Environment::read(verb, get)?).map(|()| None)
        }
        Verb::Status => {
            since(Version::NEWEST)?;
            (plugin.status)(&netconf).map(|()| None)
        }
        Verb::Gc => {
            since(Version::NEWEST)?;
            (plugin.gc)(&netconf).map(|()| None)
        }
        Verb::Version => Ok(Some(version::answer(configuration))),
    }
}
