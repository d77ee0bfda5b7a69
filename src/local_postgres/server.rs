//! The server itself: making its cluster, starting it, and ending it. Called by `start` (the cluster) and by the
//! supervisor (the rest), under the locks that `local_postgres` describes.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, future};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command as AsyncCommand};

use super::account::Home;
use super::binaries::Binaries;
use super::folder::{Folder, io_error, last_lines};
use super::{DEFAULT_DATABASE, Error};

/// Only a part of the socket's file name: nothing listens on a TCP port.
pub(super) const PORT: u16 = 5432;
/// A socket's path may have 103 bytes on macOS and the BSDs, 107 on Linux.
pub(super) const SOCKET_FOLDER_LIMIT_BYTES: usize = 103 - "/.s.PGSQL.5432".len();

/// The variables that a server's processes get from us: enough to find programs, libraries and the temp folder.
const KEPT_VARIABLES: [&str; 4] = ["PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// Sensible for bulk loads on a small machine; the rest is PostgreSQL's default. Users may change what they like, below
/// this in the same file.
const CONFIGURATION: &str = "
# Set by tempo-harvest when it made this cluster.
max_connections = 100
shared_buffers = 128MB
max_wal_size = 4GB
wal_compression = on
fsync = on
synchronous_commit = on
timezone = 'UTC'
log_timezone = 'UTC'
unix_socket_permissions = 0700
";

/// Everybody shows the password, on the socket, which is the only way in.
const AUTHENTICATION: &str =
    "# Set by tempo-harvest: the socket only, and nobody without the password.
local all all scram-sha-256
";

/// How long a server may take to write everything out, and then to end without that.
const STOP_STEPS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(60)),
    (Signal::QUIT, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(10)),
];
/// How long the processes of a killed server may take to notice it.
const REMAINS_DEADLINE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Leaves a process only the variables it needs. The user's may hold secrets, and PG* ones that would change what the
/// programs do.
pub(super) fn clean_environment(command: &mut Command) {
    command.env_clear();

    for name in KEPT_VARIABLES {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    // Messages are English, and logs without colours, since both are shown in ours.
    command.env("LC_ALL", "C").env("NO_COLOR", "1");
}

/// Whether the cluster was made: `data` gets its name only when it is whole.
pub(super) fn has_cluster(home: &Home) -> bool {
    home.data().join("PG_VERSION").exists()
}

/// Makes a cluster with the one role `tempo_harvest`.
pub(super) async fn make_cluster(
    home: &Home,
    binaries: &Binaries,
    password: &SecretString,
) -> Result<(), Error> {
    let data = home.data();
    let unfinished = home.path.join("data.new");
    // From an `initdb` that was killed.
    remove_folder(&unfinished)?;
    fs::create_dir(&unfinished).map_err(io_error("creating", &unfinished))?;
    home.give(&unfinished)?;
    // The account must be able to read the password, and nobody else.
    let private = home.socket_folder()?;
    let password_file = private.join("password");
    let made = async {
        write_private(&password_file, password.expose_secret())?;
        home.give(&password_file)?;
        run_initdb(home, binaries, &unfinished, &password_file).await
    }
    .await;
    remove_folder(&private)?;
    made?;
    append(&unfinished.join("postgresql.conf"), CONFIGURATION)?;
    // Truncated, not made anew: it stays the account's.
    let authentication = unfinished.join("pg_hba.conf");
    open_ours(
        &authentication,
        fs::OpenOptions::new().write(true).truncate(true),
    )
    .and_then(|mut file| file.write_all(AUTHENTICATION.as_bytes()))
    .map_err(io_error("writing", &authentication))?;
    fs::rename(&unfinished, &data).map_err(io_error("naming", &data))
}

/// Runs `initdb` with UTF-8 and byte order, which no system's locales can change: with PostgreSQL 17 and newer its own
/// `C.UTF-8`, before that the system's, or plain `C` where that is missing.
async fn run_initdb(
    home: &Home,
    binaries: &Binaries,
    data: &Path,
    password_file: &Path,
) -> Result<(), Error> {
    let own = [
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
    ];
    let attempts: [&[&str]; 2] = if binaries.major >= 17 {
        [&own, &["--locale=C"]]
    } else {
        [&["--locale=C.UTF-8"], &["--locale=C"]]
    };
    let mut failure = None;
    for locale in attempts {
        let mut command = Command::new(binaries.folder.join("initdb"));
        home.adopt(&mut command, data);
        command
            .arg("--pgdata")
            .arg(data)
            .arg("--username")
            .arg(DEFAULT_DATABASE)
            .arg("--pwfile")
            .arg(password_file)
            .args(["--auth=scram-sha-256", "--encoding=UTF8"])
            .args(locale)
            .stdin(Stdio::null());
        let output = AsyncCommand::from(command)
            // A start that is called off must not leave it behind.
            .kill_on_drop(true)
            .output()
            .await
            .map_err(io_error("running", &binaries.folder.join("initdb")))?;
        if output.status.success() {
            return Ok(());
        }
        let mut text = output.stdout;
        text.extend(output.stderr);
        let locale_missing = String::from_utf8_lossy(&text).contains("invalid locale");
        failure = Some(Error::ClusterFailed {
            data: data.to_owned(),
            status: output.status.to_string(),
            output: last_lines(&text),
        });
        if !locale_missing {
            break;
        }
    }
    failure.map_or(Ok(()), Err)
}

/// A server that runs on the cluster.
#[derive(Debug)]
pub(super) enum Server {
    /// Started here.
    Child { child: Child, pid: Pid },
    /// Started by a supervisor that was killed. Its end shows in `server.lock`.
    Adopted { lock: File, pid: Pid },
}

impl Server {
    /// Starts the server, or adopts the one that runs. The caller is the supervisor.
    ///
    /// `answers` tells whether a server with this socket folder can be connected to.
    pub(super) async fn start_or_adopt(
        folder: &Folder,
        home: &Home,
        binaries: &Path,
        answers: impl AsyncFn(PathBuf) -> bool,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        let lock = folder.open_lock("server.lock")?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Self::start(folder, home, binaries, lock),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => {
                    return Err(io_error("locking", &folder.path().join("server.lock"))(
                        source,
                    ));
                }
            }
            // Its socket is in a folder of our own, so what answers there is our server, and the ID in its file is its.
            if let Some(socket_folder) = folder.socket_folder()?
                && let Some(postmaster) = Postmaster::read(home)
                && home.runs(postmaster.pid)
                && answers(socket_folder).await
            {
                tracing::info!("adopting the PostgreSQL server that a killed supervisor left");
                return Ok(Self::Adopted {
                    lock,
                    pid: postmaster.pid,
                });
            }
            // Shutting down, or what is left of a killed server: both end by themselves.
            if began.elapsed() > REMAINS_DEADLINE {
                return Err(Error::Remains(home.data()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts the server. `lock` is `server.lock`, held: no process of an earlier server of ours lives.
    fn start(folder: &Folder, home: &Home, binaries: &Path, lock: File) -> Result<Self, Error> {
        let data = home.data();
        if let Some(postmaster) = Postmaster::read(home) {
            // Not one of ours, then; but people have `pg_ctl`.
            if UnixStream::connect(&postmaster.socket).is_ok() {
                return Err(Error::StartedByHand(data));
            }
        }
        // PostgreSQL believes a stale file when another process has its ID now. We know better: the lock is free.
        remove_file(&data.join("postmaster.pid"))?;
        if let Some(old) = folder.socket_folder()? {
            home.remove_private_folder(&old);
            folder.note_socket_folder(None)?;
        }
        let socket_folder = home.socket_folder()?;
        folder.note_socket_folder(Some(&socket_folder))?;

        let log = folder.append_log()?;
        let program = binaries.join("postgres");
        let failed = || io_error("starting", &program);
        let mut command = Command::new(&program);
        home.adopt(&mut command, &data);
        command
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&socket_folder)
            // Said here, so that no edit of the configuration opens a port.
            .args(["-c", "listen_addresses=", "-p"])
            .arg(PORT.to_string())
            .stdin(lock)
            .stdout(log.try_clone().map_err(failed())?)
            .stderr(log);
        let child = AsyncCommand::from(command).spawn().map_err(failed())?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| Error::ServerEnded("as soon as it was started".to_owned()))?;
        Ok(Self::Child { child, pid })
    }

    /// Waits until the server has ended, and says how.
    pub(super) async fn ended(&mut self) -> String {
        match self {
            Self::Child { child, .. } => child
                .wait()
                .await
                .as_ref()
                .map_or_else(ToString::to_string, ExitStatus::to_string),
            Self::Adopted { lock, .. } => loop {
                match lock.try_lock() {
                    Ok(()) => return "adopted from another supervisor".to_owned(),
                    Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL_INTERVAL).await,
                    Err(TryLockError::Error(error)) => {
                        tracing::error!(%error, "cannot watch the server");
                        future::pending::<()>().await;
                    }
                }
            },
        }
    }

    /// Ends the server: cleanly if it can, else without a checkpoint, else by force. The write-ahead log makes good for
    /// the latter two at the next start.
    pub(super) async fn stop(&mut self) {
        let (Self::Child { pid, .. } | Self::Adopted { pid, .. }) = *self;
        for (signal, patience) in STOP_STEPS {
            if let Err(error) = kill_process(pid, signal) {
                tracing::warn!(%error, "cannot signal the server");
            }
            if tokio::time::timeout(patience, self.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(
                "the server has not ended {} s after signal {signal:?}",
                patience.as_secs()
            );
        }
    }
}

/// What `postmaster.pid` says. Its lines: process ID, data folder, start time, port, socket folder, address, shared
/// memory, state (PostgreSQL's `src/include/utils/pidfile.h`).
struct Postmaster {
    pid: Pid,
    socket: PathBuf,
}

impl Postmaster {
    fn read(home: &Home) -> Option<Self> {
        let text = fs::read(home.data().join("postmaster.pid")).ok()?;
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        let number = |line: usize| -> Option<i32> {
            str::from_utf8(lines.get(line)?).ok()?.trim().parse().ok()
        };
        let socket_folder = Path::new(std::ffi::OsStr::from_bytes(lines.get(4)?));
        Some(Self {
            pid: Pid::from_raw(number(0)?)?,
            socket: socket_folder.join(format!(".s.PGSQL.{}", number(3)?)),
        })
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io_error("writing", path))
}

/// Opens a file in the account's folder. As root we may write anywhere, and that account, which other services may share, must not
/// lead us there with a link.
fn open_ours(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    options.custom_flags(no_links).open(path)
}

fn append(path: &Path, text: &str) -> Result<(), Error> {
    open_ours(path, fs::OpenOptions::new().append(true))
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io_error("writing", path))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("removing", path)(error))
        }
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("removing", path)(error))
        }
        _ => Ok(()),
    }
}
