//! Which values of a source are secrets, and how a source is stored without those that stand in the file itself.
//!
//! A secret taken from the environment or from a file is stored as that reference. One that is written literally is
//! replaced by [`MARKER`]; whoever resolves the source elsewhere is then told so ([`super::source`]).

use super::diagnostics::KeyPath;
use super::env;
use super::spec::{SecretText, SourceSpec};

/// What stands in a stored source in place of a literal secret.
pub(super) const MARKER: &str = "(a literal secret, not stored)";

/// Parts of the names of headers whose values are secrets.
const SECRET_HEADER_PARTS: [&str; 13] = [
    "auth",
    "cookie",
    "token",
    "key",
    "secret",
    "pass",
    "pwd",
    "credential",
    "session",
    "signature",
    "bearer",
    "jwt",
    "private",
];

/// Whether the value of the header `name` is a secret, by its name.
fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_HEADER_PARTS.iter().any(|part| name.contains(part))
}

/// Whether the value of the key `path` is never to be shown, whatever is wrong with it.
///
/// Careful rather than exact: no header's value is shown, nor what stands where a table with secrets should.
pub(super) fn is_secret_key(path: &KeyPath) -> bool {
    matches!(
        path.leaf(),
        "bearer_token" | "password" | "basic_auth" | "headers"
    ) || path.table().is_some_and(|table| table.leaf() == "headers")
}

impl SourceSpec {
    /// The secrets of this source, each with the path of its key.
    fn secrets(&mut self) -> Vec<(KeyPath, &mut SecretText)> {
        let root = KeyPath::root();
        let mut secrets = Vec::new();
        if let Some(token) = &mut self.bearer_token {
            secrets.push((root.child("bearer_token"), token));
        }
        if let Some(password) = self
            .basic_auth
            .as_mut()
            .and_then(|basic| basic.password.as_mut())
        {
            secrets.push((root.child("basic_auth").child("password"), password));
        }
        for (name, value) in self.headers.iter_mut().flatten() {
            if is_secret_header(name) {
                secrets.push((root.child("headers").child(name), value));
            }
        }
        secrets
    }

    /// This source as it may be stored: unexpanded, with a marker in place of every secret that is written literally.
    ///
    /// A reference's default counts as written: `${TOKEN:-abc}` is replaced, `Bearer ${TOKEN}` is kept.
    #[must_use]
    pub fn storable(&self) -> Self {
        let mut storable = self.clone();
        for (_, secret) in storable.secrets() {
            if env::is_literal(&secret.0) {
                secret.0 = MARKER.to_owned();
            }
        }
        storable
    }

    /// The key of the first secret that is written literally, such as `basic_auth.password`, if there is one.
    pub fn has_literal_secret(&self) -> Option<KeyPath> {
        self.literal_secrets().into_iter().next()
    }

    /// The keys of all secrets that are written literally.
    pub(super) fn literal_secrets(&self) -> Vec<KeyPath> {
        let mut source = self.clone();
        source
            .secrets()
            .into_iter()
            .filter(|(_, secret)| env::is_literal(&secret.0))
            .map(|(key, _)| key)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(toml: &str) -> SourceSpec {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn literal_secrets_are_not_stored() {
        let written = spec(
            "url = 'http://x'\nbearer_token = 'hunter1'\nbasic_auth = { username = 7, password = 'hunter2' }\n\
             headers = { Cookie = 'hunter3', x-api-KEY = '${KEY:-hunter4}', X-Team = 'shop', Authorization = 'Basic ${BASIC}' }\n",
        );
        let stored = serde_json::to_string_pretty(&written.storable()).unwrap();
        assert!(!stored.contains("hunter"), "{stored}");
        assert!(
            stored.contains("\"shop\"") && stored.contains("Basic ${BASIC}"),
            "{stored}"
        );
        assert!(!format!("{written:?}").contains("hunter"));
        let literal: Vec<String> = written
            .literal_secrets()
            .iter()
            .map(KeyPath::to_string)
            .collect();
        assert_eq!(
            literal,
            [
                "bearer_token",
                "basic_auth.password",
                "headers.Cookie",
                "headers.x-api-KEY"
            ]
        );
    }

    #[test]
    fn references_are_stored_as_they_are() {
        let written = spec("url = '${URL}'\nbearer_token = '${TOKEN}'\n");
        assert_eq!(written.storable(), written);
        assert_eq!(written.has_literal_secret(), None);
        let json = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<SourceSpec>(&json).unwrap(), written);
    }
}
