//! Reading a request's body: its type, its size, its time, and the memory that large ones share.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::header;
use http_body_util::BodyExt;
use raven_core::json::Json;

use crate::{
    App, codes,
    fields::Fields,
    problem::{Problem, Result},
};

/// Bytes of a body that every request may have.
const SMALL: usize = 256 * 1024;
/// Bytes that bodies beyond [`SMALL`] may take up together.
const LARGE_BUDGET: usize = 256 * 1024 * 1024;
/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// Bytes that most endpoints take.
pub const LIMIT: usize = 1024 * 1024;
/// Bytes that sending a message takes.
pub const MESSAGE_LIMIT: usize = 25 * 1024 * 1024;

/// A body of at most `MAX` bytes that claims to be JSON.
pub struct Body<const MAX: usize = LIMIT> {
    bytes: Bytes,
    _share: Option<Share>,
}

impl<const MAX: usize> Body<MAX> {
    /// The body as the fields of an object; `known` are the names that it may have, in camelCase.
    ///
    /// # Errors
    /// `invalid_json` when it is not an object.
    pub fn fields(&self, known: &'static [&'static str]) -> Result<Fields<'_>> {
        let bytes: &[u8] = if self.bytes.is_empty() { b"{}" } else { &self.bytes };
        match serde_json::from_slice::<Json<'_>>(bytes) {
            Ok(Json::Object(members)) => Ok(Fields::new(members, known)),
            Ok(other) => Err(Problem::new(codes::INVALID_JSON, format!("The body must be a JSON object, not {}.", other.kind()))),
            // The parser names the place and what it expected, and never quotes the input but for a repeated name.
            Err(e) => Err(Problem::new(codes::INVALID_JSON, format!("The body is not valid JSON: {e}."))),
        }
    }
}

/// A large body's share of the common budget; given back when dropped.
pub(crate) struct Share {
    app: Arc<App>,
    bytes: usize,
}

impl Share {
    fn of(app: &Arc<App>) -> Self {
        Self { app: app.clone(), bytes: 0 }
    }

    fn grow(&mut self, to: usize) -> Result<()> {
        let more = to.saturating_sub(self.bytes);
        let before = self.app.large_bodies.fetch_add(more, Ordering::AcqRel);
        self.bytes += more;
        if before + more > LARGE_BUDGET {
            Err(Problem::new(codes::OVERLOADED, "Too many large bodies are under way. Try again soon."))
        } else {
            Ok(())
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.app.large_bodies.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A body of any type, of at most `max` bytes, and what it takes up of the common budget.
///
/// # Errors
/// When it is too large or too slow.
pub(crate) async fn raw(request: Request, app: &Arc<App>, max: usize) -> Result<(Bytes, Option<Share>)> {
    tokio::time::timeout(ARRIVAL, read(request, app, max)).await.unwrap_or_else(|_| Err(Problem::of(codes::REQUEST_TIMEOUT)))
}

impl<const MAX: usize> FromRequest<Arc<App>> for Body<MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        check_type(&request)?;
        raw(request, app, MAX).await.map(|(bytes, share)| Self { bytes, _share: share })
    }
}

fn check_type(request: &Request) -> Result<()> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = essence.eq_ignore_ascii_case("application/json")
        || essence.get(essence.len().saturating_sub(5)..).is_some_and(|s| s.eq_ignore_ascii_case("+json"));
    if json { Ok(()) } else { Err(Problem::of(codes::UNSUPPORTED_MEDIA_TYPE)) }
}

async fn read(request: Request, app: &Arc<App>, max: usize) -> Result<(Bytes, Option<Share>)> {
    let too_large =
        || Problem::new(codes::BODY_TOO_LARGE, format!("The body is larger than the {} KiB that this endpoint takes.", max / 1024));
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|n| n > max) {
        return Err(too_large());
    }
    let mut share: Option<Share> = None;
    if let Some(n) = declared.filter(|n| *n > SMALL) {
        share.insert(Share::of(app)).grow(n)?;
    }
    let mut body = request.into_body();
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(codes::INVALID_JSON, "The body broke off."))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = first.as_ref().map_or(0, Bytes::len) + joined.len() + data.len();
        if length > max {
            return Err(too_large());
        }
        if length > SMALL {
            share.get_or_insert_with(|| Share::of(app)).grow(length)?;
        }
        // Nearly every body comes in one piece, which is then used as it is.
        if first.is_none() && joined.is_empty() {
            first = Some(data);
        } else {
            if let Some(first) = first.take() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok((first.unwrap_or_else(|| joined.freeze()), share))
}
