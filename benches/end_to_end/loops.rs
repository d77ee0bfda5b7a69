//! The loops that people write, for comparison: how much of the day they bring, and how long they take.

use std::collections::HashSet;
use std::time::Instant;

use reqwest::header::ACCEPT;
use serde::Deserialize;

use crate::floor::client;
use crate::source::Source;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    traces: Vec<Trace>,
}

#[derive(Deserialize)]
struct Trace {
    #[serde(rename = "traceID")]
    trace_id: String,
}

/// One loop, at work.
struct Loop<'a> {
    source: &'a Source,
    client: reqwest::Client,
    limit: usize,
    found: HashSet<String>,
    requests: usize,
    /// Windows that could not be narrowed and were over the limit.
    full_seconds: usize,
}

/// Runs both, one request after the other, in JSON, and prints what came of them.
pub async fn measure(source: &Source) {
    for (limit, halves, name) in [
        (1_000, false, "hours at a limit of 1000"),
        (5_000, true, "halving over a limit of 5000"),
    ] {
        let mut looped = Loop {
            source,
            client: client(),
            limit,
            found: HashSet::new(),
            requests: 0,
            full_seconds: 0,
        };
        let begun = Instant::now();
        let (mut start_s, to_s) = (source.from.timestamp(), source.to.timestamp());
        while start_s < to_s {
            let end_s = (start_s + 3_600).min(to_s);
            looped.hour(start_s, end_s, halves).await;
            start_s = end_s;
        }
        println!(
            "{name}: {} traces, {} requests, {} full seconds, {:.1} s",
            looped.found.len(),
            looped.requests,
            looped.full_seconds,
            begun.elapsed().as_secs_f64()
        );
    }
}

impl Loop<'_> {
    /// Fetches a window, and halves of it as long as they are over the limit.
    async fn hour(&mut self, start_s: i64, end_s: i64, halves: bool) {
        let mut windows = vec![(start_s, end_s)];
        while let Some((start_s, end_s)) = windows.pop() {
            let traces = self.search(start_s, end_s).await;
            let over = traces.len() >= self.limit;
            if over && halves && end_s - start_s > 1 {
                let middle_s = start_s + (end_s - start_s) / 2;
                windows.extend([(start_s, middle_s), (middle_s, end_s)]);
                continue;
            }
            self.full_seconds += usize::from(over && halves);
            self.found
                .extend(traces.into_iter().map(|trace| trace.trace_id));
        }
    }

    async fn search(&mut self, start_s: i64, end_s: i64) -> Vec<Trace> {
        self.requests += 1;
        let mut url = url::Url::parse(&format!("{}/api/search", self.source.url)).unwrap();
        url.query_pairs_mut()
            .append_pair("q", "{}")
            .append_pair("start", &start_s.to_string())
            .append_pair("end", &end_s.to_string())
            .append_pair("limit", &self.limit.to_string());
        let answer = self
            .client
            .get(url)
            .header(ACCEPT, "application/json")
            .send()
            .await
            .unwrap();
        let body = answer.error_for_status().unwrap().bytes().await.unwrap();
        serde_json::from_slice::<Answer>(&body).unwrap().traces
    }
}
