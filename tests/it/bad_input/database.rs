//! States of the database in which nothing, or not everything, can be done: what is said, and that nothing is half done.

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, query_scalar, raw_sql};

use super::items;
use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, job, redacted, tempo};
use crate::support::postgres;

/// A state, what is done in it, and what is said.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    what: String,
    /// Whether there are no tables yet.
    #[serde(default)]
    empty: bool,
    /// A template to make the database from, and its encoding, instead.
    encoding: Option<String>,
    /// What is done before `make`: commands of the program, each in one string.
    #[serde(default)]
    before: Vec<String>,
    /// What makes the state, as a superuser; $database is the database's name, $role that of a login with the password `right`.
    #[serde(default)]
    make: String,
    /// Who connects, `$role:right` for instance; else the superuser.
    login: Option<String>,
    /// Another database's name.
    database: Option<String>,
    /// The command; the job file is shop.toml.
    run: Vec<String>,
    code: i32,
    /// All of stderr, or of stdout where that is empty; or a part of it, if it begins and ends in `…`.
    says: String,
}

impl Item {
    /// What is wrong with what is said of it; `None`: nothing.
    async fn what_is_wrong(self) -> Option<String> {
        let database = match &self.encoding {
            Some(encoding) => postgres::database_of_encoding(encoding).await,
            None if self.empty => postgres::database().await,
            None => crate::support::harvest::database().await,
        };
        let scene = Scene::on(database, tempo(&hours(1, 10))).await;
        scene.write(&job(1).services());
        let name: String = query_scalar("SELECT current_database()::text")
            .fetch_one(&scene.pool)
            .await
            .unwrap();
        let role = format!("role_of_{name}");
        let named = |text: &str| text.replace("$database", &name).replace("$role", &role);
        for command in &self.before {
            let arguments: Vec<&str> = command.split(' ').collect();
            scene.command(&arguments).await;
        }
        let url = scene.database.url();
        let make = format!("CREATE ROLE $role LOGIN PASSWORD 'right'; {}", self.make);
        let mut conn = PgConnection::connect(&url).await.unwrap();
        // One by one: some may stand in no transaction.
        for statement in named(&make)
            .split(';')
            .filter(|statement| !statement.trim().is_empty())
        {
            raw_sql(AssertSqlSafe(statement.to_owned()))
                .execute(&mut conn)
                .await
                .unwrap();
        }
        conn.close().await.unwrap();
        scene.pool.close().await;
        let (_, behind) = url.split_once('@').unwrap();
        let mut url = match &self.login {
            Some(login) => format!("postgres://{}@{behind}", named(login)),
            None => url,
        };
        if let Some(other) = &self.database {
            url = url.replace(&format!("/{name}?"), &format!("/{other}?"));
        }
        let arguments: Vec<&str> = self.run.iter().map(String::as_str).collect();
        let said = scene
            .command_with(&arguments, &[("DATABASE_URL", &url)])
            .await;
        let text = match said.stderr.trim_end() {
            "" => said.stdout.trim_end(),
            text => text,
        };
        // Where in PostgreSQL's own source it was found.
        let line = regex_lite::Regex::new(" at line [0-9]+").unwrap();
        let text = line.replace_all(text, "").into_owned();
        let socket = regex_lite::Regex::new("/[^ :]*/tempo-harvest[^ :]*").unwrap();
        let text = socket
            .replace_all(&redacted(&text), "SOCKET")
            .replace(&role, "$role")
            .replace(&name, "$database");
        let part = self
            .says
            .strip_prefix('…')
            .and_then(|says| says.strip_suffix('…'));
        let right = match part {
            // A command that takes long tells of its progress, too.
            Some(part) => text.contains(part) || said.stdout.contains(part),
            None => text == self.says,
        };
        let is_right = right && said.code == Some(self.code);
        (!is_right).then(|| format!("{}: {:?}\n{text}", self.what, said.code))
    }
}

#[tokio::test]
async fn database_states() {
    use futures::StreamExt as _;
    let items: Vec<Item> = items("database");
    let wrong: Vec<String> = futures::stream::iter(items)
        .map(Item::what_is_wrong)
        .buffered(2)
        .filter_map(async |wrong| wrong)
        .collect()
        .await;
    assert!(
        wrong.is_empty(),
        "{} items:\n{}",
        wrong.len(),
        wrong.join("\n---\n")
    );
}

/// Settings that somebody may have made for the database or the user, under which everything has to work as ever.
#[tokio::test]
async fn settings_of_others_change_nothing() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    let name: String = query_scalar("SELECT current_database()::text")
        .fetch_one(&scene.pool)
        .await
        .unwrap();
    for setting in [
        "search_path = nowhere",
        "timezone = 'Asia/Kolkata'",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "standard_conforming_strings = off",
        "default_transaction_isolation = 'serializable'",
        "enable_seqscan = off",
        "lock_timeout = '10s'",
        "lc_messages = 'C'",
    ] {
        let set = format!("ALTER DATABASE {name} SET {setting}");
        raw_sql(AssertSqlSafe(set))
            .execute(&scene.pool)
            .await
            .unwrap();
    }
    let said = scene.run(&job(3).services()).await.expect(0);
    assert!(
        said.stdout.contains(" 0 retries"),
        "{}\n{}",
        said.stdout,
        said.stderr
    );
    scene.equals_truth((DAY_S, DAY_S + 3 * HOUR_S), true).await;
    scene.command(&["verify", "shop"]).await.expect(0);
    scene.command(&["status"]).await.expect(0);
    scene.command(&["stats"]).await.expect(0);
}
