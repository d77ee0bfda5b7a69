//! Asking a process under test over HTTP: one request, one connection, nothing followed.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot have what it needs has failed"
)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::harvest::Process;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Where a process that was started with `--listen 127.0.0.1:0` listens: `127.0.0.1:PORT`.
pub async fn address(process: &mut Process) -> String {
    process.says("dashboard on http://").await;
    process.says("/\n").await;
    let said = process.stderr();
    let url = said.split("dashboard on http://").nth(1).unwrap();
    url.split('/').next().unwrap().to_owned()
}

/// GETs a path, with more headers, each with its line end.
pub async fn get(address: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("chunked"), "{head}");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// What `/metrics` says, in the older form.
pub async fn metrics(address: &str) -> String {
    let answer = get(address, "/metrics", "").await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.body
}

/// The value of a series, labels as they are written; `None`: there is none.
pub fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| {
        let rest = line.strip_prefix(series)?;
        rest.strip_prefix(' ')
    });
    line.map(|value| value.parse().unwrap())
}
