//! What claiming and releasing promise.

use std::{collections::HashSet, sync::Arc};

use raven_core::{Channel, Environment, EventKind, Priority, Status, TenantId, Timestamp, retry::RetryPolicy, tenant::SuspendedBy};

use super::fixture::{at, claim_all, create, message, node, outcome, seq, seqs, start, step, tenant};
use crate::{Action, Claimed, Job, Lane, NewMessage, Next, Outlet, Result, Settlement, StateChange, Store, Survey, Urgency};

const fn lane(tenant: TenantId) -> Lane {
    Lane { tenant, environment: Environment::Live, channel: Channel::Sms, urgency: Urgency::Transactional, outlet: Outlet::NONE }
}

fn tenants(claimed: &Claimed) -> Vec<TenantId> {
    claimed.jobs.iter().map(|job| job.lane.tenant).collect()
}

/// Three tenants with 10, 2 and 1 jobs, all due at 20.
async fn crowd(store: &Arc<dyn Store>) -> Result<[TenantId; 3]> {
    let all = [tenant(store, 1).await?, tenant(store, 2).await?, tenant(store, 3).await?];
    for (n, owner) in [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2].into_iter().enumerate() {
        create(store, message(all[owner], seq(i64::try_from(n).expect("13 jobs")))).await?;
    }
    Ok(all)
}

pub async fn due_jobs_are_claimed_oldest_first(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for (n, due) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        create(&store, NewMessage { due_at: at(due), ..message(tenant, seq(n)) }).await?;
    }
    let claimed = claim_all(&store, lease, at(25)).await?;
    assert_eq!(seqs(&claimed), [2, 4, 3].map(seq));
    assert_eq!(claimed.next_due, Some(at(30)));
    let claimed = claim_all(&store, lease, at(30)).await?;
    assert_eq!(seqs(&claimed), [seq(1)]);
    assert_eq!(claim_all(&store, lease, at(99)).await?, Claimed::default());
    Ok(())
}

pub async fn a_claimed_job_carries_all_that_acting_takes(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let new = NewMessage {
        environment: Environment::Test,
        channel: Channel::Email,
        priority: Priority::Bulk,
        recipient: "ada@example.com".to_owned(),
        expires_at: at(777),
        outlet: Outlet(7),
        ..message(tenant, seq(1))
    };
    create(&store, new.clone()).await?;
    let job = Job {
        seq: seq(1),
        lane: Lane { tenant, environment: Environment::Test, channel: Channel::Email, urgency: Urgency::Bulk, outlet: Outlet(7) },
        action: Action::Send,
        attempt: 0,
        expires_at: at(777),
        recipient: new.recipient,
        content: new.content,
        tried: None,
    };
    assert_eq!(claim_all(&store, lease, at(1)).await?.jobs, [job]);
    Ok(())
}

pub async fn nothing_is_claimed_before_its_time(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, lease) = (tenant(&store, 1).await?, tenant(&store, 2).await?, node(&store, "a").await?);
    assert_eq!(claim_all(&store, lease, at(9)).await?, Claimed::default());
    create(&store, NewMessage { due_at: at(20), ..message(one, seq(1)) }).await?;
    create(&store, NewMessage { due_at: at(10), ..message(two, seq(2)) }).await?;
    assert_eq!(claim_all(&store, lease, at(9)).await?, Claimed { jobs: Vec::new(), next_due: Some(at(10)) });
    let claimed = claim_all(&store, lease, at(10)).await?;
    assert_eq!((seqs(&claimed), claimed.next_due), (vec![seq(2)], Some(at(20))));
    assert_eq!(claim_all(&store, lease, at(10)).await?, Claimed { jobs: Vec::new(), next_due: Some(at(20)) });
    Ok(())
}

pub async fn priorities_are_lanes_of_their_own(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in 1..=4 {
        let priority = if n < 4 { Priority::Bulk } else { Priority::Transactional };
        create(&store, NewMessage { priority, ..message(tenant, seq(n)) }).await?;
    }
    let bulk = Lane { urgency: Urgency::Bulk, ..lane(tenant) };
    assert_eq!(seqs(&store.claim(lease, 100, 100, &[bulk], at(20)).await?), [seq(4)]);
    let claimed = store.claim(lease, 100, 2, &[], at(20)).await?;
    assert_eq!((seqs(&claimed), claimed.jobs[0].lane), ([1, 2].map(seq).to_vec(), bulk));
    Ok(())
}

