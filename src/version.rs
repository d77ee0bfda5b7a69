//! Which program this is: what `--version` says, and what is asked first when something is wrong.
//!
//! `src/build.rs` finds the commit out.

/// The release, for example `0.1.0`.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, for example `1f9e2c3a4`, with `-dirty` if files had changed since; `debug` in a debug build, and empty
/// where nobody knew.
pub const COMMIT: &str = env!("TEMPO_HARVEST_COMMIT");

/// Both: `0.1.0 (1f9e2c3a4)`.
pub const FULL: &str = env!("TEMPO_HARVEST_VERSION");
