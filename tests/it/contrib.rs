//! What stands around the program - the Justfile, the unit, the image, the compose file - is held against it.

use std::{collections::BTreeMap, path::Path, process::Command};

use regex_lite::Regex;
use tempo_harvest::cli;

const JUSTFILE: &str = include_str!("../../Justfile");
const UNIT: &str = include_str!("../../contrib/tempo-harvest.service");
const DOCKERFILE: &str = include_str!("../../contrib/Dockerfile");
const DOCKERIGNORE: &str = include_str!("../../contrib/Dockerfile.dockerignore");
const COMPOSE: &str = include_str!("../../contrib/compose.yaml");
const TEMPO: &str = include_str!("../../contrib/compose/tempo.yaml");
const PROMETHEUS: &str = include_str!("../../contrib/compose/prometheus.yaml");
const ROLES: &str = include_str!("../../contrib/compose/roles.sh");
const DATASOURCES: &str =
    include_str!("../../contrib/grafana/provisioning/datasources/tempo-harvest.yaml");

/// Lines that are no comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
}

/// Panics unless the program takes these arguments, its own name first.
fn assert_is_command<'a>(arguments: impl IntoIterator<Item = &'a str>) {
    let arguments: Vec<&str> = arguments.into_iter().collect();
    if let Err(error) = cli::command().try_get_matches_from(&arguments) {
        panic!("{arguments:?}: {error}");
    }
}

/// The strings of a JSON array at the end of the Dockerfile's line that begins with `instruction`.
fn exec_form(instruction: &str) -> Vec<String> {
    let line = lines(DOCKERFILE)
        .find(|line| line.starts_with(instruction))
        .unwrap();
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

#[test]
fn every_recipe_says_what_it_does_and_calls_what_there_is() {
    let all: Vec<&str> = JUSTFILE.lines().collect();
    let (mut recipes, mut commands) = (Vec::new(), 0);
    for (index, line) in all.iter().enumerate() {
        let is_recipe = line.starts_with(|c: char| c.is_ascii_lowercase())
            && line.ends_with(':')
            && !line.contains(":=");
        if is_recipe {
            assert!(
                all[index - 1].starts_with("# "),
                "`{line}` has no comment above it"
            );
            recipes.push(line.split([' ', ':']).next().unwrap());
        }
        if let Some(call) = line.trim_start().strip_prefix("cargo run --release -- ") {
            let name = call.split(' ').next().unwrap();
            assert!(
                cli::command().find_subcommand(name).is_some(),
                "`{line}`: there is no command `{name}`"
            );
            assert!(!call.contains("{{"), "`{line}`: a parameter is not quoted");
            commands += 1;
        }
    }
    assert_eq!(recipes[0], "default");
    for daily in [
        "run", "work", "status", "gaps", "repair", "refetch", "runs", "pause", "resume", "cancel",
        "prune", "backfill",
    ] {
        assert!(recipes.contains(&daily), "no recipe `{daily}`");
    }
    assert!(commands >= 15);
}

#[test]
fn the_unit_restarts_stops_in_order_and_keeps_secrets_off_the_command_line() {
    let settings: BTreeMap<&str, &str> = lines(UNIT)
        .filter_map(|line| line.split_once('='))
        .collect();
    for (key, value) in [
        ("Restart", "on-failure"),
        ("StartLimitIntervalSec", "0"),
        ("KillSignal", "SIGTERM"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "tempo-harvest"),
        ("EnvironmentFile", "/etc/tempo-harvest/environment"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("CapabilityBoundingSet", ""),
        ("WantedBy", "multi-user.target"),
    ] {
        assert_eq!(settings.get(key), Some(&value), "{key}");
    }
    assert!(settings.contains_key("TimeoutStopSec") && settings.contains_key("RestartSec"));
    assert!(!settings.contains_key("Environment"));
    // Without a folder: one unit for /usr/local/bin and for the package's /usr/bin. systemd looks in both.
    let start = settings["ExecStart"];
    assert_eq!(start, "tempo-harvest work /etc/tempo-harvest/jobs");
    assert_is_command(start.split(' '));
}

#[test]
fn the_image_is_built_from_the_lock_and_runs_as_nobody_in_particular() {
    let entrypoint = exec_form("ENTRYPOINT");
    let command = exec_form("CMD");
    assert_is_command(entrypoint.iter().chain(&command).map(String::as_str));
    assert_is_command(exec_form("HEALTHCHECK").iter().map(String::as_str));
    let user = lines(DOCKERFILE)
        .filter(|line| line.starts_with("USER "))
        .last()
        .and_then(|line| line["USER ".len()..].split(':').next())
        .unwrap();
    assert!(user.parse::<u32>().unwrap() > 0, "{user}");
    assert!(DOCKERFILE.contains("cargo build --locked --release"));
    assert!(lines(DOCKERFILE).all(|line| !line.contains("libssl")));
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(DOCKERFILE.contains(&format!("FROM rust:{rust}-")));
    // Each is read by the build; without `.cargo` it would ask for a database.
    for needed in [
        ".cargo",
        ".sqlx",
        "Cargo.lock",
        "Cargo.toml",
        "migrations",
        "sqlx.toml",
        "src",
    ] {
        assert!(
            DOCKERIGNORE
                .lines()
                .any(|line| line == format!("!{needed}")),
            "{needed}"
        );
        assert!(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(needed).exists(),
            "{needed}"
        );
    }
}

/// The services of the compose file by their names, each with its lines.
fn services() -> BTreeMap<String, Vec<&'static str>> {
    let mut services = BTreeMap::new();
    let mut name = None;
    let from = COMPOSE.find("\nservices:\n").unwrap() + "\nservices:\n".len();
    for line in lines(&COMPOSE[from..]).take_while(|line| !line.starts_with("volumes:")) {
        if let Some(service) = line.strip_prefix("  ").filter(|line| {
            line.starts_with(|c: char| c.is_ascii_alphabetic()) && line.ends_with(':')
        }) {
            name = Some(service.trim_end_matches(':').to_owned());
        } else if let Some(name) = &name {
            services
                .entry(name.clone())
                .or_insert_with(Vec::new)
                .push(line.trim());
        }
    }
    services
}

#[test]
fn the_compose_file_waits_for_health_and_pins_its_images() {
    assert!(!COMPOSE.contains('\t') && !TEMPO.contains('\t'));
    let services = services();
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        [
            "grafana",
            "migrate",
            "postgres",
            "prometheus",
            "tempo",
            "worker"
        ]
    );
    for (name, lines) in &services {
        // Our own image is built, and brings its health check.
        if !lines.contains(&"image: tempo-harvest") {
            let image = lines.iter().find_map(|line| line.strip_prefix("image: "));
            let tag = image.unwrap().split_once(':').unwrap().1;
            let version = tag.trim_start_matches('v');
            assert!(version.split('.').count() >= 2, "{tag}");
            assert!(
                version.split('.').all(|part| part.parse::<u32>().is_ok()),
                "{tag}"
            );
            assert!(lines.contains(&"healthcheck:"), "{name}");
        }
        // Nothing is served to other machines.
        let ports = lines.iter().skip_while(|line| **line != "ports:").skip(1);
        for port in ports.take_while(|line| line.starts_with("- ")) {
            assert!(port.starts_with("- 127.0.0.1:"), "{name}: {port}");
        }
    }
    for (name, count) in [("migrate", 1), ("worker", 1), ("grafana", 2)] {
        let healthy = |line: &&&str| **line == "condition: service_healthy";
        assert_eq!(services[name].iter().filter(healthy).count(), count);
    }
    assert!(services["worker"].contains(&"condition: service_completed_successfully"));
    // The worker serves what Prometheus scrapes.
    let command = services["worker"]
        .iter()
        .find_map(|line| line.strip_prefix("command: "));
    let command = command.unwrap().trim_matches(['[', ']']).replace('"', "");
    assert_is_command(["tempo-harvest"].into_iter().chain(command.split(", ")));
    assert!(command.ends_with(":8080"), "{command}");
    assert!(PROMETHEUS.contains("targets: [worker:8080]"));
    // What is secret comes from the environment of compose, is on no command line, and is made by `secrets`.
    let secret = Regex::new(r"\$\{([A-Z_]+):\?").unwrap();
    let mut made: Vec<&str> = Vec::new();
    for line in
        lines(COMPOSE).filter(|line| line.contains("PASSWORD: ") || line.contains("TOKEN: "))
    {
        made.push(
            secret
                .captures(line)
                .unwrap_or_else(|| panic!("{line}"))
                .get(1)
                .unwrap()
                .as_str(),
        );
    }
    assert!(made.len() >= 6);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let secrets = std::fs::read_to_string(folder.join("compose/secrets")).unwrap();
    for name in made {
        assert!(secrets.contains(&format!(" {name}")), "{name}");
    }
    // Each file that is mounted exists.
    let mounted: Vec<&str> = lines(COMPOSE)
        .filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next())
        .collect();
    assert!(mounted.len() >= 7);
    for path in mounted {
        assert!(folder.join(path).exists(), "{path}");
    }
}

