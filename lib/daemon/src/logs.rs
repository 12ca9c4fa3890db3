//! How logs are written: level and format are the operator's, the messages are ours.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// The text is not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a log format: write text or json")]
pub struct LogFormatError(String);

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, LogFormatError> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogFormatError(text.to_owned())),
        }
    }
}

/// How logs are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// One of Calico's words (Trace, Debug, Info, Warning, Error, Fatal, any case), or a filter
    /// such as `info,bgp_speaker=debug`.
    pub level: String,
    /// What a line looks like.
    pub format: LogFormat,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Logs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The level is neither a word nor a filter.
    #[error("log level \"{level}\": {reason}; write trace, debug, info, warning, error or fatal")]
    Level {
        /// What was asked.
        level: String,
        /// What the filter's parser says.
        reason: String,
    },
    /// Somebody started them before.
    #[error("logs are already started")]
    Started,
}

/// The level of logs that are being written: it may be changed.
pub struct LogLevel(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// Writes logs of this level from now on; what it may be, [`LogOptions::level`] says.
    ///
    /// # Errors
    /// If the level cannot be read; the present one stays.
    pub fn set(&self, level: &str) -> Result<(), LogsError> {
        match (self.0)(filter(level)?) {
            true => Ok(()),
            false => Err(LogsError::Level { level: level.to_owned(), reason: "logs are no longer written".to_owned() }),
        }
    }
}

/// Starts logging to standard error.
///
/// # Errors
/// If the level cannot be read, or logging was started before.
pub fn init_logs(options: &LogOptions) -> Result<(), LogsError> {
    init_adjustable_logs(options).map(drop)
}

/// Starts logging to standard error, at a level that may be changed later.
///
/// # Errors
/// As [`init_logs`].
pub fn init_adjustable_logs(options: &LogOptions) -> Result<LogLevel, LogsError> {
    let filter = filter(&options.level)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(Clock);
    match options.format {
        LogFormat::Text => {
            let logs = logs.with_filter_reloading();
            let handle = logs.reload_handle();
            let level = LogLevel(Box::new(move |filter| handle.reload(filter).is_ok()));
            logs.try_init().map(|()| level)
        }
        LogFormat::Json => {
            let logs = logs.json().flatten_event(true).with_filter_reloading();
            let handle = logs.reload_handle();
            let level = LogLevel(Box::new(move |filter| handle.reload(filter).is_ok()));
            logs.try_init().map(|()| level)
        }
    }
    .map_err(|_| LogsError::Started)
}

fn filter(level: &str) -> Result<EnvFilter, LogsError> {
    let directive = match level.to_ascii_lowercase().as_str() {
        "" => "info".to_owned(),
        "warning" => "warn".to_owned(),
        "fatal" | "panic" => "error".to_owned(),
        "none" => "off".to_owned(),
        _ => level.to_ascii_lowercase(),
    };
    // A lone word that is no level would be taken for the name of a module, and silence everything.
    let known = ["trace", "debug", "info", "warn", "error", "off"];
    if directive.chars().all(|c| c.is_ascii_alphanumeric()) && !known.contains(&directive.as_str()) {
        return Err(LogsError::Level { level: level.to_owned(), reason: "unknown level".to_owned() });
    }
    EnvFilter::try_new(&directive)
        .map_err(|error| LogsError::Level { level: level.to_owned(), reason: error.to_string() })
}

/// UTC with microseconds.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> fmt::Result {
        SystemTime.format_time(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_calicos_words_or_filters() {
        for good in ["", "Info", "Warning", "FATAL", "debug", "info,bgp_speaker=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let error = filter("chatty").unwrap_err().to_string();
        assert!(error.contains("\"chatty\"") && error.contains("warning"), "{error}");
    }

    #[test]
    fn formats_have_names() {
        assert_eq!("JSON".parse(), Ok(LogFormat::Json));
        assert_eq!(
            "xml".parse::<LogFormat>().unwrap_err().to_string(),
            "\"xml\" is not a log format: write text or json"
        );
    }

    #[test]
    fn the_level_may_be_changed_while_logs_are_written() {
        let level = init_adjustable_logs(&LogOptions::default()).unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        level.set("Debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(level.set("chatty").is_err());
        assert!(tracing::enabled!(tracing::Level::DEBUG), "the last good level stays");
    }
}
