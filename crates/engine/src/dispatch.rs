//! Dispatch: which job is called when. A call needs a permit, of which a provider config, a tenant and the node have so many;
//! tenants take turns, and transactional work goes first (`lanes`). So a provider that hangs holds the permits of its own
//! config only, and a campaign delays nobody's one-time code.
//!
//! A job comes here leased: straight from acceptance, or from a claim. It is marked as started, durably, before its call,
//! and the permit is held until its outcome is settled. So started jobs without an outcome never exceed the permits. Only the
//! config's part of it is free again when the call has ended: how many a provider is asked at a time says nothing of our database.

mod lanes;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use raven_core::{ConfigId, Seq, TenantId, Timestamp};
use raven_store::{Job, Lane};
use tokio::sync::Notify;

use crate::{directory::Route, metrics::Metrics};
use lanes::{Lanes, Room};

/// How much may be under way. Of each cap on calls a quarter is kept for transactional messages that were not tried yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls through one provider config at a time, unless it says how many itself.
    pub config_calls: usize,
    /// Calls of one tenant at a time, with those whose outcome is not stored yet.
    pub tenant_calls: usize,
    /// Calls at a time, with those whose outcome is not stored yet.
    pub calls: usize,
    /// Jobs of one lane held in memory, waiting for a permit, for each config.
    pub lane_held: usize,
    /// Jobs of one tenant held in memory.
    pub tenant_held: usize,
    /// Jobs held in memory. A tenant that holds next to nothing finds room beyond it.
    pub held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { config_calls: 128, tenant_calls: 512, calls: 1024, lane_held: 256, tenant_held: 1024, held: 2048 }
    }
}

/// A job with the way that it goes.
pub struct Held {
    /// The job.
    pub job: Job,
    /// Where it goes.
    pub route: Route,
}

/// What there is to do now.
#[derive(Default)]
pub struct Taken {
    /// Jobs that can be called, each with its permit.
    pub ready: Vec<(Held, Permit)>,
    /// Jobs whose config turns them away: another one may take them. They come here once, unless something changes.
    pub stray: Vec<Held>,
    /// When the next gate opens, before which something waits.
    pub opens_at: Option<Timestamp>,
}

#[derive(Default)]
struct State {
    lanes: Lanes,
    /// May there be jobs in the database for which any permit that goes free is room?
    more_waits: bool,
    /// Lanes with jobs in the database that were left there because the lanes were full.
    passed_over: HashMap<TenantId, Vec<Lane>>,
    /// Calls that ended since the last claim.
    ended: usize,
    stopping: bool,
}

impl State {
    fn pass_over(&mut self, lane: Lane) {
        let lanes = self.passed_over.entry(lane.tenant).or_default();
        if !lanes.contains(&lane) {
            lanes.push(lane);
        }
    }

    /// Is a claim worth it after a call of this tenant has ended? One that finds only lanes that are full still is not, and with a
    /// provider that hangs there is always such a lane.
    fn asks_for_claim(&mut self, tenant: TenantId, limits: &Limits) -> bool {
        let has_room = |lanes: &Vec<Lane>| lanes.iter().any(|lane| !self.lanes.is_full(*lane, limits));
        if !self.more_waits && !self.passed_over.get(&tenant).is_some_and(has_room) {
            return false;
        }
        let too_full = self.lanes.held() >= limits.held / 2;
        // The call that changes that may be anybody's.
        self.more_waits |= too_full;
        !too_full
    }
}

/// Lanes and permits.
pub struct Dispatcher {
    limits: Limits,
    state: Mutex<State>,
    /// Rung when a job or a permit may have come.
    bell: Notify,
    /// Rung when there is room for claims again.
    room: Notify,
    metrics: Arc<Metrics>,
}

/// What a message that is being accepted gets.
pub enum Place {
    /// It can be called at once: mark it as started with its acceptance.
    Call(Permit),
    /// It will be called by this node: lease it.
    Held(Promise),
    /// This node is full: leave it to a claim.
    None,
}

/// What a claim may bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appetite {
    /// Jobs in all.
    pub jobs: usize,
    /// Jobs of one lane: as many as calls ended since the last claim, within [`OF_LANE`]. So a fast provider's backlog is
    /// claimed in large batches, and a slow one's in small ones that hold up nobody's acceptance.
    pub of_lane: usize,
    /// Lanes that it should pass over because they are full.
    pub skip: Vec<Lane>,
}

/// Jobs of one lane in a claim: at least, at most.
pub const OF_LANE: (usize, usize) = (16, 128);

/// The right to one call in a lane; given back when dropped.
pub struct Permit {
    dispatcher: Arc<Dispatcher>,
    lane: Lane,
    config: Option<ConfigId>,
    probe: bool,
    called: bool,
}

impl Permit {
    /// The call has ended; its outcome is still to be settled.
    pub fn called(&mut self) {
        if std::mem::replace(&mut self.called, true) {
            return;
        }
        let mut state = self.dispatcher.state.lock();
        state.lanes.called(self.lane, self.config);
        let waits = state.lanes.any_waits();
        drop(state);
        if waits {
            self.dispatcher.bell.notify_one();
        }
    }

    /// Is the call to tell whether the config works again?
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe
    }

    /// Whose it is.
    #[must_use]
    pub const fn dispatcher(&self) -> &Arc<Dispatcher> {
        &self.dispatcher
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.dispatcher.state.lock();
        if !self.called {
            state.lanes.called(self.lane, self.config);
        }
        state.lanes.end(self.lane);
        state.ended += 1;
        let waits = state.lanes.any_waits();
        let room = state.asks_for_claim(self.lane.tenant, &self.dispatcher.limits);
        drop(state);
        self.dispatcher.metrics.in_flight.dec();
        if waits {
            self.dispatcher.bell.notify_one();
        }
        if room {
            self.dispatcher.room.notify_one();
        }
    }
}

