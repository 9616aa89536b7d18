//! The scope of one tenant: a role without rights of its own beyond what the verbs of one tenant need, and a setting that
//! names the tenant. Row-level security shows that role the rows of that tenant only, so a statement that forgot its filter
//! would find nothing foreign. Both hold to the end of the transaction, never longer.
//!
//! What must not be here: verbs. The verbs that look across tenants (acceptance, the queue, sign-in, housekeeping) run as
//! the login, who owns the tables.

use raven_core::TenantId;
use tokio_postgres::error::SqlState;

use super::{
    connection::{Connection, Failure},
    rows::get,
};
use crate::{Error, Result};

/// Opens a transaction with the rights of a tenant. (An id is printed as hexadecimal digits and hyphens, so nothing needs
/// quoting.)
pub(super) fn opening(tenant: TenantId) -> String {
    format!("BEGIN; SET LOCAL ROLE raven_tenant; SET LOCAL raven.tenant = '{tenant}'")
}

/// May the login take on the role? From PostgreSQL 16 on a membership may come without that right. No row: there is no such role.
const MAY_SET: &str = "SELECT current_user::text AS login, pg_has_role(current_user, oid, \
     CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) AS may FROM pg_roles WHERE rolname = 'raven_tenant'";
const LOGIN: &str = "SELECT quote_ident(current_user) AS login";

#[cfg(any(test, feature = "conformance"))]
pub(super) const STATEMENTS: &[&str] = &[MAY_SET, LOGIN];

/// How often to look again when another process makes the role at the same moment.
const TRIES: usize = 5;

/// Makes sure that the role is there and that the login may take it on. Roles belong to the whole cluster, so another
/// database, or another process, may have made it.
pub(super) async fn ensure_role(connection: &mut Connection) -> Result<()> {
    for _ in 0..TRIES {
        let missing = match connection.query_opt(MAY_SET, &[]).await? {
            None => "CREATE ROLE raven_tenant NOLOGIN",
            Some(row) if get(&row, "may")? => return Ok(()),
            Some(_) => "GRANT raven_tenant TO CURRENT_USER",
        };
        match connection.batch(missing).await {
            Ok(()) => tracing::info!(statement = missing, "prepared the role of tenants"),
            Err(failure) if made_elsewhere(&failure) => {}
            Err(failure) if failure.state() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Err(ask(connection).await?),
            Err(failure) => return Err(failure.into_error()),
        }
    }
    Err(Error::Unavailable("the role raven_tenant came and went".into()))
}

/// Did another process do it at the same moment? The last state is the server's for "tuple concurrently updated".
fn made_elsewhere(failure: &Failure) -> bool {
    failure.state().is_some_and(|s| {
        *s == SqlState::DUPLICATE_OBJECT
            || *s == SqlState::UNIQUE_VIOLATION
            || *s == SqlState::UNDEFINED_OBJECT
            || *s == SqlState::INTERNAL_ERROR
    })
}

/// What an administrator must do where the login may not.
async fn ask(connection: &mut Connection) -> Result<Error> {
    let login = connection.query_opt(LOGIN, &[]).await?.map_or_else(|| Ok("CURRENT_USER".to_owned()), |row| get(&row, "login"))?;
    let there = connection.query_opt(MAY_SET, &[]).await?.is_some();
    let create = if there { "" } else { "CREATE ROLE raven_tenant NOLOGIN; " };
    Ok(Error::internal(format!(
        "row-level security needs the role raven_tenant, and this login may not provide it. Let an administrator run: {create}GRANT raven_tenant TO {login};"
    )))
}
