//! Dispatch: which job is called when. Jobs wait in lanes (tenant, environment, channel); a call needs a permit, of which a
//! lane and the node have so many, and lanes take turns. So a provider that hangs holds the permits of its own lane only.
//!
//! A job comes here leased: straight from acceptance, or from a claim. It is marked as started, durably, before its call,
//! and the permit is held until its outcome is settled. So started jobs without an outcome never exceed the permits.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use raven_store::{Job, Lane};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// How much may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls of one lane at a time.
    pub lane_calls: usize,
    /// Calls at a time.
    pub calls: usize,
    /// Jobs of one lane held in memory, waiting for a permit.
    pub lane_held: usize,
    /// Jobs held in memory.
    pub held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lane_calls: 128, calls: 512, lane_held: 256, held: 2048 }
    }
}

#[derive(Default)]
struct LaneState {
    calls: usize,
    /// Places promised to messages that are being accepted.
    promised: usize,
    jobs: VecDeque<Job>,
    /// Does the lane stand in the ring?
    in_ring: bool,
}

#[derive(Default)]
struct State {
    lanes: HashMap<Lane, LaneState>,
    /// Lanes with jobs, in turn.
    ring: VecDeque<Lane>,
    calls: usize,
    held: usize,
    /// Are there jobs in the database that were left there because this node was full?
    more_waits: bool,
    stopping: bool,
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

/// The right to one call in a lane; given back when dropped.
pub struct Permit {
    dispatcher: Arc<Dispatcher>,
    lane: Lane,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.dispatcher.state.lock();
        state.calls -= 1;
        if let Some(lane) = state.lanes.get_mut(&self.lane) {
            lane.calls -= 1;
        }
        let waits = !state.ring.is_empty();
        let room = state.more_waits && state.held < self.dispatcher.limits.held / 2;
        state.tidy(self.lane);
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
}

impl Promise {
    /// Puts the job there.
    pub fn fill(self, job: Job) {
        // The promise's place becomes the job's: dropping `self` lowers the count that `hold` raises.
        self.dispatcher.hold(job);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut state = self.dispatcher.state.lock();
        state.held -= 1;
        if let Some(lane) = state.lanes.get_mut(&self.lane) {
            lane.promised -= 1;
        }
        state.tidy(self.lane);
    }
}

impl State {
    /// Forgets a lane in which nothing is left.
    fn tidy(&mut self, lane: Lane) {
        if self.lanes.get(&lane).is_some_and(|l| l.calls == 0 && l.promised == 0 && l.jobs.is_empty()) {
            self.lanes.remove(&lane);
            self.ring.retain(|l| *l != lane);
        }
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
    pub fn reserve(self: &Arc<Self>, lane: Lane) -> Place {
        let mut state = self.state.lock();
        if state.stopping {
            return Place::None;
        }
        let free_call = state.calls < self.limits.calls;
        let (calls, held) = (state.calls, state.held);
        let entry = state.lanes.entry(lane).or_default();
        if free_call && entry.jobs.is_empty() && entry.promised == 0 && entry.calls < self.limits.lane_calls {
            entry.calls += 1;
            state.calls = calls + 1;
            drop(state);
            self.metrics.in_flight.inc();
            return Place::Call(Permit { dispatcher: self.clone(), lane });
        }
        if held < self.limits.held && entry.jobs.len() + entry.promised < self.limits.lane_held {
            entry.promised += 1;
            state.held = held + 1;
            return Place::Held(Promise { dispatcher: self.clone(), lane });
        }
        state.more_waits = true;
        state.tidy(lane);
        Place::None
    }

    /// Takes in a leased job that has not been started.
    pub fn hold(&self, job: Job) {
        let mut state = self.state.lock();
        let lane = job.lane;
        state.held += 1;
        let entry = state.lanes.entry(lane).or_default();
        entry.jobs.push_back(job);
        if !entry.in_ring {
            entry.in_ring = true;
            state.ring.push_back(lane);
        }
        drop(state);
        self.bell.notify_one();
    }

    /// The next jobs that can be called, lanes in turn, each with its permit. Empty when none can.
    #[must_use]
    pub fn take(self: &Arc<Self>, most: usize) -> Vec<(Job, Permit)> {
        let mut taken = Vec::new();
        let mut state = self.state.lock();
        let mut passed = 0;
        while taken.len() < most && state.calls < self.limits.calls && passed < state.ring.len() {
            let Some(lane) = state.ring.pop_front() else { break };
            let Some(entry) = state.lanes.get_mut(&lane) else { continue };
            if entry.calls >= self.limits.lane_calls {
                state.ring.push_back(lane);
                passed += 1;
                continue;
            }
            let Some(job) = entry.jobs.pop_front() else {
                entry.in_ring = false;
                continue;
            };
            entry.calls += 1;
            if entry.jobs.is_empty() {
                entry.in_ring = false;
            } else {
                state.ring.push_back(lane);
            }
            state.calls += 1;
            state.held -= 1;
            passed = 0;
            self.metrics.in_flight.inc();
            taken.push((job, Permit { dispatcher: self.clone(), lane }));
        }
        self.metrics.held.set(i64::try_from(state.held).unwrap_or(i64::MAX));
        taken
    }

    /// How many jobs a claim may bring, and the lanes that it should pass over because they are full.
    #[must_use]
    pub fn appetite(&self) -> (usize, Vec<Lane>) {
        let state = self.state.lock();
        if state.stopping {
            return (0, Vec::new());
        }
        let full = |l: &LaneState| l.jobs.len() + l.promised >= self.limits.lane_held / 2;
        let skip = state.lanes.iter().filter(|(_, l)| full(l)).map(|(lane, _)| *lane).collect();
        (self.limits.held.saturating_sub(state.held), skip)
    }

    /// Tells whether the last claim left jobs behind: then the next permit that goes free asks for another claim.
    pub fn left_behind(&self, more_waits: bool) {
        self.state.lock().more_waits = more_waits;
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
        state.drain()
    }

    /// Drops the jobs that were held: after their lease was lost.
    pub fn forget_held(&self) -> Vec<Job> {
        self.state.lock().drain()
    }

    /// Calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state.lock().calls
    }

