//! Bringing baselines up to date: what was noted since the last pass goes into cells, what fell out of the history leaves them,
//! and the slots that these cells belong to are computed anew.
//!
//! A pass is one transaction on one snapshot: the notes that it takes are exactly those of the rows that it could read. So
//! when it counts everything anew from the stored traces - because the history has become longer, because somebody asked for
//! it, or because what is noted does not fit what was counted - nothing is counted twice and nothing left out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use chrono_tz::Tz;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::{
    changes::{Cell, Changes, Key, Operation},
    figures::Total,
    slot::{QUARTER_S, Slot},
};
use crate::store::{
    baselines::{self, Computed, State},
    schema,
};

/// How often it is looked whether anything is to be done.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after the database refused.
const AFTER_FAILURE: Duration = Duration::from_secs(15);
/// How long to wait while somebody else is at it.
const BUSY_FOR: Duration = Duration::from_millis(50);
/// How long to wait for somebody else who counts everything anew.
const PATIENCE: Duration = Duration::from_secs(600);
/// Cells read or written by one statement.
const CELLS: usize = 2_000;
/// Cells added up at once: they are in memory then.
const CELLS_AT_ONCE: usize = 8_000;
/// The most operations computed at once.
const OPERATIONS: usize = 200;
/// Quarters of an hour that are counted at once when everything is: a day.
const DAY: i64 = 96;

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Passed {
    /// Notes of what changed that it took.
    pub notes: usize,
    /// Cells that it changed.
    pub cells: usize,
    /// Baselines that it computed.
    pub baselines: usize,
    /// Whether it counted everything anew.
    pub recounted: bool,
}

/// Why baselines are not up to date.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// Somebody else does not come to an end.
    #[error(
        "the baselines of `{0}` are being computed by another process for ten minutes now; try again later"
    )]
    Busy(String),
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

enum Outcome {
    Done(Passed),
    /// Somebody else is at it, or was until a moment ago.
    Busy,
}

/// Brings the baselines of a dataset up to date, whoever else may be at it. `None`: there is no such dataset.
///
/// # Errors
/// If the database refuses, or somebody else is at it for ten minutes.
pub async fn bring_up_to_date(pool: &PgPool, dataset: &str) -> Result<Option<Passed>, PassError> {
    let begun = Instant::now();
    loop {
        match pass(&mut *pool.acquire().await?, dataset).await? {
            Some(Outcome::Done(passed)) => return Ok(Some(passed)),
            None => return Ok(None),
            Some(Outcome::Busy) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(BUSY_FOR).await;
            }
            Some(Outcome::Busy) => return Err(PassError::Busy(dataset.to_owned())),
        }
    }
}

/// Brings the baselines of every dataset up to date when it is time, until `stop` is cancelled.
pub async fn keep(pool: PgPool, stop: CancellationToken) {
    let mut wait = LOOK_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = match offer(&pool, &stop).await {
            Ok(()) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(%error, "cannot bring the baselines up to date; trying again");
                AFTER_FAILURE
            }
        };
    }
}

