//! One binary for all integration tests: behaviour through the front door, and of the library.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backfill;
mod backup;
mod bad_input;
mod baselines;
mod bounds;
mod check;
mod commands;
mod contrib;
mod control;
mod crash;
mod dashboard;
mod datasets;
mod db;
mod density;
mod documentation;
mod faults;
mod fragments;
mod fuzz;
mod grafana;
mod hostile;
mod housekeeping;
mod job;
mod local_postgres;
mod metrics;
mod network;
mod pace;
mod polls;
mod release;
mod repair;
mod retention;
mod roles;
mod secrets;
mod simulator;
mod spans;
mod splitting;
mod stats;
#[path = "../support/mod.rs"]
mod support;
mod test_databases;
mod torture;
mod upgrades;
mod verify;
mod versions;
mod window_states;
