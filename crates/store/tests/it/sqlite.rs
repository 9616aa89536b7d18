//! The suite on SQLite.

use raven_testkit::database::sqlite_store;

raven_store::conformance_tests!(sqlite_store);
