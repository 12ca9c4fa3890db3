//! Who of several replicas acts. No clock, no client: the record that they share is read and written by the caller.
//!
//! The rules are those of Kubernetes' own controllers. A record names its holder, and the holder renews it. Another takes it
//! over when it has *seen* it unchanged for the record's whole duration by its own clock, so that clocks need not agree. A
//! holder that has not renewed for a shorter time than that no longer counts itself as one: so there are never two.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// For how long a record holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(15);
/// For how long after its last renewal a leader acts. What it has sent by then has been answered, or given up, before the
/// lease ends: a request takes less than five seconds.
pub const RENEW: Duration = Duration::from_secs(10);
/// How often the record is looked at.
pub const RETRY: Duration = Duration::from_secs(2);

/// What replicas share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Who leads; empty after it has stepped down.
    pub holder_identity: String,
    /// For how long without a renewal, seconds.
    pub lease_duration_seconds: u64,
    /// Since when this holder leads, RFC 3339.
    pub acquire_time: Option<String>,
    /// When it said so last, RFC 3339; for people, and to see that the record changes.
    pub renew_time: Option<String>,
    /// How often leadership has passed on.
    pub lease_transitions: u64,
}

/// One replica's view.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// The record as last read, and when it was first read so.
    observed: Option<(Record, Duration)>,
    /// When the last successful renewal was begun.
    renewed: Option<Duration>,
}

