//! `calicoctl node cleanup`: what is left of Ocicat on a node that it leaves, and removing it.
//!
//! What is ours is known as a restarted felix knows it: by a mark in the kernel (a route's protocol number, a name), or by
//! what is in a file. Calico's own leftovers of the same kinds go too, unless Calico's plugin is installed: then the node
//! is Calico's, and its files stay.

mod files;
mod flannel;
mod kernel;
mod running;

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::arguments::NodeCleanup;
use crate::node_status::is_root;
use crate::output;

/// What was done, and what not.
#[derive(Debug, Default)]
struct Report {
    dry_run: bool,
    removed: Vec<String>,
    left: Vec<(String, String)>,
    failed: Vec<(String, String)>,
}

impl Report {
    /// Removes something, unless this is only a rehearsal.
    fn remove<E: Display>(&mut self, what: impl Into<String>, work: impl FnOnce() -> std::result::Result<(), E>) {
        let done = if self.dry_run { Ok(()) } else { work() };
        match done {
            Ok(()) => self.removed.push(what.into()),
            Err(error) => self.failed.push((what.into(), error.to_string())),
        }
    }

    /// Something stays, for this reason.
    fn leave(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left.push((what.into(), why.into()));
    }

    /// Something could not even be looked at.
    fn fail(&mut self, what: impl Into<String>, error: impl Display) {
        self.failed.push((what.into(), error.to_string()));
    }

    fn text(&self, whose: &str) -> String {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        let mut lines: Vec<_> = self.removed.iter().map(|what| format!("{removed} {what}")).collect();
        lines.extend(self.left.iter().map(|(what, why)| format!("left {what}: {why}")));
        lines.extend(self.failed.iter().map(|(what, why)| format!("FAILED {what}: {why}")));
        if lines.is_empty() {
            lines.push(format!("nothing of {whose} is left on this node"));
        }
        lines.join("\n") + "\n"
    }
}

/// Runs it.
pub(crate) fn run(flags: &NodeCleanup) -> Result<ExitCode> {
    if !is_root()? {
        output::print("Need super user privileges: Operation not permitted\n")?;
        return Ok(ExitCode::FAILURE);
    }
    if flags.flannel {
        return flannel(flags);
    }
    let running = running::programs(&flags.root);
    if !running.is_empty() && !flags.force {
        bail!(
            "{} still runs on this node and would put back what is removed: delete the DaemonSet first, or stop the service \
             (--force removes all the same)",
            running.join(" and ")
        );
    }
    let mut report = Report { dry_run: flags.dry_run, ..Report::default() };
    let prefixes: Vec<_> =
        flags.interface_prefix.split(',').map(str::trim).filter(|prefix| !prefix.is_empty()).collect();
    kernel::clean(&prefixes, &mut report);
    if !flags.keep_files {
        files::clean(&flags.root, &mut report);
    }
    output::print(&report.text("Ocicat"))?;
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of flannel instead. Our own daemons may run: they have nothing to do with it.
fn flannel(flags: &NodeCleanup) -> Result<ExitCode> {
    if running::is_process("flanneld") && !flags.force {
        bail!(
            "flanneld still runs on this node and would put back what is removed: delete its DaemonSet first, or stop the \
             service (--force removes all the same)"
        );
    }
    let mut report = Report { dry_run: flags.dry_run, ..Report::default() };
    flannel::clean(&flags.root, &mut report);
    output::print(&report.text("flannel"))?;
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
