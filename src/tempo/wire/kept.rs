//! What is kept of an answer while it is decoded, and how much memory that may take.
//!
//! Nothing is copied out of the bytes that came but what is kept, and a name that many traces have is kept once. A trace of two bytes
//! on the wire takes a hundred here: so what is kept is counted, and an answer of which it is out of proportion is refused before
//! it fills the memory. Text is read as bytes: Tempo passes on what it was sent and does not check that it is UTF-8; one bad
//! name must not make the answer unreadable for ever.

use std::{collections::HashSet, sync::Arc};

use super::DecodeError;

/// So many times its own size an answer may take in memory, ordinary ones take one or two, and a little more so that a short one is
/// never refused.
const TIMES: usize = 4;
const ANYWAY: usize = 1 << 20;
/// But never more than this, bytes.
const MOST: usize = 128 << 20;
/// The longest text that is read, bytes: as much as Tempo's own parts send each other at once.
const LONGEST_TEXT: usize = 16 << 20;
/// What a name takes beside its bytes.
const NAME: usize = 64;

/// Names met in an answer, each kept once, and the room there is for everything else.
pub(super) struct Kept {
    names: HashSet<Arc<str>>,
    room: usize,
    /// Most traces that were asked for, and how many more may come.
    most: usize,
    traces_left: usize,
    /// What was found wrong where only an error of the format can be returned.
    wrong: Option<DecodeError>,
}

impl Kept {
    /// Nothing is kept yet of an answer of so many bytes, which may bring so many traces.
    pub(super) fn of(body: &[u8], most: usize) -> Self {
        Self {
            names: HashSet::new(),
            room: (body.len().saturating_mul(TIMES).saturating_add(ANYWAY)).min(MOST),
            most,
            traces_left: most,
            wrong: None,
        }
    }

    /// Takes room for so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.room = self
            .room
            .checked_sub(bytes)
            .ok_or(DecodeError::OutOfProportion)?;
        Ok(())
    }

    /// Takes room for a value.
    pub(super) fn take_for<T>(&mut self) -> Result<(), DecodeError> {
        self.take(size_of::<T>())
    }

    /// Takes room for one more trace, if one more was asked for.
    pub(super) fn take_trace<T>(&mut self) -> Result<(), DecodeError> {
        self.traces_left = self
            .traces_left
            .checked_sub(1)
            .ok_or(DecodeError::MoreThanAsked(self.most))?;
        self.take_for::<T>()
    }

    /// The name; what is not UTF-8 in it becomes U+FFFD.
    pub(super) fn name(&mut self, bytes: &[u8]) -> Result<Arc<str>, DecodeError> {
        not_too_long(bytes)?;
        let name = String::from_utf8_lossy(bytes);
        if let Some(known) = self.names.get(&*name) {
            return Ok(Arc::clone(known));
        }
        self.take(name.len() + NAME)?;
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        Ok(name)
    }

    /// The value; or what is wrong is noted, and the error stops the reader of the format.
    pub(super) fn or_stop<T, E: serde::de::Error>(
        &mut self,
        read: Result<T, DecodeError>,
    ) -> Result<T, E> {
        read.map_err(|wrong| {
            self.wrong = Some(wrong);
            E::custom("refused")
        })
    }

    /// What was wrong when the reader of JSON stopped.
    pub(super) fn why(&mut self, stopped: serde_json::Error) -> DecodeError {
        self.wrong.take().unwrap_or(DecodeError::Json(stopped))
    }
}

/// Whether a text may be read.
pub(super) fn not_too_long(text: &[u8]) -> Result<(), DecodeError> {
    match text.len() > LONGEST_TEXT {
        true => Err(DecodeError::OutOfProportion),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(kept: &mut Kept) -> usize {
        let mut left = 0;
        while kept.take(1 << 20).is_ok() {
            left += 1 << 20;
        }
        while kept.take(1).is_ok() {
            left += 1;
        }
        left
    }

    #[test]
    fn there_is_room_for_four_times_the_answer_and_a_mebibyte_and_never_for_more_than_128() {
        for (answer, room) in [
            (0, 1 << 20),
            (1_000, 4_000 + (1 << 20)),
            (31 << 20, 125 << 20),
            (32 << 20, 128 << 20),
            (60 << 20, 128 << 20),
        ] {
            assert_eq!(left(&mut Kept::of(&vec![0; answer], 1)), room, "{answer}");
        }
    }

    #[test]
    fn what_is_taken_is_what_is_kept() {
        let mut kept = Kept::of(&[], 2);
        kept.take_for::<[u64; 3]>().unwrap();
        kept.name(b"checkout").unwrap();
        kept.name(b"checkout").unwrap();
        kept.take_trace::<[u64; 2]>().unwrap();
        kept.take_trace::<[u64; 2]>().unwrap();
        let more = kept.take_trace::<u8>().unwrap_err();
        assert!(matches!(more, DecodeError::MoreThanAsked(2)), "{more}");
        assert_eq!(left(&mut kept), (1 << 20) - 24 - (8 + 64) - 2 * 16);
        let full = kept.name(b"cart").unwrap_err();
        assert!(matches!(full, DecodeError::OutOfProportion), "{full}");
        assert_eq!(&*kept.name(b"checkout").unwrap(), "checkout");
    }

    #[test]
    fn a_text_of_16_mib_is_read_and_a_longer_one_is_not() {
        let text = vec![b'x'; (16 << 20) + 1];
        assert!(not_too_long(&text[1..]).is_ok());
        assert!(not_too_long(&text).is_err());
        assert!(Kept::of(&text, 1).name(&text).is_err());
    }
}
