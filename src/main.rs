//! The `tempo-harvest` command: parses arguments, runs, and turns the outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tempo_harvest::cli::main()
}
