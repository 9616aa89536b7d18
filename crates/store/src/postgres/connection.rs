//! Connections: pools, time limits, and which of the driver's errors means what.
//!
//! Statements are prepared once per connection at protocol level and found again by their text. That needs no session
//! state of ours, and transaction poolers keep track of it (PgBouncer from 1.21 on with `max_prepared_statements` above 0).
//! Nothing else outlives a transaction: no `SET`, no temporary table, no session lock, no LISTEN.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use futures_util::future::join3;
use parking_lot::Mutex;
use raven_core::TenantId;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Config, Row, error::SqlState, types::ToSql};

use super::{scope, tls::Tls};
use crate::{Error, Result};

/// How long a verb waits for a free connection, or for a new one to be made, before it answers "unavailable".
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const TIMEOUTS: Timeouts = Timeouts { wait: Some(CONNECT_WITHIN), create: Some(CONNECT_WITHIN), recycle: Some(CONNECT_WITHIN) };
/// How long one statement may take before we give its connection up. The server's own limit is shorter.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The same for a migration, which may rewrite tables, or wait for another process that does.
const MIGRATE_WITHIN: Duration = Duration::from_secs(3600);
/// The pause after a first failed connection, during which verbs answer at once. It doubles up to the longest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a direct connection asks of the server. A pooler would drop it or, worse, pass it on to others; there it is the
/// operator's to set (`ALTER ROLE raven SET statement_timeout = …`), and our own time limit still holds.
///
/// All our statements reach their rows by an index. A plan is kept for the life of a connection, so one that was made while
/// a table was almost empty must not read all of it when it has grown a thousandfold. (Behind a pooler such a plan lasts
/// until the table is analyzed again.) Plans don't depend on the values bound, so none is made for them: with a few dozen
/// partitions that would take longer than the statement. Compiling expressions never pays for statements as small as ours.
const SESSION_OPTIONS: &str = "-c statement_timeout=10000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=15000 \
     -c enable_seqscan=off -c jit=off -c plan_cache_mode=force_generic_plan";

/// What a statement's parameter looks like to the driver.
pub(super) type Param<'a> = &'a (dyn ToSql + Sync);

/// Reads a connection URL, and adds what every connection of ours has.
pub(super) fn config(url: &str, pooled: bool) -> Result<(Config, Tls)> {
    let (url, tls) = Tls::from_url(url)?;
    let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| Error::Internal(Box::new(e)))?;
    if config.get_application_name().is_none() {
        config.application_name("raven");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_WITHIN);
    }
    // A dead peer is noticed by the network before our own limit leaves a verb waiting.
    config.keepalives_idle(Duration::from_secs(10)).keepalives_interval(Duration::from_secs(5)).keepalives_retries(3);
    config.tcp_user_timeout(ANSWER_WITHIN);
    if !pooled {
        let options = config.get_options().map_or_else(|| SESSION_OPTIONS.to_owned(), |own| format!("{SESSION_OPTIONS} {own}"));
        config.options(options);
    }
    Ok((config, tls))
}

/// For connections whose statements join a batch with the rows that it names: both sides are small then, and each is read
/// once. The planner, who can't know how many a batch has, would rather look rows up one by one, each time with the
/// whole list of the batch at hand.
pub(super) fn joining_by_hash(config: &Config) -> Config {
    let mut config = config.clone();
    if let Some(options) = config.get_options().map(|options| format!("{options} -c enable_nestloop=off")) {
        config.options(options);
    }
    config
}

/// A pool of connections that remembers when the database was last out of reach.
pub(super) struct Connections {
    pool: Pool,
    outage: Arc<Mutex<Outage>>,
}

/// When the next connection may be tried, and how long to wait after it fails too.
#[derive(Debug, Default)]
struct Outage {
    until: Option<Instant>,
    pause: Duration,
}

impl Outage {
    fn fails(&mut self) {
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.until = Some(Instant::now() + self.pause);
    }

