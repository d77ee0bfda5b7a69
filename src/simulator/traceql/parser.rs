//! From tokens to a [`Query`].
//!
//! Recursive descent over the grammar's subset named in [`super`]. As in Tempo's grammar `&&` and `||` bind equally, from the left.
//! Where Tempo's parser would list what it expects (it does so for up to four tokens) the list is given in the places that are easy to
//! reach; elsewhere the message ends with the token that was not expected, which is what it does for more than four.

use regex_lite::Regex;

use super::lexer::{Token, TokenKind, tokens};
use super::{
    Comparison, Condition, Field, FieldType, Literal, Operator, OverTime, Query, QueryError,
    Spansets, Stage,
};
use crate::simulator::span::{SpanKind, SpanStatus};

/// Parentheses may stand in each other this deep, more than any query needs: reading them takes the stack.
const DEEPEST: usize = 100;

/// Reads a query.
///
/// # Errors
/// With Tempo's message, where it cannot be parsed or makes no sense.
pub(in crate::simulator) fn parse(query: &str) -> Result<Query, QueryError> {
    let mut parser = Parser {
        tokens: tokens(query)?,
        at: 0,
        depth: 0,
    };
    parser.query()
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Parentheses that are open.
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    fn next_is(&self, sign: &str) -> bool {
        matches!(self.peek(), TokenKind::Sign(found) if *found == sign)
    }

    /// Moves past the token, which is never the end token.
    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn accept(&mut self, sign: &str) -> bool {
        let accepted = self.next_is(sign);
        if accepted {
            self.advance();
        }
        accepted
    }

    fn unexpected(&self, expecting: &str) -> QueryError {
        let token = &self.tokens[self.at];
        let mut message = format!("syntax error: unexpected {}", token.kind.name());
        if !expecting.is_empty() {
            message.push_str(", expecting ");
            message.push_str(expecting);
        }
        QueryError::Syntax {
            line: token.line,
            column: token.column,
            message,
        }
    }

    /// Reads what stands between parentheses, of which the first was read.
    fn parenthesized<T>(
        &mut self,
        expecting: &str,
        read: impl FnOnce(&mut Self) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        if self.depth >= DEEPEST {
            return Err(self.unexpected(""));
        }
        self.depth += 1;
        let inner = read(self)?;
        self.depth -= 1;
        if !self.accept(")") {
            return Err(self.unexpected(expecting));
        }
        Ok(inner)
    }

    fn require(&mut self, sign: &str) -> Result<(), QueryError> {
        if self.accept(sign) {
            return Ok(());
        }
        Err(self.unexpected(sign))
    }

    fn query(&mut self) -> Result<Query, QueryError> {
        let mut over_time = None;
        let mut stages = vec![self.stage()?];
        while over_time.is_none() && self.accept("|") {
            if self.accept("count_over_time") {
                self.require("(")?;
                self.require(")")?;
                over_time = Some(OverTime::Count);
            } else if self.accept("avg_over_time") {
                self.require("(")?;
                self.require("duration")?;
                self.require(")")?;
                over_time = Some(OverTime::AverageDuration);
            } else {
                stages.push(self.later_stage()?);
            }
        }
        let mut hints = Vec::new();
        while self.accept("with") {
            self.require("(")?;
            loop {
                hints.push(self.hint()?);
                if !self.accept(",") {
                    break;
                }
            }
            if !self.accept(")") {
                return Err(self.unexpected(") or ,"));
            }
        }
        if self.peek() != &TokenKind::End {
            return Err(self.unexpected("with"));
        }
        Ok(Query {
            stages,
            over_time,
            hints,
        })
    }

    fn pipeline(&mut self) -> Result<Vec<Stage>, QueryError> {
        let mut stages = vec![self.stage()?];
        while self.accept("|") {
            stages.push(self.later_stage()?);
        }
        Ok(stages)
    }

    fn later_stage(&mut self) -> Result<Stage, QueryError> {
        if self.accept("coalesce") {
            self.require("(")?;
            self.require(")")?;
            return Ok(Stage::Coalesce);
        }
        self.stage()
    }

    fn stage(&mut self) -> Result<Stage, QueryError> {
        if self.accept("by") {
            self.require("(")?;
            let field = self.field("")?;
            self.require(")")?;
            return Ok(Stage::By(field));
        }
        if self.accept("select") {
            self.require("(")?;
            let mut fields = vec![self.field("")?];
            while self.accept(",") {
                fields.push(self.field("")?);
            }
            if !self.accept(")") {
                return Err(self.unexpected(") or ,"));
            }
            return Ok(Stage::Select(fields));
        }
        if self.accept("count") {
            self.require("(")?;
            self.require(")")?;
            let operator = self.operator()?;
            let number = match self.literal()? {
                Literal::Int(number) => number as f64,
                Literal::Float(number) => number,
                other => {
                    return Err(QueryError::Meaning(format!(
                        "binary operations must operate on the same type: (count()) {operator} {other}"
                    )));
                }
            };
            return Ok(Stage::Count(operator, number));
        }
        Ok(Stage::Spansets(self.spansets()?))
    }

    fn spansets(&mut self) -> Result<Spansets, QueryError> {
        let mut left = self.spanset("")?;
        loop {
            if self.accept("&&") {
                let right = self.spanset("{ or (")?;
                left = Spansets::And(Box::new(left), Box::new(right));
            } else if self.accept("||") {
                let right = self.spanset("{ or (")?;
                left = Spansets::Or(Box::new(left), Box::new(right));
            } else {
                return Ok(left);
            }
        }
    }

    fn spanset(&mut self, expecting: &str) -> Result<Spansets, QueryError> {
        if self.accept("(") {
            return self
                .parenthesized(") or |", Self::pipeline)
                .map(Spansets::Pipeline);
        }
        if !self.accept("{") {
            return Err(self.unexpected(expecting));
        }
        if self.accept("}") {
            return Ok(Spansets::Filter(Condition::Always(true)));
        }
        let condition = self.condition()?;
        if !self.accept("}") {
            return Err(self.unexpected(""));
        }
        Ok(Spansets::Filter(condition))
    }

    fn condition(&mut self) -> Result<Condition, QueryError> {
        let mut left = self.comparison()?;
        loop {
            if self.accept("&&") {
                left = Condition::And(Box::new(left), Box::new(self.comparison()?));
            } else if self.accept("||") {
                left = Condition::Or(Box::new(left), Box::new(self.comparison()?));
            } else {
                return Ok(left);
            }
        }
    }

    fn comparison(&mut self) -> Result<Condition, QueryError> {
        if self.accept("(") {
            return self.parenthesized("", Self::condition);
        }
        if matches!(
            self.peek(),
            TokenKind::Sign("true") | TokenKind::Sign("false")
        ) {
            let value = self.next_is("true");
            self.advance();
            return Ok(Condition::Always(value));
        }
        let begins_with_literal = matches!(
            self.peek(),
            TokenKind::Text(_)
                | TokenKind::Int(_)
                | TokenKind::Float(_)
                | TokenKind::Duration(_)
                | TokenKind::Sign("-")
        );
        if begins_with_literal {
            let literal = self.literal()?;
            let operator = self.operator()?;
            let field = self.field("")?;
            return compare(field, operator.exchanged(), literal);
        }
        let field = self.field("")?;
        let operator = self.operator()?;
        let literal = self.literal()?;
        compare(field, operator, literal)
    }

    fn operator(&mut self) -> Result<Operator, QueryError> {
        let operator = match self.peek() {
            TokenKind::Sign(sign) => Operator::of_token(sign),
            _ => None,
        };
        match operator {
            Some(operator) => {
                self.advance();
                Ok(operator)
            }
            None => Err(self.unexpected("")),
        }
    }

    fn field(&mut self, expecting: &str) -> Result<Field, QueryError> {
        let scope = match self.peek() {
            TokenKind::Sign(scope @ ("trace:" | "span:")) => *scope,
            _ => "",
        };
        if !scope.is_empty() {
            self.advance();
        }
        let field = match (scope, self.peek()) {
            ("", TokenKind::Attribute("resource.", key)) => Field::Resource(key.clone()),
            ("", TokenKind::Attribute("span.", key)) => Field::Span(key.clone()),
            ("", TokenKind::Attribute(".", key)) => Field::Either(key.clone()),
            ("", TokenKind::Sign("nestedSetParent")) => Field::NestedSetParent,
            ("", TokenKind::Sign("traceDuration")) | ("trace:", TokenKind::Sign("duration")) => {
                Field::TraceDuration
            }
            ("", TokenKind::Sign("rootServiceName"))
            | ("trace:", TokenKind::Sign("rootService")) => Field::RootService,
            ("" | "trace:", TokenKind::Sign("rootName")) => Field::RootName,
            ("trace:", TokenKind::Sign("id")) => Field::TraceId,
            ("" | "span:", TokenKind::Sign("duration")) => Field::SpanDuration,
            ("" | "span:", TokenKind::Sign("name")) => Field::SpanName,
            ("" | "span:", TokenKind::Sign("status")) => Field::Status,
            ("" | "span:", TokenKind::Sign("kind")) => Field::Kind,
            ("span:", TokenKind::Sign("id")) => Field::SpanId,
            ("span:", TokenKind::Sign("parentID")) => Field::ParentId,
            ("trace:", _) => {
                return Err(self.unexpected("duration or rootName or rootService or id"));
            }
            _ => return Err(self.unexpected(expecting)),
        };
        self.advance();
        Ok(field)
    }

    fn literal(&mut self) -> Result<Literal, QueryError> {
        let negative = self.accept("-");
        let literal = match self.peek().clone() {
            TokenKind::Int(number) => Literal::Int(if negative { -number } else { number }),
            TokenKind::Float(number) => Literal::Float(if negative { -number } else { number }),
            TokenKind::Duration(duration_ns) => Literal::Duration(duration_ns),
            _ if negative => return Err(self.unexpected("")),
            TokenKind::Text(text) => Literal::Text(text),
            TokenKind::Sign(word) => match keyword(word) {
                Some(literal) => literal,
                None => return Err(self.unexpected("")),
            },
            TokenKind::Identifier(word) => {
                let token = &self.tokens[self.at];
                return Err(QueryError::Syntax {
                    line: token.line,
                    column: token.column,
                    message: format!("unknown identifier: {word}"),
                });
            }
            _ => return Err(self.unexpected("")),
        };
        self.advance();
        Ok(literal)
    }

    fn hint(&mut self) -> Result<(String, Literal), QueryError> {
        let TokenKind::Identifier(name) = self.peek().clone() else {
            return Err(self.unexpected("IDENTIFIER"));
        };
        self.advance();
        self.require("=")?;
        Ok((name, self.literal()?))
    }
}

