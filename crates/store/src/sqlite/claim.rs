//! Claims in SQLite: which lanes have due jobs, by hops over the index of waiting jobs (one look-up a lane, however many
//! jobs it has), and the leasing of some of each.

use std::collections::{HashSet, VecDeque};

use raven_core::{Channel, Environment, Seq, TenantId, Timestamp, retry::RetryPolicy};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    rows::{Id, code, id, limit, time},
    tenants,
};
use crate::{Action, Error, Job, Lane, Lease, Outlet, Result, Tried, Urgency};

pub(super) const STATEMENTS: &[&str] = &[NEXT_LANE, NEXT_DUE, DUE, LOAD, LOAD_CONTENT, LEASE];

// The last possible time is compared too: SQLite begins at what equals the values, so without it, it goes over the whole lane.
pub(super) const NEXT_LANE: &str = "SELECT tenant_id, environment, channel, urgency, outlet, due_at FROM jobs INDEXED BY jobs_due
  WHERE epoch IS NULL AND (tenant_id, environment, channel, urgency, outlet, due_at) > (?1, ?2, ?3, ?4, ?5, 9223372036854775807)
  ORDER BY tenant_id, environment, channel, urgency, outlet, due_at LIMIT 1";
const NEXT_DUE: &str = "SELECT due_at FROM jobs INDEXED BY jobs_due
  WHERE epoch IS NULL AND tenant_id = ?1 AND environment = ?2 AND channel = ?3 AND urgency = ?4 AND outlet = ?5 AND due_at > ?6
  ORDER BY due_at LIMIT 1";
const DUE: &str = "SELECT seq FROM jobs INDEXED BY jobs_due
  WHERE epoch IS NULL AND tenant_id = ?1 AND environment = ?2 AND channel = ?3 AND urgency = ?4 AND outlet = ?5 AND due_at <= ?6
  ORDER BY due_at, seq LIMIT ?7";
const LOAD: &str = "SELECT j.action, j.attempt, j.expires_at, m.recipient, m.content, m.large, j.tried
  FROM jobs j JOIN messages m ON m.seq = j.seq WHERE j.seq = ?1";
const LOAD_CONTENT: &str = "SELECT content FROM contents WHERE seq = ?1";
const LEASE: &str = "UPDATE jobs SET epoch = ?1, parked = NULL WHERE seq = ?2 AND epoch IS NULL";

/// What a look at the waiting jobs found.
pub(super) struct Found {
    /// Lanes that have due jobs, in order.
    pub(super) due: Vec<Due>,
    /// The earliest time at which a further job becomes due.
    pub(super) next_due: Option<Timestamp>,
}

/// A lane that has due jobs.
#[derive(Clone, Copy)]
pub(super) struct Due {
    lane: Lane,
    /// Its jobs are due until this time: now, or that of jobs which must have expired, where the tenant is not active.
    until: Timestamp,
}

impl Found {
    /// The lanes that have due jobs, beginning with the first one after `last`.
    pub(super) fn due_after(&self, last: Option<Lane>) -> Vec<Due> {
        let mut lanes = self.due.clone();
        let first = lanes.partition_point(|due| Some(due.lane) <= last);
        lanes.rotate_left(first);
        lanes
    }
}

/// Looks at all lanes but those in `skip`.
pub(super) fn look(c: &Connection, skip: &HashSet<Lane>, now: Timestamp) -> Result<Found> {
    let mut found = Found { due: Vec::new(), next_due: None };
    let (mut next_lane, mut next_due) = (c.prepare_cached(NEXT_LANE)?, c.prepare_cached(NEXT_DUE)?);
    let mut last: Option<Lane> = None;
    loop {
        let read = |r: &rusqlite::Row<'_>| {
            let lane = Lane {
                tenant: TenantId(id(r, 0)?),
                environment: code(r, 1, Environment::from_code)?,
                channel: code(r, 2, Channel::from_code)?,
                urgency: code(r, 3, Urgency::from_code)?,
                outlet: Outlet(r.get(4)?),
            };
            Ok((lane, time(r, 5)?))
        };
        let next = match last {
            // No id is empty, so every lane comes after this.
            None => next_lane.query_row(params![&[] as &[u8], 0, 0, 0, 0], read),
            Some(l) => {
                let values = params![Id(l.tenant.0), l.environment.code(), l.channel.code(), l.urgency.code(), l.outlet.0];
                next_lane.query_row(values, read)
            }
        };
        let Some((lane, first_due)) = next.optional()? else { return Ok(found) };
        last = Some(lane);
        if skip.contains(&lane) {
            continue;
        }
        if !tenants::is_active(c, lane.tenant)? {
            // Held, but for what it is too late for: those jobs are claimed, so that they end.
            let until = now.before(RetryPolicy::of(lane.channel).max_age);
            if first_due <= until {
                found.due.push(Due { lane, until });
            }
            continue;
        }
        let later = if first_due > now {
            Some(first_due)
        } else {
            found.due.push(Due { lane, until: now });
            let Lane { tenant, environment, channel, urgency, outlet } = lane;
            let values = params![Id(tenant.0), environment.code(), channel.code(), urgency.code(), outlet.0, now.millis()];
            next_due.query_row(values, |r| time(r, 0)).optional()?
        };
        found.next_due = found.next_due.into_iter().chain(later).min();
    }
}

/// Leases due jobs, round by round over the lanes: one of each, then another of each.
pub(super) fn take(c: &Connection, lease: Lease, mut lanes: Vec<Due>, most: usize, per_lane: usize) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut waiting: VecDeque<(Lane, VecDeque<i64>)> = VecDeque::new();
    let mut due = c.prepare_cached(DUE)?;
    // With at least as many lanes as jobs wanted, the first round is the last one.
    let each = if lanes.len() >= most { 1 } else { per_lane.min(most) };
    lanes.truncate(most);
    for Due { lane, until } in lanes {
        let Lane { tenant, environment, channel, urgency, outlet } = lane;
        let values = params![Id(tenant.0), environment.code(), channel.code(), urgency.code(), outlet.0, until.millis(), limit(each)];
        waiting.push_back((lane, due.query_map(values, |r| r.get(0))?.collect::<rusqlite::Result<_>>()?));
    }
    while jobs.len() < most
        && let Some((lane, mut seqs)) = waiting.pop_front()
    {
        if let Some(seq) = seqs.pop_front() {
            jobs.push(lease_one(c, lease, lane, seq)?);
            waiting.push_back((lane, seqs));
        }
    }
    Ok(jobs)
}

fn lease_one(c: &Connection, lease: Lease, lane: Lane, seq: i64) -> Result<Job> {
    let loaded = c.prepare_cached(LOAD)?.query_row([seq], |r| {
        let job = Job {
            seq: Seq(seq),
            lane,
            action: code(r, 0, Action::from_code)?,
            attempt: r.get(1)?,
            expires_at: time(r, 2)?,
            recipient: r.get(3)?,
            content: r.get(4)?,
            tried: r.get::<_, Option<String>>(6)?.as_deref().map(Tried::parse),
        };
        Ok((job, r.get::<_, bool>(5)?))
    });
    let (mut job, large) = loaded.optional()?.ok_or_else(|| Error::internal("a job has no message"))?;
    if large {
        job.content = c.prepare_cached(LOAD_CONTENT)?.query_row([seq], |r| r.get(0))?;
    }
    c.prepare_cached(LEASE)?.execute([lease.0, seq])?;
    Ok(job)
}