/// A place in a lane for a job to come; given back when dropped unused.
pub struct Promise {
    dispatcher: Arc<Dispatcher>,
    lane: Lane,
    config: Option<ConfigId>,
}

impl Promise {
    /// Puts the job there.
    pub fn fill(self, held: Held) {
        // The promise's place becomes the job's: dropping `self` lowers the count that `hold` raises.
        self.dispatcher.hold(held);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.dispatcher.state.lock().lanes.unpromise(self.lane, self.config);
    }
}

impl Dispatcher {
    /// An empty dispatcher.
    #[must_use]
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), bell: Notify::new(), room: Notify::new(), metrics })
    }

    /// A place for a message that is being accepted.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, lane: Lane, route: &Route, now: Timestamp) -> Place {
        let mut state = self.state.lock();
        if state.stopping {
            return Place::None;
        }
        let config = route.config();
        match state.lanes.reserve(lane, route, &self.limits, now) {
            Room::Call { probe } => {
                drop(state);
                self.metrics.in_flight.inc();
                Place::Call(Permit { dispatcher: self.clone(), lane, config, probe, called: false })
            }
            Room::Held => Place::Held(Promise { dispatcher: self.clone(), lane, config }),
            Room::None => {
                if state.lanes.is_full(lane, &self.limits) {
                    state.pass_over(lane);
                } else {
                    state.more_waits = true;
                }
                Place::None
            }
        }
    }

    /// Takes in a leased job that has not been started.
    pub fn hold(&self, held: Held) {
        self.state.lock().lanes.push(held);
        self.bell.notify_one();
    }

    /// Takes a stray job back that no other config takes: it waits for its own.
    pub fn hold_again(&self, held: Held) {
        self.state.lock().lanes.push_again(held);
    }

    /// The gate before a config has changed: what waits before any that turns away is looked at anew.
    pub fn turned(&self) {
        self.state.lock().lanes.look_around();
        self.bell.notify_one();
    }

    /// The next jobs that can be called, and those that should look for another config.
    #[must_use]
    pub fn take(self: &Arc<Self>, most: usize, now: Timestamp) -> Taken {
        let mut taken = Taken::default();
        let mut state = self.state.lock();
        taken.stray = state.lanes.strays();
        if !taken.stray.is_empty() && !state.passed_over.is_empty() {
            self.room.notify_one();
        }
        while taken.ready.len() < most
            && let Some((held, probe)) = state.lanes.pop(&self.limits, now, &mut taken.opens_at)
        {
            let permit = Permit { dispatcher: self.clone(), lane: held.job.lane, config: held.route.config(), probe, called: false };
            self.metrics.in_flight.inc();
            taken.ready.push((held, permit));
        }
        self.metrics.held.set(i64::try_from(state.lanes.held()).unwrap_or(i64::MAX));
        taken
    }

    /// What the next claim may bring. What is noted of jobs in the database is forgotten: the claim tells ([`Self::left_behind`]).
    #[must_use]
    pub fn appetite(&self) -> Appetite {
        let mut state = self.state.lock();
        let ended = std::mem::take(&mut state.ended);
        if state.stopping {
            return Appetite { jobs: 0, of_lane: 0, skip: Vec::new() };
        }
        let (jobs, skip) = (self.limits.held.saturating_sub(state.lanes.held()), state.lanes.full(&self.limits));
        // Without room there is no claim that could tell.
        state.more_waits = jobs == 0;
        state.passed_over.clear();
        Appetite { jobs, of_lane: ended.clamp(OF_LANE.0, OF_LANE.1), skip }
    }

    /// Tells what a claim may have left behind: more of all lanes, and what is in those that it passed over. The next permit that goes
    /// free asks for another claim, if it makes room for that.
    pub fn left_behind(&self, more_waits: bool, passed_over: &[Lane]) {
        let mut state = self.state.lock();
        state.more_waits |= more_waits;
        passed_over.iter().for_each(|lane| state.pass_over(*lane));
        // A lane may have emptied while the claim was under way.
        if passed_over.iter().any(|lane| state.asks_for_claim(lane.tenant, &self.limits)) {
            self.room.notify_one();
        }
    }

    /// Waits until a job or a permit may have come.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Asks for a claim now: a job was left in the database that this node could call at once.
    pub fn look(&self) {
        self.room.notify_one();
    }

    /// Waits until there may be room for claims again.
    pub async fn has_room(&self) {
        self.room.notified().await;
    }

    /// Takes nothing new from here on, and returns the jobs that were held and not started.
    pub fn stop(&self) -> Vec<Job> {
        let mut state = self.state.lock();
        state.stopping = true;
        state.lanes.drain()
    }

    /// Drops the jobs that were held: after their lease was lost.
    pub fn forget_held(&self) -> Vec<Job> {
        self.state.lock().lanes.drain()
    }

    /// The jobs held in memory.
    #[must_use]
    pub fn known(&self) -> Vec<Seq> {
        self.state.lock().lanes.jobs().map(|job| job.seq).collect()
    }

    /// Calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state.lock().lanes.calls()
    }

    /// Jobs held in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.lock().lanes.held()
    }

    /// Of these, jobs that wait until their config lets them through.
    #[must_use]
    pub fn gated(&self, now: Timestamp) -> usize {
        self.state.lock().lanes.gated(now)
    }
}
