//! What must never be repeated: a source's secrets, in every form in which a server or a library may say them back.
//!
//! A gateway that refuses a request may show what it was sent: as it is, in JSON, in a page, in the address of a login page, or
//! encoded. Whoever means to give a secret away can still do so; this is about those who do not.

use std::{collections::BTreeSet, fmt};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use secrecy::ExposeSecret;

use crate::job::{Auth, Source};

/// What stands in a secret's place.
const HIDDEN: &str = "***";
/// What is shorter is found everywhere by chance.
const SHORTEST: usize = 4;
/// The same for a part of a header's value.
const SHORTEST_PART: usize = 8;
/// Percent-encoding of two kinds: of all but letters and digits, and of what may not stand in a path.
const KEPT_IN_PATHS: &str = "-._~!$&'()*+,;=:@/";

/// The secrets of a source. They are not shown by `Debug` either.
pub(super) struct Secrets {
    /// Every form, longest first: one may be part of another.
    forms: Vec<String>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// All that a request to this source carries and nobody else is to know.
    pub(super) fn of(source: &Source) -> Self {
        let mut secrets = BTreeSet::new();
        match &source.auth {
            Auth::None => {}
            Auth::Basic { username, password } => {
                let password = password.expose_secret();
                secrets.insert(BASE64_STANDARD.encode(format!("{username}:{password}")));
                secrets.insert(password.to_owned());
            }
            Auth::Bearer(token) => {
                secrets.insert(token.expose_secret().to_owned());
            }
        }
        for (_, value) in &source.headers {
            let value = value.expose_secret();
            secrets.extend(parts(value));
            secrets.insert(value.to_owned());
        }
        secrets.retain(|secret| secret.len() >= SHORTEST);
        Self::from_plain(secrets.iter().map(String::as_str))
    }

    fn from_plain<'a>(secrets: impl Iterator<Item = &'a str>) -> Self {
        let forms: BTreeSet<String> = secrets.flat_map(forms).collect();
        let mut forms: Vec<String> = forms.into_iter().collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self { forms }
    }

    /// A text without them.
    pub(super) fn scrub(&self, text: &str) -> String {
        self.forms.iter().fold(text.to_owned(), |text, form| {
            if text.contains(form.as_str()) {
                text.replace(form.as_str(), HIDDEN)
            } else {
                text
            }
        })
    }
}

/// What in a header's value may be a secret by itself: the token after `Bearer`, the password in `Basic`, a cookie's value.
fn parts(value: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for word in value.split([' ', '\t', ';', ',']) {
        parts.push(word.to_owned());
        parts.extend(word.split_once('=').map(|(_, value)| value.to_owned()));
        let login = BASE64_STANDARD
            .decode(word)
            .ok()
            .and_then(|login| String::from_utf8(login).ok());
        if let Some((_, password)) = login.as_ref().and_then(|login| login.split_once(':')) {
            parts.push(password.to_owned());
        }
    }
    parts.retain(|part| part.len() >= SHORTEST_PART);
    parts
}

/// The forms of one secret.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![
        secret.to_owned(),
        percent_encoded(secret, ""),
        percent_encoded(secret, "-._~"),
        percent_encoded(secret, KEPT_IN_PATHS),
        html(secret),
    ];
    forms.push(forms[2].replace("%20", "+"));
    let lower_case: Vec<String> = forms[1..4].iter().map(|form| lower_case(form)).collect();
    forms.extend(lower_case);
    if let Ok(json) = serde_json::to_string(secret) {
        forms.push(json[1..json.len() - 1].to_owned());
    }
    // A form of its own for each place in a longer text that is encoded; what the neighbours have a share in is left out.
    for before in 0..3 {
        let mut padded = vec![b'.'; before];
        padded.extend(secret.bytes());
        for encoded in [
            BASE64_STANDARD_NO_PAD.encode(&padded),
            BASE64_URL_SAFE_NO_PAD.encode(&padded),
        ] {
            let from = [0, 2, 3][before];
            let to = padded.len() / 3 * 4;
            forms.extend(
                encoded
                    .get(from..to)
                    .filter(|own| own.len() >= SHORTEST_PART)
                    .map(str::to_owned),
            );
        }
    }
    forms
}

fn percent_encoded(text: &str, kept: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || kept.contains(c) {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `%2F` as `%2f`.
fn lower_case(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('%');
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        text.push_str(&digits.to_ascii_lowercase());
        text.push_str(rest);
    }
    text
}

fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        let secret = "s3cr/et&+\"word\"~x";
        let secrets = Secrets::from_plain([secret].into_iter());
        for said in [
            secret.to_owned(),
            percent_encoded(secret, ""),
            percent_encoded(secret, "-._~"),
            lower_case(&percent_encoded(secret, "-._~")),
            html(secret),
            serde_json::to_string(secret).unwrap(),
        ] {
            let scrubbed = secrets.scrub(&format!("before {said} after"));
            assert!(scrubbed.contains(HIDDEN), "{said}");
            assert!(!scrubbed.contains("cr"), "{said}: {scrubbed}");
        }
        for before in ["", "a", "ab", "user:", "Bearer "] {
            for after in ["", "x", ":after"] {
                let text = format!("{before}{secret}{after}");
                let encoded = BASE64_STANDARD.encode(&text);
                assert!(secrets.scrub(&encoded).contains(HIDDEN), "{text}");
            }
        }
        assert_eq!(secrets.scrub("nothing of it"), "nothing of it");
        assert_eq!(format!("{secrets:?}"), "Secrets(…)");
    }

    #[test]
    fn what_is_in_a_header_is_hidden_by_itself() {
        let login = BASE64_STANDARD.encode("collector:hunter2hunter2");
        for (value, secret) in [
            ("Bearer abcdefgh".to_owned(), "abcdefgh"),
            (format!("Basic {login}"), "hunter2hunter2"),
            ("theme=dark; session=abcdefgh".to_owned(), "abcdefgh"),
        ] {
            assert!(parts(&value).iter().any(|part| part == secret), "{value}");
        }
    }
}
