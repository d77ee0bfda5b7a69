//! The part of TraceQL that the simulator understands, and what it makes of a trace.
//!
//! Understood: `{…}` with comparisons joined by `&&` and `||`, span sets joined likewise and in parentheses, and the pipeline stages
//! `by(…)`, `select(…)`, `count() > n`, `coalesce()` and, for metrics, `count_over_time()` and `avg_over_time(duration)`, then hints. Everything else is refused in
//! the form in which Tempo refuses what it cannot parse. Reading is split into `lexer` and `parser`; `evaluate` decides which spans
//! match. Grammar: `pkg/traceql/expr.y`.

pub(super) mod evaluate;
pub(super) mod lexer;
pub(super) mod parser;

use std::fmt;

use regex_lite::Regex;

use super::params::go_duration;
use super::span::{SpanKind, SpanStatus};

/// What a metrics query makes of the spans in each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverTime {
    /// `count_over_time()`
    Count,
    /// `avg_over_time(duration)`, in seconds
    AverageDuration,
}

impl OverTime {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Count => "count_over_time",
            Self::AverageDuration => "avg_over_time",
        }
    }
}

/// Whether this is TraceQL that the simulator understands.
pub fn understands(query: &str) -> bool {
    parser::parse(query).is_ok()
}

/// A whole query.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) stages: Vec<Stage>,
    /// What it ends in, if it is a metrics query.
    pub(super) over_time: Option<OverTime>,
    pub(super) hints: Vec<(String, Literal)>,
}

impl Query {
    /// Whether the newest traces are asked for when not all fit.
    pub(super) fn most_recent(&self) -> bool {
        self.hint_is("most_recent", true)
    }

    /// Whether examples are to be left out of a metrics answer.
    pub(super) fn without_exemplars(&self) -> bool {
        self.hint_is("exemplars", false)
    }

    fn hint_is(&self, name: &str, expected: bool) -> bool {
        self.hints.iter().any(
            |(key, value)| matches!(value, Literal::Bool(value) if key == name && *value == expected),
        )
    }

    /// The fields that a match's spans are returned with: those of its conditions and of `select`.
    pub(super) fn fetched(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        collect_stages(&self.stages, &mut fields);
        fields
    }

    /// Whether only root spans can match.
    pub(super) fn only_roots(&self) -> bool {
        matches!(&self.stages[..], [Stage::Spansets(Spansets::Filter(condition))] if condition.only_roots())
    }
}

fn collect_stages(stages: &[Stage], fields: &mut Vec<Field>) {
    for stage in stages {
        match stage {
            Stage::Spansets(spansets) => collect_spansets(spansets, fields),
            Stage::By(field) => push_new(field, fields),
            Stage::Select(selected) => {
                for field in selected {
                    push_new(field, fields);
                }
            }
            Stage::Count(..) | Stage::Coalesce => {}
        }
    }
}

fn collect_spansets(spansets: &Spansets, fields: &mut Vec<Field>) {
    match spansets {
        Spansets::Filter(condition) => collect_condition(condition, fields),
        Spansets::Pipeline(stages) => collect_stages(stages, fields),
        Spansets::And(left, right) | Spansets::Or(left, right) => {
            collect_spansets(left, fields);
            collect_spansets(right, fields);
        }
    }
}

fn collect_condition(condition: &Condition, fields: &mut Vec<Field>) {
    match condition {
        Condition::Always(_) => {}
        Condition::And(left, right) | Condition::Or(left, right) => {
            collect_condition(left, fields);
            collect_condition(right, fields);
        }
        Condition::Compare(comparison) => push_new(&comparison.field, fields),
        Condition::Exists(field, _) => push_new(field, fields),
    }
}

fn push_new(field: &Field, fields: &mut Vec<Field>) {
    if !fields.contains(field) {
        fields.push(field.clone());
    }
}

/// One step of a pipeline.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    Spansets(Spansets),
    By(Field),
    Select(Vec<Field>),
    Count(Operator, f64),
    Coalesce,
}

/// An expression over sets of spans.
#[derive(Debug, Clone)]
pub(super) enum Spansets {
    Filter(Condition),
    Pipeline(Vec<Stage>),
    And(Box<Spansets>, Box<Spansets>),
    Or(Box<Spansets>, Box<Spansets>),
}

/// An expression over one span.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Always(bool),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Compare(Comparison),
    Exists(Field, bool),
}

