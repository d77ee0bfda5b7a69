//! Answers that are none: what a search makes of them, and that a window they are given for is not done.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use tempo_harvest::job::SourceSpec;
use tempo_harvest::tempo::{Client, Limits, Search, Urgency};
use tempo_harvest::window::Window;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::items;
use crate::support::harvest::{DAY_S, HOUR_S, Scene, hours, tempo};

/// An answer to a search, and what is made of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    what: String,
    /// `200 OK` unless something else is said.
    status: Option<String>,
    /// The content type, `application/json` unless something else is said; empty: none.
    content_type: Option<String>,
    #[serde(default)]
    headers: Vec<String>,
    /// TRACE is a trace, and METRICS what an answer ends with.
    body: Option<String>,
    /// The same in hexadecimal.
    hex: Option<String>,
    /// All of the answer, instead.
    raw: Option<String>,
    /// Without a Content-Length, because one is among the headers or none is to be.
    #[serde(default)]
    no_length: bool,
    /// What kind of failure it is; `usable`: none.
    class: String,
    /// The message; of a usable answer what is read from it.
    says: String,
}

const TRACE: &str = r#"{"traceID":"0123456789abcdef0123456789abcdef","rootServiceName":"cart","rootTraceName":"GET /","startTimeUnixNano":"1772323300000000000","durationMs":5}"#;
const METRICS: &str = r#""metrics":{"completedJobs":1,"totalJobs":1,"inspectedBytes":"10"}"#;

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    let pairs = (0..digits.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

impl Item {
    /// What is sent.
    fn answer(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone().into_bytes();
        }
        let text = self.body.clone().unwrap_or_default();
        let mut body = text
            .replace("TRACE", TRACE)
            .replace("METRICS", METRICS)
            .into_bytes();
        if let Some(hex) = &self.hex {
            body = bytes_of(hex);
        }
        let mut head = format!(
            "HTTP/1.1 {}\r\n",
            self.status.as_deref().unwrap_or("200 OK")
        );
        match self.content_type.as_deref() {
            Some("") => {}
            content_type => {
                head += &format!(
                    "Content-Type: {}\r\n",
                    content_type.unwrap_or("application/json")
                )
            }
        }
        if !self.no_length {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for header in &self.headers {
            head += &format!("{header}\r\n");
        }
        [(head + "Connection: close\r\n\r\n").into_bytes(), body].concat()
    }
}

/// Answers each request with the item that its path names; returns its address.
async fn serve(items: &[Item]) -> String {
    let answers: BTreeMap<usize, Vec<u8>> = items.iter().map(Item::answer).enumerate().collect();
    let answers = Arc::new(answers);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    match socket.read(&mut buffer).await {
                        Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
                        _ => return,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                // It counts nothing, and a query that is none it refuses.
                let refusal = match request.contains("/api/metrics") {
                    true => Some("HTTP/1.1 404 Not Found"),
                    false => request
                        .contains("q=%7B&")
                        .then_some("HTTP/1.1 400 Bad Request"),
                };
                if let Some(status) = refusal {
                    let answer =
                        format!("{status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    let _gone = socket.write_all(answer.as_bytes()).await;
                    return;
                }
                let number = request
                    .split('/')
                    .nth(1)
                    .and_then(|number| number.parse().ok());
                let answer = number.and_then(|number: usize| answers.get(&number));
                // Whoever asked may have given up.
                let _gone = socket.write_all(answer.unwrap()).await;
                let _gone = socket.shutdown().await;
            });
        }
    });
    address
}

/// What a search makes of the item.
async fn made_of(address: &str, number: usize) -> (String, String) {
    let spec = serde_json::json!({ "url": format!("http://{address}/{number}"), "limits": { "timeout": "10s" } });
    let spec: SourceSpec = serde_json::from_value(spec).unwrap();
    let source = spec.resolve("server", &BTreeMap::new()).unwrap();
    let client = Client::new(source, Limits::default()).unwrap();
    let search = Search {
        window: Window::new(DAY_S, DAY_S + HOUR_S).unwrap(),
        query: Some("{ }".to_owned()),
        limit: 1_000,
        urgency: Urgency::Background,
        spans: None,
    };
    match client.search(&search).await {
        Ok(answer) => {
            let traces = answer.body.traces.iter().map(|trace| {
                format!(
                    "{:x} {} {} ms {:?} {:?}",
                    u128::from_be_bytes(trace.trace_id),
                    trace.start_ns,
                    trace.duration_ms,
                    trace.root_service.as_deref().unwrap_or("-"),
                    trace.root_name.as_deref().unwrap_or("-"),
                )
            });
            let traces: Vec<String> = traces.collect();
            (
                "usable".to_owned(),
                format!("{} traces: {}", traces.len(), traces.join(", ")),
            )
        }
        Err(failure) => {
            let class = format!("{:?}", failure.class).to_lowercase();
            (class, failure.message.replace(address, "ADDRESS"))
        }
    }
}

