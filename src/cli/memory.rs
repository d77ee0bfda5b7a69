//! What this process has in memory stays there: tokens and passwords are in it.

/// Lets no core be dumped, and no other process of the same user look into this one's memory or environment. Root still may.
///
/// Programs that are started from here (psql, the private PostgreSQL) are what they were.
#[cfg(target_os = "linux")]
pub(super) fn keep_to_itself() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!(%error, "a core of this process can be dumped");
    }
}

/// Elsewhere what the system does by itself has to do.
#[cfg(not(target_os = "linux"))]
pub(super) fn keep_to_itself() {}
