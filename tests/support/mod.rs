//! What several test modules need.

pub mod harvest;
pub mod postgres;
