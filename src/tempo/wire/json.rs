//! JSON read as it comes: lists element by element, objects member by member.
//!
//! Making a value of a whole answer first would take many times its size where it is made of the smallest elements there are. So
//! whoever reads says what becomes of each.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// A text, borrowed from the answer where it has no escapes.
#[derive(Deserialize, Default)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl Text<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// Something that is read member by member.
pub(super) trait Members<'de> {
    /// Reads the value of the member of this name; what is not known is read over ([`ignore`]).
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error>;
}

/// An object whose members go to this; `null` has none. Tells whether there was an object.
pub(super) struct Object<'m, M>(pub(super) &'m mut M);

/// A list whose elements go to this; `null` has none.
pub(super) struct Each<'e, F>(pub(super) &'e mut F);

/// Reads an element.
pub(super) trait Elements<'de> {
    /// Reads the next one.
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error>;
}

struct One<'e, F>(&'e mut F);

impl<'de, M: Members<'de>> DeserializeSeed<'de> for Object<'_, M> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, M: Members<'de>> Visitor<'de> for Object<'_, M> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(name) = map.next_key::<Text<'de>>()? {
            self.0.member(&name.0, &mut map)?;
        }
        Ok(true)
    }
}

impl<'de, F: Elements<'de>> DeserializeSeed<'de> for Each<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: Elements<'de>> Visitor<'de> for Each<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(One(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

impl<'de, F: Elements<'de>> DeserializeSeed<'de> for One<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.element(deserializer)
    }
}

/// Reads over a value.
pub(super) fn ignore<'de, A: MapAccess<'de>>(value: &mut A) -> Result<(), A::Error> {
    value.next_value::<de::IgnoredAny>().map(drop)
}

/// Reads a whole answer.
pub(super) fn read<'de>(body: &'de [u8], answer: &mut impl Members<'de>) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    Object(answer).deserialize(&mut reader)?;
    reader.end()
}

/// A 64-bit number, which JSON carries as a decimal string.
pub(super) struct Number(pub(super) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or a text that is one")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                text.parse().map(Number).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}
