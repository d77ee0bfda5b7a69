//! The life of a window, held against a model: whatever several holders, a planner, a person who pauses and cancels, and the sweep do
//! in whatever order, a window has one holder at a time, only who holds it finishes it, and what is covered is what is done.
//!
//! The functions that the program calls, against a real PostgreSQL. [`model`] says what must come of each step. Time passes by
//! moving the ledger's moments back.

use std::ops::Range;
use std::time::Duration;

use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Row, query, query_scalar, raw_sql};
use tempo_harvest::control::{self, ControlError, Subject};
use tempo_harvest::plan::density::Piece;
use tempo_harvest::queue;
use tempo_harvest::store::datasets;
use tempo_harvest::store::found::Found;
use tempo_harvest::store::lease::{
    self, Claimed, ErrorClass, Figures, FinishError, Renewal, Setback,
};
use tempo_harvest::store::runs::{self, Kind, NewRun};
use tempo_harvest::store::windows::{self, Origin};
use tempo_harvest::store::{Holder, Look, control as rows};
use tempo_harvest::tempo::wire::TraceSummary;
use tempo_harvest::window::Window;

use self::model::{Due, Hand, Model, State};
use crate::support::harvest::{self, DAY_S};

mod model;

/// How many cases an ordinary run of the tests can afford; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 24;
/// So many at once, each with a database of its own, where there are many.
const AT_ONCE: u32 = 2;
/// Seconds that windows are planned in: few, so that they meet.
const SECONDS: i64 = 24;
const HOLDERS: usize = 3;
const MOST_STEPS: usize = 40;
const JOBS: [&str; 2] = ["one", "two"];
const DATASET: &str = "shop";
const SOURCE: &str = "tempo";

/// What somebody does. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    /// A planner adds a window.
    Plan {
        run: u8,
        look: u8,
        start: i64,
        length: i64,
    },
    /// Holders ask for a window, at the same moment if there are more of them.
    Claim {
        window: u8,
        holders: Vec<u8>,
    },
    /// Somebody asks with another tenant's source.
    ClaimOfOther {
        window: u8,
    },
    Renew {
        hand: u8,
    },
    /// Whoever holds a window is frozen, or dead, until its lease has run out.
    Freeze {
        window: u8,
    },
    /// What waits for a window to be due has waited long enough.
    Wait {
        window: u8,
    },
    /// The queue hands out a window's item, and whoever gets it does nothing.
    LoseItem {
        window: u8,
    },
    StorePart {
        hand: u8,
        trace: u8,
    },
    Done {
        hand: u8,
        trace: Option<u8>,
    },
    Split {
        hand: u8,
        pieces: i64,
        spent: u32,
    },
    SetBack {
        hand: u8,
        class: u8,
        retry_in: Option<bool>,
    },
    Release {
        hand: u8,
        at_once: bool,
    },
    FailRun {
        window: u8,
    },
    Sweep,
    Close,
    Pause {
        run: Option<u8>,
        job: u8,
    },
    Resume {
        run: Option<u8>,
        job: u8,
    },
    Cancel {
        run: Option<u8>,
        job: u8,
    },
    /// The detail was raised: all is collected anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let number = any::<u8>;
    let run = || prop::option::of(any::<u8>());
    prop_oneof![
        5 => (number(), 0u8..3, 0..SECONDS - 1, 1..8i64)
            .prop_map(|(run, look, start, length)| Step::Plan { run, look, start, length }),
        8 => (number(), prop::collection::vec(0..HOLDERS as u8, 1..=HOLDERS))
            .prop_map(|(window, holders)| Step::Claim { window, holders }),
        1 => number().prop_map(|window| Step::ClaimOfOther { window }),
        2 => number().prop_map(|hand| Step::Renew { hand }),
        3 => number().prop_map(|window| Step::Freeze { window }),
        3 => number().prop_map(|window| Step::Wait { window }),
        2 => number().prop_map(|window| Step::LoseItem { window }),
        1 => (number(), number()).prop_map(|(hand, trace)| Step::StorePart { hand, trace }),
        5 => (number(), prop::option::weighted(0.3, number())).prop_map(|(hand, trace)| Step::Done { hand, trace }),
        3 => (number(), 2..4i64, 0..3u32).prop_map(|(hand, pieces, spent)| Step::Split { hand, pieces, spent }),
        3 => (number(), 0u8..3, prop::option::weighted(0.7, any::<bool>()))
            .prop_map(|(hand, class, retry_in)| Step::SetBack { hand, class, retry_in }),
        2 => (number(), any::<bool>()).prop_map(|(hand, at_once)| Step::Release { hand, at_once }),
        1 => number().prop_map(|window| Step::FailRun { window }),
        3 => Just(Step::Sweep),
        2 => Just(Step::Close),
        2 => (run(), number()).prop_map(|(run, job)| Step::Pause { run, job }),
        2 => (run(), number()).prop_map(|(run, job)| Step::Resume { run, job }),
        1 => (run(), number()).prop_map(|(run, job)| Step::Cancel { run, job }),
        1 => Just(Step::Restart),
    ]
}

