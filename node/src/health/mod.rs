//! Are the node's daemons alive and ready (reference bgp.md §3.7)?
//!
//! The kubelet runs this every ten seconds and kills it after ten. So all probes are asked at once, each on a thread of
//! its own, and the answer is given after eight seconds whoever is still silent: a daemon that accepts connections and
//! says nothing, or does not accept any more, is a failed probe and never a hanging one.

mod bird;
mod ready;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::arguments::{HealthOptions, Probes};
use bird::Status;
use calico_probe::{Answer, Target};
use ready::Facts;

/// How long all probes together may take.
const LIMIT: Duration = Duration::from_secs(8);

/// What somebody who wrote no probe reads.
const NOTHING: &str = "calico/node check error: must specify at least one of -felix-live, -felix-ready, -bird-live, \
                       -bird-ready, -bird6-live, -bird6-ready";

/// Where the daemons are, and since when.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Felix's health server.
    felix: Target,
    /// The speaker's.
    speaker: Target,
    /// Folder of the speaker's sockets.
    sockets: PathBuf,
    /// When felix wrote the node's name: it begins to work then.
    begun: Option<SystemTime>,
    /// How long every session must be up after the start to be ready.
    window: Duration,
}

impl Settings {
    /// From the options and, through `get`, the environment.
    ///
    /// # Errors
    /// A variable that cannot be understood, by its name.
    pub fn read(options: &HealthOptions, get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let text = |name: &str| get(name).filter(|text| !text.is_empty());
        let host = text("FELIX_HEALTHHOST").unwrap_or_else(|| "localhost".to_owned());
        let port = text("FELIX_HEALTHPORT").map_or(Ok(9099), |text| {
            text.parse::<u16>().map_err(|_| format!("FELIX_HEALTHPORT is \"{text}\"; it must be a port"))
        })?;
        let speaker = text("BGP_HEALTH_ADDRESS").unwrap_or_else(|| "127.0.0.1:9098".to_owned());
        let name_file = text("CALICO_NODENAME_FILE").unwrap_or_else(|| "/var/lib/calico/nodename".to_owned());
        Ok(Self {
            felix: Target::new(&host, port),
            speaker: Target::parse(&speaker)
                .ok_or_else(|| format!("BGP_HEALTH_ADDRESS is \"{speaker}\"; it must be as 127.0.0.1:9098"))?,
            sockets: options.bird_socket_dir.clone(),
            begun: fs::metadata(name_file).and_then(|file| file.modified()).ok(),
            window: options.threshold_time,
        })
    }
}

/// One question to one daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    FelixLive,
    FelixReady,
    BirdLive { ipv6: bool },
    BirdReady { ipv6: bool },
}

impl Probe {
    fn of(switches: Probes) -> Vec<Self> {
        let Probes { felix_live, felix_ready, bird_live, bird_ready, bird6_live, bird6_ready } = switches;
        let all = [
            (felix_live, Self::FelixLive),
            (felix_ready, Self::FelixReady),
            (bird_live, Self::BirdLive { ipv6: false }),
            (bird_ready, Self::BirdReady { ipv6: false }),
            (bird6_live, Self::BirdLive { ipv6: true }),
            (bird6_ready, Self::BirdReady { ipv6: true }),
        ];
        all.into_iter().filter_map(|(wanted, probe)| wanted.then_some(probe)).collect()
    }

    /// Calico's words for the failure: scripts and people look for them.
    fn failure(self) -> &'static str {
        match self {
            Self::FelixLive => "Felix is not live",
            Self::FelixReady => "felix is not ready",
            Self::BirdLive { ipv6: false } => "bird/confd is not live",
            Self::BirdLive { ipv6: true } => "bird6/confd is not live",
            Self::BirdReady { ipv6: false } => "BIRD is not ready",
            Self::BirdReady { ipv6: true } => "BIRD6 is not ready",
        }
    }

    /// Asks; an error says why not.
    fn ask(self, settings: &Settings, deadline: Instant) -> Result<(), String> {
        match self {
            Self::FelixLive => felix(settings, "/liveness", "liveness", deadline),
            Self::FelixReady => felix(settings, "/readiness", "readiness", deadline),
            Self::BirdLive { ipv6 } => bird::ask_status(&settings.sockets, ipv6, deadline).map(drop),
            Self::BirdReady { ipv6 } => {
                let (Status { recovering, age }, peers) = bird::ask_peers(&settings.sockets, ipv6, deadline)?;
                in_sync(settings, deadline)?;
                let since = settings.begun.map(|begun| begun.elapsed().unwrap_or_default());
                ready::verdict(&Facts { recovering, since, age, peers }, settings.window)
            }
        }
    }
}

