//! `calicoctl`: the command line. Names, flags, texts and tables are Calico's.

mod arguments;
mod bgp;
mod bird;
mod client;
mod crud;
mod files;
mod ipam_check;
mod ipam_configure;
mod ipam_release;
mod ipam_show;
mod node_cleanup;
mod node_status;
mod output;
mod resource_type;
mod speaker;
mod usage_error;
mod version;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::{Arguments, Command, IpamCommand, NodeCommand};

fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return usage_error::print(&error),
    };
    log(&arguments.globals.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves nobody to tell.
            let _ = output::errors(&format!("{}\n", usage_error::massaged(&format!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}

/// The parser, under the name that we are called by: kubectl calls its plugins `kubectl-…`.
fn command() -> clap::Command {
    let name = std::env::args_os().next().unwrap_or_default();
    let plugin = Path::new(&name).file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl-"));
    let command = Arguments::command();
    if plugin { command.name("kubectl-calico").bin_name("kubectl-calico") } else { command }
}

/// Logs to standard error; nothing at all unless it is asked for.
fn log(level: &str) {
    let level = match level {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        _ => LevelFilter::OFF,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { globals, command } = arguments;
    match command {
        Command::Create(flags) => crud::write(crud::Verb::Create, flags.skip_exists, &flags.files, &globals).await,
        Command::Apply(flags) => crud::write(crud::Verb::Apply, false, &flags, &globals).await,
        Command::Replace(flags) => crud::write(crud::Verb::Replace, false, &flags, &globals).await,
        Command::Delete(flags) => crud::delete(&flags, &globals).await,
        Command::Get(flags) => crud::get(&flags, &globals).await,
        Command::Patch(flags) => crud::patch(&flags, &globals).await,
        Command::Label(flags) => crud::label(&flags, &globals).await,
        Command::Bgp(flags) => bgp::run(&flags, &globals).await,
        Command::Ipam(flags) => match flags.command {
            IpamCommand::Show(flags) => ipam_show::run(&flags, &globals).await,
            IpamCommand::Check(flags) => ipam_check::run(&flags, &globals).await,
            IpamCommand::Release(flags) => ipam_release::run(&flags, &globals).await,
            IpamCommand::Configure(flags) => ipam_configure::run(&flags, &globals).await,
        },
        Command::Node(flags) => match flags.command {
            NodeCommand::Status(flags) => node_status::run(&flags, &globals).await,
            NodeCommand::Cleanup(flags) => node_cleanup::run(&flags),
        },
        Command::Version(flags) => version::run(&flags, &globals).await,
    }
}
