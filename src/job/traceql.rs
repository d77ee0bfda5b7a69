//! A rough look at a TraceQL query, for what is surely wrong or surely not meant.
//!
//! Tempo has the last word on a query; this finds a forgotten brace before anything is submitted, and what would make
//! search answer something else than traces. It does not parse TraceQL.

use super::diagnostics::quoted;

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceqlError {
    /// Nothing but spaces.
    #[error("is empty")]
    Empty,
    /// A string without its end.
    #[error("has a string without its closing `{quote}`")]
    UnclosedString {
        /// The quotation mark.
        quote: char,
    },
    /// An opening bracket without its closing one.
    #[error("has a `{bracket}` that is not closed")]
    Unclosed {
        /// The bracket.
        bracket: char,
    },
    /// A closing bracket that closes nothing.
    #[error("has a `{bracket}` too many")]
    Unopened {
        /// The bracket.
        bracket: char,
    },
    /// A control character: no span is named so, and NUL cannot be stored.
    #[error("has a control character in it: {}", quoted(&.character.to_string()))]
    Control {
        /// The character.
        character: char,
    },
    /// No `{ … }` anywhere.
    #[error("selects no spans: it has no `{{ … }}`")]
    NoSpanset,
    /// Hints.
    #[error("has hints (`with (…)`): tempo-harvest sets its own")]
    Hints,
    /// A comment.
    #[error("has a comment (`//` or `/*`), which would hide what is added to the query")]
    Comment,
    /// A metrics function.
    #[error("is a metrics query (`{function}`): search answers with traces, not with series")]
    Metrics {
        /// The function.
        function: String,
    },
}

impl TraceqlError {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Empty => "leave the key out to collect every trace",
            Self::UnclosedString { .. } => "close it",
            Self::Unclosed { .. } | Self::Unopened { .. } => "pair the brackets",
            Self::Control { .. } => "remove it",
            Self::NoSpanset => "write for example `{ resource.service.name = \"shop\" }`",
            Self::Hints => "remove them",
            Self::Comment => "remove it; in an attribute's name, put the name in quotes",
            Self::Metrics { .. } => "remove it and the `|` before it",
        }
    }
}

/// Functions that turn spans into series, from Tempo's grammar.
const METRICS_FUNCTIONS: [&str; 11] = [
    "rate",
    "count_over_time",
    "sum_over_time",
    "min_over_time",
    "max_over_time",
    "avg_over_time",
    "quantile_over_time",
    "histogram_over_time",
    "compare",
    "topk",
    "bottomk",
];

/// Looks `query` over.
///
/// # Errors
/// The first thing that is surely wrong.
pub fn check(query: &str) -> Result<(), TraceqlError> {
    if query.trim().is_empty() {
        return Err(TraceqlError::Empty);
    }
    if let Some(character) = query
        .chars()
        .find(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        return Err(TraceqlError::Control { character });
    }
    let mut open = Vec::new();
    let mut has_spanset = false;
    // The last word outside `{ … }`, whether a space came after it, and whether a pipe stands before it.
    let mut word = String::new();
    let mut word_has_ended = false;
    let mut word_is_piped = false;
    let mut after_pipe = false;
    let mut characters = query.chars();
    while let Some(character) = characters.next() {
        let in_spanset = open.contains(&'{');
        match character {
            quote @ ('"' | '`') => {
                skip_string(quote, &mut characters)?;
                word.clear();
            }
            '/' if characters.as_str().starts_with(['/', '*']) => {
                return Err(TraceqlError::Comment);
            }
            '{' | '(' => {
                if character == '(' && !in_spanset {
                    refuse_call(&word, word_is_piped)?;
                }
                has_spanset |= character == '{';
                open.push(character);
                word.clear();
                after_pipe = false;
            }
            '}' | ')' => {
                let opening = if character == '}' { '{' } else { '(' };
                if open.last() != Some(&opening) {
                    return Err(match open.last() {
                        Some(bracket) => TraceqlError::Unclosed { bracket: *bracket },
                        None => TraceqlError::Unopened { bracket: character },
                    });
                }
                open.pop();
                word.clear();
            }
            '|' if !in_spanset => {
                after_pipe = true;
                word.clear();
            }
            _ if in_spanset => {}
            _ if character.is_whitespace() => word_has_ended = true,
            _ if character.is_alphanumeric() || character == '_' => {
                if word.is_empty() || word_has_ended {
                    word.clear();
                    word_has_ended = false;
                    word_is_piped = after_pipe;
                    after_pipe = false;
                }
                word.push(character);
            }
            _ => word.clear(),
        }
    }
    match open.last() {
        Some(bracket) => Err(TraceqlError::Unclosed { bracket: *bracket }),
        None if !has_spanset => Err(TraceqlError::NoSpanset),
        None => Ok(()),
    }
}

