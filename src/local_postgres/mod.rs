//! A private PostgreSQL for those who have none running: for `run`, `demo`, `--local` and the tests.
//!
//! It lives in a folder `.tempo-harvest`, is started by the first process that needs it, shared by those that come
//! later, and stopped when the last one is gone - also when that one was killed. It can be reached by its owner only:
//! no TCP port, a Unix socket in a private folder, and a random password. `fsync` stays on: what the ledger calls done
//! must survive a power cut here as anywhere.
//!
//! What is left to others: which commands may fall back on it (`cli`), and what is in its databases (`store`).
//!
//! # Who does what
//! | who | holds | as long as |
//! | --- | --- | --- |
//! | every *user* (a [`LocalPostgres`]) | `users.lock`, shared | it may talk to the server |
//! | a user that is coming | `start.lock`, exclusive | from before it takes `users.lock` until the server answers |
//! | the *supervisor*, our own executable run again in a process group of its own | `supervisor.lock`, exclusive | it lives |
//! | the supervisor, once nobody uses the server | `users.lock`, exclusive | from then until it ends |
//! | `postgres` and all its children, as their standard input | `server.lock`, exclusive | one of them lives |
//!
//! The kernel gives a lock back when its holder ends, however it ends. So a held lock is proof of life, which a process
//! ID in a file is not: another process may have that ID by now.
//!
//! # Why nobody is left with a server that is going away
//! The supervisor waits for `users.lock` exclusively, which the kernel grants when no user is left, and does not give
//! it back before the server has ended. A user counts only once it holds `users.lock` shared. The kernel orders the two:
//! - The user is first: the supervisor goes on waiting, and the server stays.
//! - The supervisor is first: the user waits until the supervisor has stopped the server and ended, finds
//!   `supervisor.lock` free, and starts anew.
//!
//! `start.lock` makes users come one at a time, so that only one of them makes a cluster, starts a supervisor, or
//! creates a database. The supervisor never takes it, so it cannot be part of a deadlock.
//!
//! # What is survived
//! - *All users killed*: the supervisor gets `users.lock` and stops the server.
//! - *The supervisor killed*: `server.lock` is still held by `postgres`. The next user starts a supervisor, which adopts
//!   the running server; its other users notice nothing.
//! - *Everything killed, or a power cut*: `server.lock` is free, so a `postmaster.pid` is stale, whatever process has
//!   that ID now. It is removed, as is the old socket folder, and `postgres` recovers from its log.
//! - *Killed while a cluster is made*: `initdb` works in `data.new`, which gets its name when it is whole.
//!
//! # As root
//! PostgreSQL refuses to run as root, so it runs as `postgres`, or `nobody`. Where that account cannot reach the folder
//! (a clone below `/root`), the cluster lies in a private folder in the system's temp folder, and a file
//! `data-folder` in `.tempo-harvest` says where. Nobody's folders but our own are ever given other rights.

#[cfg(not(unix))]
compile_error!(
    "tempo-harvest needs a Unix: its private PostgreSQL is shared by Unix sockets and file locks"
);

mod account;
mod binaries;
mod download;
mod error;
mod folder;
mod server;
pub mod supervisor;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fmt, io};

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

pub use binaries::SearchPlaces;
pub use error::Error;
pub use folder::find_folder;

use folder::Folder;

/// The folder's name.
pub const FOLDER_NAME: &str = ".tempo-harvest";
/// The one role of the private server, a superuser, and the database that is there from the start.
pub const DEFAULT_DATABASE: &str = "tempo_harvest";
/// The name of the hidden command that a supervisor is started with.
pub const SUPERVISOR_COMMAND: &str = "local-postgres-supervisor";

