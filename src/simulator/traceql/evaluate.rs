//! Which spans of a trace a query matches.
//!
//! One trace - in Tempo's terms one row, which may be only a fragment of a trace - goes in, its matching span sets come out. Source:
//! `pkg/traceql/ast_execute.go`.

use std::cmp::Ordering;

use super::{Comparison, Condition, Field, Literal, Operator, Query, Spansets, Stage};
use crate::simulator::params::{span_id_in_search, trace_id_in_search};
use crate::simulator::span::{
    Attribute, AttributeScope, AttributeValue, Span, SpanKind, SpanStatus,
};
use crate::tempo::wire::messages::{AnyValue, KeyValue, any_value};

/// What a query can ask of a trace as a whole.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulator) struct TraceFacts<'trace> {
    pub(in crate::simulator) trace_id: &'trace [u8; 16],
    pub(in crate::simulator) start_ns: u64,
    pub(in crate::simulator) end_ns: u64,
    pub(in crate::simulator) root_service: Option<&'trace str>,
    pub(in crate::simulator) root_name: Option<&'trace str>,
}

/// A set of spans, by their positions in the trace, and what the set was grouped by or counted.
#[derive(Debug, Clone, Default)]
pub(in crate::simulator) struct Spanset {
    pub(in crate::simulator) spans: Vec<usize>,
    pub(in crate::simulator) attributes: Vec<KeyValue>,
}

/// A value on its way through a comparison.
enum Value<'value> {
    Number(f64),
    Text(std::borrow::Cow<'value, str>),
    Bool(bool),
    Status(SpanStatus),
    Kind(SpanKind),
}

impl Query {
    /// Whether no span of this trace can match, as far as the trace's own facts tell.
    pub(in crate::simulator) fn excludes(&self, trace: &TraceFacts<'_>) -> bool {
        match self.stages.first() {
            Some(Stage::Spansets(Spansets::Filter(condition))) => {
                condition.verdict(trace) == Some(false)
            }
            _ => false,
        }
    }

    /// The span sets of this trace that match; empty when none does.
    pub(in crate::simulator) fn evaluate(
        &self,
        trace: &TraceFacts<'_>,
        spans: &[Span],
    ) -> Vec<Spanset> {
        let whole = Spanset {
            spans: (0..spans.len()).collect(),
            attributes: Vec::new(),
        };
        pipeline(&self.stages, vec![whole], trace, spans)
    }
}

fn pipeline(
    stages: &[Stage],
    input: Vec<Spanset>,
    trace: &TraceFacts<'_>,
    spans: &[Span],
) -> Vec<Spanset> {
    stages.iter().fold(input, |sets, stage| match stage {
        Stage::Spansets(expression) => sets
            .iter()
            .flat_map(|set| spansets(expression, set, trace, spans))
            .collect(),
        Stage::By(field) => sets
            .iter()
            .flat_map(|set| group(field, set, trace, spans))
            .collect(),
        Stage::Select(_) => sets,
        Stage::Count(operator, number) => sets
            .into_iter()
            .filter(|set| {
                let count = set.spans.len() as f64;
                operator.holds(count.partial_cmp(number).unwrap_or(Ordering::Less))
            })
            .map(|mut set| {
                let count = any_value::Value::Int(set.spans.len() as i64);
                set.attributes.push(key_value("count()", count));
                set
            })
            .collect(),
        Stage::Coalesce => {
            let mut all: Vec<usize> = sets.into_iter().flat_map(|set| set.spans).collect();
            all.sort_unstable();
            vec![Spanset {
                spans: all,
                attributes: Vec::new(),
            }]
        }
    })
}

fn spansets(
    expression: &Spansets,
    input: &Spanset,
    trace: &TraceFacts<'_>,
    spans: &[Span],
) -> Vec<Spanset> {
    match expression {
        Spansets::Filter(condition) => {
            let matching: Vec<usize> = input
                .spans
                .iter()
                .copied()
                .filter(|position| condition.matches(trace, spans, &spans[*position]))
                .collect();
            if matching.is_empty() {
                return Vec::new();
            }
            vec![Spanset {
                spans: matching,
                attributes: input.attributes.clone(),
            }]
        }
        Spansets::Pipeline(stages) => pipeline(stages, vec![input.clone()], trace, spans),
        Spansets::And(left, right) | Spansets::Or(left, right) => {
            let left = spansets(left, input, trace, spans);
            let right = spansets(right, input, trace, spans);
            let both_needed = matches!(expression, Spansets::And(..));
            let neither = left.is_empty() && right.is_empty();
            if neither || (both_needed && (left.is_empty() || right.is_empty())) {
                return Vec::new();
            }
            let mut union: Vec<usize> = left
                .into_iter()
                .chain(right)
                .flat_map(|set| set.spans)
                .collect();
            union.sort_unstable();
            union.dedup();
            vec![Spanset {
                spans: union,
                attributes: input.attributes.clone(),
            }]
        }
    }
}

