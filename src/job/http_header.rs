//! Which header names and values HTTP allows (RFC 9110, section 5), and which names are the client's own.

/// Headers that the client sets itself, by what it asks for and whom.
const OWN: [&str; 7] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "user-agent",
];

/// Why a name cannot be used, as the end of a sentence, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameError {
    pub message: &'static str,
    pub fix: &'static str,
}

/// Whether `name` can be the name of a header of the user's.
pub(super) fn check_name(name: &str) -> Result<(), NameError> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(NameError {
            message: "is not a possible header name",
            fix: "use letters, digits and `-`",
        });
    }
    if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err(NameError {
            message: "is a header that tempo-harvest sets itself",
            fix: "remove it",
        });
    }
    Ok(())
}

/// Whether `value` can be the value of a header: printable ASCII, and no space at either end.
pub(super) fn is_value(value: &str) -> bool {
    value.trim() == value
        && value
            .chars()
            .all(|c| c == ' ' || c == '\t' || c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        for name in ["X-Team", "x_team", "CF-Access-Client-Id"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "X Team", "X:Team", "Ünder", "x\n", "Host", "ACCEPT"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(is_value("Bearer abc=, x") && is_value(""));
        for value in ["a\r\nX: y", " a", "a ", "ü", "a\0"] {
            assert!(!is_value(value), "{value:?}");
        }
    }
}
