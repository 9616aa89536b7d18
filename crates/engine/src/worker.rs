//! The worker: claims due jobs, hands them to the dispatcher, marks what can be called as started, and has it called.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use raven_core::{
    Channel, Clock, Environment, EventKind, Seq, Status, SuppressionReason, TenantId, Timestamp, problem::chain, tenant::TenantStatus,
};
use raven_store::{Action, Job, Lane, Lease, Start, Started, Store};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::{Attempts, blank},
    directory::{Directory, Route, TenantView},
    dispatch::{Appetite, Dispatcher, Held, Permit, Taken},
    engine::{POLL, until},
    membership::Membership,
    parking,
    routing::{Needs, Query},
    settle,
};

/// Jobs in a claim.
const CLAIM: usize = 256;
/// Jobs started in one transaction.
const STARTS: usize = 256;

/// Turns jobs into calls.
pub struct Worker {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) attempts: Arc<Attempts>,
    /// Rung when a job may have become due.
    pub(crate) wake: Arc<Notify>,
    /// A claim's answer was lost: the store may hold jobs for us that we don't know of.
    pub(crate) lost_claim: AtomicBool,
    /// When the next gate opens that something waits before, in milliseconds.
    pub(crate) opens_at: AtomicI64,
}

/// `failureReason` of messages whose only configs were paused until they were too old.
pub const PROVIDER_PAUSED: &str = "provider_paused";

/// Which way a job goes.
enum Way {
    /// This one.
    Through(Route),
    /// None at present, as this view of its tenant says.
    None(Option<Arc<TenantView>>),
    /// It was settled, or given back.
    SeenTo,
}

/// Jobs that no config takes at present.
#[derive(Default)]
struct Parked {
    /// With when they are too old.
    jobs: Vec<(Seq, Timestamp)>,
    views: HashMap<(TenantId, Channel), Option<Arc<TenantView>>>,
}

impl Parked {
    fn add(&mut self, job: &Job, view: Option<Arc<TenantView>>) {
        self.jobs.push((job.seq, job.expires_at));
        self.views.insert((job.lane.tenant, job.lane.channel), view);
    }
}

impl Worker {
    /// Starts what can be started: marks attempts as started, then makes their calls. Returns how many began, or ended because
    /// their recipient has been suppressed meanwhile.
    pub async fn step_starts(self: &Arc<Self>) -> usize {
        if !self.membership.is_fresh() {
            return 0;
        }
        let (now, lease) = (self.clock.now(), self.membership.lease());
        let Taken { ready: taken, stray, opens_at } = self.dispatcher.take(STARTS, now);
        self.opens_at.store(opens_at.map_or(i64::MAX, Timestamp::millis), Ordering::Relaxed);
        let mut parked = Parked::default();
        for held in stray {
            self.place_again(held, now, lease, &mut parked).await;
        }
        let mut ready: Vec<(Job, Permit, Route)> = Vec::with_capacity(taken.len());
        for (held, permit) in taken {
            match self.renew(&held, now).await {
                Some(route) => ready.push((held.job, permit, route)),
                None => {
                    // Its place is for others.
                    drop(permit);
                    self.place_again(held, now, lease, &mut parked).await;
                }
            }
        }
        self.park(parked, lease).await;
        if ready.is_empty() {
            return 0;
        }
        let starts: Vec<Start> = ready.iter().map(|(job, _, route)| Start::next(job, route.config())).collect();
        match self.store.start(lease, &starts, now).await {
            Ok(_) if !self.membership.is_fresh() || self.membership.lease() != lease => {
                // Marking them took so long that others may hold the work by now, or soon.
                self.attempts.orphaned(lease, starts.iter().map(|s| s.seq).collect());
                0
            }
            Ok(started) => {
                let mut began = 0;
                for ((mut job, permit, route), started) in ready.into_iter().zip(started) {
                    match started {
                        Started::Begun => {
                            job.attempt += 1;
                            self.attempts.begin(job, route, permit, lease, now);
                        }
                        Started::Suppressed(reason) => self.suppressed(&job, reason, now, lease),
                        Started::NotHeld => continue,
                    }
                    began += 1;
                }
                began
            }
            Err(e) => {
                tracing::error!(error = chain(&e), "attempts can't be started yet");
                self.attempts.orphaned(lease, starts.iter().map(|s| s.seq).collect());
                0
            }
        }
    }

