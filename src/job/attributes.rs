//! The attributes that a job stores with its spans: which can be had, and how they are spelt.
//!
//! What Tempo's answers cannot tell apart is refused here: they name attributes without their scope.

use super::diagnostics::{closest, quoted};

/// The scopes whose attributes are stored.
const SCOPES: [&str; 2] = ["span", "resource"];
/// Scopes of TraceQL whose attributes do not belong to a span.
const OTHER_SCOPES: [&str; 4] = ["event", "link", "instrumentation", "parent"];
/// What every span is stored with.
const STORED: [&str; 6] = ["name", "status", "kind", "duration", "id", "parentID"];
/// Names that Tempo's answers use for what every span is stored with.
const TAKEN: [&str; 4] = ["service.name", "status", "kind", "span:parentID"];
/// A longer name is a mistake.
const LONGEST: usize = 1_024;

/// An attribute by its name with scope, as it is stored: without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    scope: &'static str,
    name: String,
}

impl Attribute {
    /// Scope and name.
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.scope, self.name)
    }

    /// Whether Tempo's answers tell it from this one.
    pub(super) fn is_told_from(&self, other: &Self) -> bool {
        self.name != other.name
    }
}

/// Reads an attribute as it is written.
///
/// # Errors
/// What is wrong, as the end of a sentence that the attribute begins, and what to do.
pub(super) fn parse(written: &str) -> Result<Attribute, (String, String)> {
    let shown = quoted(written);
    let refused = |what: &str, fix: String| Err((format!("{what}: {shown}"), fix));
    if let Some(rest) = written.strip_prefix('.') {
        let what = "does not say its scope";
        return refused(what, format!("write `span.{rest}` or `resource.{rest}`"));
    }
    let scope_end = written.find(['.', ':', '"']).unwrap_or(written.len());
    let (scope, rest) = written.split_at(scope_end);
    if rest.starts_with(':') || (rest.is_empty() && STORED.contains(&scope)) {
        let intrinsic = rest.strip_prefix(':').unwrap_or(scope);
        let is_of_span = rest.is_empty() || scope == "span";
        return if is_of_span && STORED.contains(&intrinsic) {
            refused("is stored with every span already", "remove it".to_owned())
        } else {
            let fix = "remove it: what is stored beyond what every span has are attributes, `span.` and `resource.`";
            refused("is no attribute but an intrinsic", fix.to_owned())
        };
    }
    let Some(name) = rest.strip_prefix('.') else {
        let fix = "begin it with `span.` or `resource.`".to_owned();
        return refused("has no scope", fix);
    };
    if OTHER_SCOPES.contains(&scope) {
        let what = format!("is of the scope `{scope}`, which is not collected");
        let fix = "remove it: attributes of spans (`span.`) and of what sent them (`resource.`) can be stored";
        return refused(&what, fix.to_owned());
    }
    let Some(scope) = SCOPES.into_iter().find(|known| *known == scope) else {
        let fix = match closest(scope, SCOPES) {
            Some(meant) => format!("did you mean `{meant}.{name}`?"),
            None => "begin it with `span.` or `resource.`".to_owned(),
        };
        return refused("has no scope", fix);
    };
    let name = unquoted(name).map_err(|(what, fix)| (format!("{what}: {shown}"), fix))?;
    if name.is_empty() {
        return refused("has no name after its scope", "add it".to_owned());
    }
    if name.len() > LONGEST || name.chars().any(char::is_control) {
        let fix = format!("shorten it to {LONGEST} bytes, without control characters");
        return refused("cannot be the name of an attribute", fix);
    }
    if (scope, name.as_str()) == ("resource", "service.name") {
        return refused(
            "is stored with every span already",
            "remove it: it is the column `service`".to_owned(),
        );
    }
    if TAKEN.contains(&name.as_str()) {
        let what =
            format!("cannot be had: Tempo's answers do not tell it from the span's own `{name}`");
        return refused(&what, "remove it".to_owned());
    }
    Ok(Attribute { scope, name })
}

