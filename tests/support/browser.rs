//! A real browser, headless, over WebDriver: what it shows, what it complains of, what it asks for, and what axe finds.
//!
//! It needs `chromedriver`, the Chromium that belongs to it, and `axe.min.js` in `target/axe/`. Without them the tests say
//! that they were skipped, unless `TEMPO_HARVEST_BROWSER=required` is set, as `.ci/run` does.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot have what it needs has failed"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use url::Url;

/// Demands the browser.
const REQUIRED: &str = "TEMPO_HARVEST_BROWSER";
const DEADLINE: Duration = Duration::from_secs(60);
/// As root there is no sandbox, and nothing may ask the network by itself.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Eyes {
    pub dark: bool,
    pub width: u32,
}

/// Light, dark, and light on a telephone.
pub const ALL_EYES: [Eyes; 3] = [
    Eyes {
        dark: false,
        width: 1360,
    },
    Eyes {
        dark: true,
        width: 1360,
    },
    Eyes {
        dark: false,
        width: 390,
    },
];

/// A browser, ended with its driver when it is dropped.
pub struct Browser {
    client: Client,
    axe: String,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts it; `None` where there is none and none is demanded.
    pub async fn start() -> Option<Self> {
        let required = std::env::var(REQUIRED).is_ok_and(|value| value == "required");
        let missing = |what: &str| {
            assert!(!required, "{REQUIRED}=required, and {what}");
            eprintln!("skipped: {what}; .ci/run installs it, and {REQUIRED}=required demands it");
        };
        let Ok(axe) = std::fs::read_to_string(target().join("axe/axe.min.js")) else {
            missing("there is no target/axe/axe.min.js");
            return None;
        };
        let driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut driver) = driver else {
            missing("there is no chromedriver");
            return None;
        };
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(DEADLINE, async {
            loop {
                let line = said.next_line().await.unwrap().unwrap();
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    return port.trim_end_matches('.').to_owned();
                }
            }
        });
        let port = port.await.unwrap();
        let profile = TempDir::new().unwrap();
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let capabilities = json!({
            "browserName": "chrome",
            "timeouts": { "script": 120_000, "pageLoad": 120_000 },
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let capabilities: Capabilities = serde_json::from_value(capabilities).unwrap();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await;
        let Ok(client) = client else {
            missing("chromedriver has no Chromium");
            return None;
        };
        // Not the page for new tabs, which goes on loading.
        client.goto("about:blank").await.unwrap();
        Some(Self {
            client,
            axe,
            _driver: driver,
            _profile: profile,
        })
    }

    /// Opens a page, takes its picture into `target/dashboard/NAME.png`, and holds it to what every page must be: nothing on
    /// the console, no request to anywhere else, nothing serious found by axe, and nothing wider than the screen.
    pub async fn look(&self, url: &str, eyes: Eyes, name: &str) {
        let scheme = if eyes.dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
        let screen =
            json!({ "width": eyes.width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", screen)
            .await;
        self.log("browser").await;
        self.log("performance").await;
        self.client.goto(url).await.unwrap();
        // Two frames, and it has been laid out.
        let laid_out = "const done = arguments[arguments.length - 1];
            requestAnimationFrame(() => requestAnimationFrame(() => done()));";
        self.client
            .execute_async(laid_out, Vec::new())
            .await
            .unwrap();

        let picture = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.devtools("Page.captureScreenshot", picture).await;
        let picture = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        let folder = target().join("dashboard");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}-{scheme}-{}.png", eyes.width));
        std::fs::write(file, picture).unwrap();

        let complaints: Vec<Value> = self.log("browser").await;
        // A page that is not there is asked for on purpose.
        let complaints: Vec<_> = complaints
            .iter()
            .filter(|entry| {
                !entry["message"]
                    .as_str()
                    .unwrap()
                    .contains("404 (Not Found)")
            })
            .collect();
        assert!(
            complaints.is_empty(),
            "{name}: on the console: {complaints:?}"
        );
        let origin = Url::parse(url).unwrap().origin();
        let mut asked = 0;
        for entry in self.log("performance").await {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            if message["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let request = message["message"]["params"]["request"]["url"]
                .as_str()
                .unwrap();
            let to = Url::parse(request).unwrap();
            // What the browser brings of its own.
            if to.scheme() == "chrome" {
                continue;
            }
            assert!(
                to.scheme() == "data" || to.origin() == origin,
                "{name} asks {request}"
            );
            asked += i32::from(to.scheme() != "data");
        }
        assert_eq!(asked, 1, "{name}: one page, and nothing beside it");

        let wide = "return [document.documentElement.scrollWidth, window.innerWidth]";
        let wide = self.client.execute(wide, Vec::new()).await.unwrap();
        assert!(
            wide[0].as_i64() <= wide[1].as_i64(),
            "{name}: wider than the screen: {wide}"
        );
        self.client.execute(&self.axe, Vec::new()).await.unwrap();
        let found = "const done = arguments[arguments.length - 1];
            axe.run(document, { resultTypes: ['violations'] }).then(found => done(found.violations.map(
                found => [found.impact, found.id, found.help, found.nodes.slice(0, 3).map(node => node.html.slice(0, 300))])));";
        let found = self.client.execute_async(found, Vec::new()).await.unwrap();
        let serious: Vec<&Value> = found
            .as_array()
            .unwrap()
            .iter()
            .filter(|found| found[0] == "serious" || found[0] == "critical")
            .collect();
        assert!(
            serious.is_empty(),
            "{name}, {eyes:?}: axe finds {serious:#?}"
        );
    }

    /// What a page says in an expression of JavaScript.
    pub async fn says(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        self.client.execute(&script, Vec::new()).await.unwrap()
    }

    /// Ends it in order.
    pub async fn end(self) {
        self.client.close().await.unwrap();
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let body = json!({ "type": kind });
        let log = self
            .client
            .issue_cmd(Vendor {
                path: "se/log",
                body,
            })
            .await
            .unwrap();
        log.as_array().unwrap().clone()
    }

    /// Gives a command to the page that is open. Just after one page has taken another's place there may be none for a moment,
    /// or none of any width: then it is given again.
    async fn devtools(&self, command: &str, params: Value) -> Value {
        let body = json!({ "cmd": command, "params": params });
        let mut tries = 0;
        loop {
            tries += 1;
            let path = "goog/cdp/execute";
            let body = body.clone();
            match self.client.issue_cmd(Vendor { path, body }).await {
                Ok(answer) => return answer,
                Err(error) => {
                    let said = error.to_string();
                    let passes = said.contains("aborted by navigation") || said.contains("0 width");
                    assert!(tries < 20 && passes, "{command}: {error}");
                }
            }
        }
    }
}

/// What WebDriver does not have, and chromedriver does.
#[derive(Debug)]
struct Vendor {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
