//! Talking to Grafana Tempo: one request in, one typed answer or one classified failure out.
//!
//! [`client`] speaks HTTP (`by_id` the look-ups), [`wire`] knows the formats, [`limits`] what a server allows, [`gate`] how often it may be
//! asked, [`error`] what each failure means. What to do about an answer is decided in [`crate::harvest`].

mod by_id;
pub mod client;
pub mod error;
pub mod gate;
pub mod limits;
mod secrets;
pub mod setup;
pub mod wire;

pub use by_id::TraceAnswer;
pub use client::{Answer, Client, Count, CountAnswer, Lacks, Search};
pub use error::{Class, Failure};
pub use gate::Urgency;
pub use limits::{Learned, Limits};
