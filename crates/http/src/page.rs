//! Pages: the `limit` and `cursor` of a list request, and the cursor of the next page.

use raven_core::{
    Timestamp,
    page::{CursorKey, DEFAULT_LIMIT, MAX_LIMIT},
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    codes,
    problem::{Problem, Result},
    query::Parameters,
};

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// Newest first.
    pub data: Vec<T>,
    /// Pass it as `cursor` to get the next page; `null` on the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// The parameters of every list, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name; this lists them for the document")]
pub struct PageParameters {
    /// Rows on a page; 50 when absent.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `nextCursor` of the page before. Bound to the same endpoint and filters.
    #[param(max_length = 128, pattern = "^[A-Za-z0-9_-]*$", example = "AZbNH3kAAAD2q1m7cJ0aT4sYb2k")]
    cursor: Option<String>,
}

/// The names of [`PageParameters`].
pub const PARAMETERS: &[&str] = &["limit", "cursor"];

/// Reads `limit`: 1 to 200, 50 when absent.
pub fn limit(parameters: &mut Parameters<'_>) -> usize {
    let read = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=MAX_LIMIT).contains(n));
    parameters.read("limit", read, || format!("must be a whole number from 1 to {MAX_LIMIT}")).unwrap_or(DEFAULT_LIMIT)
}

/// What a cursor is bound to: an endpoint, whose list it is, and its filters.
#[derive(Debug)]
pub struct Scope(Vec<u8>);

impl Scope {
    /// Of an endpoint, for an owner.
    #[must_use]
    pub fn new(endpoint: &str, owner: Uuid) -> Self {
        let mut bytes = endpoint.as_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(owner.as_bytes());
        Self(bytes)
    }

    /// With a filter: its name and value, absent ones too.
    #[must_use]
    pub fn with(mut self, name: &str, value: Option<&str>) -> Self {
        self.0.extend_from_slice(name.as_bytes());
        match value {
            None => self.0.push(0),
            Some(value) => {
                self.0.push(1);
                self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
                self.0.extend_from_slice(value.as_bytes());
            }
        }
        self
    }

    /// The position of a cursor.
    ///
    /// # Errors
    /// `invalid_cursor`.
    pub fn open<P: Position>(&self, key: &CursorKey, cursor: Option<&str>) -> Result<Option<P>> {
        let Some(cursor) = cursor else { return Ok(None) };
        key.open(&self.0, cursor).and_then(|raw| P::from_bytes(&raw)).map(Some).ok_or_else(|| Problem::of(codes::INVALID_CURSOR))
    }

    /// A cursor at a position.
    #[must_use]
    pub fn seal<P: Position>(&self, key: &CursorKey, position: &P) -> String {
        key.seal(&self.0, &position.to_bytes())
    }
}

/// Where a page ends.
pub trait Position: Sized {
    /// In bytes.
    fn to_bytes(&self) -> Vec<u8>;
    /// From bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Position for raven_core::Seq {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(i64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl Position for (Timestamp, Uuid) {
    fn to_bytes(&self) -> Vec<u8> {
        [&self.0.millis().to_be_bytes()[..], self.1.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (time, id) = bytes.split_first_chunk::<8>()?;
        Some((Timestamp::from_millis(i64::from_be_bytes(*time)), Uuid::from_slice(id).ok()?))
    }
}

/// Turns `limit + 1` rows into a page: the extra row only tells that there is a next one.
pub fn page<R, V, P: Position>(
    mut rows: Vec<R>,
    limit: usize,
    scope: &Scope,
    key: &CursorKey,
    position: impl Fn(&R) -> P,
    view: impl Fn(R) -> V,
) -> Page<V> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|last| scope.seal(key, &position(last)));
    Page { data: rows.into_iter().map(view).collect(), next_cursor }
}