fn skip_string(quote: char, characters: &mut std::str::Chars<'_>) -> Result<(), TraceqlError> {
    while let Some(character) = characters.next() {
        if character == quote {
            return Ok(());
        }
        // Between backticks nothing is escaped.
        if character == '\\' && quote == '"' {
            characters.next();
        }
    }
    Err(TraceqlError::UnclosedString { quote })
}

fn refuse_call(word: &str, is_piped: bool) -> Result<(), TraceqlError> {
    if word == "with" {
        return Err(TraceqlError::Hints);
    }
    if is_piped && METRICS_FUNCTIONS.contains(&word) {
        return Err(TraceqlError::Metrics {
            function: format!("{word}()"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_queries_pass() {
        for query in [
            "{}",
            r#"{ resource.service.name != "healthcheck" }"#,
            r#"{ name =~ "GET /a{1,2}\" (" } && { span:duration > 1s }"#,
            "{ name = `with (\\` }",
            "{ .a || .b } >> { status = error } | select(span.http.url) | by(resource.service.name)",
            "({ .a = 1 } || { .b = 2 }) | count() > 2",
            "{ span.rate > (1 + 2) && span.with = 1 }",
            "{} | avg(duration) > 20ms",
            r#"{ .a / 2 > 1 && span."http://x" = "/* // */" && name = `//` }"#,
        ] {
            assert_eq!(check(query), Ok(()), "{query}");
        }
    }

    #[test]
    fn refuses_with_advice() {
        let said = |query| check(query).unwrap_err().to_string();
        insta::assert_snapshot!(said("  "), @"is empty");
        insta::assert_snapshot!(said("{ name = \"x }"), @"has a string without its closing `\"`");
        insta::assert_snapshot!(said("{ name = \"x\""), @"has a `{` that is not closed");
        insta::assert_snapshot!(said("({ name = \"x\" }"), @"has a `(` that is not closed");
        insta::assert_snapshot!(said("{ (.a }"), @"has a `(` that is not closed");
        insta::assert_snapshot!(said("{ .a } }"), @"has a `}` too many");
        insta::assert_snapshot!(said("service.name"), @"selects no spans: it has no `{ … }`");
        insta::assert_snapshot!(said("{} with (most_recent=true)"), @"has hints (`with (…)`): tempo-harvest sets its own");
        insta::assert_snapshot!(said("{} with(exemplars=false)"), @"has hints (`with (…)`): tempo-harvest sets its own");
        insta::assert_snapshot!(said("{} | count() > 2 with (a=1)"), @"has hints (`with (…)`): tempo-harvest sets its own");
        insta::assert_snapshot!(said("{} // all"), @"has a comment (`//` or `/*`), which would hide what is added to the query");
        insta::assert_snapshot!(said("{ .a /* } */ }"), @"has a comment (`//` or `/*`), which would hide what is added to the query");
        insta::assert_snapshot!(said("{} | rate()"), @"is a metrics query (`rate()`): search answers with traces, not with series");
        insta::assert_snapshot!(said("{ .a } |count_over_time () by (name)"), @"is a metrics query (`count_over_time()`): search answers with traces, not with series");
    }
}
