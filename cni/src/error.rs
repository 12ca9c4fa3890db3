//! What does a plugin tell the runtime when it fails?

use std::fmt;

use calico_agent::Failure;
use calico_agent::client::ClientError;
use serde_json::{Value, json};

use crate::version::Version;

/// The error codes of the CNI specification, and of its Go library for 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: the configuration's `cniVersion` is not supported, or does not have the verb.
    IncompatibleVersion,
    /// 4: an environment variable is missing or wrong.
    InvalidEnvironment,
    /// 5: standard input, a file or a socket failed.
    Io,
    /// 6: standard input is not JSON.
    Decoding,
    /// 7: the network configuration says something impossible.
    InvalidConfiguration,
    /// 8: the network namespace is not there, is none, or is the node's own.
    InvalidNamespace,
    /// 11: try again later.
    TryAgain,
    /// 50: STATUS only: the plugin cannot serve.
    NotAvailable,
    /// 51: STATUS only: it cannot, and the pods that are there may be badly connected.
    Limited,
    /// 100: `-t`: the agent does not serve.
    ConnectionTest,
    /// Whatever another plugin said that was called on the way.
    Told(u32),
    /// 999: anything else.
    Other,
}

impl Code {
    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decoding => 6,
            Self::InvalidConfiguration => 7,
            Self::InvalidNamespace => 8,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::Limited => 51,
            Self::ConnectionTest => 100,
            Self::Told(code) => code,
            Self::Other => 999,
        }
    }
}

/// A failed verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What failed.
    pub message: String,
    /// The cause and what to do; may be empty.
    pub details: String,
}

impl Error {
    /// A failure.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    /// This failure, and that of what was then done about it.
    pub fn and_then(mut self, undone: Result<(), Self>) -> Self {
        if let Err(second) = undone {
            self.details = format!("{}; and then {second}", self.details);
        }
        self
    }

    /// A network configuration that says something impossible.
    pub fn configuration(message: impl Into<String>, details: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfiguration, message, details)
    }

    /// As it is written to standard output.
    pub fn to_json(&self, version: Version) -> Value {
        let mut error = json!({ "cniVersion": version.as_str(), "code": self.code.number(), "msg": self.message });
        if !self.details.is_empty() {
            error["details"] = Value::from(self.details.as_str());
        }
        error
    }

    /// From what another plugin wrote to standard output; `None` if that is no error.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = value.get("code")?.as_u64().and_then(|code| u32::try_from(code).ok())?;
        Some(Self { code: Code::Told(code), message: text("msg"), details: text("details") })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl std::error::Error for Error {}

impl From<Failure> for Error {
    /// The agent's codes are ours.
    fn from(failure: Failure) -> Self {
        let code = match failure.code {
            7 => Code::InvalidConfiguration,
            11 => Code::TryAgain,
            50 => Code::NotAvailable,
            51 => Code::Limited,
            _ => Code::Other,
        };
        Self::new(code, failure.message, failure.details)
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::NotThere { .. } | ClientError::Silent { .. } | ClientError::Closed { .. } => Code::TryAgain,
            ClientError::Language { .. } | ClientError::TooLong { .. } => Code::Other,
        };
        Self::new(code, "could not ask the agent on this node", error.to_string())
    }
}
