//! What can go wrong with the private PostgreSQL, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why the private PostgreSQL cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something about a file or a process.
    #[error("{doing} `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder belongs to another account, which could have prepared it.
    #[error(
        "`{}` belongs to the account with ID {owner}, not to the one that runs this (ID {us}): run it as that account, or in another folder",
        path.display()
    )]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// Its owner's user ID.
        owner: u32,
        /// Our own.
        us: u32,
    },
    /// Everybody may write to the folder, and could have prepared it.
    #[error(
        "everybody may write to `{}`, server programs and passwords included: if all that is in it is your own, `chmod 700` it",
        .0.display()
    )]
    OpenFolder(PathBuf),
    /// No usable PostgreSQL, and none could be downloaded.
    #[error(
        "found no PostgreSQL server programs (`initdb` and `postgres`, version 14 or newer){}{}\n\
         install them (`apt-get install postgresql`, `dnf install postgresql-server postgresql-contrib`, `brew install postgresql@17`), or set DATABASE_URL to a PostgreSQL that is running",
        rejected_list(rejected), download.as_ref().map(|why| format!("\ndownloading them failed: {why}")).unwrap_or_default()
    )]
    NoBinaries {
        /// What was found and cannot be used, with the reason.
        rejected: Vec<String>,
        /// Why the download failed, when it was tried.
        download: Option<String>,
    },
    /// The cluster is another major version's.
    #[error(
        "the data in `{}` were made by PostgreSQL {needed}, which is not there any more{}{}\n\
         install it (`apt-get install postgresql-{needed}`, `brew install postgresql@{needed}`), or remove that folder to begin with an empty database",
        data.display(), rejected_list(rejected), download.as_ref().map(|why| format!("\ndownloading it failed: {why}")).unwrap_or_default()
    )]
    MajorMissing {
        /// The cluster.
        data: PathBuf,
        /// Its major version.
        needed: u32,
        /// What was found instead.
        rejected: Vec<String>,
        /// Why the download failed, when it was tried.
        download: Option<String>,
    },
    /// There is a PostgreSQL, but without the extensions that the queue and the ledger need.
    #[error(
        "the PostgreSQL in `{}` lacks the extension `{extension}`: install its contrib package (`apt-get install postgresql-contrib`, `dnf install postgresql-contrib`, `apk add postgresql-contrib`)",
        binaries.display()
    )]
    ExtensionMissing {
        /// Its folder of programs.
        binaries: PathBuf,
        /// The first extension that is not there.
        extension: &'static str,
    },
    /// Root, and neither of the accounts that could run the server.
    #[error(
        "PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody` to run it: create one (`useradd --system postgres`), or run this as another user"
    )]
    NoAccount,
    /// A cluster that was moved to where its account cannot go.
    #[error(
        "the data in `{}` belong to the account with ID {account}, which cannot enter that folder: move it to where that account may go, or remove it to begin with an empty database",
        data.display()
    )]
    Unreachable {
        /// The cluster.
        data: PathBuf,
        /// The user ID of its owner.
        account: u32,
    },
    /// No place for a private folder.
    #[error(
        "cannot make a private folder for PostgreSQL in any of {tried}: set TMPDIR to a folder with a short path that the account running PostgreSQL may enter and write to"
    )]
    NoPrivateFolder {
        /// The places, each with the reason.
        tried: String,
    },
    /// A cluster without its password.
    #[error(
        "`{}` is missing, and without the password in it the data beside it cannot be opened: restore it, or remove the whole folder to begin with an empty database",
        .0.display()
    )]
    PasswordMissing(PathBuf),
    /// `initdb` failed.
    #[error("making a PostgreSQL cluster in `{}` failed ({status}):\n{output}", data.display())]
    ClusterFailed {
        /// Where.
        data: PathBuf,
        /// How `initdb` ended.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// The supervisor ended before the server answered.
    #[error("the private PostgreSQL did not start; its log ends with:\n{0}")]
    ServerFailed(String),
    /// The server does not answer.
    #[error(
        "the private PostgreSQL did not answer within {waited_s} s ({last_answer}); its log ends with:\n{log}"
    )]
    NotReady {
        /// How long it was waited for, in seconds.
        waited_s: u64,
        /// What the last attempt to connect ended with.
        last_answer: String,
        /// The last lines of the log.
        log: String,
    },
    /// The server ended although it had users.
    #[error("the private PostgreSQL ended by itself ({0})")]
    ServerEnded(String),
    /// Somebody started a server on our data by hand.
    #[error(
        "a PostgreSQL that this program did not start runs on `{}`: stop it first (`pg_ctl stop -D …`)",
        .0.display()
    )]
    StartedByHand(PathBuf),
    /// Processes of an earlier server neither answer nor end.
    #[error(
        "processes of an earlier PostgreSQL on `{}` neither answer nor end: end them (their command lines begin with `postgres`), then try again",
        .0.display()
    )]
    Remains(PathBuf),
    /// Another process holds a lock for too long.
    #[error(
        "another process has held `{}` for {waited_s} s while starting or stopping the private PostgreSQL: try again, or see what it is doing (`fuser`, `lsof`)",
        path.display()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for, in seconds.
        waited_s: u64,
    },
    /// What PostgreSQL answered.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: String,
        /// What PostgreSQL, or the connection, said.
        source: sqlx::Error,
    },
    /// Not a name for a database.
    #[error(
        "`{0}` cannot be a database's name: use 1 to 63 lower-case letters, digits and underscores"
    )]
    DatabaseName(String),
    /// The system gave no random bytes.
    #[error("the system gave no random numbers for a password or a name: {0}")]
    Random(getrandom::Error),
}

fn rejected_list(rejected: &[String]) -> String {
    rejected
        .iter()
        .map(|line| format!("\n  not usable: {line}"))
        .collect()
}
