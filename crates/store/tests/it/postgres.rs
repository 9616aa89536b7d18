//! The suite on PostgreSQL, and what only PostgreSQL has: partitions, plans, races between connections.

use raven_testkit::database::postgres_store as fresh;

raven_store::conformance_tests!(fresh);