pub async fn what_is_tried_again_waits_apart(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for (n, priority) in [(1, Priority::Transactional), (2, Priority::Bulk)] {
        create(&store, NewMessage { priority, ..message(tenant, seq(n)) }).await?;
    }
    let urgencies = async |now| {
        let mut all: Vec<_> = claim_all(&store, lease, now).await?.jobs.iter().map(|job| (job.seq, job.lane.urgency)).collect();
        all.sort_unstable();
        Ok::<_, crate::Error>(all)
    };
    assert_eq!(urgencies(at(10)).await?, [(seq(1), Urgency::Transactional), (seq(2), Urgency::Bulk)]);
    store.release(lease, &[seq(1), seq(2)]).await?;
    assert_eq!(urgencies(at(10)).await?, [(seq(1), Urgency::Transactional), (seq(2), Urgency::Bulk)], "given back, not tried");
    for attempt in 1..=2_i16 {
        for n in 1..=2 {
            start(&store, lease, seq(n), attempt, at(11)).await?;
            let failed = outcome(tenant, seq(n), attempt, EventKind::RetryScheduled, Status::Sending, at(12));
            store.settle(lease, &[Settlement { next: Next::At(Action::Send, at(20)), ..failed }]).await?;
        }
        let retries = [(seq(1), Urgency::TransactionalRetry), (seq(2), Urgency::BulkRetry)];
        assert_eq!(urgencies(at(20)).await?, retries, "after attempt {attempt}");
    }
    // An outcome that nobody knows is not another try.
    create(&store, message(tenant, seq(3))).await?;
    claim_all(&store, lease, at(20)).await?;
    start(&store, lease, seq(3), 1, at(21)).await?;
    let unknown = outcome(tenant, seq(3), 1, EventKind::OutcomeUnknown, Status::Sending, at(22));
    store.settle(lease, &[Settlement { next: Next::At(Action::GiveUp, at(30)), ..unknown }]).await?;
    assert_eq!(urgencies(at(30)).await?, [(seq(3), Urgency::Transactional)]);
    Ok(())
}

pub async fn lanes_take_turns(store: Arc<dyn Store>) -> Result<()> {
    let (all, lease) = (crowd(&store).await?, node(&store, "a").await?);
    let claimed = store.claim(lease, 6, 100, &[], at(20)).await?;
    let of = |tenant| tenants(&claimed).iter().filter(|t| **t == tenant).count();
    assert_eq!(all.map(of), [3, 2, 1], "{:?}", tenants(&claimed));
    let first: HashSet<_> = tenants(&claimed)[..3].iter().copied().collect();
    assert_eq!(first, HashSet::from(all), "each has one job in the first round");
    assert_eq!(claimed.jobs.iter().filter(|j| j.lane.tenant == all[0]).map(|j| j.seq).collect::<Vec<_>>(), [0, 1, 2].map(seq));
    Ok(())
}

pub async fn a_lane_gets_no_more_than_its_share(store: Arc<dyn Store>) -> Result<()> {
    let (all, lease) = (crowd(&store).await?, node(&store, "a").await?);
    let claimed = store.claim(lease, 100, 2, &[], at(20)).await?;
    let of = |tenant| tenants(&claimed).iter().filter(|t| **t == tenant).count();
    assert_eq!(all.map(of), [2, 2, 1]);
    let claimed = store.claim(lease, 100, 2, &[], at(20)).await?;
    assert_eq!(seqs(&claimed), [2, 3].map(seq));
    assert_eq!(seqs(&store.claim(lease, 3, 100, &[], at(20)).await?), [4, 5, 6].map(seq));
    Ok(())
}

pub async fn skipped_lanes_are_passed_over(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, lease) = (tenant(&store, 1).await?, tenant(&store, 2).await?, node(&store, "a").await?);
    create(&store, message(one, seq(1))).await?;
    create(&store, NewMessage { channel: Channel::Email, ..message(one, seq(2)) }).await?;
    create(&store, NewMessage { environment: Environment::Test, ..message(one, seq(3)) }).await?;
    create(&store, message(two, seq(4))).await?;
    create(&store, NewMessage { due_at: at(50), ..message(one, seq(5)) }).await?;
    let claimed = store.claim(lease, 100, 100, &[lane(one)], at(20)).await?;
    let got: HashSet<_> = seqs(&claimed).into_iter().collect();
    assert_eq!((got, claimed.next_due), (HashSet::from([2, 3, 4].map(seq)), None));
    let claimed = store.claim(lease, 100, 100, &[lane(two)], at(20)).await?;
    assert_eq!((seqs(&claimed), claimed.next_due), (vec![seq(1)], Some(at(50))));
    Ok(())
}

