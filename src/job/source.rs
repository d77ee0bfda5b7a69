//! A Tempo server, resolved: from the unexpanded [`SourceSpec`] to a [`Source`] that can be talked to.
//!
//! Resolving expands the references, reads the secrets' files and checks every value. It happens where the source is used:
//! in the process that reads the job file, and again in a worker on another host that has the spec from the database.
//! Talking to Tempo is left to the client.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::diagnostics::{KeyPath, Problem, quoted};
use super::env::Env;
use super::http_header;
use super::reader::{Expansion, Reader};
use super::secret_file::{read_path, read_secret_file};
use super::secrets::MARKER;
use super::spec::{
    BasicAuthSpec, CONCURRENCY, Compression, DEFAULT_CONCURRENCY, DEFAULT_MAX_ATTEMPTS,
    DEFAULT_REQUESTS_PER_SECOND, DEFAULT_TIMEOUT, LimitsSpec, MAX_ATTEMPTS, REQUESTS_PER_SECOND,
    SOURCE_RETENTION, SecretText, SourceSpec, TIMEOUT, TRACES_PER_REQUEST, TlsSpec,
    TracesPerRequestSpec, UsernameSpec,
};

/// A Tempo server that can be talked to.
#[derive(Debug, Clone)]
pub struct Source {
    /// The source's name: its identity, whatever the URL.
    pub name: String,
    /// `http` or `https`, without credentials, query and fragment; the path ends with `/`, so that [`Url::join`] keeps it.
    pub url: Url,
    /// The tenant, sent as `X-Scope-OrgID`.
    pub tenant: Option<String>,
    /// How to be let in.
    pub auth: Auth,
    /// Further headers for every request: valid names, none twice, none that the client sets itself.
    pub headers: Vec<(String, SecretString)>,
    /// Certificates.
    pub tls: Tls,
    /// How long Tempo keeps traces, when that is known.
    pub retention: Option<Duration>,
    /// Whether it is to compress its answers.
    pub compression: Compression,
    /// How much to ask of it.
    pub limits: Limits,
}

impl Source {
    /// Whether the two are alike in everything, secrets included: a client made for one may be used for the other.
    pub fn is_same(&self, other: &Self) -> bool {
        let headers = |source: &Self| -> Vec<(String, String)> {
            source
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()))
                .collect()
        };
        let auth = match (&self.auth, &other.auth) {
            (Auth::None, Auth::None) => true,
            (Auth::Bearer(a), Auth::Bearer(b)) => a.expose_secret() == b.expose_secret(),
            (
                Auth::Basic {
                    username: a,
                    password: x,
                },
                Auth::Basic {
                    username: b,
                    password: y,
                },
            ) => a == b && x.expose_secret() == y.expose_secret(),
            _ => false,
        };
        auth && self.name == other.name
            && self.url == other.url
            && self.tenant == other.tenant
            && headers(self) == headers(other)
            && self.tls == other.tls
            && self.retention == other.retention
            && self.compression == other.compression
            && self.limits == other.limits
    }
}

/// How a Tempo lets us in. An `Authorization` header of the user's own is among [`Source::headers`].
#[derive(Debug, Clone)]
pub enum Auth {
    /// It lets everyone in, or knows us by something else.
    None,
    /// HTTP basic authentication.
    Basic {
        /// The username, without `:`.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A bearer token: printable ASCII without spaces.
    Bearer(SecretString),
}

/// Certificates, as absolute paths of PEM files. `cert_file` and `key_file` come together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The certificate authority to trust.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub cert_file: Option<PathBuf>,
    /// Our own certificate's key.
    pub key_file: Option<PathBuf>,
}

/// How much to ask of a Tempo.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Requests at once, 1 to 64, by all processes together.
    pub concurrency: usize,
    /// Requests per second, 0.001 to 10,000, by all processes together.
    pub requests_per_second: f64,
    /// How many traces to ask for at once.
    pub traces_per_request: TracesPerRequest,
    /// How long to wait for an answer, 100ms to 1h.
    pub timeout: Duration,
    /// How often a window is tried, 1 to 100.
    pub max_attempts: u32,
}

/// How many traces to ask for in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracesPerRequest {
    /// About twice what was counted.
    Auto,
    /// So many, 1 to 1,000,000.
    Fixed(u32),
}

impl SourceSpec {
    /// What this spec amounts to in the process that asks: references expanded, files read, everything checked.
    ///
    /// # Errors
    /// Everything that is wrong, the keys as paths below `name`: unset variables, files that cannot be read, impossible
    /// values, and secrets that were written literally in a job file and so are not in the database.
    pub fn resolve(&self, name: &str, env: &dyn Env) -> Result<Source, Vec<Problem>> {
        let nothing = BTreeSet::new();
        let mut reader = Reader::new(Expansion::With(env), &nothing);
        let source = self.read(Some(name), &KeyPath::root().child(name), &mut reader);
        match source {
            Some(source) if reader.problems.is_empty() => Ok(source),
            _ => Err(reader.problems),
        }
    }

