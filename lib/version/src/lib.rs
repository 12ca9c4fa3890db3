//! Which version this is, and from which commit it was built.

/// The project's version, `0.1.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit's abbreviated hash, or `unknown` if it was built outside a repository.
pub const COMMIT: &str = env!("OCICAT_COMMIT");

/// Both, as `--version` prints them after the program's name: `0.1.0 (commit 0123456789)`.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("OCICAT_COMMIT"), ")");

/// The Calico release whose resources, formats and commands we follow.
pub const CALICO_COMPATIBLE: &str = "v3.32.1";
