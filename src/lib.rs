//! Brings every trace of a time range out of Grafana Tempo into PostgreSQL, and knows which seconds it has.
//!
//! ```text
//! job file ─ job ─ submit ─ plan ──┐            (pure: window, plan, split, job)
//!                                  ▼
//!                     store (the ledger: windows) ◀──┐
//!                                  │ queue delivers  │ done, split, set back: one transaction each
//!                                  ▼                 │
//!                   worker ─ harvest (one window) ───┘
//!                                  │
//!                                  ▼
//!                         tempo (HTTP, formats, limits)
//! ```
//!
//! The ledger is the truth and the queue only delivers: whatever is lost between the two is put back, and whatever comes
//! twice is dropped. A window is done only if everything in it is stored, in the same transaction.

pub mod baseline;
pub mod cli;
pub mod container;
pub mod control;
pub mod gaps;
pub mod harvest;
pub mod housekeeping;
pub mod job;
pub mod local_postgres;
pub mod meter;
pub mod pace;
pub mod plan;
pub mod queue;
pub mod repair;
pub mod retry;
pub mod scheduler;
pub mod simulator;
pub mod split;
pub mod stats;
pub mod status;
pub mod store;
pub mod submit;
pub mod tempo;
pub mod verify;
pub mod version;
pub mod warnings;
pub mod web;
pub mod window;
pub mod words;
pub mod worker;
