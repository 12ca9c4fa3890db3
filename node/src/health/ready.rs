//! Are the node's BGP sessions good enough for it to be ready?

use std::time::Duration;

use super::bird::Peer;

/// What decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether the speaker still recovers from its restart.
    pub(crate) recovering: bool,
    /// How long ago felix wrote the node's name; `None` without felix.
    pub(crate) since: Option<Duration>,
    /// How long the speaker runs, if it says so.
    pub(crate) age: Option<Duration>,
    /// The sessions that count.
    pub(crate) peers: Vec<Peer>,
}

/// Inside `window` from the start, when a rolling update would go on to the next node, all sessions must be up and
/// recovery over; later one is enough: what others do must not take a working node out of service.
///
/// Departs from Calico: felix and the speaker start and restart each for itself, so the window is open while either is
/// younger; Calico looks at felix's file alone.
pub(crate) fn verdict(facts: &Facts, window: Duration) -> Result<(), String> {
    let missing: Vec<&str> =
        facts.peers.iter().filter(|peer| !peer.established).map(|peer| peer.address.as_str()).collect();
    let not_established = || Err(format!("BGP not established with {}", missing.join(",")));
    let young = [facts.since, facts.age].into_iter().flatten().any(|age| age < window);
    if facts.peers.is_empty() {
        Ok(())
    } else if young {
        match () {
            () if !missing.is_empty() => not_established(),
            () if facts.recovering => Err("graceful restart in progress".to_owned()),
            () => Ok(()),
        }
    } else if missing.len() == facts.peers.len() {
        not_established()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is Established, `-` is not.
    #[track_caller]
    fn check(sessions: &str, recovering: bool, ages: [Option<u64>; 2], expected: Result<(), &str>) {
        let peer = |(number, sign)| Peer { address: format!("10.0.0.{number}"), established: sign == '+' };
        let [since, age] = ages.map(|age| age.map(Duration::from_secs));
        let facts = Facts { recovering, since, age, peers: sessions.chars().enumerate().map(peer).collect() };
        let verdict = verdict(&facts, Duration::from_secs(30));
        assert_eq!(verdict, expected.map_err(str::to_owned), "{facts:?}");
    }

    #[test]
    fn the_table_of_calico_holds() {
        let (young, old) = ([Some(29), Some(900)], [Some(30), Some(30)]);
        for ages in [young, old] {
            check("", true, ages, Ok(()));
            check("+++", false, ages, Ok(()));
            check("--", false, ages, Err("BGP not established with 10.0.0.0,10.0.0.1"));
        }
        check("+-+", false, young, Err("BGP not established with 10.0.0.1"));
        check("++", true, young, Err("graceful restart in progress"));
        check("+-", true, old, Ok(()));
        check("++", true, old, Ok(()));
    }

    #[test]
    fn the_younger_of_felix_and_speaker_opens_the_window() {
        check("+-", false, [Some(900), Some(3)], Err("BGP not established with 10.0.0.1"));
        check("+-", false, [None, Some(3)], Err("BGP not established with 10.0.0.1"));
        check("+-", false, [None, Some(31)], Ok(()));
        check("+-", false, [None, None], Ok(()));
    }
}
