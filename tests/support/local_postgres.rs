//! A folder with a private PostgreSQL of its own, and processes that use it and are killed.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Pid;
use sqlx::{ConnectOptions, PgConnection, query_scalar};
use tempfile::TempDir;
use tempo_harvest::local_postgres::{FOLDER_NAME, LocalPostgres};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tempo-harvest");

/// A folder to work in, of which the server is gone when it is dropped.
pub struct Place {
    pub root: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        // So that root's server, which is not root, can have its data here.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        Self { root }
    }

    pub fn folder(&self) -> PathBuf {
        self.root.path().join(FOLDER_NAME)
    }

    pub async fn start(&self) -> LocalPostgres {
        LocalPostgres::start(&self.folder(), Path::new(PROGRAM))
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// `tempo-harvest db -- COMMAND…` in this place.
    pub fn db(&self, command: &[&str]) -> Command {
        let mut db = Command::new(PROGRAM);
        db.arg("db")
            .arg("--")
            .args(command)
            .current_dir(self.root.path())
            .env_remove("DATABASE_URL");
        db
    }

    /// Another process that uses the server, until its standard input is closed or it is killed.
    pub fn other_user(&self) -> OtherUser {
        let mut child = self
            .db(&["sh", "-c", "echo using; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "using\n");
        OtherUser { child }
    }

    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    pub fn postmaster(&self) -> Pid {
        pid_in(&self.data().join("postmaster.pid"))
    }

    pub fn supervisor(&self) -> Pid {
        pid_in(&self.folder().join("supervisor.lock"))
    }

    /// Waits until nobody holds this lock: the kernel says when its holder has ended.
    pub async fn free(&self, lock: &str) {
        let file = File::options()
            .write(true)
            .open(self.folder().join(lock))
            .unwrap();
        let waiting = tokio::task::spawn_blocking(move || file.lock().unwrap());
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .unwrap_or_else(|_| panic!("`{lock}` is still held"))
            .unwrap();
    }

    pub fn is_free(&self, lock: &str) -> bool {
        File::open(self.folder().join(lock))
            .unwrap()
            .try_lock_shared()
            .is_ok()
    }

    /// Nothing runs, and nothing is left but the data.
    pub fn assert_stopped(&self) {
        assert!(self.is_free("supervisor.lock"), "a supervisor is left");
        assert!(self.is_free("server.lock"), "a server is left");
        assert!(!self.data().join("postmaster.pid").exists());
        assert!(!self.folder().join("socket-folder").exists());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that fails may leave a server; its users are gone with the test.
        if let Ok(lock) = File::open(self.folder().join("server.lock")) {
            for _ in 0..500 {
                if lock.try_lock_shared().is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

pub struct OtherUser {
    pub child: Child,
}

/// A process that is killed when the test ends, however it ends.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl OtherUser {
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn leave(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

pub fn pid_in(path: &Path) -> Pid {
    let text = fs::read_to_string(path).unwrap();
    let first = text.lines().next().unwrap();
    Pid::from_raw(first.trim().parse().unwrap()).unwrap()
}

pub fn socket_folder(server: &LocalPostgres) -> PathBuf {
    let (_, folder) = server
        .environment()
        .into_iter()
        .find(|(name, _)| name == "PGHOST")
        .unwrap();
    folder.into()
}

pub async fn connection(server: &LocalPostgres) -> PgConnection {
    server.connect_options().connect().await.unwrap()
}

pub async fn setting(connection: &mut PgConnection, name: &str) -> String {
    query_scalar("SELECT current_setting($1)")
        .bind(name)
        .fetch_one(connection)
        .await
        .unwrap()
}

pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}
