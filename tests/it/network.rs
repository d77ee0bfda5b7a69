//! What is sent to whom: TLS and what it refuses, redirects, proxies, and the way to the database.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tempo_harvest::simulator::Credentials;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

use crate::support::harvest::{Said, Scene, hours, job, tempo};
use crate::support::tls::{Authority, Behind, Issued, door, plain_door};

const SECRET: &str = "canary-7b20-token";

/// Reads one request on each connection, remembers it, and gives the next of these answers (the last one for ever).
async fn recorder(answers: Vec<String>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.contains("\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(count @ 1..) => text += &String::from_utf8_lossy(&buffer[..count]),
                    _ => break,
                }
            }
            seen.lock().unwrap().push(text);
            let answer = match answers.len() {
                1 => answers.peek().cloned(),
                _ => answers.next(),
            };
            let _ = stream.write_all(answer.unwrap().as_bytes()).await;
        }
    });
    (address, requests)
}

/// What `doctor` says of a job whose source has this URL, and these lines beside it.
async fn doctor(scene: &Scene, url: &str, source: &str, environment: &[(&str, &str)]) -> Said {
    let file = scene.write(&job(1).source(source));
    let path = scene.folder.path().join(&file);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&scene.simulator.url(), url)).unwrap();
    let database = scene.database.url();
    let mut all = vec![
        ("DATABASE_URL", database.as_str()),
        ("CANARY", SECRET),
        ("RUST_LOG", "trace"),
    ];
    all.extend(environment);
    let said = scene.command_with(&["doctor", &file], &all).await;
    for text in [&said.stdout, &said.stderr] {
        assert!(!text.contains("canary-7b20"), "{text}");
    }
    said
}

/// The line about searching, which is the first thing asked of a Tempo.
fn search(said: &Said) -> String {
    let mut lines = said.stdout.lines();
    let line = lines.find(|line| line.contains(": search: ")).unwrap();
    line.split(": search: ").nth(1).unwrap().to_owned()
}

const WITH_TOKEN: &str = "bearer_token = '${CANARY}'";