    /// Jobs held in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.lock().held
    }
}

impl State {
    fn drain(&mut self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.in_ring = false;
            jobs.extend(lane.jobs.drain(..));
        }
        self.ring.clear();
        self.held -= jobs.len();
        self.lanes.retain(|_, l| l.calls > 0 || l.promised > 0);
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raven_core::{Channel, Environment, Seq, TenantId, Timestamp};
    use raven_store::Action;
    use uuid::Uuid;

    fn lane(n: u128) -> Lane {
        Lane { tenant: TenantId(Uuid::from_u128(n)), environment: Environment::Live, channel: Channel::Sms }
    }

    fn job(tenant: u128, seq: i64) -> Job {
        let never = Timestamp::from_millis(i64::MAX);
        Job {
            seq: Seq(seq),
            lane: lane(tenant),
            action: Action::Send,
            attempt: 0,
            expires_at: never,
            recipient: String::new(),
            content: String::new(),
        }
    }

    fn dispatcher() -> Arc<Dispatcher> {
        Dispatcher::new(Limits { lane_calls: 2, calls: 5, lane_held: 3, held: 7 }, Arc::default())
    }

    #[test]
    fn a_full_lane_leaves_the_others_their_permits() {
        let d = dispatcher();
        let permits: Vec<Permit> = (0..2).map(|_| if let Place::Call(p) = d.reserve(lane(1)) { p } else { panic!("a permit") }).collect();
        let promises: Vec<Promise> =
            (0..3).map(|_| if let Place::Held(p) = d.reserve(lane(1)) { p } else { panic!("a promise") }).collect();
        assert!(matches!(d.reserve(lane(1)), Place::None));
        let Place::Call(other) = d.reserve(lane(2)) else { panic!("a permit for the other lane") };
        assert_eq!((d.calls(), d.held()), (3, 3));
        drop((permits, promises, other));
        assert_eq!((d.calls(), d.held()), (0, 0));
        assert!(d.state.lock().lanes.is_empty(), "a lane in which nothing is left is forgotten");
    }

    #[test]
    fn lanes_take_turns() {
        let d = dispatcher();
        for (tenant, seq) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (3, 31)] {
            d.hold(job(tenant, seq));
        }
        let first = d.take(100);
        assert_eq!(first.iter().map(|(j, _)| j.seq.0).collect::<Vec<_>>(), [10, 20, 30, 11, 31]);
        assert!(d.take(100).is_empty(), "the lane's two permits and the node's five are out");
        drop(first);
        assert_eq!(d.take(100).iter().map(|(j, _)| j.seq.0).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn a_message_does_not_overtake_those_held_before_it() {
        let d = dispatcher();
        d.hold(job(1, 10));
        assert!(matches!(d.reserve(lane(1)), Place::Held(_)));
    }

    #[test]
    fn full_lanes_are_passed_over_by_claims() {
        let d = dispatcher();
        d.hold(job(1, 10));
        assert_eq!(d.appetite(), (6, vec![lane(1)]));
        assert_eq!(d.stop().len(), 1);
        assert_eq!(d.appetite(), (0, vec![]));
        assert!(matches!(d.reserve(lane(2)), Place::None));
        assert_eq!(d.held(), 0);
    }
}
