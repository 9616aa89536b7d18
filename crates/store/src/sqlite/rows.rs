//! Values as SQLite holds them: ids as 16 bytes, times as milliseconds, codes as integers.

use raven_core::Timestamp;
use rusqlite::{
    Row,
    types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Type, ValueRef},
};
use uuid::Uuid;

/// An id in a parameter or a column.
#[derive(Clone, Copy)]
pub(super) struct Id(pub(super) Uuid);

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 16]>::column_result(value).map(|bytes| Self(Uuid::from_bytes(bytes)))
    }
}

/// The id in column `i`.
pub(super) fn id(row: &Row<'_>, i: usize) -> rusqlite::Result<Uuid> {
    row.get::<_, Id>(i).map(|id| id.0)
}

/// The time in column `i`.
pub(super) fn time(row: &Row<'_>, i: usize) -> rusqlite::Result<Timestamp> {
    row.get(i).map(Timestamp::from_millis)
}

/// The time in column `i`, if there is one.
pub(super) fn time_or_null(row: &Row<'_>, i: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(i)?.map(Timestamp::from_millis))
}

/// What the code in column `i` stands for.
pub(super) fn code<T>(row: &Row<'_>, i: usize, from_code: impl Fn(i16) -> Option<T>) -> rusqlite::Result<T> {
    let code: i16 = row.get(i)?;
    from_code(code).ok_or_else(|| rusqlite::Error::FromSqlConversionFailure(i, Type::Integer, format!("no such code: {code}").into()))
}

/// A number of rows as a `LIMIT`.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// A page position as parameters: what sorts after every row, when there is none.
pub(super) fn position(before: Option<(Timestamp, Uuid)>) -> (i64, Id) {
    before.map_or((i64::MAX, Id(Uuid::max())), |(at, id)| (at.millis(), Id(id)))
}
