//! The tests' own databases keep apart, and are copies of one template.

use sqlx::{Connection, query, query_scalar};

use crate::support::harvest;
use crate::support::postgres;

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other, empty) = tokio::join!(
        harvest::database(),
        harvest::database(),
        postgres::database()
    );
    let pool = one.pool().await;
    query("INSERT INTO harvest.sources (name, spec) VALUES ('one', '{}')")
        .execute(&pool)
        .await
        .unwrap();
    let count: i64 = query_scalar("SELECT count(*) FROM harvest.sources")
        .fetch_one(&other.pool().await)
        .await
        .unwrap();
    assert_eq!(count, 0);
    let count: i64 = query_scalar("SELECT count(*) FROM harvest.sources")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(count, 1);
    let table: Option<String> = query_scalar("SELECT to_regclass('harvest.sources')::text")
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
