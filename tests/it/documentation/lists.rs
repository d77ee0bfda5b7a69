//! What the documentation lists is what the program has: no warning, reason, verdict, class, exit code or command is missing, and
//! none is made up.

use std::collections::BTreeMap;

use tempo_harvest::{
    cli::{self, Exit},
    gaps::Reason,
    store::lease::ErrorClass,
    verify::Verdict,
    warnings::Kind,
};

use super::document;

/// The first cells of a table, without backticks, each with the others.
fn rows(file: &str, head: &str) -> BTreeMap<String, Vec<String>> {
    let rows = document(file).table(head);
    let count = rows.len();
    let rows: BTreeMap<String, Vec<String>> = rows
        .into_iter()
        .map(|mut row| {
            let name = row.remove(0);
            (name.trim_matches('`').to_owned(), row)
        })
        .collect();
    assert_eq!(rows.len(), count, "a row stands twice below `{head}`");
    rows
}

fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

fn yes_or_no(yes: bool) -> &'static str {
    match yes {
        true => "yes",
        false => "no",
    }
}

const OPERATIONS: &str = "docs/OPERATIONS.md";

#[test]
fn every_warning_is_explained() {
    let rows = rows(OPERATIONS, "| warning | means | what to do |");
    let names = Kind::ALL.map(Kind::name);
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), sorted(names));
}

#[test]
fn every_reason_of_a_gap_is_explained() {
    let rows = rows(
        OPERATIONS,
        "| reason | means | a gap | `repair` | what to do |",
    );
    let failed = |class: ErrorClass| Reason::Failed {
        class: class.name().to_owned(),
        error: String::new(),
        attempts: 1,
    };
    let reasons = [
        Reason::Provisional,
        Reason::TooYoung,
        Reason::InFlight,
        Reason::Deleted,
        Reason::BeyondRetention,
        failed(ErrorClass::Irreducible),
        failed(ErrorClass::Passing),
        Reason::ProvisionalTooLong,
        Reason::NotCaughtUp,
        Reason::NeverTried,
    ];
    for reason in &reasons {
        let row = &rows[reason.name()];
        assert_eq!(row[1], yes_or_no(reason.is_missing()), "{}", reason.name());
        // What is on the queue needs no repair.
        let repaired = match reason {
            Reason::InFlight => "is on the queue",
            reason => yes_or_no(reason.is_repairable()),
        };
        assert_eq!(row[2], repaired, "{}", reason.name());
    }
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), sorted(Reason::NAMES));
    assert_eq!(
        sorted(reasons.iter().map(Reason::name)),
        sorted(Reason::NAMES)
    );
}

#[test]
fn every_class_of_error_is_explained() {
    let rows = rows(OPERATIONS, "| class | means |");
    let names = ErrorClass::ALL.map(ErrorClass::name);
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), sorted(names));
}

#[test]
fn every_verdict_is_explained() {
    let rows = rows(OPERATIONS, "| verdict | means | in order | what to do |");
    for verdict in Verdict::ALL {
        let row = &rows[verdict.name()];
        assert_eq!(
            row[1],
            yes_or_no(verdict.is_in_order()),
            "{}",
            verdict.name()
        );
    }
    let names = Verdict::ALL.map(Verdict::name);
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), sorted(names));
}

#[test]
fn every_exit_code_is_explained() {
    let rows = rows("README.md", "| exit code | means |");
    let codes = Exit::ALL.map(|exit| (exit as u8).to_string());
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), codes);
}

#[test]
fn every_command_is_in_the_table() {
    let mut named = Vec::new();
    for row in document("README.md").table("| command | does | database |") {
        // `pause JOB`, `resume JOB` share a row.
        let commands = row[0].split('`').skip(1).step_by(2);
        for command in commands {
            let words = command.split(' ');
            let words: Vec<&str> = words
                .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
                .collect();
            named.push(words.join(" "));
        }
    }
    named.sort();
    // A command may have several rows.
    named.dedup();
    let mut there = Vec::new();
    for command in cli::command().get_subcommands() {
        if command.is_hide_set() {
            continue;
        }
        let below: Vec<_> = command.get_subcommands().collect();
        let alone = !command.is_subcommand_required_set();
        there.extend(alone.then(|| command.get_name().to_owned()));
        there.extend(
            below
                .iter()
                .map(|below| format!("{} {}", command.get_name(), below.get_name())),
        );
    }
    there.sort();
    assert_eq!(named, there);
}