pub async fn claims_go_on_after_the_last_lane(store: Arc<dyn Store>) -> Result<()> {
    let (all, lease) = (crowd(&store).await?, node(&store, "a").await?);
    let mut served = HashSet::new();
    for _ in 0..3 {
        let claimed = store.claim(lease, 1, 100, &[], at(20)).await?;
        assert_eq!(claimed.jobs.len(), 1);
        served.extend(tenants(&claimed));
    }
    assert_eq!(served, HashSet::from(all));
    Ok(())
}

pub async fn claimers_never_get_the_same_job(store: Arc<dyn Store>) -> Result<()> {
    let tenants = [tenant(&store, 1).await?, tenant(&store, 2).await?];
    let batch = (0..200).map(|n: i64| message(tenants[usize::from(n % 3 == 0)], seq(n))).collect();
    super::fixture::accept(&store, batch).await?;
    let mut leases = Vec::new();
    for name in ["a", "b", "c", "d"] {
        leases.push(node(&store, name).await?);
    }
    let mut seen = HashSet::new();
    loop {
        let claims = leases.iter().map(|lease| store.claim(*lease, 7, 5, &[], at(500)));
        let claimed = futures_util::future::try_join_all(claims).await?;
        let taken: Vec<_> = claimed.iter().flat_map(seqs).collect();
        if taken.is_empty() {
            break;
        }
        for seq in taken {
            assert!(seen.insert(seq), "claimed twice");
        }
    }
    assert_eq!(seen.len(), 200);
    Ok(())
}

pub async fn a_released_job_is_due_when_it_was(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    create(&store, NewMessage { due_at: at(5), ..message(tenant, seq(1)) }).await?;
    let claimed = claim_all(&store, lease, at(10)).await?;
    assert_eq!(seqs(&claim_all(&store, other, at(10)).await?), []);
    store.release(lease, &seqs(&claimed)).await?;
    assert_eq!(claim_all(&store, other, at(4)).await?.next_due, Some(at(5)));
    assert_eq!(claim_all(&store, other, at(5)).await?.jobs, claimed.jobs);
    Ok(())
}

pub async fn what_nobody_knows_of_is_given_back(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    for n in 1..=5 {
        create(&store, message(tenant, seq(n))).await?;
    }
    assert_eq!(seqs(&store.claim(other, 1, 9, &[], at(10)).await?), [seq(1)]);
    assert_eq!(seqs(&claim_all(&store, lease, at(10)).await?), [2, 3, 4, 5].map(seq));
    start(&store, lease, seq(2), 1, at(11)).await?;
    assert_eq!(store.release_unstarted(lease, &[seq(3), seq(99)]).await?, 2);
    assert_eq!(seqs(&claim_all(&store, other, at(10)).await?), [4, 5].map(seq), "neither what was started nor what is known");
    assert_eq!(store.release_unstarted(lease, &[]).await?, 1);
    assert_eq!(store.release_unstarted(lease, &[]).await?, 0);
    Ok(())
}

pub async fn only_the_holder_releases(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease, other) = (tenant(&store, 1).await?, node(&store, "a").await?, node(&store, "b").await?);
    create(&store, message(tenant, seq(1))).await?;
    claim_all(&store, lease, at(10)).await?;
    store.release(other, &[seq(1), seq(2)]).await?;
    assert_eq!(seqs(&claim_all(&store, other, at(10)).await?), []);
    start(&store, lease, seq(1), 1, at(11)).await
}

