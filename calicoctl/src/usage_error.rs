//! What is said about a command line that cannot be understood, in the words that scripts match.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::output;

/// Prints a parser's error, help or version; an error is exit code 1, like every other.
pub(crate) fn print(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Closed output: nobody reads it.
        let _ = output::print(&error.render().to_string());
        return ExitCode::SUCCESS;
    }
    let _ = output::errors(&text(error));
    ExitCode::FAILURE
}

fn text(error: &clap::Error) -> String {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    match (error.kind(), argument) {
        (ErrorKind::UnknownArgument, flag) if flag.starts_with("--") => format!("unknown flag: {flag}\n"),
        (ErrorKind::UnknownArgument, flag) if flag.starts_with('-') => {
            let letter = flag.chars().nth(1).unwrap_or('-');
            format!("unknown shorthand flag: '{letter}' in {flag}\n")
        }
        _ => error.render().to_string(),
    }
}

/// An error's text without the decoder's own prefixes, as users know it.
pub(crate) fn massaged(text: &str) -> String {
    text.replace("error unmarshaling JSON: while decoding JSON: json: ", "")
}