/// One set for each value of a field, each with an attribute that says so.
fn group(field: &Field, input: &Spanset, trace: &TraceFacts<'_>, spans: &[Span]) -> Vec<Spanset> {
    let mut groups: Vec<(Option<AnyValue>, Spanset)> = Vec::new();
    let all_differ = matches!(field, Field::SpanId);
    for position in &input.spans {
        let value = answer_value(field, trace, spans, &spans[*position]);
        // Span IDs differ, so looking for an equal group would only cost time, squared.
        let known = if all_differ {
            None
        } else {
            groups.iter_mut().find(|(key, _)| *key == value)
        };
        match known {
            Some((_, set)) => set.spans.push(*position),
            None => {
                let nil = || any_value::Value::String("nil".to_owned());
                let shown = value.clone().and_then(|value| value.value);
                let mut attributes = input.attributes.clone();
                attributes.push(key_value(
                    &format!("by({field})"),
                    shown.unwrap_or_else(nil),
                ));
                let spans = vec![*position];
                groups.push((value, Spanset { spans, attributes }));
            }
        }
    }
    groups.into_iter().map(|(_, set)| set).collect()
}

impl Condition {
    /// What holds for every span of a trace, if the trace's own facts decide it.
    fn verdict(&self, trace: &TraceFacts<'_>) -> Option<bool> {
        match self {
            Self::Always(value) => Some(*value),
            Self::And(left, right) => match (left.verdict(trace), right.verdict(trace)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(left, right) => match (left.verdict(trace), right.verdict(trace)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Compare(comparison) => {
                trace_value(&comparison.field, trace).map(|value| holds(comparison, &value))
            }
            Self::Exists(..) => None,
        }
    }

    fn matches(&self, trace: &TraceFacts<'_>, spans: &[Span], span: &Span) -> bool {
        match self {
            Self::Always(value) => *value,
            Self::And(left, right) => {
                left.matches(trace, spans, span) && right.matches(trace, spans, span)
            }
            Self::Or(left, right) => {
                left.matches(trace, spans, span) || right.matches(trace, spans, span)
            }
            Self::Compare(comparison) => value(&comparison.field, trace, spans, span)
                .is_some_and(|value| holds(comparison, &value)),
            Self::Exists(field, wanted) => value(field, trace, spans, span).is_some() == *wanted,
        }
    }
}

fn holds(comparison: &Comparison, value: &Value<'_>) -> bool {
    let operator = comparison.operator;
    match (value, &comparison.literal) {
        (Value::Text(text), Literal::Text(_)) if comparison.pattern.is_some() => {
            let matched = comparison
                .pattern
                .as_ref()
                .is_some_and(|pattern| pattern.is_match(text));
            matched == (operator == Operator::Matches)
        }
        (Value::Text(text), Literal::Text(literal)) => {
            operator.holds(text.as_ref().cmp(literal.as_str()))
        }
        (Value::Number(number), literal) => {
            let literal = match literal {
                Literal::Int(literal) => *literal as f64,
                Literal::Float(literal) => *literal,
                Literal::Duration(duration_ns) => *duration_ns as f64,
                _ => return false,
            };
            number
                .partial_cmp(&literal)
                .is_some_and(|ordering| operator.holds(ordering))
        }
        (Value::Bool(value), Literal::Bool(literal)) => operator.holds(value.cmp(literal)),
        (Value::Status(value), Literal::Status(literal)) => {
            (value == literal) == (operator == Operator::Equal)
        }
        (Value::Kind(value), Literal::Kind(literal)) => {
            (value == literal) == (operator == Operator::Equal)
        }
        _ => false,
    }
}

/// The value of a field that belongs to the trace as a whole.
fn trace_value<'trace>(field: &Field, trace: &TraceFacts<'trace>) -> Option<Value<'trace>> {
    Some(match field {
        Field::TraceDuration => Value::Number(trace.end_ns.saturating_sub(trace.start_ns) as f64),
        Field::TraceId => Value::Text(trace_id_in_search(trace.trace_id).into()),
        // Without a root these are empty, not absent: `{trace:rootService = ""}` finds the rootless.
        Field::RootService => Value::Text(trace.root_service.unwrap_or("").into()),
        Field::RootName => Value::Text(trace.root_name.unwrap_or("").into()),
        _ => return None,
    })
}

