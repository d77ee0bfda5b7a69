//! What an answer that is none means, and what is shown of it: refusals, what cannot be read, connections that break.
//!
//! Nothing that a server says is shown before the source's secrets are taken out of it.

use std::{borrow::Cow, time::Duration};

use chrono::{DateTime, Utc};
use url::Url;

use super::{Client, exchange::Body};
use crate::{
    container,
    job::Auth,
    tempo::{
        error::{Class, Failure, Refusal},
        setup::{chain, root, tls_hint},
        wire::DecodeError,
    },
};

/// How much of a refusal's text is kept, characters.
const LONGEST_TEXT: usize = 400;
/// How much of a body is looked at for a message, bytes.
const READ_FOR_MESSAGES: usize = 64 << 10;

impl Body {
    /// The beginning of it as text; more is never shown.
    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(READ_FOR_MESSAGES)])
    }
}

impl Client {
    pub(super) fn refused(
        &self,
        body: &Body,
        location: &str,
        retry_after: Option<Duration>,
    ) -> Failure {
        let html = is_html(body);
        let text = self.excerpt(&body.text(), html);
        let location = (300..400)
            .contains(&body.status)
            .then(|| self.excerpt(&without_query(location), false));
        let refusal = Refusal {
            status: body.status,
            html,
            text: &text,
            location: location.as_deref(),
            tenant_sent: self.source.tenant.is_some(),
            credentials_sent: !matches!(self.source.auth, Auth::None),
        };
        let class = if body.status == 200 {
            Class::Access
        } else {
            refusal.class()
        };
        Failure {
            retry_after,
            ..Failure::of_answer(class, body.status, self.scrub(&refusal.message()))
        }
    }

    /// An answer that is not what it should be, or more than can be taken.
    pub(in crate::tempo) fn unreadable(
        &self,
        body: &Body,
        what: &str,
        error: &DecodeError,
    ) -> Failure {
        let class = match error.is_of_size() {
            true => Class::TooLarge,
            false => Class::Passing,
        };
        // It may say back what was wrong, however long that is.
        let said: String = error.to_string().chars().take(READ_FOR_MESSAGES).collect();
        let message = format!("{what} cannot be read: {}", self.excerpt(&said, false));
        Failure {
            class,
            ..self.broken(body, message)
        }
    }

    /// An answer that is not what it should be, and may be next time.
    fn broken(&self, body: &Body, message: String) -> Failure {
        Failure {
            elapsed: body.elapsed,
            ..Failure::of_answer(Class::Passing, body.status, self.scrub(&message))
        }
    }

    pub(in crate::tempo) fn strange(&self, body: &Body) -> Failure {
        let said = self.excerpt(&body.text(), false);
        let kind = self.excerpt(&body.content_type, false);
        let message = match kind.is_empty() {
            true => format!("Tempo's answer does not say what it is (no Content-Type): `{said}`"),
            false => format!("Tempo's answer is neither protobuf nor JSON but `{kind}`: `{said}`"),
        };
        self.broken(body, message)
    }

    pub(super) fn transport(&self, error: reqwest::Error) -> Failure {
        let address = host_and_port(&self.source.url);
        let (class, what) = if error.is_timeout() && !error.is_connect() {
            let seconds = self.source.limits.timeout.as_secs_f64();
            (
                Class::Timeout,
                format!(
                    "no whole answer from Tempo at {address} within {seconds} s (`limits.timeout`)"
                ),
            )
        } else if error.is_connect() {
            (
                Class::Passing,
                format!("cannot connect to Tempo at {address}"),
            )
        } else {
            (
                Class::Passing,
                format!("the connection to Tempo at {address} broke off"),
            )
        };
        let error = error.without_url();
        // What the layers in between say of a connection that is not made only hides why.
        let why = match error.is_connect() {
            true => root(&error),
            false => chain(&error),
        };
        let why = match why.contains("InvalidContentType") {
            true => format!(
                "{why}: this is no TLS; if it speaks plain HTTP there, write `http://` in `url`"
            ),
            false => why,
        };
        let (class, hint) = match tls_hint(&error) {
            // No certificate becomes another one by asking again.
            Some(hint) => (Class::Access, hint.to_owned()),
            None => {
                let host = self.source.url.host_str().unwrap_or_default();
                let hint = container::hint(host, &error, container::is_inside());
                (class, hint)
            }
        };
        Failure::new(class, self.scrub(&format!("{what}: {why}{hint}")))
    }

