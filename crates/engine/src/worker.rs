//! The worker: claims due jobs, hands them to the dispatcher, marks what can be called as started, and has it called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use raven_core::{Clock, EventKind, Status, SuppressionReason, Timestamp, problem::chain, tenant::TenantStatus};
use raven_store::{Action, Job, Lease, Next, Start, Started, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::{Attempts, blank},
    directory::{Directory, Route},
    dispatch::{Appetite, Dispatcher, Permit},
    engine::{POLL, until},
    membership::Membership,
    settle::Held,
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
}

impl Worker {
    /// Starts what can be started: marks attempts as started, then makes their calls. Returns how many began, or ended because
    /// their recipient has been suppressed meanwhile.
    pub async fn step_starts(self: &Arc<Self>) -> usize {
        if !self.membership.is_fresh() {
            return 0;
        }
        let taken = self.dispatcher.take(STARTS);
        if taken.is_empty() {
            return 0;
        }
        let now = self.clock.now();
        let lease = self.membership.lease();
        let mut ready: Vec<(Job, Permit, Route)> = Vec::with_capacity(taken.len());
        for (job, permit) in taken {
            if let Some(route) = self.route(&job, now, lease).await {
                ready.push((job, permit, route));
            }
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
        self.attempts.settle(lease, settlement, Held::Action(self.attempts.actions.begin(job.seq)));
    }

    /// The route of a job, or what becomes of it without one.
    async fn route(&self, job: &Job, now: Timestamp, lease: Lease) -> Option<Route> {
        if now >= job.expires_at {
            let mut settlement = blank(job, now);
            // One that was tried has failed; one that never was is merely too old.
            (settlement.kind, settlement.status) =
                if job.attempt > 0 { (EventKind::Failed, Status::Failed) } else { (EventKind::Expired, Status::Expired) };
            settlement.failure_reason = Some("expired".to_owned());
            settlement.detail = Some("the message was still waiting when it reached its maximum age".to_owned());
            self.attempts.settle(lease, settlement, Held::Action(self.attempts.actions.begin(job.seq)));
            return None;
        }
        let route = match self.directory.tenant(job.lane.tenant).await {
            Ok(Some(view)) if view.record.status != TenantStatus::Active => {
                // It is held: given back, and claimed again when the tenant is active.
                self.attempts.orphaned(lease, vec![job.seq]);
                return None;
            }
            Ok(view) => view.and_then(|v| v.route(job.lane.environment, job.lane.channel)),
            Err(e) => {
                tracing::error!(error = chain(&*e), "a tenant can't be read; its job is given back");
                self.attempts.orphaned(lease, vec![job.seq]);
                return None;
            }
        };
        if route.is_none() {
            let mut settlement = blank(job, now);
            settlement.kind = EventKind::RetryScheduled;
            settlement.status = Status::Queued;
            settlement.detail = Some("no_provider_for_channel: no provider is configured for the channel any more".to_owned());
            settlement.next = Next::At(Action::Send, now.after(Duration::from_secs(60)).min(job.expires_at));
            self.attempts.settle(lease, settlement, Held::Action(self.attempts.actions.begin(job.seq)));
        }
        route
    }

    /// Stops between two steps, never within one: a job that was just marked as started is also called.
    pub(crate) async fn run_starts(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.step_starts().await == 0 {
                // While the heartbeat is stale nothing rings when it is fresh again, so look now and then.
                let _ = tokio::time::timeout(POLL, until(stop.clone(), self.dispatcher.rung())).await;
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
        let got = claimed.jobs.len();
        for job in claimed.jobs {
            match job.action {
                Action::Send => self.dispatcher.hold(job),
                Action::GiveUp => {
                    let mut settlement = blank(&job, now);
                    settlement.status = Status::Failed;
                    settlement.failure_reason = Some("outcome_unknown".to_owned());
                    settlement.detail = Some("no word of the message came from the provider in time".to_owned());
                    self.attempts.settle(lease, settlement, Held::Action(self.attempts.actions.begin(job.seq)));
                }
                Action::Play => self.attempts.play(job, lease),
            }
        }
        self.dispatcher.left_behind(got == limit || !skip.is_empty());
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
        let seqs: Vec<raven_core::Seq> = held.iter().map(|j| j.seq).collect();
        if let Err(e) = self.store.release(self.membership.lease(), &seqs).await {
            tracing::warn!(error = chain(&e), jobs = seqs.len(), "held jobs could not be given back; they are taken over later");
        }
        let _ = self.attempts.release_orphans().await;
        self.store.announce();
    }
}