/// The name without its quotes, as TraceQL reads it: parts between `"` are taken as they are, `\"` and `\\` escaped.
fn unquoted(written: &str) -> Result<String, (String, String)> {
    let mut name = String::with_capacity(written.len());
    let mut in_quotes = false;
    let mut characters = written.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => in_quotes = !in_quotes,
            '\\' if in_quotes => match characters.next() {
                Some(escaped @ ('"' | '\\')) => name.push(escaped),
                _ => {
                    let fix = "between quotes write `\\\\` for `\\`, and `\\\"` for `\"`";
                    return Err(("has a `\\` that escapes nothing".to_owned(), fix.to_owned()));
                }
            },
            c if in_quotes || !needs_quotes(c) => name.push(c),
            c => {
                let what = format!("has a {} outside quotes", shown(c));
                let fix = "quote the name, as in 'span.\"two words\"'";
                return Err((what, fix.to_owned()));
            }
        }
    }
    if in_quotes {
        return Err((
            "has a quote that is not closed".to_owned(),
            "close it".to_owned(),
        ));
    }
    Ok(name)
}

/// What ends an attribute in TraceQL, from Tempo's lexer.
fn needs_quotes(c: char) -> bool {
    c.is_whitespace() || "{}()=~!<>&|^,".contains(c)
}

fn shown(c: char) -> String {
    if c.is_whitespace() {
        "space".to_owned()
    } else {
        format!("`{c}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_as_traceql_does() {
        for (written, stored) in [
            ("span.http.status_code", "span.http.status_code"),
            ("resource.k8s.namespace.name", "resource.k8s.namespace.name"),
            (r#"span."foo bar""#, "span.foo bar"),
            (r#"span.a."b c".d"#, "span.a.b c.d"),
            (r#"span."say \"hi\" \\""#, r#"span.say "hi" \"#),
            ("span.größe", "span.größe"),
            ("span.a:b/c-d@e", "span.a:b/c-d@e"),
        ] {
            assert_eq!(parse(written).unwrap().full_name(), stored, "{written}");
        }
    }

    #[test]
    fn refuses_with_advice() {
        let said = |written| {
            let (what, fix) = parse(written).unwrap_err();
            format!("{what}; {fix}")
        };
        insta::assert_snapshot!(said(".http.method"), @"does not say its scope: `.http.method`; write `span.http.method` or `resource.http.method`");
        insta::assert_snapshot!(said("http.method"), @"has no scope: `http.method`; begin it with `span.` or `resource.`");
        insta::assert_snapshot!(said("spans.http.method"), @"has no scope: `spans.http.method`; did you mean `span.http.method`?");
        insta::assert_snapshot!(said("http_method"), @"has no scope: `http_method`; begin it with `span.` or `resource.`");
        insta::assert_snapshot!(said("event.exception.message"), @"is of the scope `event`, which is not collected: `event.exception.message`; remove it: attributes of spans (`span.`) and of what sent them (`resource.`) can be stored");
        insta::assert_snapshot!(said("span:name"), @"is stored with every span already: `span:name`; remove it");
        insta::assert_snapshot!(said("status"), @"is stored with every span already: `status`; remove it");
        insta::assert_snapshot!(said("trace:duration"), @"is no attribute but an intrinsic: `trace:duration`; remove it: what is stored beyond what every span has are attributes, `span.` and `resource.`");
        insta::assert_snapshot!(said("span.two words"), @r#"has a space outside quotes: `span.two words`; quote the name, as in 'span."two words"'"#);
        insta::assert_snapshot!(said("span.a=b"), @r#"has a `=` outside quotes: `span.a=b`; quote the name, as in 'span."two words"'"#);
        insta::assert_snapshot!(said(r#"span."a"#), @r#"has a quote that is not closed: `span."a`; close it"#);
        insta::assert_snapshot!(said(r#"span."a\n""#), @r#"has a `\` that escapes nothing: `span."a\n"`; between quotes write `\\` for `\`, and `\"` for `"`"#);
        insta::assert_snapshot!(said("span."), @"has no name after its scope: `span.`; add it");
        insta::assert_snapshot!(said(r#"span."""#), @r#"has no name after its scope: `span.""`; add it"#);
        insta::assert_snapshot!(said("resource.service.name"), @"is stored with every span already: `resource.service.name`; remove it: it is the column `service`");
        insta::assert_snapshot!(said("span.kind"), @"cannot be had: Tempo's answers do not tell it from the span's own `kind`: `span.kind`; remove it");
    }
}