    /// A server may say back what it was sent: none of it is a secret afterwards.
    fn scrub(&self, text: &str) -> String {
        self.secrets.scrub(text)
    }

    /// What is shown of a server's words. Scrubbed before they are cut, so that no part of a secret is left at the end, and
    /// afterwards, when nothing stands between its parts any more.
    pub(super) fn excerpt(&self, text: &str, html: bool) -> String {
        self.scrub(&shorten(&self.scrub(text), html))
    }
}

pub(super) fn is_html(body: &Body) -> bool {
    let start = body.bytes[..body.bytes.len().min(256)]
        .trim_ascii_start()
        .to_ascii_lowercase();
    body.content_type.starts_with("text/html")
        || start.starts_with(b"<!doctype html")
        || start.starts_with(b"<html")
}

fn host_and_port(url: &Url) -> String {
    format!(
        "{}:{}",
        url.host_str().unwrap_or("?"),
        url.port_or_known_default().unwrap_or_default()
    )
}

/// A redirect's target without what may carry state or tokens.
fn without_query(location: &str) -> String {
    let target = location.split(['?', '#']).next().unwrap_or("");
    match target.split_once("//") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or("");
            format!("{scheme}//{host}{path}")
        }
        None => target.to_owned(),
    }
}

/// One line, at most 400 characters; of an HTML page only its title.
pub fn shorten(text: &str, html: bool) -> String {
    let lower = text.to_ascii_lowercase();
    let title = lower
        .find("<title>")
        .zip(lower.find("</title>"))
        .and_then(|(from, to)| text.get(from + 7..to));
    let text = if html { title.unwrap_or("") } else { text };
    let one_line: Vec<&str> = text.split_whitespace().collect();
    one_line
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_TEXT)
        .collect()
}

/// `Retry-After` in seconds or as an HTTP date, which is measured by the server's own clock.
pub fn retry_after(value: &str, server_time: Option<DateTime<Utc>>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTime::parse_from_rfc2822(value)
        .ok()?
        .with_timezone(&Utc);
    (until - server_time?).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc2822("Sun, 22 Nov 2026 10:00:00 GMT")
            .unwrap()
            .with_timezone(&Utc);
        assert_eq!(retry_after("7", None), Some(Duration::from_secs(7)));
        assert_eq!(
            retry_after("Sun, 22 Nov 2026 10:00:09 GMT", Some(now)),
            Some(Duration::from_secs(9))
        );
        assert_eq!(
            retry_after("Sun, 22 Nov 2026 09:00:00 GMT", Some(now)),
            None
        );
        assert_eq!(retry_after("soon", Some(now)), None);
    }

    #[test]
    fn a_redirect_is_shown_without_what_may_be_secret() {
        for (location, shown) in [
            ("/login?state=x#y", "/login"),
            (
                "https://me:secret@sso.example/a/b?token=x",
                "https://sso.example/a/b",
            ),
            ("https://me:secret@sso.example", "https://sso.example"),
            ("//me:secret@sso.example/", "//sso.example/"),
            ("", ""),
        ] {
            assert_eq!(without_query(location), shown);
        }
    }

    #[test]
    fn a_page_is_shortened_to_its_title() {
        assert_eq!(
            shorten("<html><head><TITLE>Sign in</TITLE></head>…", true),
            "Sign in"
        );
        assert_eq!(shorten("a\n  b\tc", false), "a b c");
    }

    #[tokio::test]
    async fn a_refused_connection_is_known_as_one() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let error = client
            .get(format!("http://{closed}"))
            .send()
            .await
            .unwrap_err()
            .without_url();
        assert_ne!(container::hint("127.0.0.1", &error, true), "");
    }
}