    /// Ends a job whose recipient was suppressed while it waited.
    fn suppressed(&self, job: &Job, reason: SuppressionReason, now: Timestamp, lease: Lease) {
        let mut settlement = blank(job, now);
        (settlement.kind, settlement.status) = (EventKind::Suppressed, Status::Suppressed);
        settlement.failure_reason = Some(reason.name().to_owned());
        settlement.detail = Some(reason.name().to_owned());
        self.attempts.settle(lease, settlement, settle::Held::Action(self.attempts.actions.begin(job.seq)));
    }

    /// The route of a job that was held, if it is still good and nothing else is to be seen to.
    async fn renew(&self, held: &Held, now: Timestamp) -> Option<Route> {
        if now >= held.job.expires_at {
            return None;
        }
        let view = self.directory.tenant(held.job.lane.tenant).await.ok()??;
        if view.record.status == TenantStatus::Active { view.renew(&held.route) } else { None }
    }

    /// Finds a job that was held another place.
    async fn place_again(&self, held: Held, now: Timestamp, lease: Lease, parked: &mut Parked) {
        let Held { job, route: old } = held;
        match self.way(&job, now, lease, Instant::now()).await {
            Way::Through(route) if route.config() == old.config() => self.dispatcher.hold_again(Held { job, route }),
            Way::Through(route) => self.dispatcher.hold(Held { job, route }),
            Way::None(view) => parked.add(&job, view),
            Way::SeenTo => {}
        }
    }

    /// Which way a job goes. `claimed`: since when it has been ours, at least.
    async fn way(&self, job: &Job, now: Timestamp, lease: Lease, claimed: Instant) -> Way {
        let Lane { tenant, environment, channel, .. } = job.lane;
        let mut view = match self.directory.tenant(tenant).await {
            Ok(view) => view,
            Err(e) => {
                tracing::error!(error = chain(&*e), "a tenant can't be read; its job is given back");
                self.attempts.orphaned(lease, vec![job.seq]);
                return Way::SeenTo;
            }
        };
        let needs = if environment == Environment::Live { Needs::read(channel, &job.content) } else { Needs::default() };
        let query = Query { channel, recipient: &job.recipient, needs: &needs, seq: job.seq, tried: job.tried.as_ref() };
        if now >= job.expires_at {
            let paused = view.as_ref().is_some_and(|view| view.waits_for_a_paused_one(environment, &query, now));
            self.expire(job, paused, now, lease);
            return Way::SeenTo;
        }
        loop {
            let Some(seen) = &view else { return Way::None(None) };
            if seen.record.status != TenantStatus::Active {
                // It is held: given back, and claimed again when the tenant is active.
                self.attempts.orphaned(lease, vec![job.seq]);
                return Way::SeenTo;
            }
            if let Some(route) = seen.route(environment, &query, now) {
                return Way::Through(route);
            }
            if seen.is_since(claimed) {
                return Way::None(view);
            }
            // It may have been woken by a change that this view is older than.
            match self.directory.tenant_anew(tenant).await {
                Ok(anew) => view = anew,
                Err(e) => {
                    tracing::error!(error = chain(&*e), "a tenant can't be read; its job is given back");
                    self.attempts.orphaned(lease, vec![job.seq]);
                    return Way::SeenTo;
                }
            }
        }
    }

    /// Ends a job that is too old.
    fn expire(&self, job: &Job, paused: bool, now: Timestamp, lease: Lease) {
        let mut settlement = blank(job, now);
        let (kind, status, reason, detail) = if paused {
            (EventKind::Failed, Status::Failed, PROVIDER_PAUSED, "the credentials of its provider config were refused until it was too old")
        } else {
            // One that was tried has failed; one that never was is merely too old.
            let (kind, status) = if job.attempt > 0 { (EventKind::Failed, Status::Failed) } else { (EventKind::Expired, Status::Expired) };
            (kind, status, "expired", "the message was still waiting when it reached its maximum age")
        };
        (settlement.kind, settlement.status) = (kind, status);
        settlement.failure_reason = Some(reason.to_owned());
        settlement.detail = Some(detail.to_owned());
        self.attempts.settle(lease, settlement, settle::Held::Action(self.attempts.actions.begin(job.seq)));
    }

