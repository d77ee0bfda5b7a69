//! An HTTP client made from a source's settings: its headers, credentials and certificates.

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Certificate, Identity,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use rustls::{AlertDescription, CertificateError};
use secrecy::ExposeSecret;
use url::Url;

use crate::{
    container,
    job::{Auth, Source},
};

/// What could go wrong while a client is made from a source.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A certificate or key file cannot be used.
    #[error("source `{source_name}`: cannot use `{path}` ({key}): {reason}")]
    Tls {
        /// The source's name.
        source_name: String,
        /// The key in the source.
        key: &'static str,
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The HTTP client could not be made.
    #[error("source `{source_name}`: cannot set up an HTTP client: {reason}")]
    Http {
        /// The source's name.
        source_name: String,
        /// Why not.
        reason: String,
    },
}

pub(super) fn default_headers(source: &Source) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let secret_value = |text: &str, of: &str| {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| format!("{of} has characters that no HTTP header can carry"))?;
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    if let Some(tenant) = &source.tenant {
        headers.insert(
            HeaderName::from_static("x-scope-orgid"),
            HeaderValue::from_str(tenant)
                .map_err(|_| "`tenant` has characters that no HTTP header can carry".to_owned())?,
        );
    }
    match &source.auth {
        Auth::None => {}
        Auth::Basic { username, password } => {
            let pair = BASE64_STANDARD.encode(format!("{username}:{}", password.expose_secret()));
            headers.insert(
                AUTHORIZATION,
                secret_value(&format!("Basic {pair}"), "`basic_auth`")?,
            );
        }
        Auth::Bearer(token) => {
            headers.insert(
                AUTHORIZATION,
                secret_value(
                    &format!("Bearer {}", token.expose_secret()),
                    "`bearer_token`",
                )?,
            );
        }
    }
    for (name, value) in &source.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("`{name}` is no HTTP header name"))?;
        let value = secret_value(value.expose_secret(), name.as_str())?;
        headers.insert(name, value);
    }
    Ok(headers)
}

pub(super) fn with_tls(
    mut builder: reqwest::ClientBuilder,
    source: &Source,
) -> Result<reqwest::ClientBuilder, SetupError> {
    let fail = |key, path: &std::path::Path, reason: String| SetupError::Tls {
        source_name: source.name.clone(),
        key,
        path: path.display().to_string(),
        reason,
    };
    let read = |key, path: &std::path::Path| {
        std::fs::read(path).map_err(|error| fail(key, path, error.to_string()))
    };
    if let Some(path) = &source.tls.ca_file {
        let certificates = Certificate::from_pem_bundle(&read("tls.ca_file", path)?)
            .map_err(|error| fail("tls.ca_file", path, chain(&error)))?;
        if certificates.is_empty() {
            return Err(fail(
                "tls.ca_file",
                path,
                "no PEM certificate in it".to_owned(),
            ));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    if let (Some(cert), Some(key)) = (&source.tls.cert_file, &source.tls.key_file) {
        let mut pem = read("tls.cert_file", cert)?;
        pem.push(b'\n');
        pem.extend(read("tls.key_file", key)?);
        builder = builder.identity(
            Identity::from_pem(&pem).map_err(|error| fail("tls.cert_file", cert, chain(&error)))?,
        );
    }
    Ok(builder)
}

/// Why a client could not be made of what [`with_tls`] and [`default_headers`] gave.
pub(super) fn no_client(source: &Source, error: &reqwest::Error) -> SetupError {
    let source_name = source.name.clone();
    match (&source.tls.cert_file, tls_error(error)) {
        (Some(path), Some(rustls::Error::InconsistentKeys(_))) => SetupError::Tls {
            source_name,
            key: "tls.cert_file",
            path: path.display().to_string(),
            reason: "the key in `tls.key_file` is another certificate's".to_owned(),
        },
        _ => SetupError::Http {
            source_name,
            reason: chain(error),
        },
    }
}

/// Where an error comes from TLS and will not pass by itself: what to do about it, to be read on from the rest.
pub(super) fn tls_hint(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let found = tls_error(error)?;
    Some(match found {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "; nobody who is trusted here has issued it: if its authority is one of your own, name that in `tls.ca_file`"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; `url` must name the host as its certificate does",
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "; it has to be renewed, unless this machine's clock is wrong",
        rustls::Error::InvalidCertificate(_) => "; it is not trusted",
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => "; it wants to see a certificate, or another one: `tls.cert_file` and `tls.key_file`",
        _ => return None,
    })
}

/// TLS's own error among the causes, which an I/O error may be wrapped around.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|inner| tls_error(inner)) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Whether the URL names this very machine, where compression costs more than it saves and no proxy helps.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(container::is_loopback)
}

/// An error with its causes, without the URL (the caller names the host).
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        let text = inner.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        source = inner.source();
    }
    parts.join(": ")
}

/// What an error comes from, without the layers above it.
pub(super) fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for (url, loopback) in [
            ("http://localhost:3200", true),
            ("http://127.8.8.8", true),
            ("http://[::1]:80/x", true),
            ("http://tempo:3200", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), loopback, "{url}");
        }
    }
}
