//! Whether whole traces or single spans are meant.

/// What a baseline is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Whole traces, by service and name of their root.
    Trace,
    /// Single spans, by their service and name.
    Span,
}

impl Subject {
    /// The word that tables and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Span => "span",
        }
    }

    /// The reverse of [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "trace" => Some(Self::Trace),
            "span" => Some(Self::Span),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert_eq!(
            [Subject::Trace, Subject::Span].map(Subject::name),
            ["trace", "span"]
        );
        for subject in [Subject::Trace, Subject::Span] {
            assert_eq!(Subject::from_name(subject.name()), Some(subject));
        }
        assert_eq!(Subject::from_name("service"), None);
    }
}
