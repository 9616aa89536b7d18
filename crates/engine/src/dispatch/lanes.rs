//! Jobs in memory, and whose turn it is. Tenants take turns by deficit round robin, so that one with a million messages, many
//! channels or large mails gets no more than another one with a single code to send. Among urgencies transactional work goes
//! first, but so many turns belong to the others that none of them waits for ever.
//!
//! What goes through one provider config waits apart from all else, for as long as its gate is shut.
//!
//! Pure bookkeeping: no clock, no permits, no lock but the gates' own.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use raven_core::{Channel, ConfigId, Environment, TenantId, Timestamp};
use raven_store::{Job, Lane, Urgency};

use super::{Held, Limits};
use crate::{directory::Route, gate::Gate};

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
        self.have_room_beside(0, urgency, cap)
    }

    /// Is there room for one when so many others begin as well?
    const fn have_room_beside(self, others: usize, urgency: Urgency, cap: usize) -> bool {
        self.all + others < cap && (matches!(urgency, Urgency::Transactional) || self.others + others < for_others(cap))
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
    jobs: VecDeque<Held>,
    /// Places promised to messages that are being accepted.
    promised: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.jobs.len() + self.promised
    }
}

/// The work of a tenant in one environment on one channel that goes through one provider config (`None`: the sandbox).
struct Outlet {
    environment: Environment,
    channel: Channel,
    config: Option<ConfigId>,
    gate: Option<Arc<Gate>>,
    /// The lanes of the database that its jobs came from: its own, and those of configs that it stands in for.
    sources: Vec<raven_store::Outlet>,
    calls: Calls,
    waiting: [Waiting; 4],
}

impl Outlet {
    /// Calls at a time.
    fn cap(&self, limits: &Limits) -> usize {
        self.gate.as_ref().and_then(|gate| gate.concurrency()).unwrap_or(limits.config_calls)
    }

    /// When its gate opens: `None`, now.
    fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.gate.as_ref().and_then(|gate| gate.opens_at(now))
    }

    /// Is enough waiting here that no more is needed from the database?
    fn is_full(&self, urgency: Urgency, limits: &Limits) -> bool {
        self.waiting[index(urgency)].len() >= limits.lane_held.div_ceil(2)
    }

    /// Do jobs of this lane of the database come here?
    fn brings(&self, source: raven_store::Outlet) -> bool {
        source == raven_store::Outlet::of(self.config) || self.sources.contains(&source)
    }

    fn turns_away(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.turns_away())
    }

    /// May its next job of this urgency be taken? One that is too old may be, whether the gate is open or not.
    fn is_ready(&self, urgency: Urgency, limits: &Limits, now: Timestamp, opens_at: &mut Option<Timestamp>) -> bool {
        let Some(next) = self.waiting[index(urgency)].jobs.front() else { return false };
        if !self.calls.have_room(urgency, self.cap(limits)) {
            return false;
        }
        match self.opens_at(now) {
            None => true,
            Some(_) if next.job.expires_at <= now => true,
            Some(at) => {
                *opens_at = Some(opens_at.map_or(at, |earlier| earlier.min(at)));
                false
            }
        }
    }
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
    fn outlet(&mut self, lane: Lane, config: Option<ConfigId>) -> &mut Outlet {
        let is_it = |o: &Outlet| o.environment == lane.environment && o.channel == lane.channel && o.config == config;
        let at = self.outlets.iter().position(is_it).unwrap_or_else(|| {
            let (environment, channel, calls, waiting) = (lane.environment, lane.channel, Calls::default(), Default::default());
            self.outlets.push(Outlet { environment, channel, config, gate: None, sources: Vec::new(), calls, waiting });
            self.outlets.len() - 1
        });
        &mut self.outlets[at]
    }

    /// The outlet of a route, with its gate as it is by now.
    fn outlet_of(&mut self, lane: Lane, route: &Route) -> &mut Outlet {
        let outlet = self.outlet(lane, route.config());
        match (&mut outlet.gate, route.gate()) {
            (Some(known), Some(gate)) if Arc::ptr_eq(known, gate) => {}
            (known, gate) => *known = gate.cloned(),
        }
        outlet
    }

    /// The next outlet with a job of this urgency that may be called.
    fn ready(&self, urgency: Urgency, limits: &Limits, now: Timestamp, opens_at: &mut Option<Timestamp>) -> Option<usize> {
        if !self.calls.have_room(urgency, limits.tenant_calls) {
            return None;
        }
        let first = self.turns[index(urgency)].next;
        let order = (0..self.outlets.len()).map(|n| (first + n) % self.outlets.len());
        order.into_iter().find(|at| self.outlets[*at].is_ready(urgency, limits, now, opens_at))
    }

    fn is_idle(&self) -> bool {
        self.calls.all == 0 && self.held == 0
    }
}

