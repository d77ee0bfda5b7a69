//! Under which account the server runs, and where that account can have its files.
//!
//! Only root needs to think about this: for everybody else the account is their own, and the place is `.tempo-harvest`.
//! As root, a process is started under another account by the standard library, which also drops root's supplementary
//! groups; nothing here calls the system unsafely.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Pid;

use super::Error;
use super::folder::{Folder, io_error, random_hex};

/// The accounts that root lets run the server, the better one first.
const UNPRIVILEGED_NAMES: [&str; 2] = ["postgres", "nobody"];

/// An account that is not ours, for root to run the server under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `postgres`, else `nobody`. `id` knows accounts that are not in `/etc/passwd` too.
    fn unprivileged() -> Result<Self, Error> {
        UNPRIVILEGED_NAMES
            .into_iter()
            .find_map(|name| {
                let uid = id("-u", name)?;
                let gid = id("-g", name)?;
                (uid != 0).then_some(Self { uid, gid })
            })
            .ok_or(Error::NoAccount)
    }

    /// Whoever owns this: a cluster can be run by its owner only.
    fn owner_of(path: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(io_error("looking at", path))?;
        Ok(Self {
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    /// Whether this account can enter a folder. Tried, not computed: mode bits are not all there is to it.
    fn can_enter(self, folder: &Path) -> Result<bool, Error> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", ":"])
            .uid(self.uid)
            .gid(self.gid)
            .current_dir(folder)
            .stdin(Stdio::null());
        match command.status() {
            Ok(status) => Ok(status.success()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(io_error("trying to enter", folder)(error)),
        }
    }

    /// Gives a folder or file of ours to this account.
    fn own(self, path: &Path) -> Result<(), Error> {
        chown(path, Some(self.uid), Some(self.gid)).map_err(io_error("changing the owner of", path))
    }
}

fn id(option: &str, name: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([option, name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Where the cluster lies and who runs it.
#[derive(Debug, Clone)]
pub(super) struct Home {
    /// Holds `data`, and downloaded server programs. `.tempo-harvest`, or a folder like it that the account can enter.
    pub(super) path: PathBuf,
    /// `None`: we ourselves.
    account: Option<Account>,
}

impl Home {
    /// Finds the place of the cluster, or one for a new cluster. The caller holds `start.lock`, or is the supervisor
    /// that such a caller started.
    pub(super) fn locate(folder: &Folder) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self {
                path: folder.path().to_owned(),
                account: None,
            });
        }
        if let Some(elsewhere) = folder.data_folder()? {
            // Ours, not only there: anybody can make a folder of that name once the temp folder was emptied.
            let data = elsewhere.join("data");
            if fs::symlink_metadata(&elsewhere).is_ok_and(|it| it.is_dir() && it.uid() == 0)
                && data.join("PG_VERSION").exists()
            {
                return Ok(Self {
                    account: Some(Account::owner_of(&data)?),
                    path: elsewhere,
                });
            }
            tracing::warn!(
                "the private PostgreSQL's data in `{}` are gone (the temp folder was emptied?): beginning with an empty database",
                elsewhere.display()
            );
            folder.note_data_folder(None)?;
        }
        let data = folder.path().join("data");
        if data.join("PG_VERSION").exists() {
            let account = Account::owner_of(&data)?;
            if !account.can_enter(&data)? {
                return Err(Error::Unreachable {
                    data,
                    account: account.uid,
                });
            }
            return Ok(Self {
                path: folder.path().to_owned(),
                account: Some(account),
            });
        }
        Self::for_new_cluster(folder, Account::unprivileged()?)
    }

    fn for_new_cluster(folder: &Folder, account: Account) -> Result<Self, Error> {
        let path = folder.path();
        let home = |path: &Path| Self {
            path: path.to_owned(),
            account: Some(account),
        };
        admit(path, account)?;
        if account.can_enter(path)? {
            return Ok(home(path));
        }
        let elsewhere = private_folder("tempo-harvest-data-", usize::MAX, |new| {
            admit(new, account)?;
            account.can_enter(new)
        })?;
        folder.note_data_folder(Some(&elsewhere))?;
        tracing::warn!(
            "the private PostgreSQL's data are in `{}`: it does not run as root, and the account that runs it (ID {}) cannot enter `{}`",
            elsewhere.display(),
            account.uid,
            path.display()
        );
        Ok(home(&elsewhere))
    }

    /// The cluster's folder.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Lets a command run as the account, in a folder that it can enter, and without our environment.
    pub(super) fn adopt(&self, command: &mut Command, current_dir: &Path) {
        command.current_dir(current_dir);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        super::server::clean_environment(command);
    }

    /// Gives a folder or file that we made to the account.
    pub(super) fn give(&self, path: &Path) -> Result<(), Error> {
        self.account.map_or(Ok(()), |account| account.own(path))
    }

    /// Whether this process is the account's, as far as that can be told: its number stands in a file that the account can write to, and
    /// root would end any.
    pub(super) fn runs(&self, pid: Pid) -> bool {
        let process = fs::metadata(format!("/proc/{}", pid.as_raw_nonzero()));
        match (self.account, process) {
            (Some(account), Ok(process)) => process.uid() == account.uid,
            _ => true,
        }
    }

    /// A new empty folder of the account's, closed to everybody else, with a path short enough for a socket in it.
    pub(super) fn socket_folder(&self) -> Result<PathBuf, Error> {
        private_folder(
            "tempo-harvest-",
            super::server::SOCKET_FOLDER_LIMIT_BYTES,
            |new| {
                self.give(new)?;
                self.account
                    .map_or(Ok(true), |account| account.can_enter(new))
            },
        )
    }

    /// Removes a private folder of an ended server, if it is still the account's: after the temp folder was emptied,
    /// one of that name may be anybody's.
    pub(super) fn remove_private_folder(&self, path: &Path) {
        let owner = self
            .account
            .map_or(rustix::process::geteuid().as_raw(), |account| account.uid);
        if fs::symlink_metadata(path).is_ok_and(|it| it.is_dir() && it.uid() == owner)
            && let Err(error) = fs::remove_dir_all(path)
        {
            tracing::warn!(folder = %path.display(), %error, "cannot remove the folder of an ended server's socket");
        }
    }
}

/// Lets the account pass through a folder of ours, and no more than that: not list it, not write to it.
fn admit(path: &Path, account: Account) -> Result<(), Error> {
    chown(path, None, Some(account.gid)).map_err(io_error("changing the group of", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o710))
        .map_err(io_error("setting the rights of", path))
}

/// A new folder of ours with mode 0700 and a name that cannot be guessed, in the system's temp folder, or in `/tmp` if
/// that one's path is too long or the folder is not `usable` there.
fn private_folder(
    prefix: &str,
    limit_bytes: usize,
    usable: impl Fn(&Path) -> Result<bool, Error>,
) -> Result<PathBuf, Error> {
    let temp_dir = std::env::temp_dir();
    // What is noted must mean the same to processes with another current folder.
    let mut places = vec![std::path::absolute(&temp_dir).unwrap_or(temp_dir)];
    if places[0] != Path::new("/tmp") {
        places.push(PathBuf::from("/tmp"));
    }
    let mut tried = Vec::new();
    for place in places {
        let path = place.join(format!("{prefix}{}", random_hex(8)?));
        if path.as_os_str().len() > limit_bytes {
            tried.push(format!("`{}` (the path is too long)", place.display()));
            continue;
        }
        if let Err(error) = DirBuilder::new().mode(0o700).create(&path) {
            tried.push(format!("`{}` ({error})", place.display()));
            continue;
        }
        if usable(&path)? {
            return Ok(path);
        }
        tried.push(format!(
            "`{}` (the server's account cannot enter it)",
            place.display()
        ));
        fs::remove_dir(&path).map_err(io_error("removing", &path))?;
    }
    Err(Error::NoPrivateFolder {
        tried: tried.join(", "),
    })
}
