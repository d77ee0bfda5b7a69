//! The private PostgreSQL: shared, stopped with its last user, and up again after whatever was killed.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, getpgid, kill_process};
use sqlx::{ConnectOptions, Connection, query, query_scalar};
use tempo_harvest::local_postgres::{Error, FOLDER_NAME, LocalPostgres, SearchPlaces, find_folder};

use crate::support::local_postgres::{
    Killed, PROGRAM, Place, connection, mode, setting, socket_folder, text,
};

#[tokio::test]
async fn stopping_leaves_nothing_running_and_the_data_survive() {
    let place = Place::new();
    let server = place.start().await;
    let sockets = socket_folder(&server);
    let mut client = connection(&server).await;
    query("CREATE TABLE kept AS SELECT 42 AS n")
        .execute(&mut client)
        .await
        .unwrap();
    client.close().await.unwrap();
    server.stop().await;
    place.assert_stopped();
    assert!(!sockets.exists());

    let server = place.start().await;
    let kept: i32 = query_scalar("SELECT n FROM kept")
        .fetch_one(&mut connection(&server).await)
        .await
        .unwrap();
    assert_eq!(kept, 42);
    server.stop().await;
    place.assert_stopped();
}

#[tokio::test]
async fn looking_creates_none() {
    let folder = tempfile::tempdir().unwrap();
    for command in [["status", "--local"], ["gaps", "--local"]] {
        let said = crate::support::harvest::start_in(folder.path(), &command, &[]);
        let said = said.end().await.expect(2);
        insta::allow_duplicates! {
            insta::assert_snapshot!(said.stderr, @"error: there is no private PostgreSQL here: neither this folder nor one above has a .tempo-harvest/; `tempo-harvest run FILE` makes one");
        }
    }
    assert!(!folder.path().join(FOLDER_NAME).exists());
}

