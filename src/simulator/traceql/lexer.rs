//! Words and signs of a query, with the positions that Tempo's scanner would report.
//!
//! Tempo's lexer joins scanned pieces (`>` and `=`, `span` and `:`) into longer tokens, and forgets the line when it does: an error at
//! such a token is reported at line 0. Source: `pkg/traceql/lexer.go`.

use super::QueryError;
use crate::simulator::params::parse_duration_ns;

/// Tokens that consist of several scanned pieces, longest first where one begins with another.
const JOINED: [&str; 29] = [
    "!>>",
    "!<<",
    "&>>",
    "&<<",
    "!=",
    "=~",
    "!~",
    ">=",
    "<=",
    "&&",
    "||",
    ">>",
    "<<",
    "!>",
    "!<",
    "&~",
    "&>",
    "&<",
    "resource.",
    "span.",
    "parent.",
    "event.",
    "link.",
    "instrumentation.",
    "trace:",
    "span:",
    "event:",
    "link:",
    "instrumentation:",
];

/// Signs of one letter.
const SIGNS: [&str; 18] = [
    ",", ".", "{", "}", "(", ")", "=", ">", "<", "+", "-", "/", "%", "*", "^", "!", "|", "~",
];

/// Prefixes after which an attribute's name follows.
const ATTRIBUTE_PREFIXES: [&str; 7] = [
    ".",
    "resource.",
    "span.",
    "parent.",
    "event.",
    "link.",
    "instrumentation.",
];

