//! What each failure of a request means, decided in one place.

use std::time::Duration;

use super::limits::Learned;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The server named a limit: remember it, ask accordingly. No backoff.
    Limit(Learned),
    /// The answer is larger than the server can send, or than we accept: split the window.
    TooLarge,
    /// The server, a gateway or we ourselves gave up waiting: retry, and the second time in a row split the window.
    Timeout,
    /// Too many requests (429): wait, then retry.
    Throttled,
    /// An outage or a broken answer: back off and retry.
    Passing,
    /// Credentials, tenant, base path, or a login page in between: retrying will hardly help.
    Access,
    /// The server refuses the request itself, with its reason: the job is wrong.
    Query,
}

/// A request that brought no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What to do about it.
    pub class: Class,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// What went wrong and what to do, the server's own words included; never a secret.
    pub message: String,
    /// How long the server asked us to wait.
    pub retry_after: Option<Duration>,
    /// From sending to the failure; waiting for a place to send from does not count.
    pub elapsed: Duration,
}

impl Failure {
    /// A failure without an HTTP answer.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        // A server's words may hold anything; PostgreSQL and terminals do not take everything.
        let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Self {
            class,
            status: None,
            message: message.into().chars().map(printable).collect(),
            retry_after: None,
            elapsed: Duration::ZERO,
        }
    }

    /// Whether an answer that Tempo did send is larger than we accept.
    pub fn is_more_than_read(&self) -> bool {
        self.class == Class::TooLarge && self.status.is_none_or(|status| status < 400)
    }

    /// A failure of an answer that came with a status.
    pub fn of_answer(class: Class, status: u16, message: impl Into<String>) -> Self {
        Self {
            status: Some(status),
            ..Self::new(class, message)
        }
    }
}

/// The parts of a refused answer that its meaning is read from.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// HTTP status.
    pub status: u16,
    /// Whether the body is an HTML page.
    pub html: bool,
    /// The body as text, shortened.
    pub text: &'a str,
    /// `Location` of a redirect, without its query.
    pub location: Option<&'a str>,
    /// Whether a tenant was sent.
    pub tenant_sent: bool,
    /// Whether credentials were sent.
    pub credentials_sent: bool,
}