#[tokio::test]
async fn answers() {
    let items: Vec<Item> = items("answers");
    let address = serve(&items).await;
    let mut wrong = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let (class, said) = made_of(&address, number).await;
        let right = match item.says.strip_suffix('…') {
            Some(beginning) => said.starts_with(beginning),
            None => said == item.says,
        };
        if class != item.class || !right {
            wrong.push(format!("{}: {class}\n{said}", item.what));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} items:\n{}",
        wrong.len(),
        wrong.join("\n---\n")
    );
}

/// What is odd and no error is stored as far as PostgreSQL can, and breaks nothing that is made of it.
#[tokio::test]
async fn what_is_odd_and_no_error_is_stored() {
    let trace = |id: &str, name: &str, duration_ms: u32| {
        serde_json::json!({
            "traceID": id, "rootServiceName": "cart", "rootTraceName": name, "startTimeUnixNano": "1772323300000000000", "durationMs": duration_ms,
        })
    };
    // Longer than an index of PostgreSQL takes, and not to be compressed.
    let mut number = 1_u64;
    let digits = std::iter::repeat_with(|| {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        format!("{:08x}", number >> 32)
    });
    let long: String = digits.take(4_000).collect();
    let traces = [
        trace("1", "a\0b", 5),
        trace("2", &long, 5),
        trace("3", &format!("{long}!"), 7),
        trace("4", "\u{202e}\u{1f6d2}\n\t\u{7f}", 5),
        trace("5", "", u32::MAX),
        trace("0", "no ID", 0),
        trace("6", "twice", 5),
        trace("6", "twice", 9),
    ];
    let metrics = serde_json::json!({ "completedJobs": 1, "totalJobs": 1 });
    let item = Item {
        what: String::new(),
        status: None,
        content_type: None,
        headers: Vec::new(),
        body: Some(serde_json::json!({ "traces": traces, "metrics": metrics }).to_string()),
        hex: None,
        raw: None,
        no_length: false,
        class: String::new(),
        says: String::new(),
    };
    let address = serve(&[item]).await;
    let scene = Scene::new(tempo(&hours(1, 1))).await;
    let job = format!(
        "name = \"shop\"\nsource = {{ name = \"odd\", url = \"http://{address}/0\" }}\n[backfill]\nfrom = 2026-03-01T00:00:00Z\nto = 2026-03-01T01:00:00Z\n"
    );
    scene.write_file("shop.toml", &job);
    let said = scene.command(&["run", "shop.toml"]).await.expect(0);
    assert!(!said.stderr.contains("WARN"), "{}", said.stderr);
    let names = "SELECT coalesce(root_name, 'none') FROM harvest.traces ORDER BY trace_id";
    let names: Vec<String> = sqlx::query_scalar(names)
        .fetch_all(&scene.pool)
        .await
        .unwrap();
    let expected = [
        "no ID",
        "a\u{fffd}b",
        &long,
        &format!("{long}!"),
        "\u{202e}\u{1f6d2}\n\t\u{7f}",
        "none",
        "twice",
    ];
    assert_eq!(names, expected);
    let twice = "SELECT duration_ms FROM harvest.traces WHERE root_name = 'twice'";
    assert_eq!(scene.number(twice).await, 9);
    // The two long names count together.
    let baselines = scene
        .command(&["baseline", "--json"])
        .await
        .expect(0)
        .json();
    let everything = baselines[0]["baselines"].as_array().unwrap().iter();
    let samples: Vec<i64> = everything
        .filter(|baseline| {
            baseline["level"] == "everything"
                && baseline["operation"].as_str().unwrap().ends_with('…')
        })
        .map(|baseline| baseline["samples"].as_i64().unwrap())
        .collect();
    assert_eq!(samples, [2]);
    scene.command(&["baseline", "--recount"]).await.expect(0);
    for command in [&["status"][..], &["stats"], &["runs"], &["gaps"]] {
        scene.command(command).await.expect(0);
    }
}
