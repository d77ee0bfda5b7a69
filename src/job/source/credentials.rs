//! How a source lets us in: its headers, its tenant and its authentication.

use secrecy::SecretString;

use super::Auth;
use crate::job::{
    diagnostics::{KeyPath, Problem, quoted},
    http_header,
    reader::Reader,
    secret_file::read_secret_file,
    secrets::MARKER,
    spec::{BasicAuthSpec, SecretText, SourceSpec, UsernameSpec},
};

impl SourceSpec {
    pub(super) fn read_headers(
        &self,
        at: &KeyPath,
        reader: &mut Reader<'_>,
    ) -> Option<Vec<(String, SecretString)>> {
        let at = at.child("headers");
        let mut headers: Vec<(String, SecretString)> = Vec::new();
        let mut names: Vec<&String> = Vec::new();
        let mut is_known = true;
        for (name, value) in self.headers.iter().flatten() {
            let key = at.child(name);
            if let Err(problem) = http_header::check_name(name) {
                reader.refuse(
                    Problem::key(&key, format!("{} {}", key.subject(), problem.message))
                        .fix(problem.fix),
                );
                is_known = false;
                continue;
            }
            if let Some(other) = names.iter().find(|other| other.eq_ignore_ascii_case(name)) {
                let other = at.child(other);
                let message = format!("{} is the same header as `{}`", key.subject(), other.leaf());
                reader.refuse(Problem::conflict(&other, &key, message).fix("keep one of them"));
                is_known = false;
                continue;
            }
            names.push(name);
            match reader.secret(&key, value) {
                Some(text) if !http_header::is_value(&text) => {
                    reader.refuse(
                        Problem::value(&key, "is not a possible header value")
                            .fix("use printable ASCII only"),
                    );
                    is_known = false;
                }
                Some(text) => headers.push((name.clone(), SecretString::from(text))),
                None => is_known = false,
            }
        }
        is_known.then_some(headers)
    }

    /// The tenant: its key, or the header that means the same, which is taken out of `headers`.
    pub(super) fn read_tenant(
        &self,
        at: &KeyPath,
        headers: Option<&mut Vec<(String, SecretString)>>,
        reader: &mut Reader<'_>,
    ) -> Option<Option<String>> {
        let key = at.child("tenant");
        let is_tenant = |name: &String| name.eq_ignore_ascii_case("X-Scope-OrgID");
        let header = self
            .headers
            .iter()
            .flatten()
            .map(|(name, _)| name)
            .find(|name| is_tenant(name));
        let (key, written) = match (&self.tenant, header) {
            (Some(_), Some(header)) => {
                let header = at.child("headers").child(header);
                let message = format!(
                    "{} and {} both say the tenant",
                    key.subject(),
                    header.subject()
                );
                reader.refuse(Problem::conflict(&key, &header, message).fix("keep `tenant`"));
                return None;
            }
            (Some(tenant), None) => (key, tenant.as_str()),
            (None, Some(header)) => {
                if let Some(headers) = headers {
                    headers.retain(|(name, _)| !is_tenant(name));
                }
                let value = self
                    .headers
                    .as_ref()
                    .and_then(|headers| headers.get(header));
                (
                    at.child("headers").child(header),
                    value.map_or("", |value| &value.0),
                )
            }
            (None, None) => return Some(None),
        };
        let tenant = reader.text(&key, written)?;
        if tenant.is_empty() || !http_header::is_value(&tenant) {
            let what = format!("is not a possible tenant: {}", quoted(&tenant));
            reader.refuse(
                Problem::value(&key, what).fix("use printable ASCII only, or leave the key out"),
            );
            return None;
        }
        Some(Some(tenant))
    }

    pub(super) fn read_auth(&self, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Auth> {
        let header = self.headers.iter().flatten().map(|(name, _)| name);
        let header = header
            .into_iter()
            .find(|name| name.eq_ignore_ascii_case("authorization"));
        let kinds: Vec<KeyPath> = [
            self.basic_auth.is_some().then(|| at.child("basic_auth")),
            self.bearer_token
                .is_some()
                .then(|| at.child("bearer_token")),
            self.bearer_token_file
                .is_some()
                .then(|| at.child("bearer_token_file")),
            header.map(|name| at.child("headers").child(name)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [first, second, ..] = kinds.as_slice() {
            let message = format!(
                "{} and {} are two kinds of authentication",
                first.subject(),
                second.subject()
            );
            reader.refuse(Problem::conflict(first, second, message).fix("keep one of them"));
            return None;
        }
        if let Some(basic) = &self.basic_auth {
            return read_basic_auth(basic, &at.child("basic_auth"), reader);
        }
        let (key, token) = match (&self.bearer_token, &self.bearer_token_file) {
            (Some(token), _) => {
                let key = at.child("bearer_token");
                let token = reader.secret(&key, token)?;
                (key, token)
            }
            (None, Some(file)) => {
                let key = at.child("bearer_token_file");
                let token = read_secret_file(&key, file, reader)?;
                (key, token)
            }
            (None, None) => return Some(Auth::None),
        };
        if token.is_empty() {
            reader.refuse(
                Problem::value(&key, "is empty").fix("give the token, or leave the key out"),
            );
            return None;
        }
        if !token.chars().all(|c| c.is_ascii_graphic()) {
            let problem = Problem::value(&key, "is not a possible bearer token");
            reader.refuse(
                problem.fix("it is printable ASCII without spaces, and without the word `Bearer`"),
            );
            return None;
        }
        Some(Auth::Bearer(SecretString::from(token)))
    }
}

fn read_basic_auth(spec: &BasicAuthSpec, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Auth> {
    let key = at.child("username");
    let username = match &spec.username {
        UsernameSpec::Text(text) => reader.text(&key, text),
        UsernameSpec::Number(number) => Some(number.to_string()),
    };
    let username = username.and_then(|username| {
        let is_possible =
            !username.is_empty() && !username.contains(|c: char| c == ':' || c.is_control());
        if !is_possible {
            // It is not shown: with a `:` in it, it may be username and password.
            let problem = Problem::value(&key, "is not a possible username");
            reader.refuse(problem.fix("it is not empty, and has no `:`"));
        }
        is_possible.then_some(username)
    });
    let (literal, file) = (at.child("password"), at.child("password_file"));
    let password = match (&spec.password, &spec.password_file) {
        (Some(_), Some(_)) => {
            let message = format!(
                "{} and `password_file` are two passwords",
                literal.subject()
            );
            reader.refuse(Problem::conflict(&literal, &file, message).fix("keep one of them"));
            None
        }
        (Some(password), None) => reader.secret(&literal, password),
        (None, Some(path)) => read_secret_file(&file, path, reader),
        (None, None) => {
            if !reader.is_unusable(&literal) && !reader.is_unusable(&file) {
                let problem = Problem::key(&literal, format!("{} is missing", literal.subject()));
                reader
                    .refuse(problem.fix("add `password = \"${VAR}\"` or `password_file = \"…\"`"));
            }
            None
        }
    };
    Some(Auth::Basic {
        username: username?,
        password: SecretString::from(password?),
    })
}

impl Reader<'_> {
    /// What a secret's text expands to. [`MARKER`] is refused: it stands for a secret that is not here.
    fn secret(&mut self, key: &KeyPath, written: &SecretText) -> Option<String> {
        if written.0 == MARKER {
            let what = "is written literally in the job file and so is not kept in the database";
            self.refuse(Problem::value(key, what).fix("use `${VAR}` or a `*_file` there"));
            return None;
        }
        self.text(key, &written.0)
    }
}