    /// The same with what `reader` knows of the file; problems go there. `None` when anything is wrong or not known; without a
    /// `name` the URL gives it.
    pub(super) fn read(
        &self,
        name: Option<&str>,
        at: &KeyPath,
        reader: &mut Reader<'_>,
    ) -> Option<Source> {
        let url = reader.text(&at.child("url"), &self.url).and_then(|text| {
            let url = read_url(&text);
            reader.accept(&at.child("url"), url)
        });
        let mut headers = self.read_headers(at, reader);
        let tenant = self.read_tenant(at, headers.as_mut(), reader);
        let auth = self.read_auth(at, reader);
        let tls = read_tls(self.tls.as_ref(), &at.child("tls"), reader);
        let retention = reader.optional_duration(
            &at.child("retention"),
            self.retention.as_ref(),
            SOURCE_RETENTION,
        );
        let limits = read_limits(self.limits.as_ref(), &at.child("limits"), reader);
        if reader.has_unusable(at) {
            return None;
        }
        let (url, tenant) = (url?, tenant?);
        Some(Source {
            name: name.map_or_else(|| default_name(&url, tenant.as_ref()), str::to_owned),
            url,
            tenant,
            auth: auth?,
            headers: headers?,
            tls: tls?,
            retention: retention?,
            compression: self.compression.unwrap_or_default(),
            limits: limits?,
        })
    }

