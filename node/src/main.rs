//! `calico-node`: commands of the node's pod.

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

use calico_node::arguments::{Arguments, Command, normalised};
use calico_node::{health, install};
use clap::Parser as _;
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(normalised(env::args_os()));
    match arguments.command {
        Command::Health(options) => say(&health::command(&options)),
        Command::InstallCni(options) => install::command(&options),
        Command::Stay => say(&stay()),
        // A preStop hook of a manifest written for Calico must not fail, and nothing is left to be done by it.
        Command::Shutdown => {
            say(&Ok("nothing to do: felix marks the node NetworkUnavailable itself when it is told to stop".to_owned()))
        }
    }
}

/// Waits for SIGTERM or SIGINT, which a container's first process must take itself.
fn stay() -> Result<String, String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    let told = signals.thread_block().and_then(|()| {
        // From here on a signal is not lost: whoever reads this may send it.
        let _ = io::stdout().write_all(b"staying until it is told to stop\n");
        signals.wait()
    });
    told.map(|signal| format!("stopped by {signal}")).map_err(|error| format!("cannot wait for signals: {error}"))
}

/// Writes the words to standard output, where the kubelet and Calico's users look for them.
fn say(answer: &Result<String, String>) -> ExitCode {
    let (Ok(words) | Err(words)) = answer;
    let told = if words.is_empty() { Ok(()) } else { io::stdout().write_all(format!("{words}\n").as_bytes()) };
    match answer {
        Ok(_) if told.is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