fn keyword(word: &str) -> Option<Literal> {
    Some(match word {
        "true" => Literal::Bool(true),
        "false" => Literal::Bool(false),
        "nil" => Literal::Nil,
        "ok" => Literal::Status(SpanStatus::Ok),
        "error" => Literal::Status(SpanStatus::Error),
        "unset" => Literal::Status(SpanStatus::Unset),
        "unspecified" => Literal::Kind(SpanKind::Unspecified),
        "internal" => Literal::Kind(SpanKind::Internal),
        "server" => Literal::Kind(SpanKind::Server),
        "client" => Literal::Kind(SpanKind::Client),
        "producer" => Literal::Kind(SpanKind::Producer),
        "consumer" => Literal::Kind(SpanKind::Consumer),
        _ => return None,
    })
}

/// Joins a comparison after the checks that Tempo makes of types.
fn compare(field: Field, operator: Operator, literal: Literal) -> Result<Condition, QueryError> {
    let literal = match literal {
        // Compared as numbers: leading zeros and case do not matter.
        Literal::Text(text) if field == Field::TraceId => {
            Literal::Text(text.trim_start_matches('0').to_ascii_lowercase())
        }
        other => other,
    };
    let written = format!("{field} {operator} {literal}");
    if literal == Literal::Nil {
        return match operator {
            Operator::NotEqual => Ok(Condition::Exists(field, true)),
            Operator::Equal if field.is_intrinsic() => Err(QueryError::Meaning(format!(
                "{field}=nil is not valid because intrinsics cannot be nil"
            ))),
            Operator::Equal if field == Field::Resource("service.name".to_owned()) => {
                Err(QueryError::Meaning(format!(
                    "{field}=nil is not valid because resource.service.name cannot be nil"
                )))
            }
            Operator::Equal => Ok(Condition::Exists(field, false)),
            _ => Err(QueryError::Meaning(format!(
                "illegal operation for the given types: {written}"
            ))),
        };
    }
    let agrees = match field.field_type() {
        FieldType::Any => true,
        FieldType::Number => matches!(
            literal,
            Literal::Int(_) | Literal::Float(_) | Literal::Duration(_)
        ),
        FieldType::Text => matches!(literal, Literal::Text(_)),
        FieldType::Status => matches!(literal, Literal::Status(_)),
        FieldType::Kind => matches!(literal, Literal::Kind(_)),
    };
    if !agrees {
        return Err(QueryError::Meaning(format!(
            "binary operations must operate on the same type: {written}"
        )));
    }
    let is_pattern = matches!(operator, Operator::Matches | Operator::MatchesNot);
    let is_equality = matches!(operator, Operator::Equal | Operator::NotEqual);
    let allowed = match &literal {
        _ if field == Field::TraceId => is_equality,
        Literal::Text(_) => true,
        Literal::Int(_) | Literal::Float(_) | Literal::Duration(_) => !is_pattern,
        Literal::Bool(_) | Literal::Status(_) | Literal::Kind(_) | Literal::Nil => is_equality,
    };
    if !allowed {
        return Err(QueryError::Meaning(format!(
            "illegal operation for the given types: {written}"
        )));
    }
    let pattern = match &literal {
        Literal::Text(text) if is_pattern => Some(
            Regex::new(&format!("^(?:{text})$"))
                .map_err(|_| QueryError::Meaning(format!("invalid regex: {literal}")))?,
        ),
        _ => None,
    };
    Ok(Condition::Compare(Comparison {
        field,
        operator,
        literal,
        pattern,
    }))
}
