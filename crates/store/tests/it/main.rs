//! The store's integration tests: both engines against one suite, against each other, and against their schemas.

#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod differential;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod parity;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
