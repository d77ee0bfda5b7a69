//! Asking before something is done that costs.

use std::io::{BufRead, IsTerminal, Write};

use super::{UsageError, terminal};

/// Whether to go on: `--yes` was said, or whoever sits at the terminal says so. `what` is printed before the question.
///
/// # Errors
/// If there is nobody to ask.
pub(super) fn confirmed(what: &str, consequence: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(UsageError(format!("{what}: {consequence}; say --yes")).into());
    }
    let mut stderr = terminal::stderr();
    write!(stderr, "{what}\n{consequence}: go on? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
