//! Answers that are larger, longer, deeper or more than any Tempo sends: each is refused with a message, and the memory of the
//! program stays flat.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::Duration,
};

use tempo_harvest::simulator::{Fault, Misbehaviour};

use crate::support::harvest::{DAY_S, HOUR_S, Job, Said, Scene, hours, job, tempo};

/// Without such an answer the program takes less than 80 MiB.
const MOST_MEMORY_KIB: u64 = 384 << 10;
const PROTOBUF: &str = "application/protobuf";
const JSON: &str = "application/json";

/// A body of one part over and over.
struct Flood {
    content_type: &'static str,
    beginning: &'static [u8],
    part: Vec<u8>,
    times: u64,
    status: u16,
    compressed: bool,
}

/// One without end.
fn endless(content_type: &'static str, beginning: &'static [u8], part: &[u8]) -> Flood {
    Flood {
        content_type,
        beginning,
        part: part.to_vec(),
        times: u64::MAX,
        status: 200,
        compressed: false,
    }
}

impl Flood {
    fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn compressed(self) -> Self {
        Self {
            compressed: true,
            ..self
        }
    }

    fn fault(self, path: &str) -> Fault {
        let flood = Misbehaviour::Flood {
            status: self.status,
            content_type: self.content_type.to_owned(),
            beginning: self.beginning.to_vec(),
            part: self.part,
            times: self.times,
            compressed: self.compressed,
        };
        Fault::forever(flood).on_path(path)
    }
}

/// The most memory that a process has taken so far, KiB; 0 once it has ended.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// Runs the program; returns what it said, and its peak memory, KiB.
async fn run_measured(scene: &Scene, job: &Job) -> (Said, u64) {
    measured(scene, &scene.write(job)).await
}

async fn measured(scene: &Scene, file: &str) -> (Said, u64) {
    let process = scene.start(&["run", file]);
    let pid = process.id();
    let mut peak = 0;
    let end = process.end();
    tokio::pin!(end);
    loop {
        tokio::select! {
            said = &mut end => return (said, peak),
            () = tokio::time::sleep(Duration::from_millis(5)) => peak = peak.max(peak_kib(pid)),
        }
    }
}

/// One attempt at one window.
fn once() -> Job {
    job(1)
        .services()
        .limits("max_attempts = 1, timeout = \"5m\"")
}

