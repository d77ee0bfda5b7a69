//! Who may ask: everybody on this machine, or who has the token.
//!
//! Without a token only loopback is listened on, and only a `Host` that means this machine is answered: a page of some
//! other site, whose name was made to lead here (DNS rebinding), would else read what is shown through a visitor's browser.

use std::{fmt, net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY,
            WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// Nothing but what the page itself brings. Pages with a style say so with a policy of their own.
const NOTHING: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What whoever asks has to show.
#[derive(Clone)]
pub struct Token(SecretString);

impl Token {
    /// A token; `None` if the text is empty.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\r', '\n']);
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// How long it is, bytes.
    pub fn length_bytes(&self) -> usize {
        self.0.expose_secret().len()
    }

    /// Whether this is it; takes the same time wherever the difference is.
    fn is(&self, shown: &[u8]) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(shown).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Who may ask.
#[derive(Debug)]
pub enum Access {
    /// Whoever is on this machine.
    ThisMachine,
    /// Who has the token.
    With(Token),
}

impl Access {
    /// Whether who sends these headers is let in.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::With(token) => shown(headers).is_some_and(|shown| token.is(&shown)),
            Self::ThisMachine => is_this_machine(headers),
        }
    }
}

/// Hands on what may be asked, and refuses the rest.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    if access.admits(request.headers()) {
        return next.run(request).await;
    }
    match &*access {
        Access::With(_) => unauthorised(),
        Access::ThisMachine => misdirected(),
    }
}

/// What a request shows: `Bearer TOKEN`, or `Basic` with any user and the token as the password, as a browser asks for it.
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.into());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let login = STANDARD.decode(value).ok()?;
    let colon = login.iter().position(|byte| *byte == b':')?;
    Some(login[colon + 1..].to_vec())
}

fn unauthorised() -> Response {
    let mut response = (
        StatusCode::UNAUTHORIZED,
        "401: this needs the token that was given with --listen-token-file or TEMPO_HARVEST_LISTEN_TOKEN, \
         as `Authorization: Bearer TOKEN`, or in a browser as the password (with any user)\n",
    )
        .into_response();
    response.headers_mut().insert(
        WWW_AUTHENTICATE,
        HeaderValue::from_static("Basic realm=\"tempo-harvest\", charset=\"UTF-8\""),
    );
    response
}

/// Whether `Host` means this machine: an address of the loopback, or `localhost`, with any port (one may be forwarded).
fn is_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.trim_end_matches('.').eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn misdirected() -> Response {
    (
        StatusCode::MISDIRECTED_REQUEST,
        "421: without a token only requests to localhost or 127.0.0.1 are answered; \
         behind a proxy or another name, set TEMPO_HARVEST_LISTEN_TOKEN or --listen-token-file\n",
    )
        .into_response()
}

/// Headers of every answer, refusals included.
pub(super) async fn strict(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(NOTHING));
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn hosts_that_mean_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.:1",
            "127.0.0.1",
            "127.8.9.1:80",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_this_machine(&headers(HOST, host)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "10.0.0.1",
            "[::2]:1",
            "0.0.0.0",
        ] {
            assert!(!is_this_machine(&headers(HOST, host)), "{host}");
        }
        assert!(!is_this_machine(&HeaderMap::new()));
    }

    #[test]
    fn a_token_is_shown_as_bearer_or_as_any_users_password() {
        let token = Token::new("s3cret:with colon\n").unwrap();
        let basic = format!("Basic {}", STANDARD.encode("anyone:s3cret:with colon"));
        for value in [
            "Bearer s3cret:with colon",
            "bearer s3cret:with colon",
            &basic,
        ] {
            assert!(
                token.is(&shown(&headers(AUTHORIZATION, value)).unwrap()),
                "{value}"
            );
        }
        let other = format!("Basic {}", STANDARD.encode("s3cret:with colon"));
        for value in [
            "Bearer",
            "Bearer s3cret",
            "s3cret:with colon",
            "Digest s3cret:with colon",
            &other,
            "Basic !",
        ] {
            let shown = shown(&headers(AUTHORIZATION, value));
            assert!(!shown.is_some_and(|shown| token.is(&shown)), "{value}");
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::new("\n").is_none());
    }
}
