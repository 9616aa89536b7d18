//! Jobs in memory, and whose turn it is. Tenants take turns by deficit round robin, so that one with a million messages, many
//! channels or large mails gets no more than another one with a single code to send. Among urgencies transactional work goes
//! first, but so many turns belong to the others that none of them waits for ever.
//!
//! Pure bookkeeping: no locks, no clock, no permits.

use std::collections::{HashMap, VecDeque};

use raven_core::{Channel, Environment, TenantId};
use raven_store::{Job, Lane, Urgency};

use super::Limits;

/// Sixteen turns. An urgency without work leaves its turn to the first of [`ORDER`] that has any.
const TURNS: [Urgency; 16] = {
    use Urgency::{Bulk as B, BulkRetry as C, Transactional as T, TransactionalRetry as S};
    [T, T, T, S, T, T, B, T, T, S, T, T, C, S, T, B]
};
/// Who goes first.
const ORDER: [Urgency; 4] = [Urgency::Transactional, Urgency::TransactionalRetry, Urgency::Bulk, Urgency::BulkRetry];

/// Bytes of content that cost as much as one more message.
const WEIGHT: usize = 16 * 1024;
/// The most that one job costs.
const DEAREST: usize = 16;
/// Jobs of a tenant that always find room, however many others hold.
const ALWAYS: usize = 8;

/// Of the calls that a cap allows, those that work other than fresh transactional may hold: the rest is kept free, so that a
/// one-time code does not wait until a campaign's call has ended.
const fn for_others(cap: usize) -> usize {
    // A cap of one can't be divided.
    if cap <= 1 { cap } else { cap - cap.div_ceil(4) }
}

const fn index(urgency: Urgency) -> usize {
    urgency as usize - 1
}

fn cost(job: &Job) -> usize {
    (1 + job.content.len() / WEIGHT).min(DEAREST)
}

/// Calls under way.
#[derive(Clone, Copy, Default)]
struct Calls {
    all: usize,
    /// Of work other than fresh transactional.
    others: usize,
}

impl Calls {
    const fn have_room(self, urgency: Urgency, cap: usize) -> bool {
        self.all < cap && (matches!(urgency, Urgency::Transactional) || self.others < for_others(cap))
    }

    const fn begin(&mut self, urgency: Urgency) {
        self.all += 1;
        self.others += !matches!(urgency, Urgency::Transactional) as usize;
    }

    const fn end(&mut self, urgency: Urgency) {
        self.all -= 1;
        self.others -= !matches!(urgency, Urgency::Transactional) as usize;
    }
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Places promised to messages that are being accepted.
    promised: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.jobs.len() + self.promised
    }
}

/// The work of a tenant in one environment on one channel, which goes through one provider config.
struct Outlet {
    environment: Environment,
    channel: Channel,
    calls: Calls,
    waiting: [Waiting; 4],
}

#[derive(Default)]
struct Tenant {
    calls: Calls,
    /// Jobs and promises.
    held: usize,
    outlets: Vec<Outlet>,
    turns: [Turn; 4],
}

/// Where a tenant stands among those with work of one urgency.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// Does it stand in the ring?
    in_ring: bool,
    /// What it may still spend in this round.
    deficit: usize,
    /// The outlet that comes next.
    next: usize,
}

impl Tenant {
    fn outlet(&mut self, lane: Lane) -> &mut Outlet {
        let at = self.outlets.iter().position(|o| o.environment == lane.environment && o.channel == lane.channel);
        let at = at.unwrap_or_else(|| {
            let (environment, channel) = (lane.environment, lane.channel);
            self.outlets.push(Outlet { environment, channel, calls: Calls::default(), waiting: Default::default() });
            self.outlets.len() - 1
        });
        &mut self.outlets[at]
    }

