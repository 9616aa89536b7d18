//! What can go wrong in a store, as its callers need to tell it apart.

/// The result of a verb.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Three things can go wrong. The source keeps the driver's own error for the log; no text of it reaches an API answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A uniqueness that the verb's caller must answer for (a slug, a key prefix) is taken. Nothing was changed.
    #[error("{0} is taken")]
    Conflict(&'static str),
    /// The database can't be reached or can't write now (connection lost, disk full, locked, shutting down).
    /// The same call may succeed later. Whether this one took effect is unknown when the connection broke in its commit.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database answered something that it must not: a bug, or damage.
    #[error("the database failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// A bug or damage, told in words.
    pub fn internal(text: impl Into<String>) -> Self {
        Self::Internal(text.into().into())
    }
}