impl Election {
    /// A replica that knows nothing yet; the identity is one that no other has, nor this one after a restart.
    pub fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), observed: None, renewed: None }
    }

    /// Who it is.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether it may act at `now`.
    pub fn leads(&self, now: Duration) -> bool {
        self.remaining(now).is_some()
    }

    /// For how long from `now` it may act; `None` if it may not.
    pub fn remaining(&self, now: Duration) -> Option<Duration> {
        let end = self.renewed? + RENEW;
        end.checked_sub(now).filter(|rest| !rest.is_zero())
    }

    /// When to look again: in [`RETRY`], or sooner if the present holder's time is over before that.
    pub fn pause(&self, now: Duration) -> Duration {
        let over = self
            .observed
            .as_ref()
            .filter(|(found, _)| found.holder_identity != self.identity)
            .map(|(found, since)| (*since + Duration::from_secs(found.lease_duration_seconds)).saturating_sub(now));
        over.filter(|rest| !rest.is_zero()).map_or(RETRY, |rest| rest.min(RETRY))
    }

    /// Takes in the record as it was read at `now`; the one to write in its place, if any. `wall` goes into the record.
    pub fn consider(&mut self, record: Option<&Record>, now: Duration, wall: Timestamp) -> Option<Record> {
        let same = self.observed.as_ref().is_some_and(|(known, _)| Some(known) == record);
        if !same {
            self.observed = record.map(|record| (record.clone(), now));
        }
        let time = Some(format!("{wall:.6}"));
        let fresh = |transitions, acquire_time: Option<String>| Record {
            holder_identity: self.identity.clone(),
            lease_duration_seconds: LEASE.as_secs(),
            acquire_time: acquire_time.or_else(|| time.clone()),
            renew_time: time.clone(),
            lease_transitions: transitions,
        };
        let Some((found, since)) = &self.observed else { return Some(fresh(0, None)) };
        if found.holder_identity == self.identity {
            return Some(fresh(found.lease_transitions, found.acquire_time.clone()));
        }
        self.renewed = None;
        let lasts = Duration::from_secs(found.lease_duration_seconds).max(Duration::from_secs(1));
        let is_over = found.holder_identity.is_empty() || now.saturating_sub(*since) >= lasts;
        is_over.then(|| fresh(found.lease_transitions.saturating_add(1), None))
    }

    /// Takes in that a record of ours was written; `begun` is when the attempt began, before anything was read.
    pub fn written(&mut self, record: Record, begun: Duration) {
        self.observed = Some((record, begun));
        self.renewed = Some(begun);
    }

    /// The record by which it steps down, if it leads; it does not lead any more.
    pub fn step_down(&mut self, wall: Timestamp) -> Option<Record> {
        self.renewed.take()?;
        let (found, _) = self.observed.as_ref()?;
        Some(Record {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            renew_time: Some(format!("{wall:.6}")),
            ..found.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wall(second: u64) -> Timestamp {
        Timestamp::from_second(1_787_403_600 + i64::try_from(second).unwrap()).unwrap()
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_record_is_taken_over_when_it_has_not_changed_for_its_duration() {
        let mut one = Election::new("one");
        let mut two = Election::new("two");
        let record = one.consider(None, at(0), wall(0)).unwrap();
        assert!(!one.leads(at(0)), "not before it is written");
        one.written(record.clone(), at(0));
        assert!(one.leads(at(9)) && !one.leads(at(10)));
        assert_eq!(two.consider(Some(&record), at(3), wall(3)), None);
        assert_eq!(two.consider(Some(&record), at(17), wall(17)), None);
        assert_eq!((two.pause(at(15)), two.pause(at(17))), (RETRY, at(1)));
        let taken = two.consider(Some(&record), at(18), wall(18)).unwrap();
        assert_eq!((&*taken.holder_identity, taken.lease_transitions), ("two", 1));
        two.written(taken.clone(), at(18));
        assert_eq!(one.consider(Some(&taken), at(19), wall(19)), None);
        assert!(!one.leads(at(19)) && two.leads(at(19)));
    }

    #[test]
    fn who_steps_down_is_followed_at_once() {
        let mut one = Election::new("one");
        let record = one.consider(None, at(0), wall(0)).unwrap();
        one.written(record, at(0));
        let free = one.step_down(wall(1)).unwrap();
        assert!(!one.leads(at(1)));
        assert_eq!(one.step_down(wall(1)), None);
        let mut two = Election::new("two");
        assert_eq!(two.consider(Some(&free), at(1), wall(1)).unwrap().holder_identity, "two");
    }

    proptest! {
        /// Replicas whose clocks show different times, whose requests are slow or lost, and whose answers are lost.
        #[test]
        fn there_are_never_two_leaders_and_always_one_in_the_end(
            steps in prop::collection::vec((0..3_usize, 0..3000_u64, 0..3000_u64, 0..4_u8), 1..120)
        ) {
            let offsets = [0, 100_000, 7_000];
            let mut replicas: Vec<Election> = (0..3).map(|number| Election::new(format!("r{number}"))).collect();
            let mut stored: Option<(Record, u64)> = None;
            let (mut clock, mut version) = (0_u64, 0_u64);
            let mut attempt = |replicas: &mut Vec<Election>, who: usize, clock: &mut u64, slow: u64, fate: u8| {
                let mine = |clock: u64| Duration::from_millis(clock + offsets[who]);
                let begun = mine(*clock);
                let read = stored.clone();
                *clock += slow;
                let now = mine(*clock);
                let Some(record) = replicas[who].consider(read.as_ref().map(|(record, _)| record), now, wall(*clock / 1000)) else { return };
                if fate == 0 || read.as_ref().map(|(_, at)| *at) != stored.as_ref().map(|(_, at)| *at) {
                    return;
                }
                version += 1;
                stored = Some((record.clone(), version));
                if fate != 1 {
                    replicas[who].written(record, begun);
                }
            };
            for (who, wait, slow, fate) in steps {
                clock += wait;
                attempt(&mut replicas, who, &mut clock, slow, fate);
                let leaders = (0..3).filter(|who| replicas[*who].leads(Duration::from_millis(clock + offsets[*who]))).count();
                prop_assert!(leaders <= 1);
            }
            for _ in 0..20 {
                clock += 2000;
                attempt(&mut replicas, 1, &mut clock, 5, 3);
            }
            prop_assert!(replicas[1].leads(Duration::from_millis(clock + offsets[1])));
        }
    }
}
