//! The base URL of a Tempo, and the name that it gives a source.

use url::Url;

use crate::job::diagnostics::quoted;

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
pub(in crate::job) fn read_url(text: &str) -> Result<Url, (String, String)> {
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

/// The name of a source that has none: its tenant, and host, port and path of its URL.
pub(super) fn default_name(url: &Url, tenant: Option<&String>) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let tenant = tenant.map_or_else(String::new, |tenant| format!("{tenant}@"));
    format!("{tenant}{host}:{port}{}", url.path().trim_end_matches('/'))
}