    fn lasts(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

impl Connections {
    /// A pool of at most `size` connections, made when they are needed.
    pub(super) fn new(config: &Config, tls: &Tls, size: usize) -> Result<Self> {
        let manager = Manager::from_config(config.clone(), tls.connector()?, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let outage = Arc::new(Mutex::new(Outage::default()));
        let recovered = Arc::clone(&outage);
        let pool = Pool::builder(manager)
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .timeouts(TIMEOUTS)
            .post_create(Hook::sync_fn(move |_, _| {
                *recovered.lock() = Outage::default();
                Ok::<(), HookError>(())
            }))
            .build()
            .map_err(|e| Error::Internal(Box::new(e)))?;
        Ok(Self { pool, outage })
    }

    /// A connection that is open as far as we know. While the database is out of reach this fails at once, except for the
    /// one caller in a while that tries again.
    pub(super) async fn get(&self) -> Result<Connection> {
        self.get_within(&TIMEOUTS).await
    }

    /// The same, waiting as long as those before it take: for who is one of few in a line, and has nothing else to do.
    pub(super) async fn get_in_turn(&self) -> Result<Connection> {
        self.get_within(&Timeouts { wait: None, ..TIMEOUTS }).await
    }

    async fn get_within(&self, timeouts: &Timeouts) -> Result<Connection> {
        if self.outage.lock().lasts() && self.pool.status().available == 0 {
            return Err(Error::Unavailable("the last connection failed a moment ago".into()));
        }
        match self.pool.timeout_get(timeouts).await {
            Ok(object) => Ok(Connection { object: Some(object), spoiled: false, within: ANSWER_WITHIN }),
            Err(e) => Err(self.refused(e)),
        }
    }

    fn refused(&self, error: PoolError) -> Error {
        match error {
            PoolError::Backend(e) => {
                self.outage.lock().fails();
                // While connecting, an error with no source is the driver's own time limit.
                let late = std::error::Error::source(&e).is_none();
                if late { Error::Unavailable(Box::new(e)) } else { Failure::Driver(e).into_error() }
            }
            PoolError::Timeout(deadpool_postgres::TimeoutType::Create) => {
                self.outage.lock().fails();
                Error::Unavailable(Box::new(error))
            }
            other => Error::Unavailable(Box::new(other)),
        }
    }

    /// Hands out no more, and closes what is idle.
    pub(super) fn close(&self) {
        self.pool.close();
    }
}

/// A connection in one verb's hands. It goes back to its pool only if nothing is under way on it: an unfinished answer,
/// an open transaction or a lost peer closes it instead.
pub(super) struct Connection {
    object: Option<Object>,
    spoiled: bool,
    /// How long one statement may take.
    within: Duration,
}

impl Connection {
    /// Lets statements take as long as a migration may.
    pub(super) const fn take_time(&mut self) {
        self.within = MIGRATE_WITHIN;
    }

    /// Runs a prepared statement and gives its rows.
    pub(super) async fn query(&mut self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
        self.run(async |client| {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        })
        .await
    }

    /// Runs a prepared statement that gives one row at most.
    pub(super) async fn query_opt(&mut self, sql: &'static str, params: &[Param<'_>]) -> Result<Option<Row>, Failure> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Runs a prepared statement and gives the number of rows it changed.
    pub(super) async fn execute(&mut self, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Failure> {
        self.run(async |client| {
            let statement = client.prepare_cached(sql).await?;
            client.execute(&statement, params).await
        })
        .await
    }

    /// Runs a prepared statement with the rights of a tenant, in a transaction of its own, and gives its rows. All that this
    /// takes is written before the first answer is read, so it is one round trip.
    pub(super) async fn query_within(&mut self, tenant: TenantId, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
        self.run(async |client| {
            let statement = client.prepare_cached(sql).await?;
            let opening = scope::opening(tenant);
            // Written in this order. If the first one fails, so does the second: it is of the same, broken transaction, which
            // the last one ends in any case.
            let (opened, rows, ended) =
                join3(client.batch_execute(&opening), client.query(&statement, params), client.batch_execute("COMMIT")).await;
            opened?;
            let rows = rows?;
            ended?;
            Ok(rows)
        })
        .await
    }

    /// The same for one row at most.
    pub(super) async fn query_opt_within(
        &mut self,
        tenant: TenantId,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Failure> {
        Ok(self.query_within(tenant, sql, params).await?.into_iter().next())
    }

    /// The same for the number of rows changed.
    pub(super) async fn execute_within(&mut self, tenant: TenantId, sql: &'static str, params: &[Param<'_>]) -> Result<u64, Failure> {
        self.run(async |client| {
            let statement = client.prepare_cached(sql).await?;
            let opening = scope::opening(tenant);
            let (opened, changed, ended) =
                join3(client.batch_execute(&opening), client.execute(&statement, params), client.batch_execute("COMMIT")).await;
            opened?;
            let changed = changed?;
            ended?;
            Ok(changed)
        })
        .await
    }

    /// Runs statements without parameters.
    pub(super) async fn batch(&mut self, sql: &str) -> Result<(), Failure> {
        self.run(async |client| client.batch_execute(sql).await).await
    }

    /// Opens a transaction. Unless it is committed or rolled back, the connection is closed and with it the transaction.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.batch("BEGIN").await?;
        self.spoiled = true;
        Ok(())
    }

    /// The same with the rights of a tenant only.
    pub(super) async fn begin_within(&mut self, tenant: TenantId) -> Result<(), Failure> {
        self.batch(&scope::opening(tenant)).await?;
        self.spoiled = true;
        Ok(())
    }

    /// Makes the transaction durable.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.end("COMMIT").await
    }

    /// Undoes the transaction.
    pub(super) async fn rollback(&mut self) -> Result<(), Failure> {
        self.end("ROLLBACK").await
    }

    async fn end(&mut self, sql: &str) -> Result<(), Failure> {
        self.batch(sql).await?;
        self.spoiled = false;
        Ok(())
    }

    async fn run<T>(&mut self, work: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>) -> Result<T, Failure> {
        let Some(object) = &self.object else { return Err(Failure::Silent) };
        // Whoever drops this future half-way leaves an answer under way.
        let before = std::mem::replace(&mut self.spoiled, true);
        let result = match timeout(self.within, work(object)).await {
            Ok(result) => result.map_err(Failure::Driver),
            Err(_) => Err(Failure::Silent),
        };
        self.spoiled = before || result.as_ref().is_err_and(Failure::spoils);
        result
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.spoiled
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
    }
}

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The driver's word.
    Driver(tokio_postgres::Error),
    /// No answer came in time, or the connection is gone.
    Silent,
}

