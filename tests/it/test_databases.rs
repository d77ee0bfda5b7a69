//! The tests' own databases keep apart, and are copies of one template.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{ConnectOptions, Connection, query, query_scalar};

use crate::support::postgres;

static MIGRATIONS: AtomicU32 = AtomicU32::new(0);

async fn migrated() -> postgres::TestDatabase {
    postgres::migrated_database(async |options| {
        MIGRATIONS.fetch_add(1, Ordering::Relaxed);
        let mut connection = options.connect().await.unwrap();
        query("CREATE TABLE t (n int)")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    })
    .await
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other, empty) = tokio::join!(migrated(), migrated(), postgres::database());
    assert!(MIGRATIONS.load(Ordering::Relaxed) <= 1);
    let pool = one.pool().await;
    query("INSERT INTO t VALUES (1)")
        .execute(&pool)
        .await
        .unwrap();
    let count: i64 = query_scalar("SELECT count(*) FROM t")
        .fetch_one(&other.pool().await)
        .await
        .unwrap();
    assert_eq!(count, 0);
    let count: i64 = query_scalar("SELECT count(*) FROM t")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(count, 1);
    let table: Option<String> = query_scalar("SELECT to_regclass('t')::text")
        .fetch_one(&empty.pool().await)
        .await
        .unwrap();
    assert_eq!(table, None);
    let by_url: String = query_scalar("SELECT current_database()::text")
        .fetch_one(&mut sqlx::PgConnection::connect(&one.url()).await.unwrap())
        .await
        .unwrap();
    let by_options: String = query_scalar("SELECT current_database()::text")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(by_url, by_options);
}
