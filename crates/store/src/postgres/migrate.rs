//! Migrations and partitions. Steps only go forward, each in a transaction of its own under a lock that ends with it, and
//! are written down in the table `migrations`. Messages and events live in weekly partitions, made ahead.

use std::time::Duration;

use raven_core::{Seq, Timestamp};
use tokio_postgres::Config;

use super::{
    connection::{Connection, Connections, Failure},
    rows::get,
    scope,
    tls::Tls,
};
use crate::{Error, Migrations, Result};

/// A step of the schema.
struct Step {
    number: i32,
    name: &'static str,
    sql: &'static str,
}

const STEPS: &[Step] = &[
    Step { number: 1, name: "first", sql: include_str!("../../migrations/0001_first/postgres.sql") },
    Step { number: 2, name: "contract", sql: include_str!("../../migrations/0002_contract/postgres.sql") },
    Step { number: 3, name: "priority", sql: include_str!("../../migrations/0003_priority/postgres.sql") },
    Step { number: 4, name: "config_status", sql: include_str!("../../migrations/0004_config_status/postgres.sql") },
    Step { number: 5, name: "suppressions", sql: include_str!("../../migrations/0005_suppressions/postgres.sql") },
    Step { number: 6, name: "callbacks", sql: include_str!("../../migrations/0006_callbacks/postgres.sql") },
    Step { number: 7, name: "routing", sql: include_str!("../../migrations/0007_routing/postgres.sql") },
    Step { number: 8, name: "rare_statuses", sql: include_str!("../../migrations/0008_rare_statuses/postgres.sql") },
    Step { number: 9, name: "parts", sql: include_str!("../../migrations/0009_parts/postgres.sql") },
    Step { number: 10, name: "waiting", sql: include_str!("../../migrations/0010_waiting/postgres.sql") },
];

/// The SQL of all steps, in order: two programs with the same text make the same schema.
pub(super) fn texts() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|step| step.sql)
}

/// Number of the last step.
const LATEST: i32 = STEPS[STEPS.len() - 1].number;

// The key is arbitrary; registrations of nodes use another one.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7228162910)";
const HAS_TABLE: &str = "SELECT to_regclass('migrations') IS NOT NULL AS found";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS migrations (number integer NOT NULL PRIMARY KEY, name text COLLATE \"C\" NOT NULL, applied_at bigint NOT NULL)";
// Prepared on demand only: the table may not be there.
const APPLIED: &str = "SELECT COALESCE(max(number), 0) AS applied FROM migrations";
const RECORD: &str = "INSERT INTO migrations (number, name, applied_at) VALUES ($1, $2, $3)";
const EXISTING: &str =
    "SELECT relname::text AS name FROM pg_class WHERE relname = ANY ($1::text[]) AND relkind = 'r' AND pg_table_is_visible(oid)";
const STORED_COLUMNS: &str = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS columns FROM pg_attribute \
     WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[LOCK, HAS_TABLE, APPLIED, RECORD, EXISTING, STORED_COLUMNS];

/// A step may rewrite a table, which takes its time; but what it waits for others, they wait for it.
const STEP_LIMITS: &str =
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '60s'";
/// Whoever migrates may have to wait for another process that does.
const LOCK_LIMITS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '10min'";

/// Where the schema is.
pub(super) async fn state(connection: &mut Connection) -> Result<Migrations> {
    Ok(Migrations { applied: applied(connection).await?, latest: LATEST })
}

async fn applied(connection: &mut Connection) -> Result<i32> {
    let found = connection.query_opt(HAS_TABLE, &[]).await?.map_or(Ok(false), |row| get(&row, "found"))?;
    if !found {
        return Ok(0);
    }
    connection.query_opt(APPLIED, &[]).await?.map_or(Ok(0), |row| get(&row, "applied"))
}

/// Brings the schema up to date over a connection of its own.
pub(super) async fn migrate(config: &Config, tls: &Tls, now: Timestamp) -> Result<Migrations> {
    let direct = Connections::new(config, tls, 1)?;
    let mut connection = direct.get().await?;
    connection.take_time();
    // Outside of the steps' transactions: roles belong to the whole cluster.
    scope::ensure_role(&mut connection).await?;
    for step in STEPS {
        apply(&mut connection, step, now).await?;
    }
    let state = state(&mut connection).await?;
    create_partitions(&mut connection, now).await?;
    Ok(state)
}

async fn apply(connection: &mut Connection, step: &Step, now: Timestamp) -> Result<()> {
    connection.begin().await?;
    connection.batch(LOCK_LIMITS).await?;
    connection.query(LOCK, &[]).await?;
    // Looked at under the lock: another process may have migrated while we waited for it.
    let applied = applied(connection).await?;
    if applied > LATEST {
        return Err(Error::internal(format!(
            "the database is of a newer version (step {applied}) than this program (step {LATEST}): run the newer one"
        )));
    }
    if applied < step.number {
        connection.batch(STEP_LIMITS).await?;
        connection.batch(TABLE).await?;
        connection.batch(step.sql).await?;
        connection.execute(RECORD, &[&step.number, &step.name, &now.millis()]).await?;
        tracing::info!(step = step.number, name = step.name, "migrated");
    }
    Ok(connection.commit().await?)
}

/// Milliseconds of a day and of a week.
const DAY: i64 = 86_400_000;
const WEEK: i64 = 7 * DAY;
/// Weeks that are made ahead of the present one.
const WEEKS_AHEAD: i64 = 5;
/// The tables in weekly partitions, the column they are split by, and how full their pages are made: a message grows when
/// its outcome comes in, and the new version best stays on its page.
const PARTITIONED: [(&str, &str, u8); 2] = [("messages", "seq", 70), ("events", "message_seq", 100)];

/// A week from Monday to Sunday, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Week {
    /// Weeks since the one that 1970 began in.
    number: i64,
}

