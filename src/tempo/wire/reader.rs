//! Protobuf read field by field, where it stands.
//!
//! For answers of hundreds of thousands of small messages, in which making a value of each would cost more than reading it.

/// The bytes are not the message that was expected, or are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    /// A whole number, whichever way it is written.
    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    /// A number of 32 bits; the greatest there is for what is greater.
    pub(super) fn small_number(self) -> Result<u32, Malformed> {
        Ok(u32::try_from(self.number()?).unwrap_or(u32::MAX))
    }
}

/// The fields of a message, in the order of the wire.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (place, &byte) in self.rest.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
                Value::Fixed64(u64::from_le_bytes(bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(Malformed),
        };
        match key >> 3 {
            0 => Err(Malformed),
            number => Ok((number, value)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    /// The field's number and its value. After an error nothing sensible follows.
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::tempo::wire::messages::{KeyValue, Span};

    #[test]
    fn each_kind_of_value_is_read_as_itself() {
        // 1: varint 300, 2: eight bytes, 3: four bytes, 4: two bytes, 16: varint 0.
        let message = [
            &[0x08, 0xac, 0x02][..],
            &[0x11, 1, 0, 0, 0, 0, 0, 0, 0x80],
            &[0x1d, 9, 9, 9, 9],
            &[0x22, 2, 7, 8],
            &[0x80, 0x01, 0],
        ];
        let message = message.concat();
        let fields: Vec<_> = Fields::of(&message).map(Result::unwrap).collect();
        assert_eq!(
            fields,
            [
                (1, Value::Varint(300)),
                (2, Value::Fixed64(0x8000_0000_0000_0001)),
                (3, Value::Fixed32),
                (4, Value::Bytes(&[7, 8])),
                (16, Value::Varint(0)),
            ]
        );
        let numbers: Vec<_> = fields.iter().map(|(_, value)| value.number()).collect();
        assert_eq!(
            numbers,
            [
                Ok(300),
                Ok(0x8000_0000_0000_0001),
                Err(Malformed),
                Err(Malformed),
                Ok(0)
            ]
        );
        assert_eq!(fields[3].1.bytes(), Ok(&[7, 8][..]));
        assert_eq!(fields[0].1.bytes(), Err(Malformed));
        // A field without a number, a group, and a number that does not end.
        for wrong in [&[0x00, 1][..], &[0x0b], &[0xff; 11]] {
            assert_eq!(Fields::of(wrong).next(), Some(Err(Malformed)), "{wrong:?}");
            assert_eq!(Fields::of(wrong).count(), 1);
        }
    }

    #[test]
    fn reads_what_was_written_and_nothing_cut_off() {
        let span = Span {
            span_id: "x".to_owned(),
            start_time_unix_nano: u64::MAX,
            attributes: vec![KeyValue::default()],
            ..Default::default()
        };
        let bytes = span.encode_to_vec();
        let fields: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            fields,
            [
                (1, Value::Bytes(b"x")),
                (3, Value::Varint(u64::MAX)),
                (5, Value::Bytes(b""))
            ]
        );
        for length in 1..bytes.len() {
            let whole = Fields::of(&bytes[..length]).all(|field| field.is_ok());
            assert_eq!(whole, length == 3 || length == 14, "{length}");
        }
    }
}
