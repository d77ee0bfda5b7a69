//! How long to wait before trying again: exponential, with jitter. The only file that names `backoff`.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// First wait.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait, unless the server asks for more.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest a server's `Retry-After` is honoured.
pub const LONGEST_ASKED: Duration = Duration::from_secs(3_600);

/// The wait before the try after `failures` failures in a row (1 or more): half a second, doubling to half a minute,
/// each give or take a half, and never less than what the server asked for.
pub fn wait(failures: u32, retry_after: Option<Duration>) -> Duration {
    let current = FIRST.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(16)));
    let mut policy = ExponentialBackoff {
        current_interval: current.min(LONGEST),
        randomization_factor: 0.5,
        ..ExponentialBackoff::default()
    };
    let own = policy.next_backoff().unwrap_or(LONGEST);
    own.max(retry_after.unwrap_or_default().min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_honour_the_server() {
        for failures in 1..40 {
            let middle = (0.5 * 2f64.powi(failures - 1)).min(30.0);
            let got = wait(failures as u32, None).as_secs_f64();
            assert!(
                (middle * 0.49..=middle * 1.51).contains(&got),
                "{failures}: {got}"
            );
        }
        assert!(wait(1, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(wait(1, Some(Duration::from_secs(1 << 40))) <= LONGEST_ASKED);
    }
}