impl Failure {
    /// What the server calls it.
    pub(super) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Driver(e) => e.code(),
            Self::Silent => None,
        }
    }

    /// Two transactions met, and this one was chosen to be undone: the same may work at once.
    pub(super) fn is_collision(&self) -> bool {
        self.state().is_some_and(|s| *s == SqlState::T_R_SERIALIZATION_FAILURE || *s == SqlState::T_R_DEADLOCK_DETECTED)
    }

    /// More was to be debited from a slice of a quota than it holds: somebody took tokens back meanwhile.
    pub(super) fn overdraws(&self) -> bool {
        match self {
            Self::Driver(e) => e
                .as_db_error()
                .is_some_and(|d| *d.code() == SqlState::CHECK_VIOLATION && d.constraint() == Some(super::quota::NEVER_OVERDRAWN)),
            Self::Silent => false,
        }
    }

    /// Nothing can be written now; it may be possible later.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Driver(e) => match e.code() {
                Some(state) => is_outage(state),
                None => e.is_closed() || has_io_source(e),
            },
        }
    }

    /// The connection itself is no good any more: lost, ending, or to a server that only reads (after a failover), or it
    /// has lost its prepared statements.
    fn spoils(&self) -> bool {
        match self.state() {
            None => true,
            Some(s) => {
                s.code().starts_with("08")
                    || s.code().starts_with("57P")
                    || *s == SqlState::READ_ONLY_SQL_TRANSACTION
                    || *s == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                    || *s == SqlState::INVALID_SQL_STATEMENT_NAME
                    || *s == SqlState::FEATURE_NOT_SUPPORTED
            }
        }
    }

    /// The uniqueness that was violated, by the name of its constraint.
    pub(super) fn violated(&self) -> Option<&str> {
        match self {
            Self::Driver(e) => e.as_db_error().filter(|d| *d.code() == SqlState::UNIQUE_VIOLATION).and_then(|d| d.constraint()),
            Self::Silent => None,
        }
    }

    /// As the verb's caller sees it.
    pub(super) fn into_error(self) -> Error {
        let outage = self.is_outage() || self.is_collision();
        let source: Box<dyn std::error::Error + Send + Sync> = match self {
            Self::Driver(e) => Box::new(e),
            Self::Silent => "no answer in time".into(),
        };
        if outage { Error::Unavailable(source) } else { Error::Internal(source) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

fn is_outage(state: &SqlState) -> bool {
    let code = state.code();
    // Connection exceptions; insufficient resources (disk full, memory, too many connections); operator intervention
    // (shutting down, starting up, statement cancelled for its time limit); failed input or output.
    code.starts_with("08")
        || code.starts_with("53")
        || code.starts_with("57")
        || code.starts_with("58")
        || *state == SqlState::LOCK_NOT_AVAILABLE
        || *state == SqlState::READ_ONLY_SQL_TRANSACTION
        || *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}

/// The driver doesn't tell its kinds of error apart in public, but what broke the line stands behind its own word.
fn has_io_source(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|e| e.is::<std::io::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_that_pass_are_outages_and_mistakes_are_not() {
        for code in ["08006", "08P01", "53100", "53300", "57P01", "57P03", "57014", "55P03", "25006", "25P03", "58030"] {
            assert!(is_outage(&SqlState::from_code(code)), "{code}");
        }
        for code in ["23505", "42601", "42P01", "22021", "23503", "28P01", "3D000", "40001"] {
            assert!(!is_outage(&SqlState::from_code(code)), "{code}");
        }
    }

    #[test]
    fn a_url_gets_limits_unless_it_leads_through_a_pooler() {
        let (direct, _) = config("postgres://raven@localhost/raven", false).unwrap();
        assert!(direct.get_options().unwrap().contains("statement_timeout"));
        let (pooled, _) = config("postgres://raven@localhost/raven", true).unwrap();
        assert_eq!(pooled.get_options(), None);
        assert!(matches!(config("mysql://localhost", false), Err(Error::Internal(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_after_a_failed_connection_doubles_and_ends() {
        let mut outage = Outage::default();
        assert!(!outage.lasts());
        outage.fails();
        assert!(outage.lasts());
        tokio::time::advance(SHORTEST_PAUSE).await;
        assert!(!outage.lasts());
        for _ in 0..10 {
            outage.fails();
        }
        assert_eq!(outage.pause, LONGEST_PAUSE);
    }
}