impl Week {
    fn of(at: Timestamp) -> Self {
        // 1970 began on a Thursday, the fourth day.
        Self { number: (at.millis() + 3 * DAY).div_euclid(WEEK) }
    }

    const fn start(self) -> Timestamp {
        Timestamp::from_millis(self.number * WEEK - 3 * DAY)
    }

    const fn end(self) -> Timestamp {
        Self { number: self.number + 1 }.start()
    }

    /// `2026w48`, as in ISO 8601: a week belongs to the year of its Thursday.
    fn name(self) -> String {
        let thursday = self.start().after(Duration::from_millis(3 * DAY.unsigned_abs()));
        let year = thursday.to_string().chars().take_while(|c| *c != '-').collect::<String>();
        let first = Timestamp::parse(&format!("{year}-01-01T00:00:00Z")).unwrap_or(thursday);
        format!("{year}w{:02}", (thursday.millis() - first.millis()) / WEEK + 1)
    }
}

/// A partition that there should be.
struct Partition {
    table: &'static str,
    column: &'static str,
    fill: u8,
    name: String,
    from: i64,
    to: i64,
}

fn wanted(now: Timestamp) -> Vec<Partition> {
    let present = Week::of(now).number;
    let weeks = (present - 1..=present + WEEKS_AHEAD).map(|number| Week { number });
    // Before 1970 there is nothing to keep.
    let weeks = weeks.filter(|week| week.start().millis() >= 0);
    weeks
        .flat_map(|week| {
            PARTITIONED.map(|(table, column, fill)| Partition {
                table,
                column,
                fill,
                name: format!("{table}_{}", week.name()),
                from: Seq::first_at(week.start()).0,
                to: Seq::first_at(week.end()).0,
            })
        })
        .collect()
}

async fn missing(connection: &mut Connection, now: Timestamp) -> Result<Vec<Partition>> {
    let mut wanted = wanted(now);
    let names: Vec<&str> = wanted.iter().map(|p| p.name.as_str()).collect();
    let existing = connection.query(EXISTING, &[&names]).await?;
    let existing = existing.iter().map(|row| get(row, "name")).collect::<Result<Vec<String>>>()?;
    wanted.retain(|p| !existing.contains(&p.name));
    Ok(wanted)
}