impl Condition {
    fn only_roots(&self) -> bool {
        match self {
            Self::And(left, right) => left.only_roots() || right.only_roots(),
            Self::Compare(comparison) => {
                comparison.field == Field::NestedSetParent
                    && matches!(
                        (comparison.operator, &comparison.literal),
                        (Operator::Less, Literal::Int(0)) | (Operator::Equal, Literal::Int(-1))
                    )
            }
            _ => false,
        }
    }
}

/// A field held against a literal.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    pub(super) field: Field,
    pub(super) operator: Operator,
    pub(super) literal: Literal,
    /// The literal, compiled and anchored at both ends, when the operator is a regular expression's.
    pub(super) pattern: Option<Regex>,
}

/// What a query can ask of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    NestedSetParent,
    TraceDuration,
    TraceId,
    RootService,
    RootName,
    SpanDuration,
    SpanName,
    SpanId,
    ParentId,
    Status,
    Kind,
    /// Attribute of a span's service.
    Resource(String),
    /// Attribute of a span.
    Span(String),
    /// Attribute of either, the span's first.
    Either(String),
}

/// What kind of values a field has, as far as comparisons go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldType {
    Number,
    Text,
    Status,
    Kind,
    Any,
}

impl Field {
    pub(super) fn field_type(&self) -> FieldType {
        match self {
            Self::NestedSetParent | Self::TraceDuration | Self::SpanDuration => FieldType::Number,
            Self::TraceId
            | Self::RootService
            | Self::RootName
            | Self::SpanName
            | Self::SpanId
            | Self::ParentId => FieldType::Text,
            Self::Status => FieldType::Status,
            Self::Kind => FieldType::Kind,
            Self::Resource(_) | Self::Span(_) | Self::Either(_) => FieldType::Any,
        }
    }

    pub(super) fn is_intrinsic(&self) -> bool {
        !matches!(self, Self::Resource(_) | Self::Span(_) | Self::Either(_))
    }

    /// The key under which a search answer carries it among a span's attributes; `None` for what it does not carry there.
    pub(super) fn answer_key(&self) -> Option<&str> {
        match self {
            Self::NestedSetParent => Some("nestedSetParent"),
            Self::ParentId => Some("span:parentID"),
            Self::Status => Some("status"),
            Self::Kind => Some("kind"),
            Self::Resource(key) | Self::Span(key) | Self::Either(key) => Some(key),
            _ => None,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NestedSetParent => "nestedSetParent",
            Self::TraceDuration => "trace:duration",
            Self::TraceId => "trace:id",
            Self::RootService => "trace:rootService",
            Self::RootName => "trace:rootName",
            Self::SpanDuration => "duration",
            Self::SpanName => "name",
            Self::SpanId => "span:id",
            Self::ParentId => "span:parentID",
            Self::Status => "status",
            Self::Kind => "kind",
            Self::Resource(key) => return write!(formatter, "resource.{key}"),
            Self::Span(key) => return write!(formatter, "span.{key}"),
            Self::Either(key) => return write!(formatter, ".{key}"),
        })
    }
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Matches,
    MatchesNot,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub(super) fn of_token(token: &str) -> Option<Self> {
        Some(match token {
            "=" => Self::Equal,
            "!=" => Self::NotEqual,
            "=~" => Self::Matches,
            "!~" => Self::MatchesNot,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// The comparison that holds when both sides are exchanged.
    pub(super) fn exchanged(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            other => other,
        }
    }

    /// Whether it holds for values that compare like this.
    pub(super) fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Matches | Self::MatchesNot => false,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Matches => "=~",
            Self::MatchesNot => "!~",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

/// A value written in a query.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Text(String),
    Int(i64),
    Float(f64),
    /// Nanoseconds.
    Duration(u64),
    Bool(bool),
    Status(SpanStatus),
    Kind(SpanKind),
    Nil,
}

impl fmt::Display for Literal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(formatter, "`{text}`"),
            Self::Int(number) => write!(formatter, "{number}"),
            Self::Float(number) => write!(formatter, "{number:?}"),
            Self::Duration(duration_ns) => formatter.write_str(&go_duration(*duration_ns)),
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Status(status) => formatter.write_str(status.keyword()),
            Self::Kind(kind) => formatter.write_str(kind.keyword()),
            Self::Nil => formatter.write_str("nil"),
        }
    }
}

/// Why a query is refused; displays as Tempo's own message without the leading `invalid TraceQL query: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    /// It cannot be parsed.
    #[error("parse error at line {line}, col {column}: {message}")]
    Syntax {
        /// Line, from 1; 0 when the token has several parts, as Tempo's scanner then forgets it.
        line: usize,
        column: usize,
        message: String,
    },
    /// It can be parsed, but makes no sense.
    #[error("{0}")]
    Meaning(String),
}
