//! Working off the releases that could not be done at once.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use calico_agent::spool::{Pending, pending, sweep};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{error, warn};

use super::Agent;
use super::endpoint::Identity;

/// How often the spool is looked into: plugins write to it when there is no agent.
const PERIOD: Duration = Duration::from_secs(10);

/// A draft of a file that is older was left by somebody who died over it.
const STALE: Duration = Duration::from_secs(15);

/// The ending of files that could not be read.
const BAD: &str = "bad";

/// Works off the spool at the start, every ten seconds, and when the store answers again; for ever.
pub(crate) async fn work_off(agent: Arc<Agent>) {
    let mut state = agent.state.clone();
    if state.wait_for(|state| state.in_sync).await.is_err() {
        return;
    }
    // What a Felix before this one had switched off, perhaps without having noted it yet.
    if let Err(error) = agent.remove_leaving().await {
        warn!(%error, "interfaces of sandboxes that are gone are not removed");
    }
    let mut ticks = interval_at(Instant::now(), PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let before = std::mem::replace(&mut trouble, state.borrow_and_update().trouble.is_some());
                if !before || trouble {
                    continue;
                }
            }
        }
        // Whatever the watches say: one may fail for ever.
        round(&agent).await;
    }
}

/// Does each pending release; one that fails does not hold up the others, unless it is the store that does not answer.
async fn round(agent: &Agent) {
    if let Err(error) = sweep(&agent.spool, STALE) {
        warn!(spool = %agent.spool.display(), %error, "the spool cannot be swept");
    }
    let found = match pending(&agent.spool) {
        Ok(found) => found,
        Err(error) => return warn!(spool = %agent.spool.display(), %error, "the spool cannot be read"),
    };
    let found: Vec<Pending> =
        found.into_iter().filter(|one| one.path.extension().is_none_or(|end| end != BAD)).collect();
    agent.metrics.spooled.set(found.len().try_into().unwrap_or(i64::MAX));
    for one in found {
        let sandbox = match &one.del {
            Ok(del) => &del.sandbox,
            Err(reason) => {
                set_aside(&one.path, reason);
                continue;
            }
        };
        let identity = match Identity::of(sandbox, &agent.node, &agent.prefix) {
            Ok(identity) => identity,
            Err(failure) => {
                set_aside(&one.path, &failure.message);
                continue;
            }
        };
        // Whoever has the turn may keep it long; this is done next time.
        let Some(_turn) = agent.turns.take(&identity.key) else { continue };
        if let Err(error) = agent.work_off(&one, &identity, sandbox).await {
            warn!(container = sandbox.container_id, %error, again_in = ?PERIOD, "a remembered release is not done yet");
            if error.is_silence() {
                return;
            }
            continue;
        }
        agent.metrics.spooled.dec();
    }
}

/// Keeps a file that cannot be read out of the way, for somebody to look at: the addresses in it are still taken.
fn set_aside(path: &Path, reason: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(BAD);
    error!(file = %path.display(), reason, "a remembered release cannot be read; it is renamed to .bad, release its addresses by hand");
    if let Err(error) = fs::rename(path, &aside) {
        warn!(file = %path.display(), %error, "it could not be renamed");
    }
}
