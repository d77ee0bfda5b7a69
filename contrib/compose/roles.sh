#!/bin/sh
# Run by the PostgreSQL image on an empty volume: who works, and who looks on. `tempo-harvest migrate --roles` says what they may do.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
    --set worker="$WORKER_PASSWORD" --set reader="$READER_PASSWORD" <<'SQL'
CREATE ROLE harvest_worker;
CREATE ROLE harvest_reader;
CREATE ROLE collector LOGIN PASSWORD :'worker' IN ROLE harvest_worker;
CREATE ROLE grafana_reader LOGIN PASSWORD :'reader' IN ROLE harvest_reader;
SQL
