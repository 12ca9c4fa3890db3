//! What a daemon needs for its start alone is given back.

use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

/// After its start, when everything has run once.
const FIRST: Duration = Duration::from_secs(10);
/// What a rare change has run through is not kept either. Twice in the 90 s between two audits of the kernel, once of that ten
/// seconds after: they run through more code, and ask for more room, than the rest of an idle daemon's time.
const NEXT: Duration = Duration::from_secs(45);

/// Gives back the code that is not in use, and the heap's free pages, again and again; it ends only where the kernel
/// refuses.
///
/// The daemons spend their lives in a small part of their code: see [`calico_sys::memory::unmap_idle_code`]. What is still
/// in use is mapped again within a millisecond.
pub async fn give_back_idle_memory() {
    sleep(FIRST).await;
    loop {
        if let Err(error) = calico_sys::memory::unmap_idle_code() {
            debug!(%error, "code that is not in use stays mapped");
            return;
        }
        calico_sys::memory::trim_heap();
        sleep(NEXT).await;
    }
}
