# For daily use. What is only looked at or steered needs DATABASE_URL, or --local among the OPTIONS.

# Parameters reach the command as they were typed, with whatever spaces they have.
set positional-arguments

# Lists the recipes
default:
    @just --list

# Fetches what is missing of a job's range and waits for it
run FILE *OPTIONS:
    cargo run --release -- run "$@"

# Shows what `run` would fetch
plan FILE *OPTIONS:
    cargo run --release -- plan "$@"

# Collects a range, whatever [backfill] says: just backfill jobs/local.toml 2026-11-01T00:00:00Z 2026-11-02T00:00:00Z
backfill FILE FROM TO:
    cargo run --release -- run "$1" --from "$2" --to "$3"

# Works until stopped: just work jobs/
work *OPTIONS:
    cargo run --release -- work "$@"

# Shows what is collected
status *OPTIONS:
    cargo run --release -- status "$@"

# Lists what is not collected, with reasons
gaps *OPTIONS:
    cargo run --release -- gaps "$@"

# Lists the runs, of all jobs or of one
runs *OPTIONS:
    cargo run --release -- runs "$@"

# Sums up what was asked of Tempo, of all jobs or of one: just stats shop --last 24h
stats *OPTIONS:
    cargo run --release -- stats "$@"

# Plans again what is missing or failed, of all jobs or of one: just repair shop --failed-only
repair *OPTIONS:
    cargo run --release -- repair "$@"

# Fetches again what is there already: just refetch shop --from '2d ago' --to '1d ago'
refetch JOB *OPTIONS:
    cargo run --release -- refetch "$@"

# Lets a job or a run rest
pause NAME *OPTIONS:
    cargo run --release -- pause "$@"

# Lets a paused job or run go on
resume NAME *OPTIONS:
    cargo run --release -- resume "$@"

# Gives up what is still to be fetched for a job or a run
cancel NAME *OPTIONS:
    cargo run --release -- cancel "$@"

# Deletes what is older than a job's [retention]
prune JOB *OPTIONS:
    cargo run --release -- prune "$@"

# Checks the database, and the Tempo of a job file
doctor *FILES:
    cargo run --release -- doctor "$@"

# Checks job files, and touches nothing
check *PATHS='jobs':
    cargo run --release -- check --no-env "$@"

# Shows it all on a simulated Tempo and a private PostgreSQL
demo *OPTIONS:
    cargo run --release -- demo "$@"

# Opens psql on the database in use
db *OPTIONS:
    cargo run --release -- db "$@"

# Runs the tests
test *OPTIONS:
    cargo test "$@"

# Torments workers, database and Tempo with faults drawn from a seed, and judges what is stored: just torture --minutes 60; --seed 7
torture *OPTIONS:
    TORTURE="$*" cargo test --test it -- --ignored --nocapture --exact torture::nothing_is_lost_in_a_long_torture

# Tries each property with many cases: just properties 100000
properties CASES='10000':
    PROPTEST_CASES="$1" cargo test --lib
    PROPTEST_CASES="$1" cargo test --test it window_states::

# Changes the pure core line by line, and lists the changes that no test notices (cargo install cargo-mutants); just mutants --file src/window.rs
mutants *OPTIONS:
    PROPTEST_CASES=48 PROPTEST_MAX_SHRINK_ITERS=0 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 cargo mutants "$@"

# Feeds a fuzz target, or all, with made-up input for so many seconds: just fuzz search_json 600 (cargo install cargo-fuzz)
fuzz *OPTIONS:
    tests/fuzz/run "$@"

# Measures from end to end, beside the floor: just bench --traces 10000 --detail trace; on a real Tempo with TEMPO_URL
bench *OPTIONS:
    cargo bench --bench end_to_end -- "$@"

# Measures single steps: decoding, planning, splitting, merging; just bench-core decode
bench-core *OPTIONS:
    cargo bench --bench core -- "$@"

# Measures what planning a tick costs after a year of polling, beside an empty ledger
bench-ticks *OPTIONS:
    cargo bench --bench ticks "$@"

# Measures bringing baselines up to date, with 10,000,000 traces stored and with 10,000
bench-baseline *OPTIONS:
    cargo bench --bench baseline -- "$@"

# Measures what a page of the dashboard takes with 90 days of 20 jobs; fills a database of its own, which takes minutes
bench-dashboard:
    cargo test --release --test it -- --ignored --nocapture --exact dashboard::ninety_days_of_twenty_jobs_in_less_than_200_ms

# Checks format and lints
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Makes the Debian package (cargo install cargo-deb)
deb *OPTIONS:
    contrib/deb/build "$@"

# Prints what the changelog says of a version: just release-notes 0.1.0, or Unreleased
release-notes *VERSION:
    .ci/release-notes "$@"

# Writes .sqlx, what the checked queries are held against; with --check only compares
sqlx *OPTIONS:
    .ci/sqlx "$@"

# Runs everything that has to pass before a change lands
ci:
    .ci/run

# Checks the dependencies: licences, sources, advisories (cargo install cargo-deny)
deny:
    cargo deny check
