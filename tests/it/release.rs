//! What a release is made of: the version with its commit, the notes, the package, man pages, and the Tempo to try it on.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use tempfile::TempDir;
use tempo_harvest::{cli, version};

use crate::support::harvest::start_in;

#[path = "../../src/build.rs"]
#[expect(dead_code, reason = "cargo calls what this does not")]
mod build_script;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const CARGO: &str = include_str!("../../Cargo.toml");

/// Git in a folder, with nothing of the user's own.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A folder with a commit of some sources.
fn committed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    for file in ["Cargo.toml", "README.md", "src/lib.rs"] {
        fs::write(folder.path().join(file), "1").unwrap();
    }
    git(folder.path(), &["init", "--quiet"]);
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "--quiet", "--message", "one"]);
    folder
}

#[test]
fn the_commit_is_told_wherever_somebody_knows_it() {
    let folder = committed();
    let top = folder.path();
    let commit = git(top, &["rev-parse", "HEAD"]);
    let short = commit[..9].to_owned();
    assert_eq!(build_script::from_git(top), Some(short.clone()));

    // A change to what it is not built from is none; one to what it is built from makes it another program.
    fs::write(top.join("README.md"), "2").unwrap();
    assert_eq!(build_script::from_git(top), Some(short.clone()));
    fs::write(top.join("src/lib.rs"), "2").unwrap();
    assert_eq!(build_script::from_git(top), Some(format!("{short}-dirty")));
    git(top, &["checkout", "--quiet", "."]);
    fs::write(top.join("src/new.rs"), "").unwrap();
    assert_eq!(build_script::from_git(top), Some(format!("{short}-dirty")));
    fs::remove_file(top.join("src/new.rs")).unwrap();

    // In a work tree of its own, and with references packed.
    git(top, &["pack-refs", "--all"]);
    let aside = tempfile::tempdir().unwrap();
    let tree = aside.path().join("tree");
    let adding = ["worktree", "add", "--quiet", tree.to_str().unwrap()];
    git(top, &adding);
    assert_eq!(build_script::from_git(&tree), Some(short.clone()));

    // Each commit is noticed: something that cargo watches has changed.
    for folder in [top, &tree] {
        let content = || -> Vec<(String, Option<String>)> {
            let watched = build_script::watched(folder).into_iter();
            watched
                .map(|path| (path.clone(), fs::read_to_string(folder.join(path)).ok()))
                .collect()
        };
        let before = content();
        let again = ["commit", "--quiet", "--allow-empty", "--message", "again"];
        git(folder, &again);
        assert!(build_script::from_git(folder).is_some_and(|now| now != short));
        assert!(
            content().iter().any(|entry| !before.contains(entry)),
            "{before:?}"
        );
    }

    // Sources unpacked inside somebody else's working copy are no part of it.
    let unpacked = top.join("vendor/tempo-harvest");
    fs::create_dir_all(&unpacked).unwrap();
    assert_eq!(build_script::from_git(&unpacked), None);
    assert_eq!(build_script::from_package(&unpacked), None);
    // What cargo packed has a note.
    for (dirty, said) in [("", ""), (", \"dirty\": true", "-dirty")] {
        let note = format!("{{\n \"git\": {{\n  \"sha1\": \"{commit}\"{dirty}\n }}\n}}");
        fs::write(unpacked.join(".cargo_vcs_info.json"), note).unwrap();
        let told = build_script::from_package(&unpacked);
        assert_eq!(told, Some(format!("{short}{said}")));
    }
    // A packager says it.
    for (told, said) in [
        (commit.clone(), Ok(short.clone())),
        (format!("{commit}-dirty"), Ok(format!("{short}-dirty"))),
        ("0.1.0-1~bpo12+1".to_owned(), Ok("0.1.0-1~bpo12+1".to_owned())),
        (
            "1\ncargo::rustc-env=A=b".to_owned(),
            Err("TEMPO_HARVEST_COMMIT is `1\\ncargo::rustc-env=A=b`, but may hold letters, digits and . + ~ _ - only".to_owned()),
        ),
    ] {
        assert_eq!(build_script::checked(&told), said);
    }
}

#[tokio::test]
async fn the_version_names_release_and_commit() {
    let folder = tempfile::tempdir().unwrap();
    let said = start_in(folder.path(), &["--version"], &[]).end().await;
    let expected = match version::COMMIT {
        "" => format!("tempo-harvest {}\n", version::RELEASE),
        commit => format!("tempo-harvest {} ({commit})\n", version::RELEASE),
    };
    assert_eq!(said.expect(0).stdout, expected);
    assert_eq!(version::RELEASE, env!("CARGO_PKG_VERSION"));
    assert!(expected.ends_with(&format!("{}\n", version::FULL)));
}

/// `.ci/release-notes` on files of the test's own.
fn release_notes(changelog: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join(".ci/release-notes");
    fs::create_dir(folder.path().join(".ci")).unwrap();
    fs::copy(Path::new(HERE).join(".ci/release-notes"), &script).unwrap();
    fs::write(folder.path().join("CHANGELOG.md"), changelog).unwrap();
    let cargo =
        "[package]\nname = \"a\"\nversion = \"0.2.0\"\n[dependencies]\nb = { version = \"9\" }\n";
    fs::write(folder.path().join("Cargo.toml"), cargo).unwrap();
    Command::new(script).args(arguments).output().unwrap()
}

