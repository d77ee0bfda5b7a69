//! What a seed needs of the machine beside processes and connections: clocks that are wrong, and a disk that can be full.
//!
//! Clocks by libfaketime, which a process reads its time through; a disk by mounting one in memory, which only root may.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Room for the database: some 45 MB when it is new, what is stored, and its log.
const DISK_MB: u64 = 500;
/// Where Debian's libfaketime lies, and Fedora's.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// What this machine lets a seed do. What it does not is left out, and named.
#[derive(Debug, Clone, Copy)]
pub struct Means {
    /// libfaketime: clocks of processes can be wrong.
    pub faketime: Option<&'static str>,
    /// A disk of the database's own can be mounted, and filled.
    pub disk: bool,
}

impl Means {
    pub fn of_this_machine() -> Self {
        let place = tempfile::tempdir().unwrap();
        let disk = mount(place.path());
        if disk {
            unmount(place.path());
        }
        Self {
            faketime: FAKETIME.into_iter().find(|path| Path::new(path).exists()),
            disk,
        }
    }

    /// What is left out.
    pub fn missing(self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.faketime.is_none() {
            missing.push("clocks of workers and database (no libfaketime)");
        }
        if !self.disk {
            missing.push("full disk (may not mount)");
        }
        missing
    }
}

fn mount(folder: &Path) -> bool {
    Command::new("mount")
        .args(["-t", "tmpfs", "-o"])
        .arg(format!("size={DISK_MB}m,mode=0755"))
        .arg("tempo-harvest-torture")
        .arg(folder)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn unmount(folder: &Path) {
    // Lazily: a server that has just ended may still be leaving.
    let unmounted = Command::new("umount").arg("-l").arg(folder).status();
    assert!(unmounted.unwrap().success(), "{}", folder.display());
}

/// A disk of the database's own.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Gives a stopped server's data a disk of their own.
pub fn move_to_a_disk(data: &Path) -> Disk {
    let aside = data.with_extension("aside");
    fs::rename(data, &aside).unwrap();
    fs::create_dir(data).unwrap();
    assert!(mount(data));
    let copied = Command::new("cp")
        .arg("-a")
        .arg(aside.join("."))
        .arg(data)
        .status();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(aside).unwrap();
    let configuration = data.join("postgresql.conf");
    let mut text = fs::read_to_string(&configuration).unwrap();
    text += "max_wal_size = 64MB\nmin_wal_size = 32MB\n";
    fs::write(configuration, text).unwrap();
    Disk(data.to_owned())
}

/// A file that fills a disk until it is dropped.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Filler {
    /// Fills the disk that this folder is on.
    pub fn of(folder: &Path) -> Option<Self> {
        let path = folder.join("filler");
        let mut file = File::create(&path).ok()?;
        let block = vec![1; 1 << 20];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&block[..512]).is_ok() {}
        Some(Self(path))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(&self.0);
    }
}

/// What makes a process see another time, read from a file at each look.
pub fn fake(library: &str, clock: &Path) -> [(&'static str, String); 5] {
    [
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ]
}

/// Sets such a clock.
pub fn set_clock(file: &Path, offset_s: i64) {
    // Replaced as a whole: whoever reads it half written would see the true time.
    let new = file.with_extension("new");
    fs::write(&new, format!("{offset_s:+}")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(new, file).unwrap();
}

/// PostgreSQL's programs in a folder of their own, of which the server sees the clock that a file tells.
pub fn server_with_clock(programs: &Path, folder: &Path, library: &str, clock: &Path) {
    fs::create_dir(folder).unwrap();
    for program in fs::read_dir(programs).unwrap() {
        let program = program.unwrap();
        if program.file_name() != "postgres" {
            symlink(program.path(), folder.join(program.file_name())).unwrap();
        }
    }
    let variables: String = fake(library, clock)
        .map(|(name, value)| format!("{name}='{value}' "))
        .concat();
    let script = folder.join("postgres");
    let text = format!(
        "#!/bin/sh\nexec env {variables} '{}/postgres' \"$@\"\n",
        programs.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
}
