//! PostgreSQL's binary form of COPY, row by row.

use std::{borrow::Cow, fmt::Display};

use sqlx::{PgConnection, postgres::PgCopyIn};

/// Bytes handed over at once.
const CHUNK: usize = 256 << 10;
/// Microseconds between 1970 and 2000, where PostgreSQL's time begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// PostgreSQL's text, and what stands in its JSON, has no NUL: it is stored as U+FFFD.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Spans and errors by service as JSON, in the place of what the text held: what `harvest.traces.services` holds.
pub(super) fn write_services<'a>(
    text: &mut String,
    services: impl Iterator<Item = (&'a str, impl Display, impl Display)>,
) {
    text.clear();
    for (service, spans, errors) in services {
        text.push(if text.is_empty() { '{' } else { ',' });
        let name = serde_json::Value::from(without_nul(service).as_ref());
        text.push_str(&format!("{name}:{{\"spans\":{spans},\"errors\":{errors}}}"));
    }
    text.push_str(if text.is_empty() { "{}" } else { "}" });
}

/// A COPY under way.
pub(super) struct Copy<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    buffer: Vec<u8>,
}

impl<'c> Copy<'c> {
    /// Begins the statement, which ends in `FROM STDIN (FORMAT binary)`.
    pub(super) async fn begin(conn: &'c mut PgConnection, statement: &str) -> sqlx::Result<Self> {
        let mut buffer = Vec::with_capacity(CHUNK + 4096);
        buffer.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
        buffer.extend_from_slice(&[0; 8]);
        Ok(Self {
            copy: conn.copy_in_raw(statement).await?,
            buffer,
        })
    }

    /// A row of so many fields, which are to be written before the next row begins.
    pub(super) async fn row(&mut self, fields: i16) -> sqlx::Result<Row<'_>> {
        if self.buffer.len() >= CHUNK {
            self.copy.send(self.buffer.as_slice()).await?;
            self.buffer.clear();
        }
        self.buffer.extend_from_slice(&fields.to_be_bytes());
        Ok(Row {
            buffer: &mut self.buffer,
        })
    }

    pub(super) async fn end(mut self) -> sqlx::Result<()> {
        self.buffer.extend_from_slice(&(-1i16).to_be_bytes());
        self.copy.send(self.buffer.as_slice()).await?;
        self.copy.finish().await?;
        Ok(())
    }
}

/// A row to be filled field by field.
pub(super) struct Row<'a> {
    buffer: &'a mut Vec<u8>,
}

impl Row<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer
            .extend_from_slice(&i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn null(&mut self) {
        self.buffer.extend_from_slice(&(-1i32).to_be_bytes());
    }

    /// A `text`; NUL becomes U+FFFD.
    pub(super) fn text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.bytes(without_nul(text).as_bytes()),
            None => self.null(),
        }
    }

    pub(super) fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.null(),
        }
    }

    /// A `bigint`.
    pub(super) fn long(&mut self, number: i64) {
        self.bytes(&number.to_be_bytes());
    }

    /// An `integer`; the greatest there is for what is greater.
    pub(super) fn integer(&mut self, number: usize) {
        self.bytes(&i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes());
    }

    pub(super) fn boolean(&mut self, value: Option<bool>) {
        self.optional(
            value
                .map(|value| [u8::from(value)])
                .as_ref()
                .map(<[u8; 1]>::as_slice),
        );
    }

    /// A `timestamptz` from Unix nanoseconds.
    pub(super) fn instant(&mut self, ns: i64) {
        self.long(ns.div_euclid(1_000) - POSTGRES_EPOCH_US);
    }

    /// A `jsonb`, from its text.
    pub(super) fn json(&mut self, text: Option<&str>) {
        let Some(text) = text else {
            return self.null();
        };
        let length = i32::try_from(text.len() + 1).unwrap_or(i32::MAX);
        self.buffer.extend_from_slice(&length.to_be_bytes());
        // The version of jsonb's binary form, then plain JSON text.
        self.buffer.push(1);
        self.buffer.extend_from_slice(text.as_bytes());
    }
}
