//! The thread that starts the servers: they die with it, and so it must not be that of a passing caller.

use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, Result};

use super::Launch;
use crate::process::Process;

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Starter {
    jobs: mpsc::Sender<Job>,
}

impl Starter {
    pub(super) fn new() -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("starter".to_owned()).spawn(move || queue.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs })
    }

    /// Starts a program on the thread.
    pub(super) fn run(&self, launch: &Arc<Launch>, start: fn(&Launch) -> Result<Process>) -> Result<Process> {
        let (answer, answered) = mpsc::channel();
        let launch = launch.clone();
        let job = Box::new(move || {
            let _ = answer.send(start(&launch)); // a caller that is gone needs no server
        });
        self.jobs.send(job).ok().context("the starting thread is gone")?;
        answered.recv().context("the starting thread ended")?
    }
}
