//! Faults as they are acted out, and the traffic that goes on meanwhile.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use proptest::prelude::RngExt as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use rustix::process::Signal;
use tempo_harvest::simulator::{Fault as Spoilt, Span, TraceFragment};
use tokio::time::sleep;

use super::script::{Fault, Script};
use super::stage::Stage;
use crate::support::proxy::{Line, Proxy};

/// How late a part of a trace may come.
const LATEST: Duration = Duration::from_secs(25);

/// Acts out one fault, from its beginning to its end.
pub async fn act(stage: Arc<Stage>, fault: Fault) {
    stage.note(&fault);
    match fault {
        Fault::KillWorker(number, down) => stage.end_worker(number, Signal::KILL, down).await,
        Fault::StopWorker(number, down) => stage.end_worker(number, Signal::TERM, down).await,
        Fault::FreezeWorker(number, length) => stage.freeze_worker(number, length).await,
        Fault::WorkerClock(number, offset_s, length) => {
            stage.set_worker_clock(number, offset_s);
            sleep(length).await;
            stage.set_worker_clock(number, 0);
        }
        Fault::CrashDatabase(down) => stage.crash_database(down).await,
        Fault::EndSessions => {
            if let Ok(mut connection) = stage.connection().await {
                // It may be about to crash.
                let _ended = sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tempo-harvest%'",
                )
                .execute(&mut connection)
                .await;
            }
        }
        Fault::CutDatabase => stage.database.cut(),
        Fault::SlowDatabase(length) => slow(&stage.database, 200, length).await,
        Fault::StallDatabase(length, cut) => stall(&stage.database, length, cut).await,
        Fault::BreakDatabase(bytes, length) => breaking(&stage.database, bytes, length).await,
        Fault::DatabaseClock(offset_s, length) => {
            stage.set_database_clock(offset_s);
            sleep(length).await;
            stage.set_database_clock(0);
        }
        Fault::FullDisk(length) => {
            let filler = stage.fill_disk();
            sleep(length).await;
            drop(filler);
        }
        Fault::CutTempo => stage.tempo.cut(),
        Fault::RefuseTempo(length) => {
            stage.tempo.set(Line::Refused);
            stage.tempo.cut();
            sleep(length).await;
            stage.tempo.set(Line::Open);
        }
        Fault::SlowTempo(length) => slow(&stage.tempo, 2_000, length).await,
        Fault::StallTempo(length, cut) => stall(&stage.tempo, length, cut).await,
        Fault::BreakTempo(bytes, length) => breaking(&stage.tempo, bytes, length).await,
        Fault::CrashTempo(down) => {
            stage.simulator.take_down().await;
            sleep(down).await;
            // Up already, where two of these overlap.
            let _up = stage.simulator.bring_up();
        }
        Fault::TempoClock(offset_s, length) => {
            stage.set_tempo_clock(offset_s);
            sleep(length).await;
            stage.set_tempo_clock(0);
        }
        Fault::Answers(misbehaviour, probability, length) => {
            let spoilt = Spoilt::with_probability(probability, misbehaviour);
            let id = stage.control.add_fault(spoilt);
            sleep(length).await;
            stage.control.withdraw_fault(id);
        }
        Fault::LowerLimit(to, length) => {
            let mut before = 0;
            stage.control.change_limits(|limits| {
                before = std::mem::replace(&mut limits.max_result_limit, to);
            });
            sleep(length).await;
            stage.control.change_limits(|limits| {
                limits.max_result_limit = limits.max_result_limit.max(before)
            });
        }
        Fault::Compact => stage.control.compact(),
        Fault::Flush => stage.control.flush(),
        Fault::Seal => stage.control.seal(),
        Fault::Edit(edit, length) => {
            stage.edit(edit);
            sleep(length).await;
            stage.mend_jobs();
        }
        Fault::Pause(length) => {
            stage.aside(&["pause", "history"]).await;
            sleep(length).await;
            stage.aside(&["resume", "history"]).await;
        }
        Fault::Command(arguments) => stage.aside(arguments).await,
    }
}

