//! One request and its answer: sent when the gate lets it, and read into bounded memory.
//!
//! Redirects are never followed (they would carry credentials to another host, and lead to login pages). Bodies are read
//! into a bounded buffer, large ones one at a time; decoding them is left to who asked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::{
    Response,
    header::{ACCEPT, CONTENT_TYPE, DATE, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use super::{
    Client, LARGEST_OTHER,
    failures::{is_html, retry_after},
};
use crate::tempo::{
    error::{Class, Failure},
    gate::Urgency,
    wire::Format,
};

/// Answers that are larger than this, bytes, are read one at a time: all others fit into memory beside each other.
const LARGE: usize = 24 << 20;

/// A whole answer in memory, and the place that a large one has there.
pub(in crate::tempo) struct Body {
    pub(in crate::tempo) status: u16,
    pub(in crate::tempo) content_type: String,
    pub(super) server_time: Option<DateTime<Utc>>,
    pub(in crate::tempo) bytes: Vec<u8>,
    pub(in crate::tempo) elapsed: Duration,
    _large: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// Asks for an answer of so many bytes at most.
    pub(in crate::tempo) async fn get(
        &self,
        url: Url,
        accept: &'static str,
        urgency: Urgency,
        largest: usize,
    ) -> Result<Body, Failure> {
        let _place = self.gate.enter(urgency).await;
        let sent = Instant::now();
        match self.send(url, accept, sent, largest).await {
            Ok(body) => Ok(body),
            Err(mut failure) => {
                failure.elapsed = sent.elapsed();
                self.gate.failed(&failure).await;
                Err(failure)
            }
        }
    }

    async fn send(
        &self,
        url: Url,
        accept: &'static str,
        sent: Instant,
        largest: usize,
    ) -> Result<Body, Failure> {
        tracing::trace!(source = self.source.name, %url, "request");
        let response = self
            .http
            .get(url)
            .header(ACCEPT, accept)
            .send()
            .await
            .map_err(|error| self.transport(error))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text_of = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
                .unwrap_or("")
        };
        let content_type = text_of(CONTENT_TYPE).to_ascii_lowercase();
        let server_time = DateTime::parse_from_rfc2822(text_of(DATE))
            .ok()
            .map(|at| at.with_timezone(&Utc));
        let read = if status == 200 && Format::of(&content_type).is_some() {
            self.read(response, largest).await
        } else {
            self.read_beginning(response).await
        };
        let (bytes, large) = match read {
            Ok(read) => read,
            // Here the status says enough; what else is refused says why in its body.
            Err(_) if matches!(status, 401..=408 | 429 | 500..) => (Vec::new(), None),
            Err(failure) => return Err(failure),
        };
        let body = Body {
            status,
            content_type,
            server_time,
            bytes,
            elapsed: sent.elapsed(),
            _large: large,
        };
        if body.status != 200 {
            let retry_after = retry_after(text_of(RETRY_AFTER), body.server_time);
            return Err(self.refused(&body, text_of(LOCATION), retry_after));
        }
        if is_html(&body) {
            return Err(self.refused(&body, "", None));
        }
        Ok(body)
    }

    /// Reads a whole answer. One that is large waits until no other is in memory; its place is held as long as it is.
    async fn read(
        &self,
        mut response: Response,
        largest: usize,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Failure> {
        let too_large = || {
            let most = match largest >> 20 {
                0 => format!("{} KiB", largest >> 10),
                most => format!("{most} MiB"),
            };
            let message = format!("Tempo's answer is larger than {most}, the most that is read");
            Failure::new(Class::TooLarge, message)
        };
        let announced = response.content_length().unwrap_or(0);
        if announced > largest as u64 {
            return Err(too_large());
        }
        let announced = usize::try_from(announced).unwrap_or(0);
        let mut bytes = Vec::with_capacity(announced.min(LARGE));
        let mut large = None;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.transport(error))?
        {
            let length = bytes.len() + chunk.len();
            if length > largest {
                return Err(too_large());
            }
            if length > LARGE && large.is_none() {
                // Never closed, so this is always a permit.
                large = Arc::clone(&self.large).acquire_owned().await.ok();
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, large))
    }

    /// Reads what a refusal says, and no more of it than says enough.
    async fn read_beginning(
        &self,
        mut response: Response,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Failure> {
        let mut bytes = Vec::new();
        while bytes.len() < LARGEST_OTHER
            && let Some(chunk) = response
                .chunk()
                .await
                .map_err(|error| self.transport(error))?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(LARGEST_OTHER);
        Ok((bytes, None))
    }
}
