-- The roles harvest_worker (collects) and harvest_reader (looks on), and what they may do in this database. They cannot log in:
-- logins are made members of them. Run by `tempo-harvest migrate --roles` as whoever owns the tables; where that one may not create
-- roles, whoever may says `CREATE ROLE harvest_worker; CREATE ROLE harvest_reader;` first. Running it again changes nothing.
-- What later versions add to the tables is granted as it is made.
DO $roles$
DECLARE
    role_name text;
    schema_name text;
    owner_name name;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['harvest_worker', 'harvest_reader'] LOOP
        CONTINUE WHEN to_regrole(role_name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            -- Made at the same moment, for another database of this server.
            NULL;
        END;
    END LOOP;

    -- Answers are staged in temporary tables before they are merged.
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO harvest_worker', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO harvest_reader', current_database());

    FOREACH schema_name IN ARRAY ARRAY['harvest', 'apalis'] LOOP
        SELECT pg_get_userbyid(nspowner) INTO STRICT owner_name FROM pg_namespace WHERE nspname = schema_name;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO harvest_worker, harvest_reader', schema_name);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO harvest_worker, harvest_reader', schema_name);
        EXECUTE format('GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO harvest_worker', schema_name);
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON %I._sqlx_migrations FROM harvest_worker', schema_name);
        EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO harvest_worker', schema_name);
        EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %I TO harvest_worker', schema_name);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON TABLES TO harvest_worker, harvest_reader',
                       owner_name, schema_name);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT INSERT, UPDATE, DELETE ON TABLES TO harvest_worker',
                       owner_name, schema_name);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT USAGE ON SEQUENCES TO harvest_worker',
                       owner_name, schema_name);
        EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT EXECUTE ON FUNCTIONS TO harvest_worker',
                       owner_name, schema_name);
    END LOOP;
END
$roles$;