    /// The next outlet with a job of this urgency that may be called.
    fn ready(&self, urgency: Urgency, limits: &Limits) -> Option<usize> {
        if !self.calls.have_room(urgency, limits.tenant_calls) {
            return None;
        }
        let first = self.turns[index(urgency)].next;
        let order = (0..self.outlets.len()).map(|n| (first + n) % self.outlets.len());
        let ready = |o: &Outlet| !o.waiting[index(urgency)].jobs.is_empty() && o.calls.have_room(urgency, limits.config_calls);
        order.into_iter().find(|at| ready(&self.outlets[*at]))
    }

    fn is_idle(&self) -> bool {
        self.calls.all == 0 && self.held == 0
    }
}

/// The place of a message that is being accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A call may begin.
    Call,
    /// It may wait here.
    Held,
    /// None.
    None,
}

/// All lanes.
#[derive(Default)]
pub(super) struct Lanes {
    tenants: HashMap<TenantId, Tenant>,
    /// Tenants with jobs of each urgency, in turn.
    rings: [VecDeque<TenantId>; 4],
    turn: usize,
    calls: Calls,
    held: usize,
}

impl Lanes {
    /// Calls under way.
    pub(super) const fn calls(&self) -> usize {
        self.calls.all
    }

    /// Jobs and promises.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Does a job wait for a call?
    pub(super) fn any_waits(&self) -> bool {
        self.rings.iter().any(|ring| !ring.is_empty())
    }

    /// Takes a place in a lane: a call, if nothing of the lane waits before it, or room to wait.
    pub(super) fn reserve(&mut self, lane: Lane, limits: &Limits) -> Room {
        let (calls, held) = (self.calls, self.held);
        let tenant = self.tenants.entry(lane.tenant).or_default();
        let (all, mine) = (tenant.calls, tenant.held);
        let outlet = tenant.outlet(lane);
        let waiting = outlet.waiting[index(lane.urgency)].len();
        let may_call = calls.have_room(lane.urgency, limits.calls)
            && all.have_room(lane.urgency, limits.tenant_calls)
            && outlet.calls.have_room(lane.urgency, limits.config_calls);
        if waiting == 0 && may_call {
            outlet.calls.begin(lane.urgency);
            tenant.calls.begin(lane.urgency);
            self.calls.begin(lane.urgency);
            return Room::Call;
        }
        let room = if mine < ALWAYS { held < 2 * limits.held } else { held < limits.held && mine < limits.tenant_held };
        if room && waiting < limits.lane_held {
            outlet.waiting[index(lane.urgency)].promised += 1;
            tenant.held += 1;
            self.held += 1;
            return Room::Held;
        }
        self.tidy(lane.tenant);
        Room::None
    }

    /// Gives a promise back.
    pub(super) fn unpromise(&mut self, lane: Lane) {
        if let Some(tenant) = self.tenants.get_mut(&lane.tenant) {
            tenant.held -= 1;
            tenant.outlet(lane).waiting[index(lane.urgency)].promised -= 1;
            self.held -= 1;
            self.tidy(lane.tenant);
        }
    }

    /// Ends a call.
    pub(super) fn end(&mut self, lane: Lane) {
        if let Some(tenant) = self.tenants.get_mut(&lane.tenant) {
            tenant.calls.end(lane.urgency);
            tenant.outlet(lane).calls.end(lane.urgency);
            self.calls.end(lane.urgency);
            self.tidy(lane.tenant);
        }
    }

    /// Takes in a job.
    pub(super) fn push(&mut self, job: Job) {
        let lane = job.lane;
        let tenant = self.tenants.entry(lane.tenant).or_default();
        tenant.held += 1;
        self.held += 1;
        tenant.outlet(lane).waiting[index(lane.urgency)].jobs.push_back(job);
        let turn = &mut tenant.turns[index(lane.urgency)];
        if !turn.in_ring {
            (turn.in_ring, turn.deficit) = (true, 0);
            self.rings[index(lane.urgency)].push_back(lane.tenant);
        }
    }