/// The place of a message that is being accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A call may begin.
    Call {
        /// Is it to tell whether the config works again?
        probe: bool,
    },
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
    /// May something wait before a gate that turns away, though another config would take it?
    wary: bool,
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
    pub(super) fn reserve(&mut self, lane: Lane, route: &Route, limits: &Limits, now: Timestamp) -> Room {
        let (calls, held) = (self.calls, self.held);
        let tenant = self.tenants.entry(lane.tenant).or_default();
        let (all, mine) = (tenant.calls, tenant.held);
        let outlet = tenant.outlet_of(lane, route);
        let waiting = outlet.waiting[index(lane.urgency)].len();
        // What waits is called before it, unless there is room for all of that too: then it only waits to be marked as started,
        // and nobody's turn is taken.
        let (waits, mine_waits, held_waits) =
            if waiting == 0 { (0, 0, 0) } else { (outlet.waiting.iter().map(Waiting::len).sum(), mine, held) };
        let may_call = calls.have_room_beside(held_waits, lane.urgency, limits.calls)
            && all.have_room_beside(mine_waits, lane.urgency, limits.tenant_calls)
            && outlet.calls.have_room_beside(waits, lane.urgency, outlet.cap(limits))
            && (waiting == 0 || outlet.gate.as_ref().is_none_or(|gate| !gate.is_guarded()))
            && outlet.opens_at(now).is_none();
        if may_call {
            let probe = outlet.gate.as_ref().is_some_and(|gate| gate.begin(now));
            outlet.calls.begin(lane.urgency);
            tenant.calls.begin(lane.urgency);
            self.calls.begin(lane.urgency);
            return Room::Call { probe };
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
    pub(super) fn unpromise(&mut self, lane: Lane, config: Option<ConfigId>) {
        if let Some(tenant) = self.tenants.get_mut(&lane.tenant) {
            tenant.held -= 1;
            tenant.outlet(lane, config).waiting[index(lane.urgency)].promised -= 1;
            self.held -= 1;
            self.tidy(lane.tenant);
        }
    }

    /// A call is over for its config; its outcome is still to be stored.
    pub(super) fn called(&mut self, lane: Lane, config: Option<ConfigId>) {
        if let Some(tenant) = self.tenants.get_mut(&lane.tenant) {
            tenant.outlet(lane, config).calls.end(lane.urgency);
        }
    }

    /// Ends a call that is over for its config.
    pub(super) fn end(&mut self, lane: Lane) {
        if let Some(tenant) = self.tenants.get_mut(&lane.tenant) {
            tenant.calls.end(lane.urgency);
            self.calls.end(lane.urgency);
            self.tidy(lane.tenant);
        }
    }

    /// Takes in a job.
    pub(super) fn push(&mut self, held: Held) {
        // It may have been on its way here while the gate was shut.
        self.wary |= held.route.gate().is_some_and(|gate| gate.turns_away());
        self.push_again(held);
    }

    /// Takes a job in that has looked for another config.
    pub(super) fn push_again(&mut self, held: Held) {
        let lane = held.job.lane;
        let tenant = self.tenants.entry(lane.tenant).or_default();
        tenant.held += 1;
        self.held += 1;
        let outlet = tenant.outlet_of(lane, &held.route);
        if !outlet.sources.contains(&lane.outlet) {
            outlet.sources.push(lane.outlet);
        }
        outlet.waiting[index(lane.urgency)].jobs.push_back(held);
        let turn = &mut tenant.turns[index(lane.urgency)];
        if !turn.in_ring {
            (turn.in_ring, turn.deficit) = (true, 0);
            self.rings[index(lane.urgency)].push_back(lane.tenant);
        }
    }

    /// What waits before a gate that turns away is to be looked at.
    pub(super) const fn look_around(&mut self) {
        self.wary = true;
    }

    /// Takes out what waits before gates that turn away, if that was not looked at yet.
    pub(super) fn strays(&mut self) -> Vec<Held> {
        let mut strays = Vec::new();
        if !std::mem::take(&mut self.wary) {
            return strays;
        }
        for (id, tenant) in &mut self.tenants {
            let before = strays.len();
            for outlet in tenant.outlets.iter_mut().filter(|outlet| outlet.turns_away()) {
                strays.extend(outlet.waiting.iter_mut().flat_map(|waiting| waiting.jobs.drain(..)));
            }
            if strays.len() == before {
                continue;
            }
            tenant.held -= strays.len() - before;
            for urgency in Urgency::ALL {
                let left = tenant.outlets.iter().any(|o| !o.waiting[index(urgency)].jobs.is_empty());
                if !left && std::mem::take(&mut tenant.turns[index(urgency)].in_ring) {
                    self.rings[index(urgency)].retain(|other| other != id);
                }
            }
        }
        self.held -= strays.len();
        self.tenants.retain(|_, tenant| !tenant.is_idle());
        strays
    }

    /// Jobs that wait before a gate that is shut.
    pub(super) fn gated(&self, now: Timestamp) -> usize {
        let shut = self.tenants.values().flat_map(|t| &t.outlets).filter(|o| o.opens_at(now).is_some());
        shut.flat_map(|o| &o.waiting).map(|w| w.jobs.len()).sum()
    }

    /// The next job that may be called; its call has begun. Tells whether it is a probe, and when the next gate opens that
    /// something waits before.
    pub(super) fn pop(&mut self, limits: &Limits, now: Timestamp, opens_at: &mut Option<Timestamp>) -> Option<(Held, bool)> {
        let first = TURNS[self.turn % TURNS.len()];
        for urgency in std::iter::once(first).chain(ORDER.into_iter().filter(|u| *u != first)) {
            if self.calls.have_room(urgency, limits.calls)
                && let Some(popped) = self.pop_of(urgency, limits, now, opens_at)
            {
                self.turn = (self.turn + 1) % TURNS.len();
                return Some(popped);
            }
        }
        None
    }

    fn pop_of(&mut self, urgency: Urgency, limits: &Limits, now: Timestamp, opens_at: &mut Option<Timestamp>) -> Option<(Held, bool)> {
        let ring = &mut self.rings[index(urgency)];
        // Those that may not be called now are passed over; when that is all of them, there is nothing.
        let mut passed = 0;
        while passed < ring.len() {
            let id = *ring.front()?;
            let Some(tenant) = self.tenants.get_mut(&id) else {
                ring.pop_front();
                continue;
            };
            let Some(at) = tenant.ready(urgency, limits, now, opens_at) else {
                ring.rotate_left(1);
                passed += 1;
                continue;
            };
            let outlet = &mut tenant.outlets[at];
            let turn = &mut tenant.turns[index(urgency)];
            let price = outlet.waiting[index(urgency)].jobs.front().map_or(1, |held| cost(&held.job));
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
            let held = outlet.waiting[index(urgency)].jobs.pop_front()?;
            // What is too old makes no call.
            let probe = outlet.gate.as_ref().is_some_and(|gate| gate.opens_at(now).is_none() && gate.begin(now));
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
            return Some((held, probe));
        }
        None
    }

    /// Does a lane need no more from the database now?
    pub(super) fn is_full(&self, lane: Lane, limits: &Limits) -> bool {
        let Some(tenant) = self.tenants.get(&lane.tenant) else { return false };
        let of_lane = |o: &&Outlet| o.environment == lane.environment && o.channel == lane.channel && o.brings(lane.outlet);
        tenant.held >= limits.tenant_held || tenant.outlets.iter().filter(of_lane).any(|o| o.is_full(lane.urgency, limits))
    }

    /// Lanes that need no more from the database now.
    pub(super) fn full(&self, limits: &Limits) -> Vec<Lane> {
        let mut full = Vec::new();
        for (id, tenant) in &self.tenants {
            let lane = |environment, channel, urgency, outlet| Lane { tenant: *id, environment, channel, urgency, outlet };
            if tenant.held >= limits.tenant_held {
                let known = tenant.outlets.iter().flat_map(|o| &o.sources).chain([&raven_store::Outlet::NONE]);
                for outlet in known {
                    for environment in Environment::ALL {
                        for channel in Channel::ALL {
                            full.extend(Urgency::ALL.iter().map(|urgency| lane(*environment, *channel, *urgency, *outlet)));
                        }
                    }
                }
                continue;
            }
            for outlet in &tenant.outlets {
                for urgency in Urgency::ALL {
                    if outlet.is_full(urgency, limits) {
                        let own = raven_store::Outlet::of(outlet.config);
                        let sources = outlet.sources.iter().copied().chain((!outlet.sources.contains(&own)).then_some(own));
                        full.extend(sources.map(|source| lane(outlet.environment, outlet.channel, urgency, source)));
                    }
                }
            }
        }
        full
    }

    /// The jobs.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.tenants.values().flat_map(|t| &t.outlets).flat_map(|o| &o.waiting).flat_map(|w| &w.jobs).map(|held| &held.job)
    }

    /// Takes out all jobs. Promises and calls stay.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for tenant in self.tenants.values_mut() {
            let before = jobs.len();
            for waiting in tenant.outlets.iter_mut().flat_map(|o| &mut o.waiting) {
                jobs.extend(waiting.jobs.drain(..).map(|held| held.job));
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