#[tokio::test]
async fn what_no_answer_may_be_is_refused_in_flat_memory() {
    let too_large = "Tempo's answer is larger than 64 MiB, the most that is read";
    let too_many = "it brings more than the 2000 traces that were asked for";
    let too_much = "what is in it takes more memory than an answer may";
    let cut_off = "EOF while parsing";
    let cases = [
        ("without end", endless(PROTOBUF, b"", &[0; 4096]), too_large),
        (
            "1 GB of nothing, compressed a thousand to one",
            endless(JSON, b"{\"traces\":[", &[b' '; 4096])
                .times(250_000)
                .compressed(),
            too_large,
        ),
        (
            "10,000,000 traces of nothing",
            endless(PROTOBUF, b"", b"\x0a\x00").times(10_000_000),
            "`` is not a trace ID",
        ),
        (
            "10,000,000 traces",
            endless(PROTOBUF, b"", b"\x0a\x03\x0a\x011").times(10_000_000),
            too_many,
        ),
        (
            "1,000,000 traces in JSON",
            endless(
                JSON,
                b"{\"traces\":[{\"traceID\":\"1\"}",
                b",{\"traceID\":\"1\"}",
            )
            .times(1_000_000)
            .compressed(),
            too_many,
        ),
        (
            // A length of 10,000,003 bytes: an ID, and entries of the map.
            "one trace of 5,000,000 services",
            endless(PROTOBUF, b"\x0a\x83\xad\xe2\x04\x0a\x011", b"\x42\x00").times(5_000_000),
            too_much,
        ),
        (
            "objects in objects",
            endless(
                JSON,
                b"{\"traces\":[{\"traceID\":\"1\",\"serviceStats\":{\"a\":",
                b"{\"b\":",
            )
            .times(1_000_000),
            "EOF while parsing",
        ),
        (
            "a name of 5 MB",
            endless(JSON, b"{\"traces\":[{\"rootServiceName\":\"", &[b'x'; 1000]).times(5_000),
            cut_off,
        ),
        (
            "a number of 5 MB",
            endless(JSON, b"{\"traces\":[{\"durationMs\":\"", &[b'x'; 1000]).times(5_000),
            cut_off,
        ),
        (
            "a page without end",
            endless("text/html", b"<html><title>Sign in</title>", &[b' '; 4096]),
            "an HTML page",
        ),
        (
            "a refusal without end",
            endless("text/plain", b"invalid TraceQL query: ", &[b'x'; 4096]).status(400),
            "invalid TraceQL query: xxxx",
        ),
        (
            "an outage without end",
            endless("text/plain", b"oops ", &[b'x'; 4096])
                .status(503)
                .compressed(),
            "Tempo answered 503 and said `oops xxx",
        ),
    ];
    let scene = Scene::new(tempo(&hours(1, 50))).await;
    for (what, flood, message) in cases {
        scene.control.clear_faults();
        scene.control.add_fault(flood.fault("/api/search"));
        let (said, peak) = run_measured(&scene, &once()).await;
        assert!(
            said.code != Some(0) && said.stderr.contains(message),
            "{what}: `{message}` is not in {said:?}"
        );
        assert!(said.stderr.len() < 20_000, "{what}: {}", said.stderr.len());
        assert!(peak > 0 && peak < MOST_MEMORY_KIB, "{what}: {peak} KiB");
    }
}

#[tokio::test]
async fn counts_without_end_are_done_without() {
    let scene = Scene::new(tempo(&hours(1, 50))).await;
    let sample = b"{\"timestampMs\":\"1\",\"value\":1},";
    let counts = endless(JSON, b"{\"series\":[{\"samples\":[", sample);
    for flood in [counts.times(5_000_000), endless(PROTOBUF, b"", &[0; 4096])] {
        scene.control.clear_faults();
        scene.control.add_fault(flood.fault("/api/metrics"));
        let job = job(1).backfill("window = \"1d\"");
        let (said, peak) = run_measured(&scene, &job).await;
        said.expect(0);
        assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
        scene.equals_truth((DAY_S, DAY_S + HOUR_S), false).await;
        scene
            .command(&["dataset", "rm", "shop", "--yes"])
            .await
            .expect(0);
    }
}

#[tokio::test]
async fn eight_answers_without_end_at_once_are_not_eight_in_memory() {
    let scene = Scene::new(tempo(&hours(8, 50))).await;
    let fault = endless(PROTOBUF, b"", &[0; 4096]).fault("/api/search");
    scene.control.add_fault(fault);
    let job = job(8)
        .services()
        .limits("max_attempts = 1, concurrency = 8, timeout = \"5m\"");
    let (said, peak) = run_measured(&scene, &job).await;
    assert_ne!(said.code, Some(0));
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
}

#[tokio::test]
async fn headers_without_end_are_an_answer_that_broke_off() {
    let scene = Scene::new(tempo(&hours(1, 50))).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process: it waits for nothing but the program.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n");
                while connection
                    .write_all(&b"X-Flood: 0123456789\r\n".repeat(100))
                    .is_ok()
                {}
            });
        }
    });
    let file = scene.write(&once());
    let text = std::fs::read_to_string(scene.folder.path().join(&file)).unwrap();
    let simulator = scene.simulator.url();
    scene.write_file(
        &file,
        &text.replace(&simulator, &format!("http://{address}")),
    );
    let (said, peak) = measured(&scene, &file).await;
    assert!(
        said.code != Some(0) && said.stderr.contains("broke off"),
        "{said:?}"
    );
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
}
