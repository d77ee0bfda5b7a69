//! The pure core of tempo-harvest - what takes values and returns values - as a package of its own, made of the same files.
//!
//! It builds and runs its tests in seconds, which is what makes mutation testing affordable (`just mutants`), and it builds
//! without a database, HTTP or a runtime, which shows that these files need none. Nothing else uses it.

#![expect(
    dead_code,
    reason = "some of it is used by the rest of the program only"
)]

#[path = "../../src/gaps.rs"]
pub mod gaps;
#[path = "../../src/plan/mod.rs"]
pub mod plan;
#[path = "../../src/retry.rs"]
pub mod retry;
#[path = "../../src/split.rs"]
pub mod split;
#[path = "../../src/window.rs"]
pub mod window;

/// What is usual, without the pass that computes it.
#[path = "../../src/baseline"]
pub mod baseline {
    pub mod changes;
    pub mod figures;
    pub mod sketch;
    pub mod slot;
    pub mod subject;
    pub mod verdict;

    pub use subject::Subject;
}

/// Of job files what is about time.
#[path = "../../src/job"]
pub mod job {
    pub mod diagnostics;
    pub mod duration;
    pub mod instant;
    pub mod schedule;
    mod times;

    pub use schedule::Schedule;
    pub use times::{Backfill, BackfillRange, Order, Poll, Ticks};
}

/// Tempo's answers, without the client that asks for them.
#[path = "../../src/tempo"]
pub mod tempo {
    pub mod error;
    pub mod limits;
    pub mod wire;

    pub use error::{Class, Failure};
    pub use limits::{Learned, Limits};
}
