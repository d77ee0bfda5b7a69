# Lists the recipes
default:
    @just --list

# Fetches what is missing of a job's range and waits for it
run FILE *OPTIONS:
    cargo run --release -- run {{quote(FILE)}} {{OPTIONS}}

# Shows what `run` would fetch
plan FILE *OPTIONS:
    cargo run --release -- plan {{quote(FILE)}} {{OPTIONS}}

# Collects a range, whatever [backfill] says: just backfill jobs/local.toml 2026-11-01T00:00:00Z 2026-11-02T00:00:00Z
backfill FILE FROM TO:
    cargo run --release -- run {{quote(FILE)}} --from {{quote(FROM)}} --to {{quote(TO)}}

# Fetches what is on the queue until stopped; needs DATABASE_URL or --local
work *OPTIONS:
    cargo run --release -- work {{OPTIONS}}

# Shows what is collected; needs DATABASE_URL or --local
status *OPTIONS:
    cargo run --release -- status {{OPTIONS}}

# Lists what is not collected, with reasons; needs DATABASE_URL or --local
gaps *OPTIONS:
    cargo run --release -- gaps {{OPTIONS}}

# Checks the database, and the Tempo of a job file
doctor FILE:
    cargo run --release -- doctor {{quote(FILE)}}

# Checks job files, and touches nothing
check *PATHS='jobs':
    cargo run --release -- check --no-env {{PATHS}}

# Shows it all on a simulated Tempo and a private PostgreSQL
demo *OPTIONS:
    cargo run --release -- demo {{OPTIONS}}

# Opens psql on the database in use
db *OPTIONS:
    cargo run --release -- db {{OPTIONS}}

# Runs the tests
test *OPTIONS:
    cargo test {{OPTIONS}}

# Checks format and lints
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# Writes .sqlx, what the checked queries are held against; with --check only compares
sqlx *OPTIONS:
    .ci/sqlx {{OPTIONS}}

# Runs everything that has to pass before a change lands
ci:
    .ci/run

# Checks the dependencies: licences, sources, advisories (cargo install cargo-deny)
deny:
    cargo deny check
