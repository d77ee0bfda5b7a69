//! A Tempo server, resolved: a [`Source`] that can be talked to, as `read` makes it of the unexpanded
//! [`SourceSpec`](super::SourceSpec). Talking to Tempo is left to the client.

use std::{path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::spec::Compression;

mod base_url;
mod credentials;
mod read;

pub(super) use self::base_url::read_url;

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
