//! From nothing to a filled table, side by side with the least that this could cost.
//!
//! `cargo bench --bench end_to_end -- --traces 10000 100000` runs the real program on a simulated Tempo, and on the Tempo
//! at `TEMPO_URL` if that is set, and prints a row for each size and detail. What the program took is held against a
//! **floor** measured in the same run ([`floor`]): a fixed plan of searches by a client that throws the answers away, then
//! COPY and merge of the same rows by psql, one after the other. What is measured and how to read it: docs/PERFORMANCE.md.
//!
//! It starts a PostgreSQL of its own, as the tests do, and needs `psql`.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot have what it needs has failed"
)]

mod floor;
mod harvester;
mod ledger;
mod loops;
mod source;
mod table;

#[path = "../../tests/support/postgres.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod postgres;

use clap::{Parser, ValueEnum};

use floor::Floor;
use harvester::Harvester;
use ledger::Ledger;
use source::Source;
use table::{Round, Row};

/// Measures the program from end to end, and the floor in the same run.
#[derive(Debug, Parser)]
#[command(name = "end_to_end")]
struct Args {
    /// Traces in the simulated day, a burst in one second apart; each a row [default: 10000 100000 1000000]
    #[arg(long, num_args = 1.., value_name = "N")]
    traces: Vec<usize>,
    /// What to collect; each a row [default: trace services spans]
    #[arg(long, num_args = 1.., value_enum)]
    detail: Vec<Detail>,
    /// How often each is measured; more than one shows the best and the median
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Also run the loops that people write: hours at a limit of 1000, and halving over 5000
    #[arg(long)]
    halving: bool,
    /// Also rerun a complete job of seven days, and plan ninety at a granularity of 15 seconds
    #[arg(long)]
    week: bool,
    /// Once, and small: whether it works at all
    #[arg(long)]
    test: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
    /// What cargo passes on: names of benchmarks, of which there is one
    #[arg(hide = true)]
    names: Vec<String>,
}

/// What is collected of each trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Detail {
    Trace,
    Services,
    Spans,
}

impl Detail {
    /// As job files write it.
    fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Services => "services",
            Self::Spans => "spans",
        }
    }
}

#[tokio::main]
async fn main() {
    let mut args = Args::parse();
    if args.traces.is_empty() {
        args.traces = if args.test {
            vec![1_000]
        } else {
            vec![10_000, 100_000, 1_000_000]
        };
    }
    if args.detail.is_empty() {
        args.detail = Detail::value_variants().to_vec();
    }
    let real = source::from_environment();
    if real.is_some() {
        // It holds what it holds.
        args.traces.truncate(1);
    }
    let mut rows = Vec::new();
    for &traces in &args.traces {
        let source = real.clone().unwrap_or_else(|| source::simulated(traces));
        for &detail in &args.detail {
            rows.push(measure(&source, detail, args.rounds).await);
        }
        if args.halving {
            loops::measure(&source).await;
        }
    }
    println!("{}", table::render(&rows));
    if args.week {
        ledger::week(args.traces[0]).await;
    }
}

/// Measures one row. The program and the floor take turns, so that whatever else the machine does meets both, and each
/// begins with a database that has nothing in it.
async fn measure(source: &Source, detail: Detail, rounds: u16) -> Row {
    let mut row = Row::new(detail);
    let floor = Floor::new(source, detail);
    for round in 1..=rounds {
        eprintln!(
            "{} on {}, round {round} of {rounds}",
            detail.name(),
            source.name
        );
        let ledger = Ledger::new().await;
        let harvester = Harvester::new(source, detail, &ledger);
        let measured = harvester.run().await;
        let figures = ledger.figures().await;
        let rerun = harvester.run().await;
        let requests_again = ledger.figures().await.requests - figures.requests;
        if round == 1 {
            floor.export(&ledger).await;
        }
        ledger.forget().await;
        row.rounds.push(Round {
            measured,
            figures,
            rerun_s: rerun.seconds,
            requests_again,
            floor: floor.measure().await,
        });
    }
    row
}
