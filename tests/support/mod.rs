//! What several test modules need.

pub mod local_postgres;
pub mod postgres;