pub async fn depth_counts_by_channel(store: Arc<dyn Store>) -> Result<()> {
    let (tenant, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    assert_eq!(store.depth(at(0)).await?, []);
    create(&store, message(tenant, seq(1))).await?;
    create(&store, message(tenant, seq(2))).await?;
    create(&store, NewMessage { channel: Channel::Email, due_at: at(50), ..message(tenant, seq(3)) }).await?;
    let depth = |now: Timestamp| {
        let store = Arc::clone(&store);
        async move { store.depth(now).await }
    };
    assert_eq!(depth(at(10)).await?, [(Channel::Sms, 2, Some(at(1))), (Channel::Email, 1, None)]);
    assert_eq!(depth(at(50)).await?, [(Channel::Sms, 2, Some(at(1))), (Channel::Email, 1, Some(at(50)))]);
    // What is being worked on is still in the queue.
    claim_all(&store, lease, at(10)).await?;
    assert_eq!(depth(at(10)).await?, [(Channel::Sms, 2, Some(at(1))), (Channel::Email, 1, None)]);
    Ok(())
}

pub async fn a_survey_by_stretches_adds_up(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    for n in 1..=7 {
        let channel = if n % 3 == 0 { Channel::Email } else { Channel::Sms };
        create(&store, NewMessage { channel, due_at: at(n * 10), ..message(one, seq(n)) }).await?;
    }
    claim_all(&store, lease, at(20)).await?;
    store.retire_node(lease).await?;
    let mut whole = Survey::default();
    let mut stretches = 0;
    while let Some(after) = whole.goes_on() {
        whole.add(store.survey(after, 3, at(35), at(500)).await?);
        stretches += 1;
    }
    assert_eq!((stretches, whole.lost), (3, vec![lease]));
    assert_eq!(whole.channels, [(Channel::Sms, 5, Some(at(10))), (Channel::Email, 2, Some(at(30)))]);
    assert_eq!(store.survey(Some(seq(7)), 3, at(35), at(0)).await?, Survey::of(Vec::new(), Vec::new(), None));
    Ok(())
}

pub async fn the_jobs_of_a_suspended_tenant_are_held(store: Arc<dyn Store>) -> Result<()> {
    let (one, two, lease) = (tenant(&store, 1).await?, tenant(&store, 2).await?, node(&store, "a").await?);
    for (n, owner, due) in [(1, one, 10), (2, one, 200), (3, two, 10), (4, two, 300)] {
        create(&store, NewMessage { due_at: at(due), ..message(owner, seq(n)) }).await?;
    }
    create(&store, NewMessage { environment: Environment::Test, channel: Channel::Email, ..message(one, seq(5)) }).await?;
    step(&store, one, StateChange::Suspend(SuspendedBy::Operator), 1).await?;
    let claimed = claim_all(&store, lease, at(100)).await?;
    assert_eq!((seqs(&claimed), claimed.next_due), (vec![seq(3)], Some(at(300))), "what is held is never due");
    assert_eq!(claim_all(&store, lease, at(250)).await?, Claimed { jobs: Vec::new(), next_due: Some(at(300)) });
    step(&store, one, StateChange::Archive(at(250)), 2).await?;
    assert_eq!(claim_all(&store, lease, at(250)).await?, Claimed { jobs: Vec::new(), next_due: Some(at(300)) });
    step(&store, one, StateChange::Restore(at(250)), 3).await?;
    step(&store, one, StateChange::Reactivate(SuspendedBy::Operator), 4).await?;
    let claimed = claim_all(&store, lease, at(100)).await?;
    assert_eq!((HashSet::from_iter(seqs(&claimed)), claimed.next_due), (HashSet::from([1, 5].map(seq)), Some(at(200))));
    assert_eq!(seqs(&claim_all(&store, lease, at(250)).await?), [seq(2)]);
    Ok(())
}

pub async fn what_must_have_expired_is_claimed_though_it_is_held(store: Arc<dyn Store>) -> Result<()> {
    let (one, lease) = (tenant(&store, 1).await?, node(&store, "a").await?);
    let mut n = 0;
    for channel in [Channel::Sms, Channel::Email] {
        for due in [10, 20] {
            n += 1;
            create(&store, NewMessage { channel, due_at: at(due), ..message(one, seq(n)) }).await?;
        }
    }
    step(&store, one, StateChange::Suspend(SuspendedBy::Owner), 1).await?;
    let age = |channel| RetryPolicy::of(channel).max_age;
    let (sms, email) = (age(Channel::Sms), age(Channel::Email));
    assert!(sms < email, "so that each channel has its own time");
    assert_eq!(claim_all(&store, lease, at(9).after(sms)).await?, Claimed::default());
    let claimed = claim_all(&store, lease, at(10).after(sms)).await?;
    assert_eq!((seqs(&claimed), claimed.next_due), (vec![seq(1)], None), "the other one is not old enough");
    assert_eq!(seqs(&claim_all(&store, lease, at(9).after(email)).await?), [seq(2)]);
    assert_eq!(seqs(&store.claim(lease, 1, 9, &[], at(99).after(email)).await?), [seq(3)]);
    assert_eq!(seqs(&claim_all(&store, lease, at(99).after(email)).await?), [seq(4)]);
    Ok(())
}