#[test]
fn the_notes_of_a_version_are_its_section_of_the_changelog() {
    let changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- `a`,\n  and b.\n\n\
                     ## [0.1.0] - 2026-11-26\n\n- First.\n";
    for (arguments, notes) in [
        (&[][..], "### Added\n\n- `a`,\n  and b.\n"),
        (&["0.2.0"][..], "### Added\n\n- `a`,\n  and b.\n"),
        (&["0.1.0"][..], "- First.\n"),
    ] {
        let output = release_notes(changelog, arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), notes);
    }
    for missing in ["Unreleased", "0.3.0", "0.1"] {
        let output = release_notes(changelog, &[missing]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        let expected = format!("error: CHANGELOG.md says nothing under `## [{missing}]`");
        assert!(said.starts_with(&expected), "{said}");
        assert!(output.stdout.is_empty());
    }
    // Ours: this version has been released, or something is there that will be.
    let ours = |name: &str| {
        let mut script = Command::new(Path::new(HERE).join(".ci/release-notes"));
        script.arg(name).output().unwrap().status.success()
    };
    assert!(ours(version::RELEASE) || ours("Unreleased"));
}

#[tokio::test]
async fn each_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let said = start_in(folder.path(), &["man", "man1"], &[]).end().await;
    said.expect(0);
    let page = |name: &str| fs::read_to_string(folder.path().join("man1").join(name)).unwrap();
    let main = page("tempo-harvest.1");
    assert!(main.contains(version::FULL), "{main}");
    for command in cli::command().get_subcommands() {
        let name = command.get_name();
        if !command.is_hide_set() {
            let page = page(&format!("tempo-harvest-{name}.1"));
            assert!(page.starts_with(".ie"), "{page}");
        }
    }
    assert!(!folder.path().join("man1/tempo-harvest-help.1").exists());
    assert!(!main.contains("supervisor"));
    let said = start_in(folder.path(), &["man", "man1/tempo-harvest.1"], &[]);
    let said = said.end().await.expect(1).stderr;
    assert!(said.contains("`man1/tempo-harvest.1`"), "{said}");
}

#[tokio::test]
async fn the_demo_serves_its_tempo_alone() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["demo", "--serve", "127.0.0.1:0", "--traces", "2000"];
    let mut serving = start_in(folder.path(), &arguments, &[]);
    serving.says("Ctrl-C ends it").await;
    let said = serving.stderr();
    let url = said
        .split_once("simulated Tempo on ")
        .and_then(|(_, rest)| rest.split_once(": "))
        .unwrap()
        .0;
    let init = ["init", "--url", url, "--output", "traces.toml"];
    start_in(folder.path(), &init, &[]).end().await.expect(0);
    let doctored = start_in(
        folder.path(),
        &["doctor", "traces.toml"],
        &[("DATABASE_URL", "postgres://127.0.0.1:1/none")],
    );
    let doctored = doctored.end().await.expect(1).stdout;
    assert!(
        doctored.contains("credentials and no tenant needed"),
        "{doctored}"
    );
    let version = format!("ok    program: version: {}", version::FULL);
    assert!(doctored.starts_with(&version), "{doctored}");
    serving.signal(Signal::TERM);
    serving.end().await.expect(0);

    let open = ["demo", "--serve", "0.0.0.0:3200"];
    let said = start_in(folder.path(), &open, &[]).end().await.expect(2);
    assert!(
        said.stderr.contains("serve on 127.0.0.1:3200"),
        "{}",
        said.stderr
    );
}

#[test]
fn the_package_holds_what_it_says_and_keeps_secrets_from_others() {
    let assets = CARGO.split("\nassets = [\n").nth(1).unwrap();
    let assets: Vec<[String; 3]> = assets
        .lines()
        .take_while(|line| *line != "]")
        .map(|line| serde_json::from_str(line.trim().trim_end_matches(',')).unwrap())
        .collect();
    assert!(assets.len() > 10);
    for [from, to, mode] in &assets {
        // What is made is looked at where the package is.
        let there = from.split(['*']).next().unwrap();
        let made = from.starts_with("target/release/");
        assert!(made || Path::new(HERE).join(there).exists(), "{from}");
        let expected = match to.as_str() {
            "usr/bin/" => "755",
            "etc/tempo-harvest/" => "600",
            _ => "644",
        };
        assert_eq!(mode, expected, "{to}");
    }
    let environment = fs::read_to_string(Path::new(HERE).join("contrib/deb/environment")).unwrap();
    assert!(environment.lines().all(|line| line.starts_with('#')));
    // Its job is good, and rests until somebody has made it theirs.
    let job = Path::new(HERE).join("contrib/deb/example.toml");
    let text = fs::read_to_string(&job).unwrap();
    assert!(text.contains("\nenabled = false\n"));
    let checked = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
        .arg("check")
        .arg(&job)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(CARGO.contains("enable = false, start = false"));
}
