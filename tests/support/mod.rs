//! What several test modules need.

pub mod browser;
pub mod harvest;
pub mod http;
pub mod local_postgres;
pub mod postgres;
pub mod proxy;
pub mod tls;
