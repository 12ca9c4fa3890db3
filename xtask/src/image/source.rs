//! From which commit, of what time.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{output, root};

/// What is being built.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The commit's whole hash, or `unknown` outside a repository.
    pub(super) commit: String,
    /// Seconds since 1970: the only time that gets into the image.
    pub(super) time: u64,
}

impl Source {
    /// Asks git; `OCICAT_COMMIT` and `SOURCE_DATE_EPOCH` go first, for whoever builds from an archive.
    pub(super) fn find() -> Result<Self> {
        let git = |format: &str| {
            output(Command::new("git").current_dir(root()).args(["log", "-1", format]))
                .ok()
                .map(|line| line.trim().to_owned())
        };
        let commit = env::var("OCICAT_COMMIT").ok().or_else(|| git("--format=%H"));
        let time = match env::var("SOURCE_DATE_EPOCH").ok().or_else(|| git("--format=%ct")) {
            Some(time) => time.parse().with_context(|| format!("SOURCE_DATE_EPOCH: {time} is not a number of seconds")),
            None => Ok(0),
        };
        Ok(Self { commit: commit.unwrap_or_else(|| "unknown".to_owned()), time: time? })
    }

    /// The time as RFC 3339 has it.
    pub(super) fn rfc3339(&self) -> String {
        let (days, second) = (self.time / 86_400, self.time % 86_400);
        let (mut year, mut day) = (1970, days);
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        while day >= 365 + u64::from(leap(year)) {
            day -= 365 + u64::from(leap(year));
            year += 1;
        }
        let february = 28 + u64::from(leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if day < length {
                break;
            }
            day -= length;
            month += 1;
        }
        let (hour, minute) = (second / 3600, second / 60 % 60);
        format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", day + 1, second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Source { commit: String::new(), time }.rfc3339(), text);
        }
    }
}