/// How long a coming user waits for another that is starting the server, or for a supervisor that is stopping it.
const TURN_DEADLINE: Duration = Duration::from_secs(120);
/// How long a server may take to answer.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take when it says that it is recovering: giving up would only make it begin again.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(600);
/// How long [`LocalPostgres::stop`] waits for the server to end.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// How long one attempt to connect may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How often locks and readiness are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A running private PostgreSQL, which keeps running at least as long as this value lives.
///
/// Dropping it gives up the use at once; [`LocalPostgres::stop`] also waits until the server has ended, if nobody else
/// uses it.
pub struct LocalPostgres {
    folder: Folder,
    /// Held shared: this is what being a user is.
    users_lock: File,
    connection: Coordinates,
    binaries: PathBuf,
    /// The supervisor, if this value started it: to be reaped.
    supervisor: Option<Child>,
}

impl fmt::Debug for LocalPostgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LocalPostgres")
            .field("folder", &self.folder.path())
            .field("socket_folder", &self.connection.socket_folder)
            .finish_non_exhaustive()
    }
}

impl LocalPostgres {
    /// Uses the private PostgreSQL in `folder`: starts it, or joins those who use it already. The folder is made when it
    /// is missing (its parent is not), and the cluster in it.
    ///
    /// `supervisor_exe` is the executable that is run as the supervisor; for the program itself that is
    /// [`std::env::current_exe`], for a test `env!("CARGO_BIN_EXE_tempo-harvest")`.
    ///
    /// # Errors
    /// No usable server binaries, a folder that is someone else's, or a server that does not start or answer. Each
    /// message says what to do.
    pub async fn start(folder: &Path, supervisor_exe: &Path) -> Result<Self, Error> {
        Self::start_with(folder, supervisor_exe, &SearchPlaces::default()).await
    }

    /// As [`LocalPostgres::start`], with server binaries looked for in `places` only.
    ///
    /// # Errors
    /// As [`LocalPostgres::start`].
    pub async fn start_with(
        folder: &Path,
        supervisor_exe: &Path,
        places: &SearchPlaces,
    ) -> Result<Self, Error> {
        let folder = Folder::create(folder)?;
        let start_lock = folder.open_lock("start.lock")?;
        wait_for_lock(&folder, "start.lock", || start_lock.try_lock()).await?;
        let users_lock = folder.open_lock("users.lock")?;
        wait_for_lock(&folder, "users.lock", || users_lock.try_lock_shared()).await?;

        let home = account::Home::locate(&folder)?;
        let binaries = binaries::choose(&home, places).await?;
        let password = if server::has_cluster(&home) {
            folder
                .password()?
                .ok_or_else(|| Error::PasswordMissing(folder.password_path()))?
        } else {
            let password = folder.password_or_new()?;
            server::make_cluster(&home, &binaries, &password).await?;
            password
        };
        let (socket_folder, supervisor) =
            wait_until_ready(&folder, supervisor_exe, &binaries.folder, &password).await?;
        let local = Self {
            folder,
            users_lock,
            connection: Coordinates {
                socket_folder,
                password,
            },
            binaries: binaries.folder,
            supervisor,
        };
        local.create_database(DEFAULT_DATABASE).await?;
        drop(start_lock);
        Ok(local)
    }