#[tokio::test]
async fn https_lets_in_only_who_can_show_who_they_are() {
    let mut config = tempo(&hours(1, 10));
    config.credentials = Credentials::Bearer(SECRET.into());
    let scene = Scene::new(config).await;
    let behind: Url = scene.simulator.url().parse().unwrap();
    let behind = Behind::Tcp(SocketAddr::from(([127, 0, 0, 1], behind.port().unwrap())));
    let authority = Authority::new("the right one");
    scene.write_file("ca.pem", &authority.pem());
    scene.write_file("other.pem", &Authority::new("another").pem());
    let trusting = format!("{WITH_TOKEN}\ntls = {{ ca_file = 'ca.pem' }}");
    let others = format!("{WITH_TOKEN}\ntls = {{ ca_file = 'other.pem' }}");

    let right = authority.issue("localhost");
    let port = door(behind.clone(), &right, None).await.port();
    let url = format!("https://localhost:{port}");
    doctor(&scene, &url, &trusting, &[]).await.expect(0);
    assert!(!scene.new_requests().is_empty());

    let elsewhere = door(behind.clone(), &authority.issue("tempo.example"), None).await;
    let expired = door(behind.clone(), &authority.issue_expired("localhost"), None).await;
    let self_signed = door(behind.clone(), &Issued::self_signed("localhost"), None).await;
    let port_of = |address: SocketAddr| format!("https://localhost:{}", address.port());
    for (url, source, says, advises) in [
        (url.clone(), WITH_TOKEN, "UnknownIssuer", "`tls.ca_file`"),
        (url.clone(), &others, "UnknownIssuer", "`tls.ca_file`"),
        (
            port_of(self_signed),
            &trusting,
            "UnknownIssuer",
            "`tls.ca_file`",
        ),
        (
            port_of(elsewhere),
            &trusting,
            "not valid for name",
            "name the host as its certificate does",
        ),
        (port_of(expired), &trusting, "expired", "clock"),
        // The right certificate, but for a name, not an address.
        (
            url.replace("localhost", "127.0.0.1"),
            &trusting,
            "not valid for name",
            "name the host",
        ),
        // No TLS behind it.
        (
            scene.simulator.url().replace("http:", "https:"),
            &trusting,
            "InvalidContentType",
            "this is no TLS",
        ),
    ] {
        let said = doctor(&scene, &url, source, &[]).await.expect(1);
        let line = search(&said);
        assert!(
            line.contains(says) && line.contains(advises),
            "{url}: {line}"
        );
    }
    // Plain HTTP to a door that wants TLS is not tried again as anything else.
    let said = doctor(&scene, &url.replace("https", "http"), &trusting, &[]).await;
    said.expect(1);
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_wanted() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let behind: Url = scene.simulator.url().parse().unwrap();
    let behind = SocketAddr::from(([127, 0, 0, 1], behind.port().unwrap()));
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let shown = servers.issue("localhost");
    let port = door(Behind::Tcp(behind), &shown, Some(&clients))
        .await
        .port();
    let url = format!("https://localhost:{port}");
    let ours = clients.issue("harvester");
    let others = Authority::new("others").issue("harvester");
    for (file, content) in [
        ("ca.pem", servers.pem()),
        ("cert.pem", ours.certificate_pem()),
        ("key.pem", ours.key_pem()),
        ("others.pem", others.certificate_pem()),
        ("others-key.pem", others.key_pem()),
    ] {
        scene.write_file(file, &content);
    }
    let key = ours.key_pem();
    let tls = |more: &str| format!("tls = {{ ca_file = 'ca.pem'{more} }}");
    let with = tls(", cert_file = 'cert.pem', key_file = 'key.pem'");
    let said = doctor(&scene, &url, &with, &[]).await.expect(0);
    let secret = key.lines().nth(1).unwrap();
    assert!(!said.stderr.contains(secret) && !said.stdout.contains(secret));
    assert!(!scene.new_requests().is_empty());
    for source in [
        tls(""),
        tls(", cert_file = 'others.pem', key_file = 'others-key.pem'"),
    ] {
        let said = doctor(&scene, &url, &source, &[]).await.expect(1);
        let line = search(&said);
        // With TLS 1.3 the server refuses after the handshake: its reason may be lost when it closes while more is sent.
        let refused = ["`tls.cert_file`", "broke off", "cannot connect"];
        assert!(refused.iter().any(|text| line.contains(text)), "{line}");
    }
    // A key that is not the certificate's, and what is neither.
    let mixed = tls(", cert_file = 'cert.pem', key_file = 'others-key.pem'");
    for source in [
        mixed,
        tls(", cert_file = 'cert.pem', key_file = 'cert.pem'"),
    ] {
        let said = doctor(&scene, &url, &source, &[]).await.expect(1);
        assert!(said.stdout.contains("tls.cert_file"), "{}", said.stdout);
        assert!(!said.stdout.contains(secret), "{}", said.stdout);
    }
    assert_eq!(scene.new_requests().len(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed_whatever_their_kind() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let (other, heard_there) = recorder(vec!["HTTP/1.1 200 OK\r\n\r\n".to_owned()]).await;
    let kinds = [301, 302, 303, 307, 308];
    let location = format!("http://me:{SECRET}@{other}/login?token={SECRET}#{SECRET}");
    let answers = kinds.map(|status| {
        format!("HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let (at, heard) = recorder(answers.to_vec()).await;
    let source = format!("{WITH_TOKEN}\nheaders = {{ X-Api-Key = '${{CANARY}}' }}");
    for status in kinds {
        let said = doctor(&scene, &format!("http://{at}"), &source, &[]).await;
        let line = search(&said.expect(1));
        let expected = format!("answered {status}, a redirect to `http://{other}/login`");
        assert!(line.contains(&expected), "{line}");
    }
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), kinds.len());
    assert!(heard.iter().all(|request| request.contains(SECRET)));
    assert_eq!(*heard_there.lock().unwrap(), Vec::<String>::new());
}

/// The usual variables hold, but not on this machine; through a tunnel the proxy sees nothing but the host.
#[tokio::test]
async fn a_proxy_of_the_environment_sees_no_more_than_it_must() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let refusal = "HTTP/1.1 502 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
    let (at, heard) = recorder(vec![refusal]).await;
    let proxy = format!("http://who:canary-7b20-proxy@{at}");
    let take = || std::mem::take(&mut *heard.lock().unwrap());
    for variable in ["HTTPS_PROXY", "ALL_PROXY"] {
        let environment = [(variable, proxy.as_str())];
        let said = doctor(
            &scene,
            "https://tempo.invalid:3200",
            WITH_TOKEN,
            &environment,
        )
        .await;
        said.expect(1);
        let heard = take();
        assert!(!heard.is_empty(), "{variable}");
        for request in heard {
            assert!(
                request.starts_with("CONNECT tempo.invalid:3200 "),
                "{request}"
            );
            assert!(!request.contains(SECRET), "{request}");
        }
    }
    let environment = [("HTTP_PROXY", proxy.as_str())];
    // Written without TLS, so the proxy reads all of it: README and docs/SECURITY.md say so.
    doctor(
        &scene,
        "http://tempo.invalid:3200",
        WITH_TOKEN,
        &environment,
    )
    .await
    .expect(1);
    let plain = take();
    assert!(
        plain[0].starts_with("GET http://tempo.invalid:3200/api/search?"),
        "{plain:?}"
    );
    // Neither of these goes through it.
    let exempt = [
        ("HTTP_PROXY", proxy.as_str()),
        ("NO_PROXY", "tempo.invalid"),
    ];
    doctor(&scene, "http://tempo.invalid:3200", WITH_TOKEN, &exempt)
        .await
        .expect(1);
    let loopback = [
        ("HTTP_PROXY", proxy.as_str()),
        ("ALL_PROXY", proxy.as_str()),
    ];
    doctor(&scene, &scene.simulator.url(), WITH_TOKEN, &loopback)
        .await
        .expect(0);
    assert_eq!(take(), Vec::<String>::new());
}

#[tokio::test]
async fn the_way_to_the_database_is_encrypted_or_it_is_said_that_it_is_not() {
    let scene = Scene::new(tempo(&hours(1, 10))).await;
    let options = scene.database.options();
    let socket = options.get_socket().unwrap().join(".s.PGSQL.5432");
    let behind = Behind::Postgres(socket);
    let authority = Authority::new("databases");
    scene.write_file("ca.pem", &authority.pem());
    scene.write_file("other.pem", &Authority::new("others").pem());
    let encrypted = door(behind.clone(), &authority.issue("localhost"), None).await;
    let plain = plain_door(behind).await;
    // 0.0.0.0 is this machine too, and no name of it.
    let url = |host: &str, at: SocketAddr, parameters: &str| {
        let url = Url::parse(&scene.database.url()).unwrap();
        let (user, password) = (url.username(), url.password().unwrap());
        let (port, database) = (at.port(), url.path());
        format!("postgres://{user}:{password}@{host}:{port}{database}?{parameters}")
    };
    let status = async |url: String, code: i32| {
        let said = scene
            .command_with(&["status"], &[("DATABASE_URL", &url)])
            .await;
        said.expect(code).stderr
    };
    let warning = "is not encrypted";
    for (host, at, parameters, warned) in [
        ("0.0.0.0", plain, "", true),
        ("0.0.0.0", plain, "sslmode=disable", false),
        ("127.0.0.1", plain, "", false),
        ("0.0.0.0", encrypted, "", false),
        (
            "localhost",
            encrypted,
            "sslmode=verify-full&sslrootcert=ca.pem",
            false,
        ),
    ] {
        let said = status(url(host, at, parameters), 0).await;
        assert_eq!(
            said.contains(warning),
            warned,
            "{host} {parameters}: {said}"
        );
    }
    for (host, at, parameters, says) in [
        ("0.0.0.0", plain, "sslmode=require", "does not support TLS"),
        (
            "localhost",
            encrypted,
            "sslmode=verify-full",
            "UnknownIssuer",
        ),
        (
            "localhost",
            encrypted,
            "sslmode=verify-ca&sslrootcert=other.pem",
            "UnknownIssuer",
        ),
        (
            "127.0.0.1",
            encrypted,
            "sslmode=verify-full&sslrootcert=ca.pem",
            "not valid for name",
        ),
    ] {
        let said = status(url(host, at, parameters), 1).await;
        assert!(said.contains(says), "{host} {parameters}: {said}");
    }
}
