//! What the documentation says is held against the program: commands, job files, queries, and the comments on tables.

use sqlx::{AssertSqlSafe, query, raw_sql};
use tempo_harvest::cli;

use crate::support::harvest::{Scene, database, hours, job, tempo};

const README: &str = include_str!("../../README.md");

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    README
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_command_in_the_readme_is_one() {
    let consoles = blocks("console");
    let lines = consoles.iter().flat_map(|block| block.lines());
    let mut commands = 0;
    for line in lines.filter_map(|line| line.strip_prefix("$ ")) {
        let line = line.split(" > ").next().unwrap();
        let arguments = line
            .strip_prefix("cargo run --release -- ")
            .map(|rest| format!("tempo-harvest {rest}"))
            .or_else(|| line.starts_with("tempo-harvest ").then(|| line.to_owned()));
        let Some(arguments) = arguments else {
            assert!(
                line.starts_with("cargo ") || line.starts_with("export "),
                "`{line}` is not looked at by this test"
            );
            continue;
        };
        // A quoted value is one argument.
        let arguments = arguments.split('\'').enumerate().flat_map(|(index, part)| {
            if index % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        });
        if let Err(error) = cli::command().try_get_matches_from(arguments) {
            panic!("`{line}`: {error}");
        }
        commands += 1;
    }
    assert!(commands > 10);
}

#[test]
fn the_job_files_in_the_readme_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let files = blocks("toml");
    let [job, sources] = files.as_slice() else {
        panic!("a job file and its sources.toml");
    };
    std::fs::write(folder.path().join("shop.toml"), job).unwrap();
    std::fs::write(folder.path().join("sources.toml"), sources).unwrap();
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
        .args(["check", "--no-env"])
        .arg(folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{errors}");
}

#[tokio::test]
async fn every_query_in_the_readme_runs() {
    let scene = Scene::new(tempo(&hours(2, 300))).await;
    scene.run(&job(2).services()).await.expect(0);
    let mut queries = 0;
    for block in blocks("sql") {
        // A role belongs to the whole cluster, and may be there from an earlier run: `roles` makes one under another name.
        if block.contains("CREATE ROLE") {
            continue;
        }
        raw_sql(AssertSqlSafe(block.clone()))
            .execute(&scene.pool)
            .await
            .unwrap_or_else(|error| panic!("{block}: {error}"));
        queries += 1;
    }
    assert!(queries >= 4);
}

#[tokio::test]
async fn every_table_and_column_has_a_comment() {
    let pool = database().await.pool().await;
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || coalesce('.' || a.attname, '')
         FROM pg_class c
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'harvest'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname <> '_sqlx_migrations'
           AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(bare, Vec::<String>::new());
    let tables = query(
        "SELECT FROM pg_class WHERE relnamespace = 'harvest'::regnamespace AND relkind = 'r'",
    );
    assert!(tables.fetch_all(&pool).await.unwrap().len() >= 9);
}