/// Passes over every dataset that is due. One that fails does not keep the others from it.
async fn offer(pool: &PgPool, stop: &CancellationToken) -> sqlx::Result<()> {
    let due = baselines::due(&mut *pool.acquire().await?).await?;
    let mut outcome = Ok(());
    for dataset in due {
        if stop.is_cancelled() {
            break;
        }
        let begun = Instant::now();
        match pass(&mut *pool.acquire().await?, &dataset).await {
            Ok(Some(Outcome::Done(passed))) => {
                let ms = begun.elapsed().as_millis();
                tracing::debug!(dataset, ?passed, ms, "baselines are up to date");
            }
            // Whoever else is at it does it for us.
            Ok(Some(Outcome::Busy) | None) => {}
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// One pass over a dataset. `None`: there is no such dataset.
async fn pass(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<Outcome>> {
    let mut tx = conn
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .await?;
    if !baselines::try_lock(&mut tx, dataset).await? {
        return Ok(Some(Outcome::Busy));
    }
    schema::hold(&mut tx).await?;
    let passed = match work(&mut tx, dataset).await {
        Ok(passed) => passed,
        // The snapshot is older than the lock: a pass has ended in between.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("40001") => {
            tx.rollback().await?;
            return Ok(Some(Outcome::Busy));
        }
        Err(error) => return Err(error),
    };
    tx.commit().await?;
    Ok(passed.map(Outcome::Done))
}

async fn work(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<Passed>> {
    let Some(state) = baselines::state(&mut *conn, dataset).await? else {
        return Ok(None);
    };
    let mut changes = Changes::default();
    let mut anew = state.recount
        || state
            .history_before_s
            .is_some_and(|before_s| before_s < state.history_s);
    let notes = baselines::take_changes(&mut *conn, dataset).await?;
    for note in &notes {
        if let Err(error) = changes.absorb(note) {
            tracing::warn!(dataset, %error, "what was noted for the baselines cannot be read; counting everything anew");
            anew = true;
        }
    }
    let mut pass = Pass {
        conn,
        dataset,
        timezone: state.timezone.parse().unwrap_or(Tz::UTC),
        touched: BTreeMap::new(),
        passed: Passed {
            notes: notes.len(),
            ..Passed::default()
        },
    };
    let counted = match anew {
        true => None,
        false => pass.add(&state, changes).await?,
    };
    let counted = match counted {
        Some(counted) => counted,
        None => pass.count_anew(&state).await?,
    };
    let moved = state.timezone_before.as_ref() != Some(&state.timezone);
    if moved && !pass.passed.recounted {
        baselines::drop_slots(&mut *pass.conn, dataset).await?;
        for operation in baselines::operations(&mut *pass.conn, dataset).await? {
            pass.touched.insert(operation, Slot::hours().collect());
        }
    }
    pass.compute(&state, counted).await?;
    baselines::put_state(&mut *pass.conn, dataset, &state, counted).await?;
    Ok(Some(pass.passed))
}

/// The quarter of an hour that it is.
fn quarter_now(state: &State) -> i64 {
    state.now.timestamp().div_euclid(QUARTER_S)
}

/// The first quarter of an hour that counts, given the latest that holds anything.
fn first_counted(state: &State, latest: i64) -> i64 {
    let history = ((state.history_s + QUARTER_S - 1) / QUARTER_S).max(1);
    let from = latest + 1 - history;
    state
        .kept_from
        .map_or(from, |kept_from| from.max(kept_from))
}

/// A pass under way.
struct Pass<'a> {
    conn: &'a mut PgConnection,
    dataset: &'a str,
    timezone: Tz,
    /// Hours to be computed anew.
    touched: BTreeMap<Operation, BTreeSet<Slot>>,
    passed: Passed,
}

/// The first quarter of an hour counted and the one after the last; `None`: nothing is.
type Counted = Option<(i64, i64)>;

impl Pass<'_> {
    fn touch(&mut self, key: &Key) {
        let slot = Slot::of_quarter(key.quarter, self.timezone);
        match self.touched.get_mut(&key.operation) {
            Some(slots) => {
                slots.insert(slot);
            }
            None => {
                self.touched
                    .insert(key.operation.clone(), BTreeSet::from([slot]));
            }
        }
    }

    /// Adds what has changed. `None`: it does not fit what was counted.
    async fn add(&mut self, state: &State, changes: Changes) -> sqlx::Result<Option<Counted>> {
        let now = quarter_now(state);
        let mut cells = changes.into_cells();
        let added = cells
            .iter()
            .filter(|(key, cell)| cell.samples > 0 && key.quarter <= now)
            .map(|(key, _)| key.quarter)
            .max();
        let known = baselines::latest_cell(&mut *self.conn, self.dataset, now).await?;
        let Some(latest) = added.max(known) else {
            // Only what lies in the future, if anything.
            let first = state.counted_from.unwrap_or(i64::MIN);
            cells.retain(|key, _| key.quarter >= first);
            let fits = self.add_cells(cells).await?;
            return Ok(fits.then_some(None));
        };
        // What was left behind stays so: its cells are gone.
        let first = first_counted(state, latest).max(state.counted_from.unwrap_or(i64::MIN));
        let gone = baselines::drop_cells_before(&mut *self.conn, self.dataset, first).await?;
        self.passed.cells += gone.len();
        gone.iter().for_each(|key| self.touch(key));
        cells.retain(|key, _| key.quarter >= first);
        let fits = self.add_cells(cells).await?;
        // All of it may have been deleted.
        let counted = (first <= latest).then_some((first, latest + 1));
        Ok(fits.then_some(counted))
    }

    /// Adds to cells; `false` if more would have to be taken away from one than was there.
    async fn add_cells(&mut self, changes: HashMap<Key, Cell>) -> sqlx::Result<bool> {
        let mut changes: Vec<(Key, Cell)> = changes.into_iter().collect();
        changes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for changes in changes.chunks(CELLS) {
            let keys: Vec<&Key> = changes.iter().map(|(key, _)| key).collect();
            let mut known = baselines::cells(&mut *self.conn, self.dataset, &keys).await?;
            let mut cells = Vec::with_capacity(changes.len());
            for (key, change) in changes {
                let mut cell = known.remove(key).unwrap_or_default();
                cell.merge(change);
                if !cell.is_sound() {
                    tracing::warn!(
                        dataset = self.dataset,
                        ?key,
                        "stored traces were changed behind the baselines' back; counting everything anew"
                    );
                    return Ok(false);
                }
                cells.push((key, cell));
            }
            let lost: Vec<&Key> = cells
                .iter()
                .filter(|(_, cell)| cell.samples > 0 && cell.has_lost_its_bounds())
                .map(|(key, _)| *key)
                .collect();
            if !lost.is_empty() {
                let found = baselines::bounds(&mut *self.conn, self.dataset, &lost).await?;
                for (key, cell) in &mut cells {
                    if let Some(bounds) = found.get(*key) {
                        cell.bounds = Some(*bounds);
                    }
                }
            }
            baselines::put_cells(&mut *self.conn, self.dataset, &cells).await?;
            self.passed.cells += cells.len();
            keys.into_iter().for_each(|key| self.touch(key));
        }
        Ok(true)
    }

    /// Counts the stored traces, and forgets what was counted before.
    async fn count_anew(&mut self, state: &State) -> sqlx::Result<Counted> {
        self.touched.clear();
        self.passed.recounted = true;
        baselines::drop_cells(&mut *self.conn, self.dataset).await?;
        baselines::drop_slots(&mut *self.conn, self.dataset).await?;
        let latest = baselines::latest_start(&mut *self.conn, self.dataset, state.now).await?;
        let Some(latest) = latest else {
            return Ok(None);
        };
        let first = first_counted(state, latest);
        let mut from = first;
        while from <= latest {
            let mut changes = Changes::default();
            // The last part takes in what lies in the future.
            let to = match from + DAY > latest {
                true => i64::MAX,
                false => from + DAY,
            };
            baselines::count_traces(&mut *self.conn, self.dataset, (from, to), &mut changes)
                .await?;
            self.add_cells(changes.into_cells()).await?;
            from += DAY;
        }
        if state.has_spans {
            let mut changes = Changes::default();
            baselines::count_spans(&mut *self.conn, self.dataset, first, &mut changes).await?;
            self.add_cells(changes.into_cells()).await?;
        }
        Ok(Some((first, latest + 1)))
    }

    /// Computes the hours that were touched, and the levels above them.
    async fn compute(&mut self, state: &State, counted: Counted) -> sqlx::Result<()> {
        let touched: Vec<(Operation, BTreeSet<Slot>)> =
            std::mem::take(&mut self.touched).into_iter().collect();
        let hours: BTreeSet<Slot> = touched
            .iter()
            .flat_map(|(_, hours)| hours.iter().copied())
            .collect();
        // What claims to lie more than a day in the future counts when its time has come.
        let (first, last) = match counted {
            Some((first, _)) => (first, quarter_now(state) + DAY),
            None => (0, -1),
        };
        let quarters: Vec<i64> = (first..=last)
            .filter(|quarter| hours.contains(&Slot::of_quarter(*quarter, self.timezone)))
            .collect();
        let mut sums = Sums::default();
        let at_once = (CELLS_AT_ONCE / quarters.len().max(1)).clamp(1, OPERATIONS);
        for part in touched.chunks(at_once) {
            let operations: Vec<&Operation> = part.iter().map(|(operation, _)| operation).collect();
            let mut by_hour: HashMap<(Operation, Slot), Vec<Cell>> = HashMap::new();
            // Hours that nothing has changed of go into the levels above as they are.
            for (operation, slot, cell) in
                baselines::hours_of(&mut *self.conn, self.dataset, &operations).await?
            {
                if !hours.contains(&slot) {
                    by_hour.insert((operation, slot), vec![cell]);
                }
            }
            for (key, cell) in
                baselines::cells_of(&mut *self.conn, self.dataset, &operations, &quarters).await?
            {
                let slot = Slot::of_quarter(key.quarter, self.timezone);
                by_hour.entry((key.operation, slot)).or_default().push(cell);
            }
            let mut computed: Vec<Computed<'_>> = Vec::new();
            for (operation, _) in part {
                sums.compute(operation, &by_hour, &hours, &mut computed);
            }
            baselines::put_slots(&mut *self.conn, self.dataset, &computed).await?;
            self.passed.baselines += computed.len();
        }
        Ok(())
    }
}

/// Room to add up in, used again and again.
#[derive(Default)]
struct Sums {
    hour: Total,
    day: Total,
    all: Total,
}

impl Sums {
    /// Computes those of an operation's hours that are `wanted`, and the levels above.
    fn compute<'a>(
        &mut self,
        operation: &'a Operation,
        by_hour: &HashMap<(Operation, Slot), Vec<Cell>>,
        wanted: &BTreeSet<Slot>,
        computed: &mut Vec<Computed<'a>>,
    ) {
        self.all.clear();
        let mut day: Option<Slot> = None;
        self.day.clear();
        for hour in Slot::hours() {
            if day != hour.fallback() {
                if let Some(before) = day {
                    computed.push((operation, before, self.day.figures()));
                }
                day = hour.fallback();
                self.day.clear();
            }
            let cells = by_hour.get(&(operation.clone(), hour));
            for cell in cells.into_iter().flatten() {
                self.day.add(cell);
                self.all.add(cell);
            }
            if wanted.contains(&hour) {
                self.hour.clear();
                for cell in cells.into_iter().flatten() {
                    self.hour.add(cell);
                }
                computed.push((operation, hour, self.hour.figures()));
            }
        }
        if let Some(day) = day {
            computed.push((operation, day, self.day.figures()));
        }
        computed.push((operation, Slot::EVERYTHING, self.all.figures()));
    }
}
