//! What the documentation says is held against the program: commands, job files, queries, keys, lists, links and paths.
//!
//! Every command in it is run, in [`commands`]; the tables of keys are made from the schema, in [`keys`]; what it lists (warnings,
//! reasons, verdicts, exit codes) is what the program has, in [`lists`].

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sqlx::query;

use crate::support::harvest::database;

mod commands;
mod keys;
mod lists;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document.
struct Document {
    /// As it is named in the repository: `docs/JOBS.md`.
    name: String,
    text: String,
}

fn document(name: &str) -> Document {
    Document {
        name: name.to_owned(),
        text: fs::read_to_string(top().join(name)).unwrap(),
    }
}

/// README and everything in `docs`.
fn documents() -> Vec<Document> {
    let mut names = vec!["README.md".to_owned()];
    for file in fs::read_dir(top().join("docs")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names.iter().map(|name| document(name)).collect()
}

/// A fenced block.
struct Block {
    language: String,
    text: String,
    /// Where it is: `docs/JOBS.md:12`.
    place: String,
}

impl Document {
    fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (index, line) in self.text.lines().enumerate() {
            // Those of a list are indented.
            let line = line.trim_start();
            match (line.strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block {
                        language: language.to_owned(),
                        text: String::new(),
                        place: format!("{}:{}", self.name, index + 1),
                    });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.name);
        blocks
    }

    fn blocks_of(&self, language: &str) -> Vec<Block> {
        let mut blocks = self.blocks();
        blocks.retain(|block| block.language == language);
        blocks
    }

    /// What is outside of fenced blocks.
    fn prose(&self) -> String {
        let mut inside = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                prose += &format!("{line}\n");
            }
        }
        prose
    }

    /// What stands between backticks outside of fenced blocks; may begin on one line and end on the next.
    fn quoted(&self) -> Vec<String> {
        let prose = self.prose();
        let quoted = regex_lite::Regex::new(r"`([^`]+)`").unwrap();
        quoted
            .captures_iter(&prose)
            .map(|found| found[1].replace('\n', " "))
            .collect()
    }

    /// The rows of the table below a heading, or the first one that begins with such a head, cell by cell.
    fn table(&self, head: &str) -> Vec<Vec<String>> {
        let mut lines = self.text.lines().skip_while(|line| !line.starts_with(head));
        assert!(lines.next().is_some(), "{}: no table `{head}`", self.name);
        let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let cells = row.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
    }
}

/// The name that a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn every_link_leads_somewhere() {
    let link = regex_lite::Regex::new(r"\]\(([^)]+)\)").unwrap();
    let mut links = 0;
    for document in documents() {
        let here = top().join(&document.name);
        for found in link.captures_iter(&document.prose()) {
            let target = &found[1];
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => here.clone(),
                file => here.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: `{target}`", document.name);
            if !heading.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches('#')) == heading),
                    "{}: no heading for `{target}`",
                    document.name
                );
            }
            links += 1;
        }
    }
    assert!(links > 5);
}

/// The names of all files below a folder of the repository.
fn files_below(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, names),
            false => {
                names.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
            }
        }
    }
}

#[test]
fn every_path_in_the_documentation_exists() {
    let path = regex_lite::Regex::new(
        r"^(src|tests|docs|jobs|contrib|benches|migrations|\.ci|\.cargo|\.sqlx)/[A-Za-z0-9_./-]*$",
    )
    .unwrap();
    let mut sources = BTreeSet::new();
    for folder in ["src", "tests", "benches"] {
        files_below(&top().join(folder), &mut sources);
    }
    let mut paths = 0;
    for document in documents() {
        for quoted in document.quoted() {
            let file: PathBuf = top().join(&quoted);
            if path.is_match(&quoted) {
                assert!(file.exists(), "{}: `{quoted}`", document.name);
                paths += 1;
            } else if quoted.ends_with(".rs") && !quoted.contains(['/', ' ', '*']) {
                assert!(sources.contains(&quoted), "{}: `{quoted}`", document.name);
                paths += 1;
            }
        }
    }
    assert!(paths > 50, "{paths}");
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

    // Every table that DATA.md names is there, with the columns that it names.
    for row in document("docs/DATA.md").table("| table | holds |") {
        let tables = row[0].split(", ").map(|name| name.trim_matches('`'));
        let tables: Vec<&str> = tables.collect();
        for table in &tables {
            let columns: Vec<String> = sqlx::query_scalar(
                "SELECT column_name::text FROM information_schema.columns WHERE table_schema = 'harvest' AND table_name = $1",
            )
            .bind(table)
            .fetch_all(&pool)
            .await
            .unwrap();
            assert!(!columns.is_empty(), "there is no harvest.{table}");
            let Some((_, named)) = row[1].split_once(": `") else {
                continue;
            };
            for column in named.split('`').step_by(2).filter(|name| !name.is_empty()) {
                assert!(
                    columns.iter().any(|name| name == column),
                    "there is no harvest.{table}.{column}"
                );
            }
        }
    }
}
