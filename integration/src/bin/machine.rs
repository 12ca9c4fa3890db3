//! Runs a command on user-mode Linux with this root file system, or a test where its kernel has what it needs.

use std::ffi::OsString;
use std::io::stdout;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use integration::interrupt::Interrupt;
use integration::machine::{self, Machine, Shared};

/// Boots user-mode Linux on this root file system (read-only), runs a command in it as root, and ends with its status.
#[derive(Debug, Parser)]
#[command(name = "machine", version = calico_version::LONG)]
struct Arguments {
    /// Megabytes of memory.
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// After how many seconds it is stopped.
    #[arg(long, default_value_t = 900)]
    seconds: u64,
    /// The command is a test program: it runs on the host's kernel if that has what its name says it needs (`ipip`).
    #[arg(long)]
    test: bool,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let machine = Machine { memory: arguments.memory, limit: Duration::from_secs(arguments.seconds) };
    // Caught only when there is something to remove: a test that runs on this kernel takes our place.
    let announce = |folder: &Path| Interrupt::catch().clean_up(folder.to_owned());
    let done = match (arguments.test, arguments.command.split_first()) {
        (true, Some((program, rest))) => machine::run_test(program, rest, announce),
        _ => Shared::announced(announce).and_then(|shared| machine.run(&shared, &arguments.command, &mut stdout())),
    };
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(125)
        }
    }
}
