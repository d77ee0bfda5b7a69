//! What a connection that is refused by `localhost` means inside a container, where that is not the host.
//!
//! The callers know what they connected to, and where the hint belongs in their message; whether this is a container is
//! passed in.

use std::{error::Error, io, net::IpAddr, path::Path};

/// Files that Docker and Podman put into every container.
const MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// Kubernetes sets this for every container.
const KUBERNETES: &str = "KUBERNETES_SERVICE_HOST";

/// Whether this process runs in a container of Docker, Podman or Kubernetes.
pub fn is_inside() -> bool {
    MARKS.iter().any(|mark| Path::new(mark).exists()) || std::env::var_os(KUBERNETES).is_some()
}

/// Whether `host`, a name or an address with or without brackets, is the very machine that asks.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The end of a message about a connection to `host` that failed with `error`: a hint if a loopback address refused it
/// inside a container, else nothing.
pub fn hint(host: &str, error: &(dyn Error + 'static), is_inside: bool) -> String {
    if !is_inside || !is_loopback(host) || !was_refused(error) {
        return String::new();
    }
    format!(
        "; `{host}` inside a container is the container itself (in Kubernetes the pod): use the host's name, such as \
         `host.docker.internal`, or the service's name"
    )
}

/// Whether `error`, or what it was caused by, is a refused connection.
fn was_refused(error: &(dyn Error + 'static)) -> bool {
    let is_refusal = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    is_refusal || error.source().is_some_and(was_refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot send")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_refusal_by_localhost_inside_a_container_has_a_hint() {
        let refused = Outer(io::ErrorKind::ConnectionRefused.into());
        for host in ["localhost", "tempo.localhost", "127.0.0.1", "::1", "[::1]"] {
            assert!(
                hint(host, &refused, true).contains(&format!("`{host}` inside a container")),
                "{host}"
            );
        }
        insta::assert_snapshot!(
            hint("localhost", &refused, true),
            @"; `localhost` inside a container is the container itself (in Kubernetes the pod): use the host's name, such as `host.docker.internal`, or the service's name"
        );
    }

    #[test]
    fn nothing_else_has_one() {
        let refused = Outer(io::ErrorKind::ConnectionRefused.into());
        let reset = Outer(io::ErrorKind::ConnectionReset.into());
        assert_eq!(hint("localhost", &refused, false), "");
        assert_eq!(hint("localhost", &reset, true), "");
        for host in ["tempo", "10.0.0.7", "localhost.example.net"] {
            assert_eq!(hint(host, &refused, true), "", "{host}");
        }
    }
}
