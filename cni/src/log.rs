//! Where does a plugin write what it did?
//!
//! A plugin's standard output belongs to the runtime. If the network configuration names a file, one line per verb goes
//! there: never the configuration itself, which may hold tokens. A log that cannot be written never fails a verb.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Only failures.
    Error,
    /// And what is likely to be a mistake.
    Warning,
    /// One line per verb.
    Info,
}

/// A log file, or none.
#[derive(Debug)]
pub struct Log {
    path: Option<PathBuf>,
    level: Level,
    /// In octets; a larger file is set aside.
    max_size: u64,
}

impl Log {
    /// From `log_file_path`, `log_level` and `log_file_max_size` (MB) of a configuration, however wrong the rest of it.
    pub fn of(configuration: &Value) -> Self {
        let text = |name: &str| configuration.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let level = match text("log_level").map(str::to_ascii_lowercase).as_deref() {
            Some("error") => Level::Error,
            Some("warn" | "warning") => Level::Warning,
            _ => Level::Info,
        };
        let max_size = configuration.get("log_file_max_size").and_then(Value::as_u64).filter(|size| *size != 0);
        Self {
            path: text("log_file_path").map(Into::into),
            level,
            max_size: max_size.unwrap_or(100).saturating_mul(1 << 20),
        }
    }

    /// Writes a line, if the level wants it.
    pub fn write(&self, level: Level, line: impl Display) {
        let Some(path) = self.path.as_ref().filter(|_| level <= self.level) else { return };
        let name = match level {
            Level::Error => "ERROR",
            Level::Warning => "WARNING",
            Level::Info => "INFO",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("{}.{:03}Z [{name}] {line}\n", date(now.as_secs()), now.subsec_millis());
        // By intent without a trace if it fails: there is no other place to tell it.
        let _ = self.open(path).and_then(|mut file| file.write_all(line.as_bytes()));
    }

    fn open(&self, path: &PathBuf) -> io::Result<File> {
        let open = || OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(path))?;
                open()?
            }
            other => other?,
        };
        if file.metadata()?.len() <= self.max_size {
            return Ok(file);
        }
        let mut aside = path.clone().into_os_string();
        aside.push(".1");
        fs::rename(path, aside)?;
        open()
    }
}

/// Seconds since 1970 as `2026-11-21T14:28:16`, UTC.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of year 0, the leap day is the last of a year and a year is 365.2425 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_date_is_right_at_every_seam() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (4_102_444_799, "2099-12-31T23:59:59"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn lines_of_the_level_are_appended_and_a_full_file_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/cni.log");
        let mut log = Log::of(&json!({ "log_file_path": path, "log_level": "error" }));
        log.write(Level::Info, "unsaid");
        log.write(Level::Error, "one");
        log.write(Level::Error, "two");
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with("Z [ERROR] two\n"), "{text}");
        log.max_size = 10;
        log.write(Level::Error, "three");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(fs::read_to_string(directory.path().join("new/cni.log.1")).unwrap(), text);
        // Nothing to write to: nothing happens.
        Log::of(&json!({ "log_file_path": "/proc/nowhere/cni.log" })).write(Level::Error, "lost");
    }
}