impl Refusal<'_> {
    /// What the refusal means.
    pub fn class(&self) -> Class {
        let says = |words: &str| self.text.contains(words);
        if self.status >= 400 && (says("larger than the max") || says("message larger than max")) {
            return Class::TooLarge;
        }
        match self.status {
            300..400 | 401 | 403 | 404 | 405 | 407 | 511 => Class::Access,
            408 | 504 => Class::Timeout,
            429 => Class::Throttled,
            423 | 425 => Class::Passing,
            400..500 if self.html => Class::Access,
            // What Tempo itself says of a request, and what is said of one that is too long.
            400 | 413 | 414 | 422 => {
                Learned::from_refusal(self.text).map_or(Class::Query, Class::Limit)
            }
            400..500 => Class::Access,
            _ if says("deadline exceeded") => Class::Timeout,
            _ => Class::Passing,
        }
    }

    /// What went wrong, and what to do about it.
    pub fn message(&self) -> String {
        let status = self.status;
        if self.location.is_some_and(str::is_empty) {
            return format!(
                "Tempo's URL answered {status}, a redirect that does not say where to: set `url` to Tempo's own address"
            );
        }
        if let Some(location) = self.location {
            return format!(
                "Tempo's URL answered {status}, a redirect to `{location}`: a login page, or the URL has moved; redirects are \
                 not followed because they would carry the credentials along. Set `url` to Tempo's own address"
            );
        }
        let said = if self.html {
            "an HTML page".to_owned()
        } else if self.text.is_empty() {
            "nothing more".to_owned()
        } else {
            format!("`{}`", self.text)
        };
        let hint = match status {
            _ if self.html && status < 500 => {
                ": a login or error page of something in front of Tempo; check `url` and the credentials"
            }
            401 if self.text.contains("no org id") && !self.tenant_sent => {
                ": this Tempo is multi-tenant; set `tenant` in the source"
            }
            401 if !self.credentials_sent => {
                ": it wants credentials; set `basic_auth` or `bearer_token` in the source"
            }
            401 | 403 => {
                ": it does not accept these credentials or this tenant; check `basic_auth`, `bearer_token` and `tenant`"
            }
            404 | 405 => ": there is no Tempo API at this address; check the path in `url`",
            407 | 511 => ": something in front of Tempo wants a login; check `url` and the network",
            413 | 414 => ": the request is too long for it; shorten `query` in [select]",
            400 | 408 | 422 | 423 | 425 | 429 => "",
            400..500 => ": that is not Tempo, but something in front of it; check `url`",
            _ => "",
        };
        format!("Tempo answered {status} and said {said}{hint}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, text: &str, html: bool) -> Class {
        Refusal {
            status,
            html,
            text,
            location: None,
            tenant_sent: false,
            credentials_sent: false,
        }
        .class()
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let refusal = Refusal {
            status: 401,
            html: false,
            text: "",
            location: None,
            tenant_sent: false,
            credentials_sent: true,
        };
        let rejected = "it does not accept these credentials or this tenant";
        let no_api = "there is no Tempo API at this address";
        for (refusal, hint) in [
            (
                Refusal {
                    text: "no org id",
                    ..refusal
                },
                "set `tenant` in the source",
            ),
            (
                Refusal {
                    text: "no org id",
                    tenant_sent: true,
                    ..refusal
                },
                rejected,
            ),
            (
                Refusal {
                    credentials_sent: false,
                    ..refusal
                },
                "set `basic_auth` or `bearer_token`",
            ),
            (
                Refusal {
                    credentials_sent: false,
                    status: 403,
                    ..refusal
                },
                rejected,
            ),
            (Refusal { ..refusal }, rejected),
            (
                Refusal {
                    status: 404,
                    ..refusal
                },
                no_api,
            ),
            (
                Refusal {
                    status: 405,
                    ..refusal
                },
                no_api,
            ),
            (
                Refusal {
                    html: true,
                    text: "<html>",
                    ..refusal
                },
                "check `url` and the credentials",
            ),
            (
                Refusal {
                    location: Some("https://login"),
                    status: 302,
                    ..refusal
                },
                "Set `url` to Tempo's own address",
            ),
        ] {
            let message = refusal.message();
            assert!(message.contains(hint), "{refusal:?}: {message}");
        }
        // Beyond that the server's own words have to do.
        let said = |status, html, text| {
            Refusal {
                status,
                html,
                text,
                ..refusal
            }
            .message()
        };
        assert_eq!(
            said(400, false, "parse error"),
            "Tempo answered 400 and said `parse error`"
        );
        assert_eq!(
            said(500, false, ""),
            "Tempo answered 500 and said nothing more"
        );
        assert_eq!(
            said(500, true, "<html>"),
            "Tempo answered 500 and said an HTML page"
        );
        // A page may have any status below that.
        assert!(said(499, true, "<html>").contains("something in front of Tempo"));
        let hinted = |status| {
            let message = said(status, false, "x");
            let (_, hint) = message.split_once("said `x`").unwrap();
            hint.to_owned()
        };
        for status in [400, 408, 422, 423, 425, 429, 500, 502, 504] {
            assert_eq!(hinted(status), "", "{status}");
        }
        for status in [407, 511] {
            assert!(hinted(status).contains("wants a login"), "{status}");
        }
        for status in [413, 414] {
            assert!(hinted(status).contains("shorten `query`"), "{status}");
        }
        for status in [402, 418, 451, 499] {
            assert!(hinted(status).contains("that is not Tempo"), "{status}");
        }
    }

    #[test]
    fn what_tempo_has_sent_and_is_more_than_we_read_is_no_refusal_of_it() {
        for (failure, is_more) in [
            (Failure::new(Class::TooLarge, "x"), true),
            (Failure::of_answer(Class::TooLarge, 200, "x"), true),
            (Failure::of_answer(Class::TooLarge, 399, "x"), true),
            (Failure::of_answer(Class::TooLarge, 400, "x"), false),
            (Failure::of_answer(Class::TooLarge, 500, "x"), false),
            (Failure::new(Class::Passing, "x"), false),
            (Failure::of_answer(Class::Passing, 200, "x"), false),
        ] {
            assert_eq!(failure.is_more_than_read(), is_more, "{failure:?}");
        }
    }

    #[test]
    fn what_cannot_be_printed_is_replaced() {
        let failure = Failure::of_answer(Class::Passing, 502, "bad\n\0\u{1b}[31m");
        assert_eq!(failure.to_string(), "bad\u{fffd}\u{fffd}\u{fffd}[31m");
        assert_eq!((failure.class, failure.status), (Class::Passing, Some(502)));
    }

    #[test]
    fn each_failure_has_its_class() {
        assert_eq!(
            class(400, "limit 300000 exceeds max limit 262144", false),
            Class::Limit(Learned::MaxResultLimit(262_144))
        );
        assert_eq!(
            class(400, "invalid TraceQL query: parse error", false),
            Class::Query
        );
        assert_eq!(class(400, "<html>", true), Class::Access);
        for status in [302, 401, 402, 403, 404, 410, 418, 431, 451, 511] {
            assert_eq!(class(status, "", false), Class::Access);
        }
        assert_eq!(class(425, "", false), Class::Passing);
        assert_eq!(class(414, "", false), Class::Query);
        assert_eq!(class(429, "job queue full", false), Class::Throttled);
        assert_eq!(
            class(
                500,
                "response larger than the max (20915345 vs 16777216)",
                false
            ),
            Class::TooLarge
        );
        assert_eq!(
            class(500, "received message larger than max (5 vs 4)", false),
            Class::TooLarge
        );
        assert_eq!(
            class(500, "context deadline exceeded", false),
            Class::Timeout
        );
        assert_eq!(class(504, "<html>", true), Class::Timeout);
        for status in [500, 502, 503] {
            assert_eq!(class(status, "<html>Bad gateway", true), Class::Passing);
        }
    }
}
