//! What every page has: its head, its style, its frame. One answer holds all of it, and asks for nothing else.

use axum::{
    http::{HeaderValue, StatusCode, header::CONTENT_SECURITY_POLICY},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Colours, and how things stand.
const STYLE: &str = include_str!("style.css");
/// The icon, as a picture of its own would be another request.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='3' fill='%231f6f5c'/%3E%3Cpath d='M4 4h3v3H4zm5 0h3v3H9zM4 9h3v3H4z' fill='%23fff'/%3E%3C/svg%3E";

/// A page.
pub(super) struct Page {
    /// Its title, without the program's name.
    pub title: String,
    /// Where it is: the names and addresses of the pages above it.
    pub trail: Vec<(String, String)>,
    /// What stands on it.
    pub main: Markup,
    /// Seconds after which the browser asks again, if it was told to.
    pub refresh_s: Option<u32>,
    /// Under everything: when and by whom it was made.
    pub foot: Markup,
}

impl Page {
    /// As an answer.
    pub fn answer(self, status: StatusCode) -> Response {
        // Names this answer's own style, and no other that somebody may have smuggled in.
        let mut number = [0; 18];
        if let Err(error) = getrandom::fill(&mut number) {
            tracing::warn!(%error, "no random number for a page");
        }
        let nonce = STANDARD.encode(number);
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · tempo-harvest" }
                    link rel="icon" href=(ICON);
                    style nonce=(nonce) { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        nav aria-label="Where you are" {
                            ol.trail {
                                li { a.brand href="/" { "tempo-harvest" } }
                                @for (name, address) in &self.trail {
                                    li { a href=(address) { (name) } }
                                }
                                @if !self.trail.is_empty() || self.title != "Overview" {
                                    li aria-current="page" { (self.title) }
                                }
                            }
                        }
                        p.refresh {
                            @if let Some(seconds) = self.refresh_s {
                                "Asked again every " (seconds) " s · " a href="?" { "Stop" }
                            } @else {
                                a href="" { "Refresh" } " · " a href="?refresh=15" { "Every 15 s" }
                            }
                        }
                    }
                    main id="main" tabindex="-1" { (self.main) }
                    footer { (self.foot) }
                }
            }
        };
        let mut response = (status, Html(markup.into_string())).into_response();
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let headers = response.headers_mut();
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        if let Some(seconds) = self.refresh_s {
            headers.insert("refresh", seconds.into());
        }
        response
    }
}
