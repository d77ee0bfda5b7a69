//! Torture: real workers, a real PostgreSQL and a simulated Tempo, with faults drawn from a seed; then one model decides.
//!
//! What it is to show: whatever is killed, cut, frozen, filled or set wrong, nothing that is called complete ever lacks a trace
//! ([`model::glance`], again and again while it goes on), and once things work again running the job again completes it, exactly
//! ([`model::judge`]). A seed that fails is printed with what was drawn and what happened, and plays again: `just torture --seed N`.
//! Faults come at the same times then; what processes are doing at that moment is up to the machine.

mod act;
mod means;
mod model;
mod script;
mod stage;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::FutureExt as _;

use means::Means;
use script::Script;
use stage::Stage;

/// How long faults go on in `cargo test`, and in a seed of a long torture.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(75);

/// Torments tempo-harvest.
#[derive(Debug, Parser)]
struct Options {
    /// The first seed; without --minutes the only one
    #[arg(long)]
    seed: Option<u64>,
    /// Begins new seeds for so long
    #[arg(long)]
    minutes: Option<u64>,
    /// Seeds at once
    #[arg(long, default_value_t = 3)]
    at_once: usize,
    /// How long faults go on in each seed
    #[arg(long, default_value_t = LONG.as_secs())]
    seconds: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_a_short_torture() {
    let means = Means::of_this_machine();
    if let Err(what) = play(Script::draw(1, SHORT, true), means).await {
        panic!("{what}");
    }
}

/// Run by `just torture`, which passes its options on in `TORTURE`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "as long as is asked for: just torture --minutes 60"]
async fn nothing_is_lost_in_a_long_torture() {
    let words = std::env::var("TORTURE").unwrap_or_default();
    let words = words.split_whitespace().map(str::to_owned);
    let options = Options::try_parse_from(["torture".to_owned()].into_iter().chain(words))
        .unwrap_or_else(|error| panic!("{error}"));
    let means = Means::of_this_machine();
    for missing in means.missing() {
        println!("left out, for this machine cannot have it: {missing}");
    }
    let length = Duration::from_secs(options.seconds);
    let minutes = options.minutes.unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let first = options.seed.unwrap_or_else(|| {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        since.as_secs() % 1_000_000
    });
    let next = Arc::new(AtomicU64::new(first));
    let at_once = if minutes == 0 { 1 } else { options.at_once };
    let players: Vec<_> = (0..at_once)
        .map(|_| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                let mut failed = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if let Err(what) = play(Script::draw(seed, length, false), means).await {
                        println!("{what}");
                        failed.push(seed);
                    }
                    if Instant::now() >= until {
                        return failed;
                    }
                }
            })
        })
        .collect();
    let mut failed = Vec::new();
    for player in players {
        failed.extend(player.await.unwrap());
    }
    println!(
        "{} seeds from {first} on, {} failed: {failed:?}",
        next.load(Ordering::Relaxed) - first,
        failed.len()
    );
    assert!(failed.is_empty(), "play them again: just torture --seed N");
}

/// Plays a seed. An error tells all about it.
async fn play(script: Script, means: Means) -> Result<(), String> {
    let script = Arc::new(script);
    let begun = Instant::now();
    let stage = Arc::new(Stage::set(&script, means).await);
    let played = AssertUnwindSafe(acts(&stage, &script)).catch_unwind().await;
    let mut wrong = played.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        vec![format!(
            "the torture itself panicked: {}",
            said.unwrap_or("?")
        )]
    });
    stage.dismiss().await;
    let said = stage.said();
    wrong.extend(model::manners(&said, &stage.postgres_log()));
    if wrong.is_empty() {
        println!(
            "seed {}: nothing lost in {:.0} s of {}; {}",
            script.seed,
            begun.elapsed().as_secs_f64(),
            script.kind(),
            script.counted()
        );
        if let Some(stage) = Arc::into_inner(stage) {
            stage.strike().await;
        }
        return Ok(());
    }
    let evidence = stage.keep_evidence(&said);
    let shown: Vec<&String> = wrong.iter().take(10).collect();
    Err(format!(
        "{}\nwhat happened:\n{}\n{} things are wrong, logs are in {}:\n{shown:#?}\nplay it again: just torture --seed {}",
        script.told(),
        stage.log(),
        wrong.len(),
        evidence.display(),
        script.seed
    ))
}

/// From the first worker's start to the judgement. Returns all that is wrong.
async fn acts(stage: &Arc<Stage>, script: &Arc<Script>) -> Vec<String> {
    let keeper = tokio::spawn({
        let stage = Arc::clone(stage);
        async move { stage.keep().await }
    });
    let watcher = tokio::spawn(watch(Arc::clone(stage), script.length));
    let traffic = script
        .live
        .then(|| tokio::spawn(act::traffic(Arc::clone(stage), Arc::clone(script))));
    let begun = Instant::now();
    let mut faults = Vec::new();
    for (at, fault) in &script.faults {
        tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
        faults.push(tokio::spawn(act::act(Arc::clone(stage), fault.clone())));
    }
    tokio::time::sleep(script.length.saturating_sub(begun.elapsed())).await;
    for fault in faults {
        fault.await.unwrap();
    }
    stage.calm().await;
    if let Some(traffic) = traffic {
        traffic.await.unwrap();
    }
    stage.note("calm");
    let (glances, mut wrong) = watcher.await.unwrap();
    stage.note(format_args!(
        "what is complete was looked at {glances} times"
    ));
    wrong.extend(model::collected(stage, script).await);
    stage.note("collected");
    stage.dismiss().await;
    keeper.await.unwrap();
    let drained = stage.command(&["work", "--drain"]).await;
    if drained.code != Some(0) {
        wrong.push(format!("the queue is never empty: {drained:?}"));
    }
    wrong.extend(model::judge(stage, script).await);
    wrong
}

/// Looks again and again, whenever the database lets it. Returns how often it did, and what was wrong.
async fn watch(stage: Arc<Stage>, length: Duration) -> (u64, Vec<String>) {
    let begun = Instant::now();
    let mut glances = 0;
    while begun.elapsed() < length {
        if let Ok(mut connection) = stage.connection().await {
            // It may crash at any moment.
            if let Ok(wrong) = model::glance(&mut connection, &stage).await {
                glances += 1;
                if !wrong.is_empty() {
                    return (glances, wrong);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    (glances, Vec::new())
}
