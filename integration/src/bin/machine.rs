//! Runs a command on another kernel with this machine's root file system, or a test where its kernel has what it needs.

use std::ffi::OsString;
use std::io::stdout;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use integration::machine::{self, Kernel, Machine, Shared};

/// Boots a kernel on this machine's root file system (read-only), runs a command in it as root, and ends with its status.
#[derive(Debug, Parser)]
#[command(name = "machine", version = calico_version::LONG)]
struct Arguments {
    /// Which kernel.
    #[arg(long, value_enum, default_value_t = Choice::Uml)]
    kernel: Choice,
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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// User-mode Linux.
    Uml,
    /// Debian's kernel in QEMU.
    Qemu,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let kernel = match arguments.kernel {
        Choice::Uml => Kernel::UserMode,
        Choice::Qemu => Kernel::Emulated,
    };
    let machine = Machine { kernel, memory: arguments.memory, limit: Duration::from_secs(arguments.seconds) };
    let done = match (arguments.test, arguments.command.split_first()) {
        (true, Some((program, rest))) => machine::run_test(program, rest),
        _ => Shared::new().and_then(|shared| machine.run(&shared, &arguments.command, &mut stdout())),
    };
    match done {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(125)
        }
    }
}
