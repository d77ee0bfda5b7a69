//! `--listen`: where the dashboard is, and who may look at it. Decided before anything else is done.

use std::{io::Read, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use chrono::Utc;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::UsageError;
use crate::{
    meter::Meter,
    store::Holder,
    web::{Access, Context, Door, Token},
    worker::Unusable,
};

/// Names the token, unless a file does. No argument does: everybody on a machine can read those of its processes.
const TOKEN_VARIABLE: &str = "TEMPO_HARVEST_LISTEN_TOKEN";

/// What is read of a file for a token, bytes.
const LARGEST_TOKEN_FILE: u64 = 64 * 1024;
/// A shorter one could be guessed, for nothing slows down who tries.
const SHORTEST_TOKEN: usize = 16;

/// Options of commands that show a dashboard.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ListenArgs {
    /// Show a dashboard at this address, such as 127.0.0.1:8080
    ///
    /// Other addresses than this machine's own (127.0.0.1, localhost) demand a token, which requests must then carry: in
    /// TEMPO_HARVEST_LISTEN_TOKEN or --listen-token-file.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Answer only who has the token in this file; a browser asks for it as a password
    #[arg(long, value_name = "FILE", requires = "listen")]
    listen_token_file: Option<PathBuf>,
}

/// An address and a port as people write them.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    address.parse().map_err(|_| {
        "write an IP address and a port: 127.0.0.1:8080 for this machine only, 0.0.0.0:8080 for all".to_owned()
    })
}

impl ListenArgs {
    /// Opens the door, or refuses to; `None` without `--listen`.
    pub(super) async fn open(&self) -> anyhow::Result<Option<Door>> {
        let Some(address) = self.listen else {
            return Ok(None);
        };
        let access = match self.token()? {
            Some(token) => Access::With(token),
            None if address.ip().is_loopback() => Access::ThisMachine,
            None => {
                return Err(UsageError(format!(
                    "--listen `{address}` can be reached from other machines, and there is no token: put one into {TOKEN_VARIABLE} or into a file \
                     for --listen-token-file (`openssl rand -hex 32` makes one), or listen on 127.0.0.1:{}",
                    address.port()
                ))
                .into());
            }
        };
        let door = Door::open(address, access)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(Some(door))
    }

    fn token(&self) -> anyhow::Result<Option<Token>> {
        let from_environment = std::env::var_os(TOKEN_VARIABLE);
        let (text, place) = match (&self.listen_token_file, from_environment) {
            (Some(_), Some(_)) => {
                return Err(UsageError(format!(
                    "the token comes from {TOKEN_VARIABLE} and from --listen-token-file: take away one of them"
                ))
                .into());
            }
            (None, None) => return Ok(None),
            (None, Some(text)) => (text.into_string().ok(), TOKEN_VARIABLE.to_owned()),
            (Some(file), None) => {
                let shown = file.display();
                let content = std::fs::File::open(file)
                    .and_then(|file| {
                        let mut content = Vec::new();
                        file.take(LARGEST_TOKEN_FILE).read_to_end(&mut content)?;
                        Ok(content)
                    })
                    .map_err(|error| {
                        UsageError(format!(
                            "cannot read --listen-token-file `{shown}`: {error}"
                        ))
                    })?;
                (
                    String::from_utf8(content).ok(),
                    format!("--listen-token-file `{shown}`"),
                )
            }
        };
        // What cannot stand in a header could never be shown.
        let token = text
            .filter(|text| {
                text.trim_end_matches(['\r', '\n'])
                    .chars()
                    .all(|c| c == ' ' || c.is_ascii_graphic())
            })
            .and_then(|text| Token::new(&text));
        match token {
            Some(token) if token.length_bytes() < SHORTEST_TOKEN => Err(UsageError(format!(
                "{place} holds a token that could be guessed: it must have at least {SHORTEST_TOKEN} characters (`openssl rand -hex 32` makes one)"
            ))
            .into()),
            Some(token) => Ok(Some(token)),
            None => Err(UsageError(format!(
                "{place} holds no token: it must be one line of printable ASCII (`openssl rand -hex 32` makes one)"
            ))
            .into()),
        }
    }
}

/// Shows the dashboard behind the door until `stop`.
pub(super) fn serve(
    door: Door,
    pool: &PgPool,
    holder: &Holder,
    unusable: Unusable,
    meter: Meter,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let context = Context::new(
        pool.clone(),
        holder.to_string(),
        unusable,
        meter,
        Utc::now(),
    );
    tokio::spawn(door.serve(Arc::new(context), stop.clone()))
}
