//! What is usual: how long each operation takes and how often it fails, by hour of day and kind of day.
//!
//! ```text
//! whoever stores ─ Changes ─▶ baseline_changes ─ pass ─▶ cells (operation x quarter of an hour)
//!   (in the same transaction)                              ▼ those touched
//!                                            slots (operation x 48 hours, 2 kinds of day, everything)
//! ```
//!
//! A change says what to add and what to take away, exactly: durations are counted in buckets, and counts can be subtracted.
//! So a trace that is improved later moves from one bucket to another, and a pass costs what is new, not what is stored.
//! Quarters of an hour are UTC; the timezone only says which cells make a slot. [`pass`] alone does I/O; all else here takes
//! values and returns values, and SQL is left to [`crate::store::baselines`].

pub mod changes;
pub mod figures;
pub mod pass;
pub mod sketch;
pub mod slot;
pub mod subject;
pub mod verdict;

pub use subject::Subject;

/// So many samples make a baseline; with fewer the next level is used.
pub const ENOUGH_SAMPLES: i64 = 30;