async fn slow(proxy: &Proxy, bytes: usize, length: Duration) {
    let pause = Duration::from_millis(5);
    proxy.set(Line::Slow { bytes, pause });
    sleep(length).await;
    proxy.set(Line::Open);
}

async fn stall(proxy: &Proxy, length: Duration, cut: bool) {
    proxy.set(Line::Stalled);
    sleep(length).await;
    if cut {
        proxy.cut();
    }
    proxy.set(Line::Open);
}

async fn breaking(proxy: &Proxy, bytes: usize, length: Duration) {
    proxy.set(Line::BreaksAfter { bytes });
    sleep(length).await;
    proxy.set(Line::Open);
}

/// Sends traces for so long, and then what is late of them: whole, in parts, without a root, long, several services.
pub async fn traffic(stage: Arc<Stage>, script: Arc<Script>) {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&script.seed.to_be_bytes());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let begun = Instant::now();
    let mut late: BinaryHeap<(Reverse<Instant>, u64)> = BinaryHeap::new();
    let mut parts = std::collections::HashMap::new();
    let mut number = 0;
    while begun.elapsed() < script.length || !late.is_empty() {
        while late
            .peek()
            .is_some_and(|(Reverse(due), _)| *due <= Instant::now())
        {
            let (_, part) = late.pop().unwrap();
            stage.control.push(parts.remove(&part).unwrap());
        }
        if begun.elapsed() < script.length {
            number += 1;
            let [first, rest @ ..] = &mut trace(&mut random)[..] else {
                unreachable!("a trace has a part");
            };
            stage.control.push(first.clone());
            for part in rest {
                number += 1;
                let wait = LATEST.mul_f64(random.random_range(0.0..1.0));
                late.push((Reverse(Instant::now() + wait), number));
                parts.insert(number, part.clone());
            }
        }
        let pause = 1.0 / script.traffic;
        sleep(Duration::from_secs_f64(
            pause * random.random_range(0.2..1.8),
        ))
        .await;
    }
}

/// A trace that begins now, in the parts that it comes in.
fn trace(random: &mut TestRng) -> Vec<TraceFragment> {
    let id: [u8; 16] = match random.random_range(0..10) {
        // Tempo leaves out leading zeros.
        0 => (random.random::<u128>() >> random.random_range(8..100))
            .max(1)
            .to_be_bytes(),
        _ => random.random(),
    };
    let start_ns = Utc::now().timestamp_nanos_opt().unwrap() as u64;
    let long = random.random_range(0..20) == 0;
    let most_ns = if long { 20_000_000_000 } else { 300_000_000 };
    let duration_ns = random.random_range(1_000..most_ns);
    let service = format!("service-{}", random.random_range(0..5));
    let root = Span::root(1, &service, "GET /", start_ns, start_ns + duration_ns);
    let children = (2..2 + random.random_range(0..5)).map(|number| {
        let from_ns = start_ns + random.random_range(0..duration_ns);
        let to_ns = random.random_range(from_ns..=start_ns + duration_ns);
        let service = format!("service-{}", random.random_range(0..5));
        Span::child(number, 1, &service, "do", from_ns, to_ns)
    });
    let mut spans: Vec<Span> = children.collect();
    // Now and then the root never comes.
    if spans.is_empty() || random.random_range(0..15) != 0 {
        spans.insert(random.random_range(0..=spans.len()), root);
    }
    let whole = random.random_range(0..3) != 0 || spans.len() == 1;
    let parts = match whole {
        true => vec![spans],
        false => {
            let rest = spans.split_off(random.random_range(1..spans.len()));
            vec![spans, rest]
        }
    };
    parts
        .into_iter()
        .map(|spans| TraceFragment::new(id, spans))
        .collect()
}