/// See [`Health::extend`](crate::Health::extend). Looks with an ordinary connection, and takes the direct way only when
/// something is missing.
pub(super) async fn extend(config: &Config, tls: &Tls, connection: &mut Connection, now: Timestamp) -> Result<()> {
    if missing(connection, now).await?.is_empty() {
        return Ok(());
    }
    let direct = Connections::new(config, tls, 1)?;
    let mut connection = direct.get().await?;
    connection.take_time();
    create_partitions(&mut connection, now).await
}

async fn create_partitions(connection: &mut Connection, now: Timestamp) -> Result<()> {
    for partition in missing(connection, now).await? {
        create(connection, &partition, now).await?;
    }
    Ok(())
}

/// Makes one partition, in a transaction of its own so that others wait as shortly as possible. Attaching a table that was
/// made apart stops neither reads nor writes of the other weeks. Rows that came too early lie in the default partition: they
/// move over first.
async fn create(connection: &mut Connection, partition: &Partition, now: Timestamp) -> Result<()> {
    let Partition { table, column, fill, name, from, to } = partition;
    connection.begin().await?;
    connection.batch(LOCK_LIMITS).await?;
    connection.query(LOCK, &[]).await?;
    // Another process may have made it while we waited.
    if !missing(connection, now).await?.iter().any(|p| p.name == *name) {
        return Ok(connection.rollback().await?);
    }
    // What is generated can't be given.
    let rows = connection.query(STORED_COLUMNS, &[table]).await?;
    let columns: String = rows.first().map(|row| get(row, "columns")).transpose()?.unwrap_or_default();
    let made = connection
        .batch(&format!(
            "SET LOCAL lock_timeout = '4s';
             CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED) WITH (fillfactor = {fill});
             LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE;
             WITH early AS (DELETE FROM {table}_default WHERE {column} >= {from} AND {column} < {to} RETURNING {columns})
               INSERT INTO {name} ({columns}) SELECT {columns} FROM early;
             ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
        ))
        .await;
    made.map_err(Failure::into_error)?;
    tracing::info!(name, "made a partition");
    Ok(connection.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn weeks_are_named_as_in_iso_8601() {
        for (day, name) in [
            ("2026-11-24T04:15:00Z", "2026w48"),
            ("2026-11-23T00:00:00Z", "2026w48"),
            ("2026-11-22T23:59:59.999Z", "2026w47"),
            ("2027-01-03T12:00:00Z", "2026w53"),
            ("2027-01-04T00:00:00Z", "2027w01"),
            ("2024-12-30T00:00:00Z", "2025w01"),
            ("2021-01-01T00:00:00Z", "2020w53"),
            ("1970-01-01T00:00:00Z", "1970w01"),
        ] {
            assert_eq!(Week::of(at(day)).name(), name, "{day}");
        }
    }

    #[test]
    fn weeks_follow_each_other_without_a_gap() {
        let mut week = Week::of(at("2026-11-24T04:15:00Z"));
        assert_eq!(week.start(), at("2026-11-23T00:00:00Z"));
        for _ in 0..200 {
            let next = Week::of(week.end());
            assert_eq!(next.start(), week.end());
            assert_ne!(next.name(), week.name());
            week = next;
        }
    }

    #[test]
    fn the_week_before_and_five_ahead_are_wanted() {
        let names: Vec<String> = wanted(at("2026-11-24T04:15:00Z")).into_iter().map(|p| p.name).collect();
        assert_eq!(names.len(), 14);
        assert!(names.contains(&"messages_2026w47".to_owned()) && names.contains(&"events_2026w53".to_owned()));
        // The first weeks of 1970 have none before them.
        assert_eq!(wanted(Timestamp::from_millis(0)).len(), 10);
    }
}
