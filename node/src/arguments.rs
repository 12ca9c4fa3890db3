//! What is the program told to do?

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use calico_api::parse_duration;
use clap::{Args, Parser, Subcommand};

/// Ocicat's node program: installs the CNI plugins, and answers the kubelet's probes.
///
/// Commands are accepted in Calico's spellings, too: "calico-node -felix-ready -bird-ready" is "calico-node health
/// --felix-ready --bird-ready", and so is "calico-node component node health ..."; "calico-node component cni install" is
/// "calico-node install-cni".
#[derive(Clone, Debug, Parser)]
#[command(name = "calico-node", version = calico_version::LONG, max_term_width = 110)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Asks the node's daemons how they are; says what is wrong and exits with 1 if anything is
    Health(HealthOptions),
    /// Puts the CNI plugins and their network configuration on the node
    ///
    /// It is told by environment variables, as Calico's installer is: CNI_CONF_NAME, CNI_NETWORK_CONFIG, CNI_MTU, SLEEP and
    /// others; docs/install-cni.md lists them.
    #[command(alias = "install")]
    InstallCni(InstallOptions),
    /// Does nothing: felix itself marks the node as out of service when it is told to stop
    Shutdown,
    /// Does nothing until it is told to stop: what is left of the uninstall manifest's pod when its node is clean
    Stay,
}

/// Which daemons to ask what.
#[derive(Clone, Debug, Default, Args)]
pub struct HealthOptions {
    /// Felix runs: GET /liveness of FELIX_HEALTHHOST:FELIX_HEALTHPORT (localhost:9099)
    #[command(flatten)]
    pub probes: Probes,

    /// How long after the node's start every BGP session must be up to be ready; later, one is enough
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub threshold_time: Duration,

    /// Folder of the sockets bird.ctl and bird6.ctl, as the speaker's option of this name
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/calico")]
    pub bird_socket_dir: PathBuf,
}

/// The probes, each by its switch.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Probes {
    /// Felix runs: GET /liveness of FELIX_HEALTHHOST:FELIX_HEALTHPORT (localhost:9099)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true")]
    pub felix_live: bool,
    /// Felix has programmed the node: GET /readiness of the same
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true")]
    pub felix_ready: bool,
    /// The speaker answers on bird.ctl
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true")]
    pub bird_live: bool,
    /// The speaker is in sync, and its IPv4 sessions are up
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true")]
    pub bird_ready: bool,
    /// The speaker answers on bird6.ctl
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true")]
    pub bird6_live: bool,
    /// The speaker is in sync, and its IPv6 sessions are up
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true")]
    pub bird6_ready: bool,
}

/// Where the plugins come from and where they go.
#[derive(Clone, Debug, Args)]
pub struct InstallOptions {
    /// Folder with calico and calico-ipam, and with other plugins that are to be installed
    /// [default: the folder of this program]
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,

    /// Folder under which the node's opt/cni/bin, secondary-bin-dir and etc/cni/net.d are mounted
    #[arg(long, value_name = "FOLDER", default_value = "/host")]
    pub host: PathBuf,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write it as 30s or 1m30s".to_owned())
}

/// The command line in our own spelling: `component node` and `component cni` are left out, options have two dashes, and
/// one that begins with a probe or an old command's switch gets its command.
pub fn normalised(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rest = arguments.into_iter();
    let mut all: Vec<OsString> = rest.next().into_iter().collect();
    let mut words: Vec<OsString> = rest.map(|word| two_dashes(&word).unwrap_or(word)).collect();
    if words.first().is_some_and(|word| word == "component")
        && words.get(1).is_some_and(|word| word == "node" || word == "cni")
    {
        words.drain(..2);
    }
    let command = match words.first().and_then(|word| word.to_str()) {
        Some("--v") => return all.into_iter().chain(["--version".into()]).collect(),
        Some("--shutdown") => {
            words.remove(0);
            Some("shutdown")
        }
        Some(word) if word.starts_with("--") && !matches!(word, "--help" | "--version") => Some("health"),
        _ => None,
    };
    all.extend(command.map(OsString::from));
    all.extend(words);
    all
}

/// A Go program's `-option` as `--option`; `None` if it is no such thing.
fn two_dashes(word: &OsStr) -> Option<OsString> {
    let text = word.to_str()?;
    let name = text.strip_prefix('-').filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))?;
    // -h and -V are ours, and short.
    let is_long = name.len() > 1 || name == "v";
    is_long.then(|| format!("--{name}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        let words = line.split_whitespace().map(OsString::from);
        Arguments::try_parse_from(normalised(words)).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn health(line: &str, expected: [bool; 6], seconds: u64) {
        let Command::Health(options) = parse(line).unwrap().command else { panic!("{line}") };
        let Probes { felix_live, felix_ready, bird_live, bird_ready, bird6_live, bird6_ready } = options.probes;
        assert_eq!([felix_live, felix_ready, bird_live, bird_ready, bird6_live, bird6_ready], expected, "{line}");
        assert_eq!(options.threshold_time, Duration::from_secs(seconds), "{line}");
    }

    #[test]
    fn probes_are_understood_in_every_spelling() {
        let live = [true, false, true, false, false, false];
        for line in [
            "calico-node -felix-live -bird-live",
            "calico-node --felix-live --bird-live",
            "calico-node -felix-live=true -bird-live -bird-ready=false",
            "calico-node health --felix-live --bird-live",
            "calico-node component node health --felix-live --bird-live",
        ] {
            health(line, live, 30);
        }
        let all_ready = [false, true, false, true, false, true];
        health("calico-node -bird-ready -felix-ready -bird6-ready -threshold-time=1m30s", all_ready, 90);
        health("calico-node -threshold-time 5s -bird6-live", [false, false, false, false, true, false], 5);
        assert!(parse("calico-node -felix-live -colour").unwrap_err().contains("--colour"));
        assert!(parse("calico-node -bird-ready -threshold-time=soon").unwrap_err().contains("30s"));
    }

    #[test]
    fn other_commands_have_their_old_names_too() {
        for line in ["calico-node install-cni", "calico-node install", "calico-node component cni install"] {
            assert!(matches!(parse(line).unwrap().command, Command::InstallCni(_)), "{line}");
        }
        for line in ["calico-node -shutdown", "calico-node shutdown", "calico-node component node shutdown"] {
            assert!(matches!(parse(line).unwrap().command, Command::Shutdown), "{line}");
        }
        for line in ["calico-node -v", "calico-node --version", "calico-node -V"] {
            assert!(parse(line).unwrap_err().contains("(commit"), "{line}");
        }
        assert!(parse("calico-node -h").unwrap_err().contains("install-cni"));
    }
}