    fn read_headers(
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
    fn read_tenant(
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

    fn read_auth(&self, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Auth> {
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

    /// Makes the paths of files absolute, where `folder`, absolute itself, is what relative ones begin at.
    ///
    /// A path that begins with a reference is left as it is: what it expands to must be absolute.
    pub(super) fn make_paths_absolute(&mut self, folder: &Path) {
        let tls = self
            .tls
            .iter_mut()
            .flat_map(|tls| [&mut tls.ca_file, &mut tls.cert_file, &mut tls.key_file]);
        let password = self
            .basic_auth
            .iter_mut()
            .map(|basic| &mut basic.password_file);
        for path in tls
            .chain(password)
            .chain([&mut self.bearer_token_file])
            .flatten()
        {
            let begins_elsewhere =
                path.is_empty() || path.starts_with("${") || path.starts_with('~');
            if !begins_elsewhere && Path::new(path.as_str()).is_relative() {
                // A folder whose name looks like a reference must not become one.
                let folder = folder.to_string_lossy().replace("${", "$${");
                *path = format!("{}/{path}", folder.trim_end_matches('/'));
            }
        }
    }
}

/// The name of a source that has none: its tenant, and host, port and path of its URL.
fn default_name(url: &Url, tenant: Option<&String>) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let tenant = tenant.map_or_else(String::new, |tenant| format!("{tenant}@"));
    format!("{tenant}{host}:{port}{}", url.path().trim_end_matches('/'))
}

/// What is asked of Tempo comes behind its base URL.
const API_PATHS: [&str; 6] = [
    "/api/search",
    "/api/v2/search",
    "/api/traces",
    "/api/v2/traces",
    "/api/echo",
    "/api/metrics/query_range",
];

/// Reads the base URL of a Tempo; the error is the end of a sentence, and a fix.
///
/// The text is shown only where it cannot hold a password or a token.
pub(super) fn read_url(text: &str) -> Result<Url, (String, String)> {
    const EXAMPLE: &str = "write for example `http://localhost:3200`";
    let shown = if text.contains(['@', '?', '#']) {
        String::new()
    } else {
        format!(": {}", quoted(text))
    };
    // The parser would silently drop tabs and line ends.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err((format!("has a space in it{shown}"), "remove it".to_owned()));
    }
    // Taken for the scheme of another URL: `https//tempo`, `http:/tempo`.
    let mistyped = ["http", "https"].into_iter().find_map(|scheme| {
        let rest = text.strip_prefix(scheme)?;
        let host = rest.strip_prefix("//").or(rest.strip_prefix(":/"))?;
        (!host.starts_with('/') && !shown.is_empty()).then(|| format!("{scheme}://{host}"))
    });
    if let Some(meant) = mistyped {
        let fix = format!("write `{meant}`");
        return Err((format!("is not an http or https URL{shown}"), fix));
    }
    let has_scheme = text.starts_with("http://") || text.starts_with("https://");
    let parsed = Url::parse(text)
        .ok()
        .filter(|url| url.host_str().is_some() && has_scheme);
    let Some(mut url) = parsed else {
        let with_scheme = format!("http://{text}");
        let only_lacks_scheme =
            !text.contains("://") && !shown.is_empty() && Url::parse(&with_scheme).is_ok();
        let fix = if only_lacks_scheme {
            format!("write `{with_scheme}`")
        } else {
            EXAMPLE.to_owned()
        };
        return Err((format!("is not an http or https URL{shown}"), fix));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "has credentials in it".to_owned(),
            "use `basic_auth = { username = \"…\", password_file = \"…\" }`".to_owned(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err((
            format!("has a query or a fragment{shown}"),
            "end it with the base path".to_owned(),
        ));
    }
    if url.path().starts_with("//") {
        return Err((
            format!("has two schemes, or a path that begins with `//`{shown}"),
            "write the base URL once".to_owned(),
        ));
    }
    if url.port() == Some(0) {
        return Err((
            format!("has port 0, on which nothing can listen{shown}"),
            EXAMPLE.to_owned(),
        ));
    }
    let path = url.path().trim_end_matches('/');
    if let Some(base) = API_PATHS.iter().find_map(|api| path.strip_suffix(api)) {
        let what = format!("ends with a path of Tempo's API{shown}");
        let mut base_url = url.clone();
        base_url.set_path(base);
        return Err((what, format!("write the base URL, `{base_url}`")));
    }
    let path = format!("{path}/");
    url.set_path(&path);
    Ok(url)
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

fn read_tls(spec: Option<&TlsSpec>, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Tls> {
    let Some(spec) = spec else {
        return Some(Tls::default());
    };
    let (cert, key) = (at.child("cert_file"), at.child("key_file"));
    let lone = match (&spec.cert_file, &spec.key_file) {
        (Some(_), None) => Some((&cert, &key)),
        (None, Some(_)) => Some((&key, &cert)),
        _ => None,
    };
    if let Some((written, missing)) = lone.filter(|(_, missing)| !reader.is_unusable(missing)) {
        let message = format!("{} needs `{}` beside it", written.subject(), missing.leaf());
        reader.refuse(
            Problem::key(written, message).fix(format!("add `{} = \"…\"`", missing.leaf())),
        );
    }
    let mut file = |key: &str, path: &Option<String>| {
        let key = at.child(key);
        match path {
            None => Some(None),
            Some(path) => read_path(&key, path, reader).map(Some),
        }
    };
    let ca_file = file("ca_file", &spec.ca_file);
    let cert_file = file("cert_file", &spec.cert_file);
    let key_file = file("key_file", &spec.key_file);
    Some(Tls {
        ca_file: ca_file?,
        cert_file: cert_file?,
        key_file: key_file?,
    })
}

fn read_limits(spec: Option<&LimitsSpec>, at: &KeyPath, reader: &mut Reader<'_>) -> Option<Limits> {
    let none = LimitsSpec::default();
    let spec = spec.unwrap_or(&none);
    let concurrency = reader.number(
        &at.child("concurrency"),
        spec.concurrency,
        DEFAULT_CONCURRENCY,
        CONCURRENCY,
    );
    let requests_per_second = reader.number(
        &at.child("requests_per_second"),
        spec.requests_per_second,
        DEFAULT_REQUESTS_PER_SECOND,
        REQUESTS_PER_SECOND,
    );
    let key = at.child("traces_per_request");
    let traces_per_request = match &spec.traces_per_request {
        None => Some(TracesPerRequest::Auto),
        Some(TracesPerRequestSpec::Number(number)) => reader
            .number(&key, Some(*number), *number, TRACES_PER_REQUEST)
            .and_then(|number| u32::try_from(number).ok())
            .map(TracesPerRequest::Fixed),
        Some(TracesPerRequestSpec::Text(text)) => reader.text(&key, text).and_then(|text| {
            let auto = match text.as_str() {
                "auto" => Ok(TracesPerRequest::Auto),
                _ => Err((
                    format!("must be `auto` or an integer, not {}", quoted(&text)),
                    "write `auto`".to_owned(),
                )),
            };
            reader.accept(&key, auto)
        }),
    };
    let timeout = reader.duration(
        &at.child("timeout"),
        spec.timeout.as_ref(),
        DEFAULT_TIMEOUT,
        TIMEOUT,
    );
    let max_attempts = reader.number(
        &at.child("max_attempts"),
        spec.max_attempts,
        DEFAULT_MAX_ATTEMPTS,
        MAX_ATTEMPTS,
    );
    Some(Limits {
        concurrency: usize::try_from(concurrency?).ok()?,
        requests_per_second: requests_per_second?,
        traces_per_request: traces_per_request?,
        timeout: timeout?,
        max_attempts: u32::try_from(max_attempts?).ok()?,
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
