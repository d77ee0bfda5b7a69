//! Finding PostgreSQL's server programs on this machine.
//!
//! Distributions keep them off the PATH, several versions side by side. All candidates are asked for their version,
//! under the account that is to run them, and the newest is taken - or the one that made the cluster that is there.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use super::account::Home;
use super::folder::io_error;
use super::{Error, download};

/// The oldest major version that the ledger's multiranges work with.
const OLDEST_MAJOR: u32 = 14;
/// What the ledger and the queue create, and `contrib` packages bring.
const EXTENSIONS: [&str; 3] = ["btree_gist", "hstore", "pgcrypto"];
/// Every program that is needed to make and run a cluster.
const PROGRAMS: [&str; 2] = ["initdb", "postgres"];

/// Where distributions put server programs; `*` stands for one part of a path, or a part of one.
const USUAL_FOLDERS: [&str; 13] = [
    "/usr/lib/postgresql/*/bin",      // Debian, Ubuntu
    "/usr/pgsql-*/bin",               // PostgreSQL's own packages for Red Hat, Fedora, SUSE
    "/usr/lib/postgresql*/bin",       // SUSE
    "/usr/libexec/postgresql*",       // Alpine
    "/usr/lib64/postgresql-*/bin",    // Gentoo
    "/usr/local/pgsql/bin",           // built from source
    "/usr/local/lib/postgresql*/bin", // built from source, BSDs
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/opt/local/lib/postgresql*/bin", // MacPorts
    "/Library/PostgreSQL/*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// Where server programs are looked for. The default is this machine as it is.
#[derive(Debug, Clone)]
pub struct SearchPlaces {
    /// A PATH: its folders are looked at, and the folder that a `pg_config` on it names.
    pub path: Option<OsString>,
    /// More folders; `*` stands for any text within one part of a path.
    pub folders: Vec<String>,
    /// Whether to download a PostgreSQL when none is found.
    pub download: bool,
}

impl Default for SearchPlaces {
    fn default() -> Self {
        Self {
            path: env::var_os("PATH"),
            folders: USUAL_FOLDERS.map(str::to_owned).to_vec(),
            download: true,
        }
    }
}

/// Server programs that can be used.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    /// Absolute, without symbolic links: `/usr/local/bin/postgres` may be a link to where the rest is.
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

/// Chooses the programs for a home: the newest, or those of the major version that its cluster was made by. Downloads
/// some when there are none, if `places` allow.
pub(super) async fn choose(home: &Home, places: &SearchPlaces) -> Result<Binaries, Error> {
    let needed = cluster_major(home)?;
    let (found, rejected) = search(home, places, needed);
    if let Some(binaries) = best(found)? {
        return Ok(binaries);
    }
    let mut why_not = None;
    if places.download {
        match download::download(&home.path, needed).await {
            Ok(()) => {
                let (found, _) = search(home, places, needed);
                if let Some(binaries) = best(found)? {
                    return Ok(binaries);
                }
                why_not = Some("what was downloaded does not run on this machine".to_owned());
            }
            Err(error) => why_not = Some(error),
        }
    }
    Err(match needed {
        Some(needed) => Error::MajorMissing {
            data: home.data(),
            needed,
            rejected,
            download: why_not,
        },
        None => Error::NoBinaries {
            rejected,
            download: why_not,
        },
    })
}

/// The major version that made the cluster, if there is a cluster.
fn cluster_major(home: &Home) -> Result<Option<u32>, Error> {
    let path = home.data().join("PG_VERSION");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(io_error("reading", &path))?;
    Ok(text.trim().parse().ok())
}

/// The newest that has the extensions. That some are there without them is worth an error of its own.
fn best(mut found: Vec<Binaries>) -> Result<Option<Binaries>, Error> {
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    let mut incomplete = None;
    for binaries in found {
        match missing_extension(&binaries) {
            None => return Ok(Some(binaries)),
            Some(extension) => {
                incomplete.get_or_insert(Error::ExtensionMissing {
                    binaries: binaries.folder,
                    extension,
                });
            }
        }
    }
    incomplete.map_or(Ok(None), Err)
}

/// All usable programs, and why others are not.
fn search(home: &Home, places: &SearchPlaces, needed: Option<u32>) -> (Vec<Binaries>, Vec<String>) {
    let mut found = Vec::new();
    let mut rejected = Vec::new();
    for folder in candidates(home, places) {
        let shown = folder.display();
        match version(home, &folder) {
            Ok(major) if major < OLDEST_MAJOR => {
                rejected.push(format!(
                    "`{shown}` (PostgreSQL {major}: older than {OLDEST_MAJOR})"
                ));
            }
            Ok(major) if needed.is_some_and(|needed| needed != major) => {
                rejected.push(format!("`{shown}` (PostgreSQL {major})"));
            }
            Ok(major) => found.push(Binaries { folder, major }),
            Err(why) => rejected.push(format!("`{shown}` ({why})")),
        }
    }
    (found, rejected)
}

/// Every folder that has all the programs, once.
fn candidates(home: &Home, places: &SearchPlaces) -> BTreeSet<PathBuf> {
    // An empty or relative part means the current folder, whose programs nobody asked for.
    let path: Vec<PathBuf> = places
        .path
        .iter()
        .flat_map(env::split_paths)
        .filter(|folder| folder.is_absolute())
        .collect();
    let configured = path
        .iter()
        .map(|folder| folder.join("pg_config"))
        .find(|program| program.is_file())
        .and_then(|program| ask_pg_config(&program, "--bindir"));
    let downloaded = home.path.join("postgresql-*").join("bin");
    path.into_iter()
        .chain(configured)
        .chain(
            places
                .folders
                .iter()
                .flat_map(|pattern| expand(Path::new(pattern))),
        )
        .chain(expand(&downloaded))
        .filter(|folder| {
            PROGRAMS
                .iter()
                .all(|program| folder.join(program).is_file())
        })
        .filter_map(|folder| {
            let program = fs::canonicalize(folder.join("postgres")).ok()?;
            let real = program.parent()?;
            // A link to `postgres` alone, say a wrapper's, leads to a folder that may lack the rest.
            let complete = PROGRAMS.iter().all(|program| real.join(program).is_file());
            if complete {
                Some(real.to_owned())
            } else {
                fs::canonicalize(folder).ok()
            }
        })
        .collect()
}

/// The folders that match a path in which `*` stands for any text within one part.
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::new()];
    for part in pattern {
        let bytes = part.as_bytes();
        let Some(star) = bytes.iter().position(|byte| *byte == b'*') else {
            for folder in &mut folders {
                folder.push(part);
            }
            continue;
        };
        let (before, after) = (&bytes[..star], &bytes[star + 1..]);
        let matches = |name: &OsStr| {
            let name = name.as_bytes();
            name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after)
        };
        folders = folders
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .flatten()
            .filter(|entry| matches(&entry.file_name()))
            .map(|entry| entry.path())
            .collect();
    }
    folders
}