    /// How to connect to the default database, `tempo_harvest`.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        self.connect_options_for(DEFAULT_DATABASE)
    }

    /// How to connect to `database` (which this does not create).
    #[must_use]
    pub fn connect_options_for(&self, database: &str) -> PgConnectOptions {
        self.connection.options(database)
    }

    /// Creates a database, unless it is there already.
    ///
    /// # Errors
    /// A name that is not 1 to 63 lower-case letters, digits and underscores; or what PostgreSQL says.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            return Err(Error::DatabaseName(name.to_owned()));
        }
        let failed = |source| Error::Database {
            doing: format!("creating the database `{name}`"),
            source,
        };
        let mut connection = connect(&self.connect_options_for("postgres"))
            .await
            .map_err(failed)?;
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(name)
                .fetch_one(&mut connection)
                .await
                .map_err(failed)?;
        if !exists {
            // Checked above: the name cannot end the quotation. Two that create it at once are both content.
            let statement = AssertSqlSafe(format!(r#"CREATE DATABASE "{name}""#));
            match sqlx::query(statement).execute(&mut connection).await {
                Ok(_) => {}
                Err(error) if is_duplicate(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        connection.close().await.map_err(failed)
    }

    /// The `.tempo-harvest` folder, as an absolute path.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder with the server's own programs; `psql` may be among them.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// Environment variables with which a child process finds the default database: `DATABASE_URL` (which libpq and
    /// sqlx both understand) and libpq's own. They hold the password: not for showing.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        self.connection.environment(DEFAULT_DATABASE)
    }

    /// Gives up the use, and when nobody else uses the server, waits until it has ended (15 s at most, then says so in
    /// the log; it goes on ending by itself).
    pub async fn stop(self) {
        let Self {
            folder,
            users_lock,
            supervisor,
            ..
        } = self;
        drop(users_lock);
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            match who_remains(&folder) {
                Ok(Remaining::Users) => return,
                Ok(Remaining::Nobody) => break,
                Ok(Remaining::Supervisor) if Instant::now() < deadline => {}
                Ok(Remaining::Supervisor) => {
                    tracing::warn!(folder = %folder.path().display(), "the private PostgreSQL is still shutting down; it will end by itself");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot tell whether the private PostgreSQL has ended");
                    return;
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        // The supervisor has given up its lock as the last thing it did: it is about to end.
        if let Some(mut supervisor) = supervisor {
            while Instant::now() < deadline && matches!(supervisor.try_wait(), Ok(None)) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// The folder that the program uses when none is named: the nearest `.tempo-harvest` from the current folder upward,
/// else one to be made in the current folder.
///
/// # Errors
/// When the current folder is not known (it may have been deleted).
pub fn default_folder() -> Result<PathBuf, Error> {
    let here = env::current_dir().map_err(|source| Error::Io {
        doing: "finding the current folder",
        path: PathBuf::from("."),
        source,
    })?;
    Ok(find_folder(&here).unwrap_or_else(|| here.join(FOLDER_NAME)))
}

/// Where the server is, and what it asks for.
struct Coordinates {
    socket_folder: PathBuf,
    password: SecretString,
}

impl Coordinates {
    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket_folder)
            .port(server::PORT)
            .ssl_mode(PgSslMode::Disable)
            .username(DEFAULT_DATABASE)
            .password(self.password.expose_secret())
            .database(database)
    }

    fn environment(&self, database: &str) -> Vec<(String, String)> {
        let password = self.password.expose_secret();
        let socket_folder = self.socket_folder.to_string_lossy().into_owned();
        // The password is hexadecimal and the names are plain; the folder is where TMPDIR says, and may hold anything.
        let url = url::Url::parse_with_params(
            &format!("postgres://{DEFAULT_DATABASE}:{password}@localhost/{database}"),
            [("host", &socket_folder)],
        )
        .map(String::from)
        // libpq takes `+` for itself, not for a space.
        .map(|url| url.replace('+', "%20"))
        .unwrap_or_default();
        [
            ("DATABASE_URL", url),
            ("PGHOST", socket_folder),
            ("PGPORT", server::PORT.to_string()),
            ("PGUSER", DEFAULT_DATABASE.to_owned()),
            ("PGPASSWORD", password.to_owned()),
            ("PGDATABASE", database.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// Makes sure that a supervisor is at work and the server answers: the socket's folder, and the supervisor if it was
/// started here. The caller holds `start.lock` and, shared, `users.lock`: a supervisor that is seen alive stays.
async fn wait_until_ready(
    folder: &Folder,
    supervisor_exe: &Path,
    binaries: &Path,
    password: &SecretString,
) -> Result<(PathBuf, Option<Child>), Error> {
    let began = Instant::now();
    let mut deadline = READY_DEADLINE;
    let mut started: Option<Child> = None;
    let mut last_answer = "nothing answered".to_owned();
    loop {
        if !folder.is_locked("supervisor.lock")? {
            match started.as_mut().map(Child::try_wait) {
                // Just started, and on its way to its lock.
                Some(Ok(None)) => {}
                None => started = Some(start_supervisor(folder, supervisor_exe, binaries)?),
                Some(_) => return Err(Error::ServerFailed(folder.log_tail())),
            }
        } else if let Some(socket_folder) = folder.socket_folder()? {
            let coordinates = Coordinates {
                socket_folder,
                password: password.clone(),
            };
            match connect(&coordinates.options("postgres")).await {
                Ok(connection) => {
                    // Only to see that it answers: how it closes does not matter.
                    connection.close().await.ok();
                    return Ok((coordinates.socket_folder, started));
                }
                Err(error) => {
                    if error.as_database_error().is_some() {
                        // It lives. 57P03 is "starting up" and the like; anything else will not get better.
                        if !is_starting(&error) {
                            return Err(Error::Database {
                                doing: format!(
                                    "connecting to the private PostgreSQL in `{}`",
                                    folder.path().display()
                                ),
                                source: error,
                            });
                        }
                        deadline = RECOVERY_DEADLINE;
                    }
                    last_answer = error.to_string();
                }
            }
        }
        if began.elapsed() > deadline {
            return Err(Error::NotReady {
                waited_s: began.elapsed().as_secs(),
                last_answer,
                log: folder.log_tail(),
            });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Runs our own executable as the supervisor: in a process group of its own, so that Ctrl-C in the user's terminal
/// passes it by, and without the user's environment, which may hold secrets that are none of its business.
fn start_supervisor(folder: &Folder, executable: &Path, binaries: &Path) -> Result<Child, Error> {
    use std::os::unix::process::CommandExt;

    let log = folder.begin_log()?;
    let doing = "starting the supervisor of the private PostgreSQL";
    let failed = |source| Error::Io {
        doing,
        path: executable.to_owned(),
        source,
    };
    let mut command = Command::new(executable);
    command
        .arg(SUPERVISOR_COMMAND)
        .arg(folder.path())
        .arg(binaries)
        .current_dir(folder.path())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log);
    server::clean_environment(&mut command);
    command.spawn().map_err(failed)
}

/// Who still has to do with a server that one user has just left.
enum Remaining {
    /// Somebody uses it.
    Users,
    /// Nobody uses it, and the supervisor is about to stop it, or stopping it.
    Supervisor,
    /// Nobody uses it, and it has ended.
    Nobody,
}

fn who_remains(folder: &Folder) -> Result<Remaining, Error> {
    if !folder.is_locked("supervisor.lock")? {
        return Ok(Remaining::Nobody);
    }
    let probe = folder.open_lock("users.lock")?;
    // Exclusively: no user, and the supervisor has not come round to it. Shared: others hold it shared. Neither: the
    // supervisor has it. A probe lasts microseconds; whoever else wants the lock meanwhile asks again or waits.
    if probe.try_lock().is_ok() {
        return Ok(Remaining::Supervisor);
    }
    Ok(if probe.try_lock_shared().is_ok() {
        Remaining::Users
    } else {
        Remaining::Supervisor
    })
}

/// Polls for a lock: a thread blocked in the kernel could not be called off.
async fn wait_for_lock(
    folder: &Folder,
    name: &str,
    try_lock: impl Fn() -> Result<(), TryLockError>,
) -> Result<(), Error> {
    let began = Instant::now();
    let path = folder.path().join(name);
    loop {
        match try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < TURN_DEADLINE => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy {
                    path,
                    waited_s: TURN_DEADLINE.as_secs(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io {
                    doing: "locking",
                    path,
                    source,
                });
            }
        }
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    match tokio::time::timeout(CONNECT_DEADLINE, options.connect()).await {
        Ok(outcome) => outcome,
        Err(_) => Err(sqlx::Error::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer within 10 s",
        ))),
    }
}

/// `cannot_connect_now`: starting up, recovering or shutting down.
fn is_starting(error: &sqlx::Error) -> bool {
    has_code(error, "57P03")
}

/// `duplicate_database`, or the unique violation in `pg_database` that a photo finish ends with.
fn is_duplicate(error: &sqlx::Error) -> bool {
    has_code(error, "42P04") || has_code(error, "23505")
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|it| it == code)
}
