//! `calicoctl bgp`: the sessions that follow from the resources, and what this node's speaker knows.

mod cluster;
mod dials;
mod difference;
mod neighbors;
mod preview;
mod routes;
mod running;
mod session_json;
mod sessions;
mod words;

use std::process::ExitCode;

use anyhow::Result;
use calico_api::yaml::{to_json, to_yaml};
use serde_json::Value;

use crate::arguments::{Bgp, BgpCommand, Form, Globals};

/// Runs one of them.
pub(crate) async fn run(flags: &Bgp, globals: &Globals) -> Result<ExitCode> {
    match &flags.command {
        BgpCommand::Sessions(flags) => sessions::run(flags, globals).await,
        BgpCommand::Routes(flags) => routes::run(flags),
        BgpCommand::Neighbors(flags) => neighbors::run(flags),
    }
}

/// A document as JSON or YAML; `None` for a table.
fn document(form: Form, value: &Value) -> Option<String> {
    match form {
        Form::Json => Some(to_json(value) + "\n"),
        Form::Yaml => Some(to_yaml(value) + "\n"),
        Form::Ps | Form::Wide => None,
    }
}