#[test]
fn whatever_happens_a_window_has_one_holder_and_what_is_covered_is_what_is_done() {
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default().cases,
        None => CASES,
    };
    let at_once = if cases > 10 * CASES { AT_ONCE } else { 1 };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| try_cases(cases.div_ceil(at_once)));
        }
    });
}

fn try_cases(cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let database = runtime.block_on(harvest::database());
    // What a crash would take is not asked about here.
    let options = database
        .options()
        .options([("synchronous_commit", "off"), ("jit", "off")]);
    let pools = PgPoolOptions::new().max_connections(HOLDERS as u32);
    let pool = runtime.block_on(pools.connect_with(options)).unwrap();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let steps = prop::collection::vec(step(), 1..MOST_STEPS);
    let outcome = runner.run(&steps, |steps| {
        runtime.block_on(Ledger::live_through(&pool, &steps))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// The ledger, and beside it what it is to say.
struct Ledger<'a> {
    pool: &'a PgPool,
    holders: Vec<Holder>,
    model: Model,
    /// Leases that were taken, with what came with them; most of them are worth nothing any more.
    hands: Vec<(Hand, Claimed)>,
}

type Checked = Result<(), TestCaseError>;

/// Chooses one of so many; `None` if there is none.
fn choose(number: u8, of: usize) -> Option<usize> {
    (usize::from(number)).checked_rem(of)
}

fn window(seconds: &Range<i64>) -> Window {
    Window::new(DAY_S + seconds.start, DAY_S + seconds.end).unwrap()
}

fn found(traces: impl IntoIterator<Item = u8>) -> Found {
    let trace = |number: u8| TraceSummary {
        trace_id: [number; 16],
        start_ns: DAY_S * 1_000_000_000,
        duration_ms: 5,
        root_service: Some("cart".into()),
        root_name: Some("GET /".into()),
        services: None,
    };
    Found::Summaries(traces.into_iter().map(trace).collect())
}

/// Whether it worked; what is lost is told apart from what went wrong.
fn outcome<T>(result: Result<T, FinishError>) -> bool {
    match result {
        Ok(_) => true,
        Err(FinishError::LeaseLost(_)) => false,
        Err(FinishError::Database(error)) => panic!("{error}"),
    }
}

impl<'a> Ledger<'a> {
    async fn live_through(pool: &'a PgPool, steps: &[Step]) -> Checked {
        let mut ledger = Self {
            pool,
            holders: (0..HOLDERS).map(|_| Holder::of_this_process()).collect(),
            model: Model::default(),
            hands: Vec::new(),
        };
        ledger.begin().await;
        for step in steps {
            ledger.take(step).await?;
            ledger.check().await?;
        }
        Ok(())
    }

    async fn conn(&self) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
        self.pool.acquire().await.unwrap()
    }

    /// An empty ledger with two jobs of one dataset, each with a run; the second one's is a poll.
    async fn begin(&mut self) {
        let mut conn = self.conn().await;
        raw_sql(BEGIN).execute(&mut *conn).await.unwrap();
        for job in 0..JOBS.len() {
            self.begin_run(&mut conn, job, job == 1).await;
        }
    }

    async fn begin_run(&mut self, conn: &mut PgConnection, job: usize, poll: bool) -> usize {
        let run = NewRun {
            job: JOBS[job],
            dataset: DATASET,
            kind: if poll { Kind::Poll } else { Kind::Backfill },
            requested: window(&(0..SECONDS)),
            settle_s: 60,
            command: "work",
            holder: &self.holders[0],
        };
        let id = runs::insert(conn, &run).await.unwrap();
        self.model.runs.push(model::Run {
            id,
            job,
            poll,
            state: "open",
            paused: false,
        });
        self.model.runs.len() - 1
    }

    async fn take(&mut self, step: &Step) -> Checked {
        match step {
            &Step::Plan {
                run,
                look,
                start,
                length,
            } => {
                let seconds = start..(start + length).min(SECONDS);
                self.plan(run, Look::ALL[usize::from(look)], seconds).await
            }
            Step::Claim { window, holders } => match choose(*window, self.model.windows.len()) {
                Some(window) => self.claim(window, holders).await,
                None => Ok(()),
            },
            Step::ClaimOfOther { window } => {
                let Some(window) = choose(*window, self.model.windows.len()) else {
                    return Ok(());
                };
                let id = self.model.windows[window].id;
                let other = Some("another tenant");
                let claimed =
                    lease::claim(&mut *self.conn().await, id, &self.holders[0], other).await;
                prop_assert!(claimed.unwrap().is_none());
                Ok(())
            }
            Step::Freeze { window } => {
                self.pass(*window, |model, window| {
                    let running = model.windows[window].state == State::Running;
                    model.windows[window].expired |= running;
                    running.then_some("lease_expires_at = clock_timestamp() - interval '1 second'")
                })
                .await;
                Ok(())
            }
            Step::Wait { window } => {
                self.pass(*window, |model, window| {
                    let queued = model.windows[window].state == State::Queued;
                    if queued {
                        model.windows[window].due = Due::Long;
                    }
                    queued.then_some("next_try_at = clock_timestamp() - interval '1 minute'")
                })
                .await;
                Ok(())
            }
            Step::LoseItem { window } => {
                let Some(window) = choose(*window, self.model.windows.len()) else {
                    return Ok(());
                };
                self.model.windows[window].item = false;
                query("UPDATE apalis.jobs SET status = 'Done' WHERE job = $1::text::bytea AND status = 'Pending'")
                    .bind(self.model.windows[window].id.to_string())
                    .execute(&mut *self.conn().await)
                    .await
                    .unwrap();
                Ok(())
            }
            Step::Renew { hand }
            | Step::StorePart { hand, .. }
            | Step::Done { hand, .. }
            | Step::Split { hand, .. }
            | Step::SetBack { hand, .. }
            | Step::Release { hand, .. } => match choose(*hand, self.hands.len()) {
                Some(hand) => self.use_hand(hand, step).await,
                None => Ok(()),
            },
            Step::FailRun { window } => {
                let Some(window) = choose(*window, self.model.windows.len()) else {
                    return Ok(());
                };
                let of = &self.model.windows[window];
                let open = self.model.open_of(of.run);
                let failed =
                    windows::fail_run(&mut *self.conn().await, of.id, ErrorClass::Query, "no")
                        .await;
                prop_assert_eq!(failed.unwrap(), open.len() as u64);
                for window in open {
                    self.model.end(window, State::Failed);
                }
                Ok(())
            }
            Step::Sweep => self.sweep().await,
            Step::Close => {
                runs::close_finished(&mut *self.conn().await).await.unwrap();
                for run in 0..self.model.runs.len() {
                    if let Some(state) = self.model.ending(run) {
                        self.model.runs[run].state = state;
                    }
                }
                Ok(())
            }
            &Step::Pause { run, job } | &Step::Resume { run, job } | &Step::Cancel { run, job } => {
                self.control(step, run, choose(job, JOBS.len()).unwrap_or(0))
                    .await
            }
            Step::Restart => {
                datasets::restart_coverage(&mut *self.conn().await, DATASET)
                    .await
                    .unwrap();
                for window in 0..self.model.windows.len() {
                    if self.model.is_open(window) {
                        self.model.end(window, State::Cancelled);
                    }
                }
                self.model.covered.clear();
                self.model.restarted = true;
                Ok(())
            }
        }
    }

    /// Moves a moment of a window back, as the model says.
    async fn pass(
        &mut self,
        number: u8,
        change: impl FnOnce(&mut Model, usize) -> Option<&'static str>,
    ) {
        let Some(window) = choose(number, self.model.windows.len()) else {
            return;
        };
        if let Some(moment) = change(&mut self.model, window) {
            let statement = format!("UPDATE harvest.windows SET {moment} WHERE id = $1");
            query(AssertSqlSafe(statement))
                .bind(self.model.windows[window].id)
                .execute(&mut *self.conn().await)
                .await
                .unwrap();
        }
    }

    async fn plan(&mut self, run: u8, look: Look, seconds: Range<i64>) -> Checked {
        let mut conn = self.conn().await;
        let open: Vec<usize> = (0..JOBS.len())
            .flat_map(|job| self.model.open_runs(job))
            .collect();
        let run = match choose(run, open.len()) {
            Some(run) => open[run],
            None => self.begin_run(&mut conn, 0, false).await,
        };
        let origin = Origin {
            run_id: self.model.runs[run].id,
            dataset: DATASET,
            source: SOURCE,
            look,
            earlier_look: None,
            priority: i32::from(self.model.runs[run].poll) * windows::LIVE_PRIORITY,
            settle_s: 60,
        };
        let piece = Piece::uncounted(window(&seconds));
        let mut tx = conn.begin().await.unwrap();
        let planned = windows::insert_planned(&mut tx, &origin, &[piece]).await;
        prop_assert_eq!(
            planned.is_ok(),
            self.model.has_room(look, &seconds),
            "{:?}",
            planned
        );
        if planned.is_ok() {
            let id = query_scalar("SELECT max(id) FROM harvest.windows")
                .fetch_one(&mut *tx)
                .await;
            self.model.add(id.unwrap(), run, look, seconds);
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        Ok(())
    }

    async fn claim(&mut self, window: usize, holders: &[u8]) -> Checked {
        let id = self.model.windows[window].id;
        let ledger = &*self;
        let claims = holders.iter().map(|&holder| async move {
            let holder = usize::from(holder);
            let claimed =
                lease::claim(&mut *ledger.conn().await, id, &ledger.holders[holder], None).await;
            (holder, claimed.unwrap())
        });
        let taken = join_all(claims).await.into_iter();
        let taken: Vec<(usize, Claimed)> = taken
            .filter_map(|(holder, claimed)| Some((holder, claimed?)))
            .collect();
        prop_assert_eq!(
            taken.len(),
            usize::from(self.model.is_free(window)),
            "holders of {:?}",
            self.model.windows[window]
        );
        for (holder, claimed) in taken {
            let hand = self.model.take(window, holder);
            let of = &self.model.windows[window];
            prop_assert_eq!(
                (claimed.look, claimed.window),
                (of.look, self::window(&of.seconds))
            );
            let counts = [
                claimed.attempts,
                claimed.throttled,
                claimed.timeouts,
                claimed.lapsed,
            ];
            prop_assert_eq!(
                counts.map(|n| n as i32),
                [of.attempts, of.throttled, of.timeouts, of.lapsed]
            );
            self.hands.push((hand, claimed));
        }
        Ok(())
    }

    /// What a holder does who has, or had, a lease: it counts only if the lease still holds.
    async fn use_hand(&mut self, hand: usize, step: &Step) -> Checked {
        let (hand, claimed) = self.hands[hand].clone();
        let (live, window) = (self.model.is_live(hand), hand.window);
        let mut conn = self.conn().await;
        match *step {
            Step::Renew { .. } => {
                let expected = match (live, self.model.is_paused(self.model.windows[window].run)) {
                    (false, _) => Renewal::Lost,
                    (true, true) => Renewal::Paused,
                    (true, false) => Renewal::Held,
                };
                prop_assert_eq!(
                    lease::renew(&mut conn, claimed.lease).await.unwrap(),
                    expected
                );
            }
            Step::StorePart { trace, .. } => {
                let stored = lease::store_part(&mut conn, &claimed, found([trace])).await;
                prop_assert_eq!(outcome(stored), live);
                if live {
                    self.model.traces.insert(trace);
                }
            }
            Step::Done { trace, .. } => {
                let done =
                    lease::mark_done(&mut conn, &claimed, found(trace), Figures::default()).await;
                prop_assert_eq!(outcome(done), live);
                if live {
                    self.model.done(window);
                    self.model.traces.extend(trace);
                }
            }
            Step::Split { pieces, spent, .. } => {
                if claimed.window.seconds() < 2 {
                    return Ok(());
                }
                let pieces: Vec<Piece> = claimed
                    .window
                    .cut_into(pieces)
                    .into_iter()
                    .map(Piece::uncounted)
                    .collect();
                let split = lease::split(&mut conn, &claimed, &pieces, spent, 1).await;
                prop_assert_eq!(outcome(split), live);
                if live {
                    self.split_in_model(&mut conn, window, spent).await?;
                }
            }
            Step::SetBack {
                class, retry_in, ..
            } => {
                let class = [
                    ErrorClass::Passing,
                    ErrorClass::Throttled,
                    ErrorClass::Timeout,
                ][usize::from(class)];
                let setback = Setback {
                    class,
                    error: "no".to_owned(),
                    retry_in: retry_in
                        .map(|at_once| Duration::from_secs(if at_once { 0 } else { 3_600 })),
                    requests: 1,
                };
                let set_back = lease::set_back(&mut conn, claimed.lease, &setback).await;
                prop_assert_eq!(outcome(set_back), live);
                if live {
                    match retry_in {
                        Some(at_once) => self
                            .model
                            .put_back(window, if at_once { Due::Now } else { Due::Later }),
                        None => self.model.end(window, State::Failed),
                    }
                    let of = &mut self.model.windows[window];
                    match class {
                        ErrorClass::Throttled => of.throttled += 1,
                        _ => of.attempts += 1,
                    }
                    of.timeouts = if class == ErrorClass::Timeout {
                        of.timeouts + 1
                    } else {
                        0
                    };
                }
            }
            Step::Release { at_once, .. } => {
                let wait = Duration::from_secs(if at_once { 0 } else { 3_600 });
                let released = lease::release(&mut conn, claimed.lease, wait, None, 1).await;
                prop_assert_eq!(outcome(released), live);
                if live {
                    self.model
                        .put_back(window, if at_once { Due::Now } else { Due::Later });
                }
            }
            _ => unreachable!("{step:?} needs no lease"),
        }
        Ok(())
    }

    /// The pieces are as the ledger has them; that they tile the window is asked here.
    async fn split_in_model(
        &mut self,
        conn: &mut PgConnection,
        parent: usize,
        spent: u32,
    ) -> Checked {
        self.model.end(parent, State::Split);
        let whole = self.model.windows[parent].clone();
        let rows = query(
            "SELECT id, extract(epoch FROM lower(span))::bigint AS start, extract(epoch FROM upper(span))::bigint AS end
             FROM harvest.windows WHERE parent_id = $1 ORDER BY span",
        )
        .bind(whole.id)
        .fetch_all(conn)
        .await
        .unwrap();
        let mut reached = whole.seconds.start;
        for row in rows {
            let (start, end): (i64, i64) = (row.get("start"), row.get("end"));
            prop_assert_eq!(start - DAY_S, reached);
            reached = end - DAY_S;
            self.model
                .add(row.get("id"), whole.run, whole.look, start - DAY_S..reached);
            let piece = self.model.windows.last_mut().unwrap();
            (piece.parent, piece.attempts) = (Some(parent), spent as i32);
        }
        prop_assert_eq!(reached, whole.seconds.end);
        Ok(())
    }

    async fn sweep(&mut self) -> Checked {
        // However slow this is, what is due since just now is to stay so.
        let just_now = self
            .model
            .windows
            .iter()
            .filter(|of| of.state == State::Queued && of.due == Due::Now);
        let just_now: Vec<i64> = just_now.map(|of| of.id).collect();
        let mut conn = self.conn().await;
        let at = |moment: &str| {
            format!("UPDATE harvest.windows SET next_try_at = {moment} WHERE id = ANY($1)")
        };
        query(AssertSqlSafe(at("now() + interval '1 hour'")))
            .bind(&just_now)
            .execute(&mut *conn)
            .await
            .unwrap();
        let lost = self.model.lost();
        prop_assert_eq!(queue::sweep(self.pool).await.unwrap(), lost.len() as u64);
        query(AssertSqlSafe(at("now()")))
            .bind(&just_now)
            .execute(&mut *conn)
            .await
            .unwrap();
        for window in lost {
            self.model.windows[window].item = true;
        }
        Ok(())
    }

    async fn control(&mut self, step: &Step, run: Option<u8>, job: usize) -> Checked {
        let mut conn = self.conn().await;
        let run = run.and_then(|run| choose(run, self.model.runs.len()));
        let subject = match run {
            Some(run) => Subject::Run(
                rows::run(&mut conn, self.model.runs[run].id)
                    .await
                    .unwrap()
                    .unwrap(),
            ),
            None => Subject::Job(rows::job(&mut conn, JOBS[job]).await.unwrap().unwrap()),
        };
        let runs = match run {
            Some(run) => vec![run],
            None => self.model.open_runs(job),
        };
        let ended = run.is_some_and(|run| self.model.runs[run].state != "open");
        let by_job = run.is_some_and(|run| self.model.jobs_paused[self.model.runs[run].job]);
        let windows: usize = runs.iter().map(|&run| self.model.open_of(run).len()).sum();
        let said = match step {
            Step::Pause { .. } => control::pause(&mut conn, &subject, "test")
                .await
                .map(|changed| changed.windows),
            Step::Resume { .. } => control::resume(&mut conn, &subject)
                .await
                .map(|changed| changed.windows),
            _ => control::cancel(&mut conn, &subject, "test")
                .await
                .map(|ending| ending.windows),
        };
        let refused = match &said {
            Err(ControlError::Ended { .. }) => "ended",
            Err(ControlError::JobPaused { .. }) => "its job is paused",
            Err(error) => panic!("{error}"),
            Ok(number) => {
                prop_assert_eq!(*number, windows as i64);
                ""
            }
        };
        let expected = match step {
            _ if ended => "ended",
            Step::Resume { .. } if by_job => "its job is paused",
            _ => "",
        };
        prop_assert_eq!(refused, expected);
        if refused.is_empty() {
            self.control_in_model(step, run, job, &runs);
        }
        Ok(())
    }

    fn control_in_model(&mut self, step: &Step, run: Option<usize>, job: usize, runs: &[usize]) {
        let model = &mut self.model;
        match (step, run) {
            (Step::Pause { .. }, None) => model.jobs_paused[job] = true,
            (Step::Pause { .. }, Some(run)) => model.runs[run].paused = true,
            (Step::Resume { .. }, None) => model.jobs_paused[job] = false,
            _ => {}
        }
        for &run in runs {
            match step {
                Step::Pause { .. } => model.drop_items(run),
                Step::Resume { .. } => {
                    model.runs[run].paused = false;
                    model.items_for_queued(run);
                }
                _ => {
                    for window in model.open_of(run) {
                        model.end(window, State::Cancelled);
                    }
                    model.drop_items(run);
                    model.runs[run].state = "cancelled";
                    if model.runs[run].poll {
                        model.jobs_paused[model.runs[run].job] = true;
                    }
                }
            }
        }
    }

    /// The whole ledger is what the model says.
    async fn check(&self) -> Checked {
        let said: serde_json::Value = query_scalar(LEDGER)
            .bind(DAY_S)
            .fetch_one(&mut *self.conn().await)
            .await
            .unwrap();
        let model = &self.model;
        let mut windows: Vec<&model::Window> = model.windows.iter().collect();
        windows.sort_by_key(|of| of.id);
        let windows = windows.into_iter().map(|of| {
            json!({
                "id": of.id,
                "run_id": model.runs[of.run].id,
                "look": of.look.name(),
                "state": of.state.name(),
                "lease_token": of.token,
                "lease_holder": of.holder.map(|holder| self.holders[holder].as_str()),
                "parent_id": of.parent.map(|parent| model.windows[parent].id),
                "attempts": of.attempts,
                "throttled": of.throttled,
                "timeouts": of.timeouts,
                "lapsed": of.lapsed,
                "item": of.item,
            })
        });
        let covered = Look::ALL.map(|look| {
            let seconds = model.covered.get(look.name());
            seconds.map_or(0, |seconds| {
                seconds.iter().map(|second| 1u64 << second).sum()
            })
        });
        let mut looks: Vec<(&str, u64)> =
            std::iter::zip(Look::ALL.map(Look::name), covered).collect();
        looks.retain(|(_, seconds)| *seconds > 0);
        looks.sort_unstable();
        let expected = json!({
            "windows": windows.collect::<Vec<_>>(),
            "covered": looks.iter().map(|(look, seconds)| json!([look, seconds])).collect::<Vec<_>>(),
            "runs": model.runs.iter().map(|run| run.state).collect::<Vec<_>>(),
            "traces": model.traces.len(),
            "counted": model.traces.len(),
        });
        prop_assert_eq!(&said, &expected);
        // What was cut is covered once all of its pieces are done.
        for (place, of) in model.windows.iter().enumerate() {
            if of.state == State::Split && model.is_whole(place) && !model.restarted {
                let covered = &model.covered[of.look.name()];
                prop_assert!(of.seconds.clone().all(|second| covered.contains(&second)));
            }
        }
        Ok(())
    }
}

/// All that is asked of the ledger, in one answer. What is covered comes as a number with a bit for each second.
const LEDGER: &str = "
SELECT json_build_object(
    'windows', (SELECT coalesce(json_agg(w ORDER BY id), '[]') FROM (
        SELECT id, run_id, look, state, lease_token, lease_holder, parent_id, attempts, throttled, timeouts, lapsed,
               EXISTS (SELECT FROM apalis.jobs j WHERE j.job = w.id::text::bytea AND j.status = 'Pending') AS item
        FROM harvest.windows w) w),
    'covered', (SELECT coalesce(json_agg(json_build_array(look, seconds) ORDER BY look), '[]') FROM (
        SELECT look, sum(1::bigint << (extract(epoch FROM second)::bigint - $1)::int)::bigint AS seconds
        FROM harvest.coverage, unnest(covered) AS part,
             generate_series(lower(part), upper(part) - interval '1 second', interval '1 second') AS second
        GROUP BY look) c),
    'runs', (SELECT json_agg(state ORDER BY id) FROM harvest.runs),
    'traces', (SELECT count(*) FROM harvest.traces),
    'counted', (SELECT trace_count FROM harvest.datasets))";

/// An empty ledger with two jobs of one dataset.
const BEGIN: &str = "
DELETE FROM apalis.jobs;
DELETE FROM harvest.runs;
DELETE FROM harvest.coverage;
DELETE FROM harvest.traces;
DELETE FROM harvest.baseline_changes;
INSERT INTO harvest.sources (name, spec) VALUES ('tempo', '{}') ON CONFLICT DO NOTHING;
INSERT INTO harvest.datasets (name, source, detail) VALUES ('shop', 'tempo', 'trace')
    ON CONFLICT (name) DO UPDATE SET trace_count = 0;
INSERT INTO harvest.jobs (name, dataset, spec, file) VALUES ('one', 'shop', '', 'one.toml'), ('two', 'shop', '', 'two.toml')
    ON CONFLICT (name) DO UPDATE SET paused_at = NULL, paused_by = NULL;";