fn value<'value>(
    field: &Field,
    trace: &TraceFacts<'value>,
    spans: &[Span],
    span: &'value Span,
) -> Option<Value<'value>> {
    match field {
        Field::NestedSetParent => Some(Value::Number(f64::from(nested_set_parent(spans, span)))),
        Field::SpanDuration => Some(Value::Number(span.duration_ns() as f64)),
        Field::SpanName => Some(Value::Text(span.name.as_ref().into())),
        Field::SpanId => Some(Value::Text(span_id_in_search(&span.span_id).into())),
        Field::ParentId => Some(Value::Text(span_id_in_search(&span.parent_id).into())),
        Field::Status => Some(Value::Status(span.status)),
        Field::Kind => Some(Value::Kind(span.kind)),
        Field::Resource(key) => attribute(span, AttributeScope::Resource, key),
        Field::Span(key) => attribute(span, AttributeScope::Span, key),
        Field::Either(key) => attribute(span, AttributeScope::Span, key)
            .or_else(|| attribute(span, AttributeScope::Resource, key)),
        Field::TraceDuration | Field::TraceId | Field::RootService | Field::RootName => {
            trace_value(field, trace)
        }
    }
}

/// Where a span hangs in its trace; only the sign is simulated.
///
/// -1 for a root, 1 for what hangs below one, 0 when the row has no root. A root delivered three times or more in one row is not
/// recognised as one (measured).
pub(in crate::simulator) fn nested_set_parent(spans: &[Span], span: &Span) -> i32 {
    if !span.is_root() {
        return i32::from(spans.iter().any(Span::is_root));
    }
    let deliveries = spans
        .iter()
        .filter(|other| other.span_id == span.span_id)
        .count();
    if deliveries < 3 { -1 } else { 0 }
}

fn attribute<'span>(span: &'span Span, scope: AttributeScope, key: &str) -> Option<Value<'span>> {
    match (scope, key) {
        (AttributeScope::Resource, "service.name") => {
            return span
                .service
                .as_ref()
                .map(|service| Value::Text(service.as_ref().into()));
        }
        (AttributeScope::Span, "http.status_code") if span.http_status_code.is_some() => {
            return span.http_status_code.map(|code| Value::Number(code as f64));
        }
        _ => {}
    }
    let attribute = span
        .attributes
        .iter()
        .find(|attribute| attribute.scope == scope && attribute.key.as_ref() == key)?;
    Some(match &attribute.value {
        AttributeValue::Text(text) => Value::Text(text.as_ref().into()),
        AttributeValue::Int(number) => Value::Number(*number as f64),
        AttributeValue::Float(number) => Value::Number(*number),
        AttributeValue::Bool(value) => Value::Bool(*value),
    })
}

/// The value of an attribute that was sent as a number with a fraction, whether it has one or not.
fn fraction(field: &Field, span: &Span) -> Option<f64> {
    let is_meant = |attribute: &Attribute| {
        let key = attribute.key.as_ref();
        match field {
            Field::Resource(name) => attribute.scope == AttributeScope::Resource && key == name,
            Field::Span(name) => attribute.scope == AttributeScope::Span && key == name,
            Field::Either(name) => key == name,
            _ => false,
        }
    };
    match span
        .attributes
        .iter()
        .find(|attribute| is_meant(attribute))?
        .value
    {
        AttributeValue::Float(number) => Some(number),
        _ => None,
    }
}

/// A field's value as an answer carries it.
pub(in crate::simulator) fn answer_value(
    field: &Field,
    trace: &TraceFacts<'_>,
    spans: &[Span],
    span: &Span,
) -> Option<AnyValue> {
    if let Some(number) = fraction(field, span) {
        let value = Some(any_value::Value::Double(number));
        return Some(AnyValue { value });
    }
    let value = match value(field, trace, spans, span)? {
        Value::Number(number) if number.fract() == 0.0 => any_value::Value::Int(number as i64),
        Value::Number(number) => any_value::Value::Double(number),
        Value::Text(text) => any_value::Value::String(text.into_owned()),
        Value::Bool(value) => any_value::Value::Bool(value),
        Value::Status(status) => any_value::Value::String(status.keyword().to_owned()),
        Value::Kind(kind) => any_value::Value::String(kind.keyword().to_owned()),
    };
    Some(AnyValue { value: Some(value) })
}

/// A named value.
pub(in crate::simulator) fn key_value(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
