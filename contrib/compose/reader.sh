#!/bin/sh
# Run by the PostgreSQL image on an empty database: a role that reads what is collected and writes nothing. The tables are made later, by
# the worker, and are the reader's to read from then on.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 --set password="$READER_PASSWORD" <<'SQL'
CREATE ROLE grafana_reader LOGIN PASSWORD :'password';
CREATE SCHEMA harvest;
GRANT USAGE ON SCHEMA harvest TO grafana_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA harvest GRANT SELECT ON TABLES TO grafana_reader;
SQL