    /// Gives jobs back that no config takes, until something changes.
    async fn park(&self, parked: Parked, lease: Lease) {
        if parked.jobs.is_empty() {
            return;
        }
        if let Err(e) = self.store.park(lease, &parked.jobs).await {
            tracing::error!(error = chain(&e), "jobs that wait for a provider config are given back, and claimed again");
            return self.attempts.orphaned(lease, parked.jobs.iter().map(|(seq, _)| *seq).collect());
        }
        for ((tenant, channel), seen) in parked.views {
            // What changed before they were parked has woken none of them; what changes from here on does.
            match self.directory.tenant_anew(tenant).await {
                Ok(Some(anew)) if seen.as_ref().is_none_or(|seen| seen.agrees(&anew, channel)) => {}
                Ok(None) => {}
                _ => {
                    parking::unpark(&*self.store, tenant, channel).await;
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Stops between two steps, never within one: a job that was just marked as started is also called.
    pub(crate) async fn run_starts(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.step_starts().await == 0 {
                // While the heartbeat is stale nothing rings when it is fresh again, so look now and then.
                let opens_at = Timestamp::from_millis(self.opens_at.load(Ordering::Relaxed));
                let wait = opens_at.since(self.clock.now()).min(POLL);
                let _ = tokio::time::timeout(wait, until(stop.clone(), self.dispatcher.rung())).await;
            }
        }
    }

    /// Claims due jobs and hands them to the dispatcher. Returns when the next one is due, if one is known, and whether
    /// more may be due now.
    ///
    /// # Errors
    /// When the store can't.
    pub async fn step_claims(&self) -> raven_store::Result<(Option<Timestamp>, bool)> {
        let Appetite { jobs, of_lane, skip } = self.dispatcher.appetite();
        let limit = jobs.min(CLAIM);
        if limit == 0 || !self.membership.is_fresh() {
            return Ok((None, false));
        }
        let (lease, now) = (self.membership.lease(), self.clock.now());
        let turn = self.attempts.claiming.lock().await;
        self.attempts.release_orphans_in(&turn).await?;
        if self.lost_claim.load(Ordering::Acquire) {
            let known = [self.dispatcher.known(), self.attempts.actions.known()].concat();
            let released = self.store.release_unstarted(lease, &known).await?;
            self.lost_claim.store(false, Ordering::Release);
            tracing::info!(released, "gave back jobs of a claim whose answer was lost");
        }
        let claimed = match self.store.claim(lease, limit, of_lane, &skip, now).await {
            Ok(claimed) => claimed,
            Err(e) => {
                self.lost_claim.store(true, Ordering::Release);
                return Err(e);
            }
        };
        drop(turn);
        let (got, since) = (claimed.jobs.len(), Instant::now());
        let mut parked = Parked::default();
        for job in claimed.jobs {
            match job.action {
                Action::Send => match self.way(&job, now, lease, since).await {
                    Way::Through(route) => self.dispatcher.hold(Held { job, route }),
                    Way::None(view) => parked.add(&job, view),
                    Way::SeenTo => {}
                },
                Action::GiveUp => {
                    let mut settlement = blank(&job, now);
                    settlement.status = Status::Failed;
                    settlement.failure_reason = Some("outcome_unknown".to_owned());
                    settlement.detail = Some("no word of the message came from the provider in time".to_owned());
                    self.attempts.settle(lease, settlement, settle::Held::Action(self.attempts.actions.begin(job.seq)));
                }
                Action::Play => self.attempts.play(job, lease),
            }
        }
        self.park(parked, lease).await;
        self.dispatcher.left_behind(got == limit, &skip);
        Ok((claimed.next_due, got > 0))
    }

    /// Stops between two steps, never within one: a job that was just claimed is also held, and so given back.
    pub(crate) async fn run_claims(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let wait = match self.step_claims().await {
                Ok((_, true)) => continue,
                Ok((next_due, false)) => next_due.map_or(POLL, |at| at.since(self.clock.now()).min(POLL)),
                Err(e) => {
                    tracing::error!(error = chain(&e), "jobs can't be claimed yet");
                    POLL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
                () = self.store.woken() => {}
                () = self.dispatcher.has_room() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    pub(crate) async fn release(&self, held: &[Job]) {
        let seqs: Vec<Seq> = held.iter().map(|j| j.seq).collect();
        if let Err(e) = self.store.release(self.membership.lease(), &seqs).await {
            tracing::warn!(error = chain(&e), jobs = seqs.len(), "held jobs could not be given back; they are taken over later");
        }
        let _ = self.attempts.release_orphans().await;
        self.store.announce();
    }
}