/// Asks `postgres` for its major version, as the account that is to run it: it may not be allowed to.
fn version(home: &Home, folder: &Path) -> Result<u32, String> {
    let mut command = Command::new(folder.join("postgres"));
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    home.adopt(&mut command, Path::new("/"));
    let output = command
        .output()
        .map_err(|error| format!("cannot be run: {error}"))?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| format!("`postgres --version` ended with {}", output.status))
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `… 18beta1`, `… 19devel`.
fn parse_version(text: &str) -> Option<u32> {
    let (_, after) = text.split_once("(PostgreSQL) ")?;
    let end = after
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(after.len());
    after[..end].parse().ok()
}

/// The first extension that these programs would not find. Where they look is asked of their own `pg_config`; without
/// one it is not known well enough to refuse them.
fn missing_extension(binaries: &Binaries) -> Option<&'static str> {
    let share = ask_pg_config(&binaries.folder.join("pg_config"), "--sharedir")?;
    EXTENSIONS.into_iter().find(|extension| {
        !share
            .join("extension")
            .join(format!("{extension}.control"))
            .is_file()
    })
}

fn ask_pg_config(program: &Path, question: &str) -> Option<PathBuf> {
    let output = Command::new(program)
        .arg(question)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let answer = output.stdout.trim_ascii();
    (!answer.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (text, major) in [
            (
                "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n",
                Some(15),
            ),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 19devel", Some(19)),
            ("postgres (PostgreSQL) 17", Some(17)),
            ("psql: error", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), major, "{text:?}");
        }
    }

    #[test]
    fn a_star_stands_for_a_part_of_one_part() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "postgresql@14/bin",
            "postgresql@17/bin",
            "postgres/bin",
            "postgresql@/x",
        ] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let mut found = expand(&folder.path().join("postgresql@*").join("bin"));
        found.retain(|path| path.is_dir());
        found.sort();
        assert_eq!(
            found,
            ["postgresql@14/bin", "postgresql@17/bin"].map(|name| folder.path().join(name))
        );
    }

    #[test]
    fn the_newest_with_the_extensions_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let made = |major: u32, extensions: &[&str]| {
            let folder = root.path().join(major.to_string());
            let share = folder.join("share");
            fs::create_dir_all(share.join("extension")).unwrap();
            for extension in extensions {
                fs::write(
                    share.join("extension").join(format!("{extension}.control")),
                    "",
                )
                .unwrap();
            }
            let program = folder.join("pg_config");
            fs::write(&program, format!("#!/bin/sh\necho {}\n", share.display())).unwrap();
            fs::set_permissions(
                &program,
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )
            .unwrap();
            Binaries { folder, major }
        };
        let old = made(14, &EXTENSIONS);
        let good = made(16, &EXTENSIONS);
        let bare = made(17, &["hstore"]);
        let chosen = best(vec![old, bare.clone(), good]).unwrap().unwrap();
        assert_eq!(chosen.major, 16);
        let refused = best(vec![bare]).unwrap_err().to_string();
        assert!(
            refused.contains("lacks the extension `btree_gist`"),
            "{refused}"
        );
        assert!(best(Vec::new()).unwrap().is_none());
    }
}
