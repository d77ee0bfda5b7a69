//! From a [`SourceSpec`] to a [`Source`].
//!
//! Resolving expands the references, reads the secrets' files and checks every value. It happens where the source is used:
//! in the process that reads the job file, and again in a worker on another host that has the spec from the database.

use std::{collections::BTreeSet, path::Path};

use super::{
    Limits, Source, Tls, TracesPerRequest,
    base_url::{default_name, read_url},
};
use crate::job::{
    diagnostics::{KeyPath, Problem, quoted},
    env::Env,
    reader::{Expansion, Reader},
    secret_file::read_path,
    spec::{
        CONCURRENCY, DEFAULT_CONCURRENCY, DEFAULT_MAX_ATTEMPTS, DEFAULT_REQUESTS_PER_SECOND,
        DEFAULT_TIMEOUT, LimitsSpec, MAX_ATTEMPTS, REQUESTS_PER_SECOND, SOURCE_RETENTION,
        SourceSpec, TIMEOUT, TRACES_PER_REQUEST, TlsSpec, TracesPerRequestSpec,
    },
};

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
    pub(in crate::job) fn read(
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

    /// Makes the paths of files absolute, where `folder`, absolute itself, is what relative ones begin at.
    ///
    /// A path that begins with a reference is left as it is: what it expands to must be absolute.
    pub(in crate::job) fn make_paths_absolute(&mut self, folder: &Path) {
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
