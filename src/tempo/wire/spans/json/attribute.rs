//! Attributes, and the values that they have.

use std::{borrow::Cow, fmt, fmt::Write as _};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed as _, MapAccess, Visitor},
};

use crate::tempo::wire::{
    DecodeError,
    json::{Each, Elements, Members, Object, Text, ignore},
    spans::{Builder, DEEPEST, List, NIL, Scope, write_double, write_text},
};

/// Notes an attribute, if it is wanted.
pub(super) fn note(
    builder: &mut Builder<'_>,
    scope: Option<Scope>,
    key: &str,
    value: &Any<'_>,
) -> Result<(), DecodeError> {
    if let Some(place) = builder.place(scope, key.as_bytes()) {
        place.clear();
        value.write(place, 0)?;
    }
    Ok(())
}

/// An OpenTelemetry attribute.
#[derive(Default)]
pub(super) struct KeyValue<'a> {
    pub(super) key: Text<'a>,
    pub(super) value: Any<'a>,
}

impl<'de> Members<'de> for KeyValue<'de> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "key" => self.key = value.next_value()?,
            "value" => {
                let mut any = AnyOf::at(0);
                value.next_value_seed(Object(&mut any))?;
                self.value = any.value;
            }
            _ => ignore(value)?,
        }
        Ok(())
    }
}

/// A value of one of OpenTelemetry's types.
#[derive(Default)]
pub(super) enum Any<'a> {
    #[default]
    None,
    Text(Cow<'a, str>),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// As it is stored, but for its brackets: these depend on how many elements it has.
    List(Elementwise),
}

impl<'a> Any<'a> {
    /// The text that it is; empty if it is something else.
    pub(super) fn into_text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text,
            _ => Cow::default(),
        }
    }

    fn write(&self, json: &mut String, depth: u8) -> Result<(), DecodeError> {
        match self {
            Self::None => {}
            Self::Text(text) => {
                if depth > 0 || text.as_bytes() != NIL {
                    write_text(json, text.as_bytes())?;
                }
            }
            Self::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
            Self::Int(number) => {
                let _ = write!(json, "{number}");
            }
            Self::Double(number) => write_double(json, *number),
            Self::List(list) => list.write(json, depth),
        }
        Ok(())
    }
}

/// The elements of a list, written one after the other.
#[derive(Default)]
pub(super) struct Elementwise {
    json: String,
    elements: usize,
}

impl Elementwise {
    fn write(&self, json: &mut String, depth: u8) {
        let mut list = List::begin(json);
        json.push_str(&self.json);
        list.add(self.elements);
        list.end(json, depth);
    }
}

/// A value that is read at this depth.
struct AnyOf<'a> {
    value: Any<'a>,
    depth: u8,
}

impl AnyOf<'_> {
    fn at(depth: u8) -> Self {
        Self {
            value: Any::None,
            depth,
        }
    }
}

impl<'de> Members<'de> for AnyOf<'de> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        let any = match name {
            "stringValue" => value
                .next_value::<Option<Text<'de>>>()?
                .map(|text| Any::Text(text.0)),
            "boolValue" => value.next_value::<Option<bool>>()?.map(Any::Bool),
            "intValue" => value.next_value::<Figure>()?.int(),
            "doubleValue" => value.next_value::<Figure>()?.double(),
            "arrayValue" if self.depth < DEEPEST => {
                let mut array = Array(ArrayOf {
                    list: Elementwise::default(),
                    depth: self.depth + 1,
                });
                let is_there = value.next_value_seed(Object(&mut array))?;
                is_there.then_some(Any::List(array.0.list))
            }
            _ => return ignore(value),
        };
        if let Some(any) = any {
            self.value = any;
        }
        Ok(())
    }
}

struct Array(ArrayOf);

struct ArrayOf {
    list: Elementwise,
    /// Of the elements.
    depth: u8,
}

impl<'de> Members<'de> for Array {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "values" => value.next_value_seed(Each(&mut self.0)),
            _ => ignore(value),
        }
    }
}

impl<'de> Elements<'de> for ArrayOf {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        let mut any = AnyOf::at(self.depth);
        Object(&mut any).deserialize(element)?;
        let list = &mut self.list;
        if list.elements > 0 {
            list.json.push(',');
        }
        list.elements += 1;
        let before = list.json.len();
        any.value
            .write(&mut list.json, self.depth)
            .map_err(de::Error::custom)?;
        if list.json.len() == before {
            list.json.push_str("null");
        }
        Ok(())
    }
}

/// A number as JSON carries it: itself, or a text that is one. What is not finite comes as text.
enum Figure {
    Whole(i64),
    Large(u64),
    Double(f64),
    /// Not an integer that fits, and what it is as a number.
    Text(Option<i64>, f64),
    Absent,
}

impl Figure {
    fn int<'a>(self) -> Option<Any<'a>> {
        match self {
            Self::Whole(number) | Self::Text(Some(number), _) => Some(Any::Int(number)),
            _ => None,
        }
    }

    fn double<'a>(self) -> Option<Any<'a>> {
        match self {
            Self::Whole(number) => Some(Any::Double(number as f64)),
            Self::Large(number) => Some(Any::Double(number as f64)),
            Self::Double(number) | Self::Text(_, number) => Some(Any::Double(number)),
            Self::Absent => None,
        }
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Figure;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a text that is one")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Figure, E> {
                Ok(Figure::Whole(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Figure, E> {
                Ok(i64::try_from(number).map_or(Figure::Large(number), Figure::Whole))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Figure, E> {
                Ok(Figure::Double(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Figure, E> {
                Ok(Figure::Text(
                    text.parse().ok(),
                    text.parse().unwrap_or(f64::NAN),
                ))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Figure, E> {
                Ok(Figure::Absent)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
