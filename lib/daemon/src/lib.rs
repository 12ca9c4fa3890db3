//! What every daemon does alike: logs, metrics, health, and stopping when told to.

mod health;
mod http;
mod logs;
mod memory;
mod stop;

pub use health::{Health, Reporter, Verdict};
pub use http::{HttpServer, ServeError, serve_http};
pub use logs::{LogFormat, LogLevel, LogOptions, LogsError, init_adjustable_logs, init_logs};
pub use memory::give_back_idle_memory;
pub use stop::terminated;
