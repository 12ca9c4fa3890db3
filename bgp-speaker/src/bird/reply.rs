//! How are the lines of a reply written, and the times in them?

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Until this age a time is shown as a time of day, then as a date, in seconds.
const TIME_OF_DAY_LIMIT: i64 = 20 * 3600;

/// A reply under construction.
#[derive(Default)]
pub(super) struct Reply(pub(super) String, Option<u16>);

impl Reply {
    /// A line after which more follows.
    pub(super) fn line(&mut self, code: u16, text: &str) {
        if self.1 == Some(code) {
            let _ = writeln!(self.0, " {text}");
        } else {
            let _ = writeln!(self.0, "{code:04}-{text}");
        }
        self.1 = Some(code);
    }

    /// The last line.
    pub(super) fn last(&mut self, code: u16, text: &str) {
        let _ = writeln!(self.0, "{code:04} {text}");
    }
}

/// Now, and the time zone that times are shown in.
pub(crate) struct Clock<'a> {
    pub(crate) now: Timestamp,
    pub(crate) zone: &'a TimeZone,
}

impl Clock<'_> {
    pub(crate) fn full(&self, time: Timestamp) -> String {
        time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    pub(crate) fn short(&self, time: Timestamp) -> String {
        let young = self.now.as_second() - time.as_second() < TIME_OF_DAY_LIMIT;
        time.to_zoned(self.zone.clone()).strftime(if young { "%H:%M:%S" } else { "%Y-%m-%d" }).to_string()
    }
}