#[test]
fn in_the_compose_file_only_migrate_owns_the_tables() {
    let services = services();
    for (service, login, role) in [
        ("worker", "collector", "harvest_worker"),
        ("grafana", "grafana_reader", "harvest_reader"),
    ] {
        let created = ROLES
            .lines()
            .find(|line| line.starts_with(&format!("CREATE ROLE {login} LOGIN")));
        assert!(
            created.unwrap().ends_with(&format!("IN ROLE {role};")),
            "{service}"
        );
        assert!(ROLES.contains(&format!("CREATE ROLE {role};")), "{service}");
    }
    let url = |login: &str| {
        format!("DATABASE_URL: postgres://{login}@postgres:5432/harvest?sslmode=disable")
    };
    assert!(services["worker"].contains(&url("collector").as_str()));
    assert!(services["migrate"].contains(&url("harvest").as_str()));
    assert!(
        DATASOURCES.contains("user: grafana_reader") && DATASOURCES.contains("database: harvest\n")
    );
    assert_is_command(["tempo-harvest", "migrate", "--roles"]);
    assert!(services["migrate"].contains(&"command: [migrate, --roles]"));
}

#[test]
fn the_jobs_in_the_compose_file_ask_a_service_not_localhost() {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/compose/jobs");
    let checked = Command::new(env!("CARGO_BIN_EXE_tempo-harvest"))
        .arg("check")
        .arg(&jobs)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{errors}");
    let names: Vec<String> = services().into_keys().collect();
    let mut urls = 0;
    for file in std::fs::read_dir(&jobs).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in lines(&text).filter_map(|line| line.strip_prefix("url = \"http://")) {
            let host = line.split(':').next().unwrap();
            assert!(names.iter().any(|name| name == host), "{host}");
            urls += 1;
        }
    }
    assert!(urls > 0);
}