fn felix(settings: &Settings, path: &str, what: &str, deadline: Instant) -> Result<(), String> {
    let answer = calico_probe::get(&settings.felix, path, deadline).map_err(|error| {
        format!("{error}; see that felix runs, and that HealthEnabled, HealthHost and HealthPort are what it uses")
    })?;
    verdict(&answer, what)
}

/// Whether the speaker's own work is done: without it a speaker that has not read the datastore yet, and so has no peers,
/// would be ready. One whose server is elsewhere is judged by its sessions alone.
fn in_sync(settings: &Settings, deadline: Instant) -> Result<(), String> {
    match calico_probe::get(&settings.speaker, "/readiness", deadline) {
        Ok(answer) => verdict(&answer, "readiness"),
        Err(error) if error.is_refusal() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Good, or the code and those parts that are not well.
fn verdict(answer: &Answer, what: &str) -> Result<(), String> {
    if answer.is_good() {
        return Ok(());
    }
    let parts: Vec<String> = answer
        .body
        .lines()
        .filter(|line| line.contains(" NOT "))
        .map(|line| line.split_whitespace().filter(|word| *word != "NOT").collect::<Vec<_>>().join(" "))
        .collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) };
    Err(format!("{what} probe reporting {}{parts}", answer.code))
}

/// Asks everything that the options want; nothing is said if all is well.
///
/// # Errors
/// A line per failed probe.
pub fn command(options: &HealthOptions) -> Result<String, String> {
    let settings = Settings::read(options, |name| env::var(name).ok());
    let settings = settings.map_err(|error| format!("calico/node check error: {error}"))?;
    run(options.probes, &settings)
}

/// Asks all probes at once.
///
/// # Errors
/// As [`command`].
pub fn run(switches: Probes, settings: &Settings) -> Result<String, String> {
    let probes = Probe::of(switches);
    if probes.is_empty() {
        return Err(NOTHING.to_owned());
    }
    let deadline = Instant::now() + LIMIT;
    let (told, answers) = mpsc::channel();
    for (place, probe) in probes.iter().copied().enumerate() {
        let (told, settings) = (told.clone(), settings.clone());
        // Not joined: one that hangs ends with the process.
        thread::spawn(move || told.send((place, probe.ask(&settings, deadline))));
    }
    drop(told);
    let silent = || Err(format!("no answer within {} s", LIMIT.as_secs()));
    let mut verdicts: Vec<Result<(), String>> = probes.iter().map(|_| silent()).collect();
    while let Ok((place, answer)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(verdict) = verdicts.get_mut(place) {
            *verdict = answer;
        }
    }
    let failures: Vec<String> = probes
        .iter()
        .zip(verdicts)
        .filter_map(|(probe, verdict)| {
            Some(format!("calico/node is not ready: {}: {}", probe.failure(), verdict.err()?))
        })
        .collect();
    if failures.is_empty() { Ok(String::new()) } else { Err(failures.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_well_is_quoted() {
        let answer = |code, body: &str| Answer { code, body: body.to_owned() };
        assert_eq!(verdict(&answer(204, ""), "liveness"), Ok(()));
        let body =
            "CalculationGraph             ok  in sync\nInternalDataplaneMainLoop    NOT has not reported in time\n";
        let expected = "readiness probe reporting 503 (InternalDataplaneMainLoop has not reported in time)";
        assert_eq!(verdict(&answer(503, body), "readiness"), Err(expected.to_owned()));
        assert_eq!(verdict(&answer(500, ""), "liveness"), Err("liveness probe reporting 500".to_owned()));
    }

    #[test]
    fn nothing_to_ask_and_nonsense_in_the_environment_are_told() {
        let options = HealthOptions { threshold_time: Duration::from_secs(30), ..HealthOptions::default() };
        let with = |name: &'static str, value: &'static str| {
            Settings::read(&options, move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert!(run(Probes::default(), &with("x", "").unwrap()).unwrap_err().contains("at least one of -felix-live"));
        assert!(with("FELIX_HEALTHPORT", "many").unwrap_err().contains("FELIX_HEALTHPORT is \"many\""));
        assert!(with("BGP_HEALTH_ADDRESS", "here").unwrap_err().contains("BGP_HEALTH_ADDRESS is \"here\""));
        assert_eq!(with("FELIX_HEALTHHOST", "::1").unwrap().felix, Target::new("::1", 9099));
    }
}
