//! The process that starts the server and, when nobody uses it any more, ends it.
//!
//! A process of its own, because no user can do it: the first may go while others stay, and any of them may be killed.
//! The locks that make this safe are described in `local_postgres`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::account::Home;
use super::folder::{Folder, io_error};
use super::server::Server;
use super::{Coordinates, Error, connect};

/// How long another holder of the supervisor's lock is waited for: users look at the lock for an instant by taking it.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// Runs the server in `folder` with the programs in `binaries` until its last user is gone, or SIGTERM comes.
///
/// Returns at once when another supervisor is at work.
///
/// # Errors
/// When the server cannot be started, or ends by itself.
pub async fn supervise(folder: &Path, binaries: &Path) -> Result<(), Error> {
    let folder = Folder::open(folder)?;
    let began = Instant::now();
    let supervisor_lock = folder.open_lock("supervisor.lock")?;
    while let Err(error) = supervisor_lock.try_lock() {
        if let std::fs::TryLockError::Error(source) = error {
            return Err(io_error("locking", folder.path())(source));
        }
        if began.elapsed() > PROBE_PATIENCE {
            tracing::info!("another supervisor is at work");
            return Ok(());
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    // For people who find the lock held; nothing relies on it.
    supervisor_lock
        .set_len(0)
        .and_then(|()| writeln!(&supervisor_lock, "{}", std::process::id()))
        .map_err(io_error("writing to the lock", folder.path()))?;
    let mut terminated = signal(SignalKind::terminate())
        .map_err(io_error("watching for signals in", folder.path()))?;
    let home = Home::locate(&folder)?;
    let mut server = Server::start_or_adopt(&folder, &home, binaries, async |socket_folder| {
        answers(&folder, socket_folder).await
    })
    .await?;

    // Held until this process ends: whoever comes now waits for that, and then starts anew.
    let mut users_lock = None;
    let mut last_user_gone = last_user_gone(&folder)?;
    let ended = tokio::select! {
        lock = &mut last_user_gone => {
            users_lock = lock.ok();
            None
        }
        _ = terminated.recv() => None,
        status = server.ended() => Some(status),
    };
    if ended.is_none() {
        server.stop().await;
    }
    if let Some(socket_folder) = folder.socket_folder()? {
        home.remove_private_folder(&socket_folder);
        folder.note_socket_folder(None)?;
    }
    // In this order: who sees no user's lock in the way must not see a supervisor either.
    drop(supervisor_lock);
    drop(users_lock);
    ended.map_or(Ok(()), |status| Err(Error::ServerEnded(status)))
}

/// Resolves, with the lock, when `users.lock` could be taken exclusively. The thread waits in the kernel, and dies with
/// the process.
fn last_user_gone(folder: &Folder) -> Result<oneshot::Receiver<std::fs::File>, Error> {
    let lock = folder.open_lock("users.lock")?;
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || match lock.lock() {
        // Nobody receives it when the server ended first: the process is about to end too.
        Ok(()) => drop(sender.send(lock)),
        Err(error) => {
            tracing::error!(%error, "cannot wait for the users to go: stopping the server")
        }
    });
    Ok(receiver)
}

/// Whether a server with this socket folder lets us in.
async fn answers(folder: &Folder, socket_folder: PathBuf) -> bool {
    let Ok(Some(password)) = folder.password() else {
        return false;
    };
    let coordinates = Coordinates {
        socket_folder,
        password,
    };
    connect(&coordinates.options("postgres")).await.is_ok()
}
