//! The folder `.tempo-harvest`: finding it, making it, and the small files in it - locks, password, notes and log.
//!
//! The cluster itself is `server`'s, and where it lies is `account`'s.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::{Error, FOLDER_NAME};

/// How much of the log is shown when something fails.
const LOG_TAIL_LINES: usize = 20;
/// How much of the log's end is read for that.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// The nearest `.tempo-harvest` from `start` upward, as git finds `.git`.
///
/// One that belongs to another account is passed over: whoever may write to a folder above ours (`/tmp`) could have
/// prepared it, server programs included.
#[must_use]
pub fn find_folder(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .map(|ancestor| ancestor.join(FOLDER_NAME))
        .find(|folder| {
            fs::symlink_metadata(folder).is_ok_and(|metadata| {
                metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw()
            })
        })
}

/// An existing `.tempo-harvest` of ours.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// Absolute, without symbolic links: it is passed to processes with other current folders.
    path: PathBuf,
}

impl Folder {
    /// Makes the folder if need be: closed to others, and ignored by git.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("creating the folder", path)(error));
            }
            _ => {}
        }
        let folder = Self::open(path)?;
        let ignore = folder.path.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").map_err(io_error("writing", &ignore))?;
        }
        Ok(folder)
    }

    /// An existing folder, which must be ours, and which nobody else may write to.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let us = rustix::process::geteuid().as_raw();
        // A link that somebody else made leads to a folder of ours that was never meant.
        let itself = fs::symlink_metadata(path).map_err(io_error("looking at", path))?;
        if itself.uid() != us {
            return Err(Error::ForeignFolder {
                path: path.to_owned(),
                owner: itself.uid(),
                us,
            });
        }
        let path = fs::canonicalize(path).map_err(io_error("finding the folder", path))?;
        let metadata = fs::metadata(&path).map_err(io_error("looking at", &path))?;
        if metadata.uid() != us {
            return Err(Error::ForeignFolder {
                path,
                owner: metadata.uid(),
                us,
            });
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(Error::OpenFolder(path));
        }
        if metadata.mode() & 0o020 != 0 {
            // A umask that lets the group write; nobody of it has reason to.
            let closed = Permissions::from_mode(metadata.mode() & 0o7755);
            fs::set_permissions(&path, closed).map_err(io_error("setting the rights of", &path))?;
        }
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a lock file, making it if need be. Each call is a holder of its own. It is never removed: whoever locked
    /// the removed file and whoever locks a new one would both believe to be alone.
    pub(super) fn open_lock(&self, name: &str) -> Result<File, Error> {
        let path = self.path.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("opening the lock", &path))
    }

    /// Whether somebody holds this lock exclusively.
    pub(super) fn is_locked(&self, name: &str) -> Result<bool, Error> {
        match self.open_lock(name)?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => {
                Err(io_error("locking", &self.path.join(name))(source))
            }
        }
    }

    pub(super) fn password_path(&self) -> PathBuf {
        self.path.join("password")
    }

    /// The password of the cluster's role, if there is one yet.
    pub(super) fn password(&self) -> Result<Option<SecretString>, Error> {
        let path = self.password_path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("reading the password in", &path)(error)),
        }
    }

    /// The password, made of 128 random bits if there is none yet.
    pub(super) fn password_or_new(&self) -> Result<SecretString, Error> {
        if let Some(password) = self.password()? {
            return Ok(password);
        }
        let password = SecretString::from(random_hex(16)?);
        self.write_whole("password", password.expose_secret().as_bytes())?;
        Ok(password)
    }

    /// Where the running server's socket is; or an ended one's, when it was killed.
    pub(super) fn socket_folder(&self) -> Result<Option<PathBuf>, Error> {
        self.path_in("socket-folder")
    }

    /// Notes where the socket is, or that there is none.
    pub(super) fn note_socket_folder(&self, socket_folder: Option<&Path>) -> Result<(), Error> {
        self.note_path("socket-folder", socket_folder)
    }

    /// Where the cluster lies, when it is not in this folder.
    pub(super) fn data_folder(&self) -> Result<Option<PathBuf>, Error> {
        self.path_in("data-folder")
    }

    /// Notes where the cluster lies, or that it lies in this folder.
    pub(super) fn note_data_folder(&self, data_folder: Option<&Path>) -> Result<(), Error> {
        self.note_path("data-folder", data_folder)
    }

    /// An empty log for the supervisor and the server; the one before it is kept as `postgres.log.1`.
    pub(super) fn begin_log(&self) -> Result<File, Error> {
        let path = self.path.join("postgres.log");
        match fs::rename(&path, self.path.join("postgres.log.1")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("setting aside the log", &path)(error));
            }
            _ => {}
        }
        self.append_log()
    }

    /// The log, to write at its end.
    pub(super) fn append_log(&self) -> Result<File, Error> {
        let path = self.path.join("postgres.log");
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("opening the log", &path))
    }

    /// The log's last lines, indented, for an error message.
    pub(super) fn log_tail(&self) -> String {
        let path = self.path.join("postgres.log");
        let read = || -> io::Result<String> {
            let mut file = File::open(&path)?;
            let length_bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(length_bytes.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(last_lines(&bytes))
        };
        read().unwrap_or_else(|error| format!("  (cannot read `{}`: {error})", path.display()))
    }

    fn path_in(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                Ok(Some(OsStr::from_bytes(text).into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("reading", &path)(error)),
        }
    }

    fn note_path(&self, name: &str, value: Option<&Path>) -> Result<(), Error> {
        match value {
            Some(value) => {
                let mut bytes = value.as_os_str().to_owned().into_vec();
                bytes.push(b'\n');
                self.write_whole(name, &bytes)
            }
            None => {
                let path = self.path.join(name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(io_error("removing", &path)(error))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Writes a file that nobody sees half-written, readable by its owner only. On the disk before it has its name:
    /// the password must not be lost in a crash that the cluster survives.
    fn write_whole(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(io_error("writing", &path))
    }
}

/// The last lines of an output, indented, for an error message.
pub(super) fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if lines.is_empty() {
        return "  (nothing)".to_owned();
    }
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Random bytes from the system, in hexadecimal.
pub(super) fn random_hex(bytes: usize) -> Result<String, Error> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(Error::Random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// For `map_err`: what was being done, to what.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}
