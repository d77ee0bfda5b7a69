//! The dashboard: what it says, whom it answers, and how it looks in a browser.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempo_harvest::simulator::{Fault, Misbehaviour};
use tempo_harvest::web::{Access, Context, Door};
use tempo_harvest::window::rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::support::browser::{ALL_EYES, Browser};
use crate::support::harvest::{
    DAY_S, HOUR_S, Process, Scene, database, hours, job, start_in, tempo,
};

const TOKEN: &str = "TEMPO_HARVEST_LISTEN_TOKEN";

/// Where it listens: `127.0.0.1:PORT`.
async fn address(process: &mut Process) -> String {
    process.says("dashboard on http://").await;
    process.says("/\n").await;
    let said = process.stderr();
    let url = said.split("dashboard on http://").nth(1).unwrap();
    url.split('/').next().unwrap().to_owned()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn ask(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// GETs a path with more headers, each with its line end.
async fn get(address: &str, path: &str, headers: &str) -> Answer {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    ask(address, &request).await
}

#[tokio::test]
async fn without_a_token_only_this_machine_is_listened_on() {
    let folder = tempfile::tempdir().unwrap();
    // Neither a database nor a job file is looked for before that.
    let refused = |environment: &'static [(&str, &str)], arguments: &'static [&str]| {
        let process = start_in(folder.path(), arguments, environment);
        async { process.end().await.expect(2).stderr }
    };
    let said = refused(&[], &["work", "--listen", "0.0.0.0:8080", "no.toml"]).await;
    insta::assert_snapshot!(said, @"error: --listen `0.0.0.0:8080` can be reached from other machines, and there is no token: put one into TEMPO_HARVEST_LISTEN_TOKEN or into a file for --listen-token-file (`openssl rand -hex 32` makes one), or listen on 127.0.0.1:8080");
    let said = refused(&[], &["demo", "--listen", "[::]:8080"]).await;
    assert!(said.contains("there is no token"), "{said}");
    let said = refused(&[(TOKEN, "")], &["work", "--listen", "127.0.0.1:0"]).await;
    insta::assert_snapshot!(said, @"error: TEMPO_HARVEST_LISTEN_TOKEN holds no token: it must be one line of printable ASCII (`openssl rand -hex 32` makes one)");
    let arguments = &[
        "work",
        "--listen",
        "127.0.0.1:0",
        "--listen-token-file",
        "none",
    ];
    let said = refused(&[], arguments).await;
    assert!(
        said.contains("cannot read --listen-token-file `none`"),
        "{said}"
    );
    let said = refused(
        &[(TOKEN, "fifteen-letters")],
        &["work", "--listen", "127.0.0.1:0"],
    )
    .await;
    assert!(said.contains("at least 16 characters"), "{said}");
    assert!(!said.contains("fifteen"), "{said}");
    let said = refused(&[(TOKEN, "a")], arguments).await;
    assert!(said.contains("take away one of them"), "{said}");
    let said = refused(&[], &["work", "--listen", "8080"]).await;
    assert!(said.contains("write an IP address and a port"), "{said}");
    let said = refused(&[], &["work", "--listen-token-file", "x"]).await;
    assert!(said.contains("--listen <ADDRESS:PORT>"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn with_a_token_nobody_is_answered_without_it() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    scene.write_file("token", "s3cret-of-the-door\n");
    let url = scene.database.url();
    let mut running = scene.start(&[
        "work",
        "--listen",
        "0.0.0.0:0",
        "--listen-token-file",
        "token",
    ]);
    let at = address(&mut running).await.replace("0.0.0.0", "127.0.0.1");
    for (path, headers) in [
        ("/", ""),
        ("/nothing", ""),
        ("/datasets/shop", "Authorization: Bearer wrong\r\n"),
        ("/", "Authorization: Basic d2hvOndyb25n\r\n"),
        (
            "/?token=s3cret-of-the-door",
            "Cookie: token=s3cret-of-the-door\r\n",
        ),
    ] {
        let answer = get(&at, path, headers).await;
        assert_eq!(answer.status, 401, "{path} {headers}");
        assert!(
            answer.head.contains("www-authenticate: basic realm="),
            "{}",
            answer.head
        );
        assert!(!answer.body.contains("s3cret-of-the-door"));
    }
    // Whoever has it needs no particular name for this machine. `d2hvOnMzY3JldC1vZi10aGUtZG9vcg==` is `who:s3cret-of-the-door`.
    for headers in [
        "Authorization: Bearer s3cret-of-the-door\r\n",
        "Authorization: Basic d2hvOnMzY3JldC1vZi10aGUtZG9vcg==\r\n",
    ] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: harvest.example\r\nConnection: close\r\n{headers}\r\n"
        );
        assert_eq!(ask(&at, &request).await.status, 200);
    }
    assert_eq!(get(&at, "/healthz", "").await.status, 200);
    // Sources are named to those only who have it.
    let token = "Authorization: Bearer s3cret-of-the-door\r\n";
    for (headers, sources) in [("", "\"sources\": null"), (token, "\"sources\": []")] {
        let ready = get(&at, "/readyz", headers).await;
        assert_eq!(ready.status, 200);
        assert!(ready.body.contains(sources), "{}", ready.body);
    }
    running.signal(Signal::TERM);
    let said = running.end().await.expect(0);
    assert!(
        !said.stderr.contains("s3cret-of-the-door"),
        "{}",
        said.stderr
    );

    let environment = [("DATABASE_URL", &*url), (TOKEN, "s3cret-of-the-door")];
    let mut running = scene.start_with(&["work", "--listen", "127.0.0.1:0"], &environment);
    let at = address(&mut running).await;
    assert_eq!(
        get(&at, "/", "").await.status,
        401,
        "this machine has others on it"
    );
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn what_is_asked_to_learn_a_limit_or_counted_where_nothing_is_is_no_error() {
    let scene = Scene::new(tempo(&hours(2, 100))).await;
    let file = scene.write(&job(2).services());
    scene.command(&["run", &file]).await.expect(0);
    let range = |from_s, to_s| (rfc3339(DAY_S + from_s), rfc3339(DAY_S + to_s));
    let (from, to) = range(10 * HOUR_S, 12 * HOUR_S);
    let empty = ["--from", &from, "--to", &to];
    let plan = scene
        .command(&[&["plan", &file], &empty[..]].concat())
        .await;
    insta::assert_snapshot!(plan.expect(0).stdout, @r"
    shop: 2026-03-01T10:00:00Z … 2026-03-01T12:00:00Z
      to fetch          2h in 2 windows
      expected          unknown: Tempo counted no traces in this range (it says the same where it does not count); windows are cut at edges, and cut further where they are full
      covered           0s
      in flight         0s
      too young         0s
      beyond retention  0s
      fetch 2026-03-01T10:00:00Z … 2026-03-01T12:00:00Z
    ");
    let (short_from, short_to) = range(20 * HOUR_S, 20 * HOUR_S + 90);
    let plan = ["plan", &file, "--from", &short_from, "--to", &short_to];
    insta::assert_snapshot!(scene.command(&plan).await.expect(0).stdout, @r"
    shop: 2026-03-01T20:00:00Z … 2026-03-01T20:01:30Z
      to fetch          1m 30s in 1 window
      expected          not asked: the range is too short to be worth counting; windows are cut at edges, and cut further where they are full
      covered           0s
      in flight         0s
      too young         0s
      beyond retention  0s
      fetch 2026-03-01T20:00:00Z … 2026-03-01T20:01:30Z
    ");
    scene
        .command(&[&["run", &file], &empty[..]].concat())
        .await
        .expect(0);
    let of_nothing = "SELECT count(*) FROM harvest.fetches WHERE kind = 'count' AND outcome = 'complete' AND returned = 0";
    assert_eq!(scene.number(of_nothing).await, 1);

    let stats = scene.command(&["stats", "--json"]).await.expect(0).json();
    let total = &stats["datasets"][0]["total"];
    assert_eq!(
        (
            &total["errors"],
            &total["limits_learned"],
            &total["thrown_away"]
        ),
        (&serde_json::json!({}), &1.into(), &0.into()),
        "{stats:#}"
    );
    let fullest = total["fullest"].as_f64().unwrap() * 100.0;
    let said = scene.command(&["stats"]).await.expect(0).stdout;
    assert!(
        said.contains("  limit learned: 1 refusal, no error\n") && !said.contains("errors:"),
        "{said}"
    );

    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0"]);
    let at = address(&mut running).await;
    for page in ["/", "/datasets/shop"] {
        let page = get(&at, page, "").await.body;
        for says in [
            "Every answer counted, in the last 24 hours.",
            "Limit learned from simulator by 1 refusal",
            &format!(
                "the fullest answer that counted brought {fullest:.0} % of what one search may"
            ),
        ] {
            assert!(page.contains(says), "{says} is not in {page}");
        }
    }
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn pages_say_what_is_there_and_nothing_else_comes_through() {
    let scene = Scene::new(tempo(&hours(3, 300))).await;
    let file = scene.write(
        &job(3)
            .services()
            .query("{ resource.service.name != \"<script>alert(1)</script>\" }"),
    );
    scene.command(&["run", &file]).await.expect(0);
    scene
        .execute("UPDATE harvest.traces SET root_name = '<img src=x onerror=alert(1)>'")
        .await;
    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0"]);
    let at = address(&mut running).await;

    let overview = get(&at, "/", "").await;
    assert_eq!(overview.status, 200);
    for header in [
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "x-frame-options: deny",
        "content-type: text/html; charset=utf-8",
    ] {
        assert!(
            overview.head.contains(header),
            "{header} is not in {}",
            overview.head
        );
    }
    let policy = overview
        .head
        .lines()
        .find(|line| line.starts_with("content-security-policy"))
        .unwrap();
    assert!(
        policy.contains("default-src 'none'; style-src 'nonce-"),
        "{policy}"
    );
    assert!(
        !policy.contains("http") && !policy.contains("unsafe"),
        "{policy}"
    );
    let other = get(&at, "/", "").await;
    assert_ne!(
        policy,
        other
            .head
            .lines()
            .find(|line| line.starts_with("content-security-policy"))
            .unwrap()
    );
    for said in [
        "Everything due is collected",
        "<html lang=\"en\">",
        "<th scope=\"row\"><a href=\"/datasets/shop\">shop</a></th>",
        "<caption>",
        "<main id=\"main\"",
    ] {
        assert!(overview.body.contains(said), "{said}");
    }
    assert!(!overview.body.contains("Refresh: "));
    let refreshed = get(&at, "/?refresh=15", "").await;
    assert!(refreshed.head.contains("refresh: 15"), "{}", refreshed.head);

    let dataset = get(&at, "/datasets/shop", "").await;
    assert_eq!(dataset.status, 200);
    assert!(dataset.body.contains("href=\"shop/2026-03-01T01\""));
    assert!(dataset.body.contains("&lt;img src=x onerror=alert(1)&gt;"));
    let hour = get(&at, "/datasets/shop/2026-03-01T01", "").await;
    assert_eq!(hour.status, 200);
    assert!(hour.body.contains("This hour: sealed."), "{}", hour.body);
    assert!(
        hour.body
            .contains("<td>2026-03-01 01:00:00 – 02:00:00</td>"),
        "{}",
        hour.body
    );
    for page in [&overview, &dataset, &hour] {
        assert!(
            !page.body.contains("<script"),
            "escaped, and none of its own"
        );
        assert!(!page.body.contains("<img"));
        // Everything it leads to is here.
        for target in page.body.split("href=\"").skip(1) {
            let target = target.split('"').next().unwrap();
            assert!(
                !target.contains("//") || target.starts_with("data:"),
                "{target}"
            );
        }
    }
    for missing in [
        "/datasets/none",
        "/datasets/shop/yesterday",
        "/nothing",
        "/datasets/..%2f..%2fetc",
    ] {
        let answer = get(&at, missing, "").await;
        assert_eq!(answer.status, 404, "{missing}");
        assert!(answer.head.contains("content-security-policy"), "{missing}");
    }
    // Read only.
    let post =
        format!("POST / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(ask(&at, &post).await.status, 405);
    // A name that was made to lead here.
    for host in ["evil.example", "127.0.0.1.evil.example"] {
        let rebound = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = ask(&at, &rebound).await;
        assert_eq!(answer.status, 421);
        assert!(!answer.body.contains("shop"));
    }
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

#[tokio::test]
async fn every_state_is_looked_at_in_a_browser() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let scene = Scene::new(tempo(&hours(30, 3_000))).await;
    let mut running = scene.start(&["work", "--listen", "127.0.0.1:0"]);
    let at = format!("http://{}/", address(&mut running).await);
    let look = async |page: &str, name: &str| {
        for eyes in ALL_EYES {
            browser.look(&format!("{at}{page}"), eyes, name).await;
        }
    };
    let heading = async || {
        browser
            .says("document.querySelector('h1').textContent")
            .await
    };
    look("", "empty").await;
    assert_eq!(heading().await, "Nothing has been submitted yet");
    look("nothing", "not-found").await;

    // Tempo becomes slow on the way, and is held back while it is looked at.
    let slow = Misbehaviour::Slow {
        delay: Duration::from_secs(1),
    };
    scene
        .control
        .add_fault(Fault::forever(slow).on_path("/api/search").after(12));
    let file = scene.write(&job(30).services());
    scene.command(&["submit", &file]).await.expect(0);
    scene
        .until("SELECT count(*) >= 10 FROM harvest.windows WHERE state = 'done'")
        .await;
    scene.control.clear_faults();
    let held = scene.control.hold("/api/search");
    scene.control.wait_for_held(1).await;
    look("", "filling").await;
    assert!(
        heading()
            .await
            .as_str()
            .unwrap()
            .contains("of what is due is collected")
    );
    look("datasets/shop", "filling-dataset").await;
    assert_eq!(
        browser
            .says("document.querySelectorAll('.heat td.q').length > 0")
            .await,
        true
    );
    drop(held);
    scene
        .until("SELECT state = 'complete' FROM harvest.runs")
        .await;

    look("", "complete").await;
    assert_eq!(heading().await, "Everything due is collected");
    look("datasets/shop", "complete-dataset").await;
    assert_eq!(
        browser
            .says("document.querySelectorAll('.heat td.s').length")
            .await,
        30
    );
    look("datasets/shop/2026-03-01T01", "complete-hour").await;

    // Tempo is down.
    scene
        .control
        .add_fault(Fault::forever(Misbehaviour::Status(503)));
    let mut down = job(3).services().limits("max_attempts = 2");
    down.name = "down".to_owned();
    let file = scene.write(&down);
    scene.command(&["submit", &file]).await.expect(0);
    scene
        .until("SELECT count(*) > 0 FROM harvest.fetches WHERE outcome = 'passing'")
        .await;
    look("", "tempo-down").await;
    assert_eq!(
        browser
            .says("document.querySelector('.attention').textContent.includes('does not answer')")
            .await,
        true
    );
    scene
        .until("SELECT count(*) = 3 FROM harvest.windows WHERE state = 'failed'")
        .await;
    look("", "failed").await;
    look("datasets/down", "failed-dataset").await;
    assert_eq!(
        browser
            .says("document.querySelectorAll('.heat td.f').length")
            .await,
        3
    );
    look("datasets/down/2026-03-01T01", "failed-hour").await;
    browser.end().await;
    running.signal(Signal::TERM);
    running.end().await.expect(0);
}

/// What 90 days of 20 jobs cost, with a week of windows and requests as polls leave them: about 900,000 each. Prints it.
#[tokio::test]
#[ignore = "takes minutes to fill the database; run it alone, in release, for a figure: just bench-dashboard"]
async fn ninety_days_of_twenty_jobs_in_less_than_200_ms() {
    let database = database().await;
    let pool = database.pool().await;
    sqlx::raw_sql(include_str!("../fixtures/dashboard/ninety_days.sql"))
        .execute(&pool)
        .await
        .unwrap();
    let door = Door::open("127.0.0.1:0".parse().unwrap(), Access::ThisMachine)
        .await
        .unwrap();
    let at = door.url().replace("http://", "").replace('/', "");
    let stop = CancellationToken::new();
    let context = Context::new(
        pool,
        "host:1:00000000".to_owned(),
        Default::default(),
        Default::default(),
        chrono::Utc::now(),
    );
    let serving = tokio::spawn(door.serve(context.into(), stop.clone()));
    let mut slow = Vec::new();
    for path in ["/", "/datasets/team-04", "/datasets/team-04/2026-01-01T00"] {
        let mut times = Vec::new();
        for _ in 0..11 {
            // Longer than anything is kept for the next who asks.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let begun = Instant::now();
            assert_eq!(get(&at, path, "").await.status, 200);
            times.push(begun.elapsed());
        }
        times.sort();
        println!("{path}: median {:?}, slowest {:?}", times[5], times[10]);
        if times[5] > Duration::from_millis(200) {
            slow.push(path);
        }
    }
    stop.cancel();
    serving.await.unwrap();
    assert!(slow.is_empty(), "more than 200 ms: {slow:?}");
}