    /// The next job that may be called; its call has begun.
    pub(super) fn pop(&mut self, limits: &Limits) -> Option<Job> {
        let first = TURNS[self.turn % TURNS.len()];
        for urgency in std::iter::once(first).chain(ORDER.into_iter().filter(|u| *u != first)) {
            if self.calls.have_room(urgency, limits.calls)
                && let Some(job) = self.pop_of(urgency, limits)
            {
                self.turn = (self.turn + 1) % TURNS.len();
                return Some(job);
            }
        }
        None
    }

    fn pop_of(&mut self, urgency: Urgency, limits: &Limits) -> Option<Job> {
        let ring = &mut self.rings[index(urgency)];
        // Those that may not be called now are passed over; when that is all of them, there is nothing.
        let mut passed = 0;
        while passed < ring.len() {
            let id = *ring.front()?;
            let Some(tenant) = self.tenants.get_mut(&id) else {
                ring.pop_front();
                continue;
            };
            let Some(at) = tenant.ready(urgency, limits) else {
                ring.rotate_left(1);
                passed += 1;
                continue;
            };
            let outlet = &mut tenant.outlets[at];
            let turn = &mut tenant.turns[index(urgency)];
            let price = outlet.waiting[index(urgency)].jobs.front().map_or(1, cost);
            if turn.deficit < price {
                turn.deficit += 1;
                if turn.deficit < price {
                    ring.rotate_left(1);
                    passed = 0;
                    continue;
                }
            }
            turn.deficit -= price;
            turn.next = at + 1;
            let job = outlet.waiting[index(urgency)].jobs.pop_front()?;
            outlet.calls.begin(urgency);
            tenant.calls.begin(urgency);
            tenant.held -= 1;
            self.calls.begin(urgency);
            self.held -= 1;
            let more = tenant.outlets.iter().any(|o| !o.waiting[index(urgency)].jobs.is_empty());
            ring.pop_front();
            if more {
                ring.push_back(id);
            } else {
                tenant.turns[index(urgency)].in_ring = false;
            }
            return Some(job);
        }
        None
    }

    /// Lanes that need no more from the database now.
    pub(super) fn full(&self, limits: &Limits) -> Vec<Lane> {
        let mut full = Vec::new();
        for (id, tenant) in &self.tenants {
            let lane = |environment, channel, urgency| Lane { tenant: *id, environment, channel, urgency };
            if tenant.held >= limits.tenant_held {
                for environment in Environment::ALL {
                    for channel in Channel::ALL {
                        full.extend(Urgency::ALL.iter().map(|urgency| lane(*environment, *channel, *urgency)));
                    }
                }
                continue;
            }
            for outlet in &tenant.outlets {
                let enough = |urgency: &&Urgency| outlet.waiting[index(**urgency)].len() >= limits.lane_held.div_ceil(2);
                full.extend(Urgency::ALL.iter().filter(enough).map(|urgency| lane(outlet.environment, outlet.channel, *urgency)));
            }
        }
        full
    }

    /// The jobs.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.tenants.values().flat_map(|t| &t.outlets).flat_map(|o| &o.waiting).flat_map(|w| &w.jobs)
    }

    /// Takes out all jobs. Promises and calls stay.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for tenant in self.tenants.values_mut() {
            let before = jobs.len();
            for waiting in tenant.outlets.iter_mut().flat_map(|o| &mut o.waiting) {
                jobs.extend(waiting.jobs.drain(..));
            }
            tenant.held -= jobs.len() - before;
            tenant.turns = Default::default();
        }
        self.rings.iter_mut().for_each(VecDeque::clear);
        self.held -= jobs.len();
        self.tenants.retain(|_, tenant| !tenant.is_idle());
        jobs
    }

    /// Forgets a tenant of which nothing is left.
    fn tidy(&mut self, id: TenantId) {
        if self.tenants.get(&id).is_some_and(Tenant::is_idle) {
            self.tenants.remove(&id);
        }
    }

    /// Tenants that are remembered.
    #[cfg(test)]
    pub(super) fn tenants(&self) -> usize {
        self.tenants.len()
    }
}