/// Words with a meaning of their own; any other word is an identifier.
const KEYWORDS: [&str; 52] = [
    "true",
    "false",
    "nil",
    "ok",
    "error",
    "unset",
    "unspecified",
    "internal",
    "server",
    "client",
    "producer",
    "consumer",
    "duration",
    "childCount",
    "name",
    "status",
    "statusMessage",
    "kind",
    "rootName",
    "rootServiceName",
    "rootService",
    "traceDuration",
    "nestedSetLeft",
    "nestedSetRight",
    "nestedSetParent",
    "id",
    "traceID",
    "spanID",
    "parentID",
    "timeSinceStart",
    "version",
    "parent",
    "count",
    "avg",
    "max",
    "min",
    "sum",
    "by",
    "coalesce",
    "select",
    "rate",
    "count_over_time",
    "min_over_time",
    "max_over_time",
    "avg_over_time",
    "sum_over_time",
    "quantile_over_time",
    "histogram_over_time",
    "compare",
    "topk",
    "bottomk",
    "with",
];

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::simulator) enum TokenKind {
    /// A sign or a keyword, as written.
    Sign(&'static str),
    /// A sign that TraceQL has no use for.
    Unknown(char),
    Identifier(String),
    Text(String),
    Int(i64),
    Float(f64),
    /// Nanoseconds.
    Duration(u64),
    /// An attribute: its prefix and its name.
    Attribute(&'static str, String),
    End,
}

impl TokenKind {
    /// The token's name in an error message.
    pub(in crate::simulator) fn name(&self) -> String {
        match self {
            Self::Sign(sign) => (*sign).to_owned(),
            Self::Unknown(_) | Self::Identifier(_) => "IDENTIFIER".to_owned(),
            Self::Text(_) => "STRING".to_owned(),
            Self::Int(_) => "INTEGER".to_owned(),
            Self::Float(_) => "FLOAT".to_owned(),
            Self::Duration(_) => "DURATION".to_owned(),
            Self::Attribute(prefix, _) => (*prefix).to_owned(),
            Self::End => "$end".to_owned(),
        }
    }
}

/// A token and where it begins.
#[derive(Debug, Clone)]
pub(in crate::simulator) struct Token {
    pub(in crate::simulator) kind: TokenKind,
    pub(in crate::simulator) line: usize,
    pub(in crate::simulator) column: usize,
}

struct Scanner<'query> {
    query: &'query str,
    /// Bytes already read.
    at: usize,
    line: usize,
    column: usize,
}

/// Cuts a query into tokens, an end token last.
///
/// # Errors
/// Where a string does not end or an attribute has no name.
pub(in crate::simulator) fn tokens(query: &str) -> Result<Vec<Token>, QueryError> {
    let mut scanner = Scanner {
        query,
        at: 0,
        line: 1,
        column: 1,
    };
    let mut tokens = Vec::new();
    loop {
        let token = scanner.token()?;
        let ended = token.kind == TokenKind::End;
        tokens.push(token);
        if ended {
            return Ok(tokens);
        }
    }
}

impl<'query> Scanner<'query> {
    fn rest(&self) -> &'query str {
        &self.query[self.at..]
    }

    fn take(&mut self, bytes: usize) -> &'query str {
        let taken = &self.rest()[..bytes];
        for letter in taken.chars() {
            if letter == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.at += bytes;
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'query str {
        let rest = self.rest();
        let length = rest
            .find(|letter: char| !wanted(letter))
            .unwrap_or(rest.len());
        self.take(length)
    }

    fn token(&mut self) -> Result<Token, QueryError> {
        self.take_while(char::is_whitespace);
        let (line, column) = (self.line, self.column);
        let token = |kind, line| Token { kind, line, column };
        let Some(first) = self.rest().chars().next() else {
            return Ok(token(TokenKind::End, line));
        };
        if first.is_ascii_digit() {
            let before = self.at;
            let kind = self.number();
            // More than the plain number was read from the scanner, which makes it forget the line.
            let joined = matches!(kind, TokenKind::Duration(_)) && self.at > before;
            return Ok(token(kind, if joined { 0 } else { line }));
        }
        if matches!(first, '"' | '`') {
            let text = self.text(first, line, column)?;
            return Ok(token(TokenKind::Text(text), line));
        }
        if let Some(joined) = JOINED.iter().find(|sign| self.rest().starts_with(**sign)) {
            self.take(joined.len());
            let kind = self.attribute_or_sign(joined, 0, column)?;
            return Ok(token(kind, 0));
        }
        if first.is_alphabetic() || first == '_' {
            let word = self.take_while(|letter| letter.is_alphanumeric() || letter == '_');
            let kind = match KEYWORDS.iter().find(|keyword| **keyword == word) {
                Some(keyword) => TokenKind::Sign(keyword),
                None => TokenKind::Identifier(word.to_owned()),
            };
            return Ok(token(kind, line));
        }
        self.take(first.len_utf8());
        let mut buffer = [0; 4];
        let written: &str = first.encode_utf8(&mut buffer);
        let kind = match SIGNS.iter().find(|sign| **sign == written) {
            Some(sign) => self.attribute_or_sign(sign, line, column)?,
            None => TokenKind::Unknown(first),
        };
        Ok(token(kind, line))
    }

    fn attribute_or_sign(
        &mut self,
        sign: &'static str,
        line: usize,
        column: usize,
    ) -> Result<TokenKind, QueryError> {
        if !ATTRIBUTE_PREFIXES.contains(&sign) {
            return Ok(TokenKind::Sign(sign));
        }
        let mut name = String::new();
        loop {
            name.push_str(self.take_while(|letter| letter != '"' && is_attribute_letter(letter)));
            if !self.rest().starts_with('"') {
                break;
            }
            name.push_str(&self.text('"', line, column)?);
        }
        if name.is_empty() {
            return Err(QueryError::Syntax {
                line,
                column,
                message: "syntax error: unexpected END_ATTRIBUTE, expecting IDENTIFIER".to_owned(),
            });
        }
        Ok(TokenKind::Attribute(sign, name))
    }

    fn number(&mut self) -> TokenKind {
        let rest = self.rest();
        let length = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(rest.len());
        let with_units = rest
            .find(|letter: char| !letter.is_alphanumeric() && letter != '.')
            .unwrap_or(rest.len());
        if with_units > length
            && let Some(duration_ns) = parse_duration_ns(&rest[..with_units])
        {
            self.take(with_units);
            return TokenKind::Duration(duration_ns);
        }
        let digits = self.take(length);
        match digits.parse() {
            Ok(number) => TokenKind::Int(number),
            Err(_) => TokenKind::Float(digits.parse().unwrap_or(f64::INFINITY)),
        }
    }

    /// The character that the next four hexadecimal digits stand for, as in Go's literals.
    fn code_point(&self) -> Option<char> {
        let digits = self.rest().get(..4)?;
        let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(digits, 16).ok()?;
        char::from_u32(number).filter(|_| are_digits)
    }

    fn text(&mut self, quote: char, line: usize, column: usize) -> Result<String, QueryError> {
        self.take(1);
        let mut text = String::new();
        loop {
            let Some(letter) = self.rest().chars().next() else {
                return Err(QueryError::Syntax {
                    line,
                    column,
                    message: "literal not terminated".to_owned(),
                });
            };
            self.take(letter.len_utf8());
            if letter == quote {
                return Ok(text);
            }
            if letter != '\\' || quote == '`' {
                text.push(letter);
                continue;
            }
            let escaped = self.rest().chars().next();
            self.take(escaped.map_or(0, char::len_utf8));
            match escaped {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(letter @ ('"' | '\\')) => text.push(letter),
                Some('u') if self.code_point().is_some() => {
                    text.extend(self.code_point());
                    self.take(4);
                }
                _ => {
                    return Err(QueryError::Syntax {
                        line,
                        column,
                        message: "invalid char escape".to_owned(),
                    });
                }
            }
        }
    }
}

fn is_attribute_letter(letter: char) -> bool {
    !letter.is_whitespace()
        && !matches!(
            letter,
            '{' | '}' | '(' | ')' | '=' | '~' | '!' | '<' | '>' | '&' | '|' | '^' | ','
        )
}