#[tokio::test]
async fn only_its_owner_can_reach_it() {
    let place = Place::new();
    let server = place.start().await;
    let mut client = connection(&server).await;
    assert_eq!(setting(&mut client, "listen_addresses").await, "");
    let sockets = socket_folder(&server);
    assert_eq!(mode(&sockets), 0o700);
    assert_eq!(mode(&sockets.join(".s.PGSQL.5432")), 0o700);
    assert_eq!(mode(&place.folder().join("password")), 0o600);
    assert_eq!(
        mode(&place.folder()) & 0o067,
        0,
        "others could list the folder"
    );
    assert_eq!(mode(&place.data()), 0o700);
    assert_eq!(
        fs::read_to_string(place.folder().join(".gitignore")).unwrap(),
        "*\n"
    );

    let refused = server
        .connect_options()
        .password("wrong")
        .connect()
        .await
        .unwrap_err();
    assert_eq!(
        refused.as_database_error().unwrap().code().unwrap(),
        "28P01"
    );
    let password = fs::read_to_string(place.folder().join("password")).unwrap();
    assert_eq!(password.len(), 32);
    assert!(!format!("{server:?}").contains(&password));
    let log = fs::read_to_string(place.folder().join("postgres.log")).unwrap();
    assert!(!log.contains(&password));
    // No rule but the one: not even the server's own account gets in without the password.
    let rules: Vec<String> = query_scalar(
        "SELECT concat_ws(' ', type, database, user_name, auth_method) FROM pg_hba_file_rules",
    )
    .fetch_all(&mut client)
    .await
    .unwrap();
    assert_eq!(rules, ["local {all} {all} scram-sha-256"]);
    client.close().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn it_is_durable_and_set_up_for_bulk_loads() {
    let place = Place::new();
    let server = place.start().await;
    let mut client = connection(&server).await;
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("shared_buffers", "128MB"),
        ("max_wal_size", "4GB"),
        ("max_connections", "100"),
        ("timezone", "UTC"),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(setting(&mut client, name).await, value, "{name}");
    }
    for extension in ["btree_gist", "hstore", "pgcrypto"] {
        let statement = sqlx::AssertSqlSafe(format!("CREATE EXTENSION {extension}"));
        query(statement).execute(&mut client).await.unwrap();
    }
    client.close().await.unwrap();
    server.create_database("another_1").await.unwrap();
    server.create_database("another_1").await.unwrap();
    let (one, two, three) = tokio::join!(
        server.create_database("at_once"),
        server.create_database("at_once"),
        server.create_database("at_once"),
    );
    one.and(two).and(three).unwrap();
    let refused = server.create_database("a\"; DROP").await.unwrap_err();
    assert!(matches!(refused, Error::DatabaseName(_)));
    let name: String = query_scalar("SELECT current_database()::text")
        .fetch_one(
            &mut server
                .connect_options_for("another_1")
                .connect()
                .await
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(name, "another_1");
    server.stop().await;
}

#[tokio::test]
async fn processes_share_one_server_until_the_last_has_left() {
    let place = Place::new();
    let first = place.other_user();
    let postmaster = place.postmaster();
    let second = place.start().await;
    assert_eq!(place.postmaster(), postmaster);
    first.leave();
    let one: i32 = query_scalar("SELECT 1")
        .fetch_one(&mut connection(&second).await)
        .await
        .unwrap();
    assert_eq!((one, place.postmaster()), (1, postmaster));
    // Leaving while others stay does not wait for them.
    let third = place.start().await;
    third.stop().await;
    assert!(!place.is_free("server.lock"));
    second.stop().await;
    place.assert_stopped();
}

/// Users that come while the server is being started or stopped: every one of them gets a server that stays.
#[tokio::test(flavor = "multi_thread")]
async fn users_may_come_and_go_at_any_time() {
    let place = Place::new();
    let users: Vec<_> = (0..4)
        .map(|user: u64| {
            let folder = place.folder();
            tokio::spawn(async move {
                for round in 0..6 {
                    let server = LocalPostgres::start(&folder, Path::new(PROGRAM))
                        .await
                        .unwrap();
                    let mut client = connection(&server).await;
                    let pause = format!("SELECT pg_sleep(0.0{})", (user * 7 + round * 3) % 10);
                    query(sqlx::AssertSqlSafe(pause))
                        .execute(&mut client)
                        .await
                        .unwrap();
                    client.close().await.unwrap();
                    // Some wait for the end, some run from it.
                    if (user + round).is_multiple_of(2) {
                        server.stop().await;
                    }
                }
            })
        })
        .collect();
    for user in users {
        user.await.unwrap();
    }
    place.free("supervisor.lock").await;
    place.assert_stopped();
}

/// Held up in the middle of stopping: who comes must neither be given the old server nor start a second one.
#[tokio::test]
async fn a_user_who_comes_while_it_is_stopping_gets_a_new_server() {
    let place = Place::new();
    let leaving = place.start().await;
    let postmaster = place.postmaster();
    kill_process(postmaster, Signal::STOP).unwrap();
    drop(leaving);
    let users = File::open(place.folder().join("users.lock")).unwrap();
    let stopping = async {
        while users.try_lock_shared().is_ok() {
            users.unlock().unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stopping)
        .await
        .expect("the supervisor has not taken the users' lock, or not kept it");
    let coming = async {
        assert!(
            users.try_lock_shared().is_err(),
            "the lock was given back too early"
        );
        kill_process(postmaster, Signal::CONT).unwrap();
    };
    let (server, ()) = tokio::join!(place.start(), coming);
    assert_ne!(place.postmaster(), postmaster);
    connection(&server).await.close().await.unwrap();
    server.stop().await;
    place.assert_stopped();
}

#[tokio::test]
async fn it_stops_by_itself_when_its_only_user_is_killed() {
    let place = Place::new();
    let user = place.other_user();
    assert!(!place.is_free("server.lock"));
    user.kill();
    place.free("supervisor.lock").await;
    place.assert_stopped();
}

#[tokio::test]
async fn ctrl_c_in_the_users_terminal_does_not_reach_it() {
    let place = Place::new();
    let server = place.start().await;
    let ours = getpgid(None).unwrap();
    for process in [place.supervisor(), place.postmaster()] {
        assert_ne!(getpgid(Some(process)).unwrap(), ours);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_whose_supervisor_was_killed_is_adopted() {
    let place = Place::new();
    let staying = place.start().await;
    let mut client = connection(&staying).await;
    let (supervisor, postmaster) = (place.supervisor(), place.postmaster());
    kill_process(supervisor, Signal::KILL).unwrap();
    place.free("supervisor.lock").await;

    let coming = place.start().await;
    assert_ne!(place.supervisor(), supervisor);
    assert_eq!(place.postmaster(), postmaster);
    // The one that stayed has noticed nothing.
    assert_eq!(setting(&mut client, "fsync").await, "on");
    client.close().await.unwrap();
    staying.stop().await;
    assert!(!place.is_free("server.lock"));
    coming.stop().await;
    place.assert_stopped();
}

#[tokio::test]
async fn it_starts_again_after_supervisor_and_user_were_killed() {
    let place = Place::new();
    let user = place.other_user();
    kill_process(place.supervisor(), Signal::KILL).unwrap();
    user.kill();
    let server = place.start().await;
    connection(&server).await.close().await.unwrap();
    server.stop().await;
    place.assert_stopped();
}

#[tokio::test]
async fn a_supervisor_that_is_told_to_end_ends_its_server() {
    let place = Place::new();
    let server = place.start().await;
    kill_process(place.supervisor(), Signal::TERM).unwrap();
    place.free("supervisor.lock").await;
    place.assert_stopped();
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_was_started_by_hand_is_left_alone() {
    let place = Place::new();
    let server = place.start().await;
    let postgres = server.binaries().join("postgres");
    server.stop().await;
    let data = place.data();
    let owner = fs::metadata(&data).unwrap();
    let sockets = tempfile::tempdir().unwrap();
    chown(sockets.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
    let mut command = Command::new(postgres);
    command
        .arg("-D")
        .arg(&data)
        .arg("-k")
        .arg(sockets.path())
        .args(["-c", "listen_addresses="])
        .current_dir(&data)
        .stderr(Stdio::piped());
    if geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    let mut by_hand = Killed(command.spawn().unwrap());
    let mut log = BufReader::new(by_hand.0.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("ready to accept connections")));

    let refused = LocalPostgres::start(&place.folder(), Path::new(PROGRAM))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("stop it first"), "{refused}");
    assert!(data.join("postmaster.pid").exists());
    kill_process(Pid::from_child(&by_hand.0), Signal::INT).unwrap();
    for line in log {
        line.unwrap();
    }
    assert!(by_hand.0.wait().unwrap().success());
}

/// As after a power cut: the files of a running server, and a process that has its ID.
#[tokio::test]
async fn a_stale_pid_file_is_survived_even_if_the_id_is_anothers() {
    let place = Place::new();
    let user = place.other_user();
    let data = place.data();
    let stale = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    kill_process(place.supervisor(), Signal::KILL).unwrap();
    kill_process(place.postmaster(), Signal::KILL).unwrap();
    user.kill();
    place.free("server.lock").await;
    let sockets = fs::read_to_string(place.folder().join("socket-folder")).unwrap();

    // PostgreSQL believes in an ID only if it may signal it: a process of the server's own account.
    let owner = fs::metadata(&data).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    if geteuid().is_root() {
        sleep.uid(owner.uid()).gid(owner.gid());
    }
    let mut foreign = Killed(
        sleep
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let (_, rest) = stale.split_once('\n').unwrap();
    fs::write(
        data.join("postmaster.pid"),
        format!("{}\n{rest}", foreign.0.id()),
    )
    .unwrap();
    chown(
        data.join("postmaster.pid"),
        Some(owner.uid()),
        Some(owner.gid()),
    )
    .unwrap();

    let server = place.start().await;
    connection(&server).await.close().await.unwrap();
    assert!(
        !Path::new(sockets.trim_end()).exists(),
        "the old socket folder is left"
    );
    server.stop().await;
    place.assert_stopped();
    assert!(
        foreign.0.try_wait().unwrap().is_none(),
        "a foreign process was killed"
    );
}

#[tokio::test]
async fn a_cluster_that_was_half_made_is_made_again() {
    let place = Place::new();
    fs::create_dir(place.folder()).unwrap();
    fs::create_dir(place.folder().join("data.new")).unwrap();
    fs::write(place.folder().join("data.new").join("PG_VERSION"), "15\n").unwrap();
    let server = place.start().await;
    connection(&server).await.close().await.unwrap();
    assert!(!place.folder().join("data.new").exists());
    server.stop().await;
}

#[tokio::test]
async fn what_the_server_says_is_shown_when_it_does_not_start() {
    let place = Place::new();
    place.start().await.stop().await;
    let configuration = place.data().join("postgresql.conf");
    let good = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, format!("{good}\nshared_bufers = 1\n")).unwrap();
    let output = place.db(&["true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output);
    assert!(
        shown.contains("the private PostgreSQL did not start; its log ends with:"),
        "{shown}"
    );
    assert!(
        shown.contains("unrecognized configuration parameter \"shared_bufers\""),
        "{shown}"
    );
    assert!(place.is_free("supervisor.lock"));

    fs::write(&configuration, good).unwrap();
    place.start().await.stop().await;
}

fn nowhere() -> SearchPlaces {
    SearchPlaces {
        path: Some("".into()),
        folders: Vec::new(),
        download: false,
    }
}

#[tokio::test]
async fn without_server_programs_it_says_what_to_install() {
    let place = Place::new();
    let refused = LocalPostgres::start_with(&place.folder(), Path::new(PROGRAM), &nowhere())
        .await
        .unwrap_err();
    insta::assert_snapshot!(refused, @r"
    found no PostgreSQL server programs (`initdb` and `postgres`, version 14 or newer)
    install them (`apt-get install postgresql`, `dnf install postgresql-server postgresql-contrib`, `brew install postgresql@17`), or set DATABASE_URL to a PostgreSQL that is running
    ");

    // Too old is not there.
    let old = place.root.path().join("old");
    fs::create_dir(&old).unwrap();
    for program in ["initdb", "postgres"] {
        let path = old.join(program);
        fs::write(&path, "#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    let places = SearchPlaces {
        folders: vec![old.to_str().unwrap().to_owned()],
        ..nowhere()
    };
    let refused = LocalPostgres::start_with(&place.folder(), Path::new(PROGRAM), &places)
        .await
        .unwrap_err();
    let line = format!(
        "not usable: `{}` (PostgreSQL 13: older than 14)",
        old.display()
    );
    assert!(refused.to_string().contains(&line), "{refused}");
}

#[tokio::test]
async fn a_cluster_is_never_run_by_another_major_version() {
    let place = Place::new();
    place.start().await.stop().await;
    fs::write(place.data().join("PG_VERSION"), "14\n").unwrap();
    let places = SearchPlaces {
        download: false,
        folders: vec!["/usr/lib/postgresql/15/bin".into()],
        ..SearchPlaces::default()
    };
    let refused = LocalPostgres::start_with(&place.folder(), Path::new(PROGRAM), &places)
        .await
        .unwrap_err();
    let Error::MajorMissing { needed: 14, .. } = &refused else {
        panic!("{refused}");
    };
    assert!(
        refused
            .to_string()
            .contains("apt-get install postgresql-14"),
        "{refused}"
    );
}

#[tokio::test]
async fn without_its_password_a_cluster_is_not_thrown_away() {
    let place = Place::new();
    place.start().await.stop().await;
    fs::remove_file(place.folder().join("password")).unwrap();
    let refused = LocalPostgres::start(&place.folder(), Path::new(PROGRAM))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::PasswordMissing(_)), "{refused}");
}

/// As in a clone below `/root`: the server's account cannot come to the folder.
#[tokio::test]
async fn root_keeps_the_data_elsewhere_when_the_server_cannot_reach_the_folder() {
    if !geteuid().is_root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.root.path(), Permissions::from_mode(0o700)).unwrap();
    let say_where = ["psql", "-Atc", "SHOW data_directory"];
    let first = place.db(&say_where).output().unwrap();
    assert!(first.status.success(), "{}", text(&first));
    let note = fs::read_to_string(place.folder().join("data-folder")).unwrap();
    let elsewhere = PathBuf::from(note.trim_end());
    assert_eq!(
        String::from_utf8_lossy(&first.stdout).trim_end(),
        elsewhere.join("data").to_str().unwrap()
    );
    let said = String::from_utf8_lossy(&first.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains(&format!("data are in `{}`", elsewhere.display())),
        "{said}"
    );
    assert_eq!(mode(&elsewhere) & 0o067, 0);
    assert_eq!(
        mode(place.root.path()),
        0o700,
        "the user's folder was given other rights"
    );

    let again = place.db(&say_where).output().unwrap();
    assert_eq!(
        (&again.stdout, text(&again).lines().count()),
        (&first.stdout, 1)
    );

    // As after a restart of the machine.
    fs::remove_dir_all(&elsewhere).unwrap();
    let anew = place.db(&say_where).output().unwrap();
    assert!(anew.status.success(), "{}", text(&anew));
    let said = String::from_utf8_lossy(&anew.stderr);
    assert!(
        said.contains(&format!("data in `{}` are gone", elsewhere.display())),
        "{said}"
    );
    let note = fs::read_to_string(place.folder().join("data-folder")).unwrap();
    assert_ne!(Path::new(note.trim_end()), elsewhere);
    fs::remove_dir_all(note.trim_end()).unwrap();
}

#[test]
fn the_folder_is_found_upward_and_never_one_of_others() {
    let place = Place::new();
    let deep = place.root.path().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir(place.folder()).unwrap();
    assert_eq!(find_folder(&deep).unwrap(), place.folder());
    let nearer = place.root.path().join("a").join(FOLDER_NAME);
    fs::create_dir(&nearer).unwrap();
    assert_eq!(find_folder(&deep).unwrap(), nearer);
    if geteuid().is_root() {
        chown(&nearer, Some(12345), None).unwrap();
        assert_eq!(find_folder(&deep).unwrap(), place.folder());
    }
}

/// Tried, not computed: another account lists, reads and connects to nothing. Only root can become another account.
#[tokio::test]
async fn another_account_reaches_nothing_of_it() {
    if !geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let server = place.start().await;
    let folder = place.folder();
    let sockets = socket_folder(&server);
    let other = |program: &Path, arguments: &[&Path]| {
        Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("PGPASSWORD", "whatever")
            .current_dir("/")
            // An account that nothing belongs to; the standard library drops root's groups with it.
            .uid(54_321)
            .gid(54_321)
            .output()
            .unwrap()
    };
    let (list, read) = (Path::new("/bin/ls"), Path::new("/bin/cat"));
    let psql = server.binaries().join("psql");
    let attempts = [
        (list, folder.clone()),
        (list, place.data()),
        (list, sockets.clone()),
        (read, folder.join("password")),
        (read, folder.join("postgres.log")),
        (read, folder.join("socket-folder")),
        (read, place.data().join("PG_VERSION")),
        (read, place.data().join("pg_hba.conf")),
    ];
    for (program, path) in attempts {
        let output = other(program, &[&path]);
        assert!(!output.status.success(), "{}", path.display());
        assert!(
            text(&output).contains("Permission denied"),
            "{}",
            text(&output)
        );
    }
    if psql.is_file() {
        let output = other(
            &psql,
            &[
                Path::new("-h"),
                &sockets,
                Path::new("-U"),
                Path::new("tempo_harvest"),
                Path::new("-c"),
                Path::new("SELECT 1"),
            ],
        );
        assert!(
            text(&output).contains("Permission denied"),
            "{}",
            text(&output)
        );
    }
    // Nor what a process of ours has in its memory, whoever it runs as.
    let copy = place.root.path().join("tempo-harvest");
    fs::copy(PROGRAM, &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let mut waiting = Command::new(&copy)
        .args(["work"])
        .env_clear()
        .env("DATABASE_URL", "postgres://me@127.0.0.1:1/none")
        .current_dir("/")
        .uid(54_321)
        .gid(54_321)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(waiting.stderr.as_mut().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert!(said.contains("waiting for it"), "{said}");
    if Path::new("/proc/self/environ").exists() {
        let environ = format!("/proc/{}/environ", waiting.id());
        assert_eq!(
            fs::metadata(&environ).unwrap().uid(),
            0,
            "its own account can read it, or dump its core"
        );
        let output = other(read, &[Path::new(&environ)]);
        assert!(
            text(&output).contains("Permission denied"),
            "{}",
            text(&output)
        );
    }
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_folder_that_others_may_have_prepared_is_refused() {
    let place = Place::new();
    fs::create_dir(place.folder()).unwrap();
    fs::set_permissions(place.folder(), Permissions::from_mode(0o777)).unwrap();
    let refused = LocalPostgres::start(&place.folder(), Path::new(PROGRAM)).await;
    assert!(matches!(refused, Err(Error::OpenFolder(_))), "{refused:?}");
    assert_eq!(fs::read_dir(place.folder()).unwrap().count(), 0);
    if !geteuid().is_root() {
        return;
    }
    // A link of somebody else's to a folder of ours.
    let ours = place.root.path().join("ours");
    fs::create_dir(&ours).unwrap();
    fs::remove_dir(place.folder()).unwrap();
    std::os::unix::fs::symlink(&ours, place.folder()).unwrap();
    std::os::unix::fs::lchown(place.folder(), Some(54_321), Some(54_321)).unwrap();
    let refused = LocalPostgres::start(&place.folder(), Path::new(PROGRAM)).await;
    assert!(
        matches!(refused, Err(Error::ForeignFolder { owner: 54_321, .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read_dir(&ours).unwrap().count(), 0);
}

/// Whatever the umask, nobody else can read or write what is in the folder.
#[test]
fn an_open_umask_opens_nothing() {
    let place = Place::new();
    let script = "umask 000 && exec \"$0\" db -- sh -c 'find .tempo-harvest ! -type l -perm /007 ! -name .gitignore'";
    let output = Command::new("sh")
        .args(["-c", script, PROGRAM])
        .current_dir(place.root.path())
        .env_remove("DATABASE_URL")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "{}",
        text(&output)
    );
    place.assert_stopped();
}
