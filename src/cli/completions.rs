//! `completions`: for bash, zsh, fish and others.

use super::Exit;

/// Print completions for a shell, for example `tempo-harvest completions bash > ~/.local/share/bash-completion/completions/tempo-harvest`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Runs the command.
pub(super) fn run(args: Args, command: &mut clap::Command) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "tempo-harvest", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(Exit::Complete)
}
