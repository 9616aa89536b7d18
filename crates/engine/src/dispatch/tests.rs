use super::*;
use raven_core::{Channel, Environment};
use raven_store::{Action, Outlet, Urgency};
use uuid::Uuid;

fn lane(n: u128) -> Lane {
    Lane {
        tenant: TenantId(Uuid::from_u128(n)),
        environment: Environment::Live,
        channel: Channel::Sms,
        urgency: Urgency::Transactional,
        outlet: Outlet::NONE,
    }
}

fn job(lane: Lane, seq: i64) -> Job {
    let never = Timestamp::from_millis(i64::MAX);
    Job {
        seq: Seq(seq),
        lane,
        action: Action::Send,
        attempt: 0,
        expires_at: never,
        recipient: String::new(),
        content: String::new(),
        tried: None,
    }
}

fn limits() -> Limits {
    Limits { config_calls: 2, tenant_calls: 3, calls: 5, lane_held: 3, tenant_held: 10, held: 7 }
}

fn dispatcher() -> Arc<Dispatcher> {
    Dispatcher::new(limits(), Arc::default())
}

/// One call at a time, so that the order of turns is seen.
fn narrow() -> Arc<Dispatcher> {
    Dispatcher::new(Limits { calls: 1, lane_held: 1000, tenant_held: 1000, held: 1000, ..limits() }, Arc::default())
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

fn hold(d: &Dispatcher, job: Job) {
    d.hold(Held { job, route: Route::Sandbox });
}

fn reserve(d: &Arc<Dispatcher>, lane: Lane) -> Place {
    d.reserve(lane, &Route::Sandbox, now())
}

fn take(d: &Arc<Dispatcher>, most: usize) -> Vec<(Job, Permit)> {
    d.take(most, now()).ready.into_iter().map(|(held, permit)| (held.job, permit)).collect()
}

fn seqs(taken: &[(Job, Permit)]) -> Vec<i64> {
    taken.iter().map(|(job, _)| job.seq.0).collect()
}

/// Makes one call after the other.
fn order(d: &Arc<Dispatcher>) -> Vec<i64> {
    std::iter::from_fn(|| take(d, 1).pop().map(|(job, _)| job.seq.0)).collect()
}

#[test]
fn a_full_config_leaves_the_others_their_permits() {
    let d = dispatcher();
    let permits: Vec<Permit> = (0..2).map(|_| if let Place::Call(p) = reserve(&d, lane(1)) { p } else { panic!("a permit") }).collect();
    let promises: Vec<Promise> = (0..3).map(|_| if let Place::Held(p) = reserve(&d, lane(1)) { p } else { panic!("a promise") }).collect();
    assert!(matches!(reserve(&d, lane(1)), Place::None));
    let Place::Call(other) = reserve(&d, lane(2)) else { panic!("a permit for the other tenant") };
    assert_eq!((d.calls(), d.held()), (3, 3));
    drop((permits, promises, other));
    assert_eq!((d.calls(), d.held()), (0, 0));
    assert_eq!(d.state.lock().lanes.tenants(), 0, "a tenant of which nothing is left is forgotten");
}

#[test]
fn a_tenant_with_many_channels_leaves_the_others_their_permits() {
    let d = dispatcher();
    let on = |channel| Lane { channel, ..lane(1) };
    let mut permits = Vec::new();
    for channel in [Channel::Sms, Channel::Sms, Channel::Email] {
        let Place::Call(permit) = reserve(&d, on(channel)) else { panic!("a permit") };
        permits.push(permit);
    }
    assert!(matches!(reserve(&d, on(Channel::Push)), Place::Held(_)), "three calls are the tenant's share");
    assert!(matches!(reserve(&d, lane(2)), Place::Call(_)));
}

#[test]
fn tenants_take_turns_however_many_lanes_they_have() {
    let d = narrow();
    for n in 0..4 {
        hold(&d, job(lane(1), 10 + n));
        hold(&d, job(Lane { channel: Channel::Email, ..lane(1) }, 20 + n));
    }
    for n in 0..4 {
        hold(&d, job(lane(2), 30 + n));
    }
    assert_eq!(order(&d), [10, 30, 20, 31, 11, 32, 21, 33, 12, 22, 13, 23]);
}

#[test]
fn large_mails_use_up_a_tenants_turns() {
    let d = narrow();
    let large = Job { content: "x".repeat(3 * 16 * 1024), ..job(lane(1), 10) };
    hold(&d, large);
    hold(&d, job(lane(1), 11));
    for n in 0..6 {
        hold(&d, job(lane(2), 20 + n));
    }
    assert_eq!(order(&d), [20, 21, 22, 10, 23, 11, 24, 25]);
}

#[test]
fn transactional_work_goes_first_and_no_other_waits_for_ever() {
    let d = narrow();
    for n in 0..48 {
        hold(&d, job(lane(1), n));
        hold(&d, job(Lane { urgency: Urgency::Bulk, ..lane(2) }, 100 + n));
        hold(&d, job(Lane { urgency: Urgency::TransactionalRetry, ..lane(2) }, 200 + n));
        hold(&d, job(Lane { urgency: Urgency::BulkRetry, ..lane(1) }, 300 + n));
    }
    let all = order(&d);
    let of = |range: std::ops::Range<i64>| all[..32].iter().filter(|seq| range.contains(seq)).count();
    assert_eq!([of(0..100), of(100..200), of(200..300), of(300..400)], [20, 4, 6, 2]);
    assert_eq!(all.len(), 4 * 48);
}

#[test]
fn a_campaign_leaves_permits_for_transactional_messages() {
    let d = Dispatcher::new(Limits { config_calls: 4, tenant_calls: 8, calls: 8, ..limits() }, Arc::default());
    let bulk = Lane { urgency: Urgency::Bulk, ..lane(1) };
    let mut permits = Vec::new();
    while let Place::Call(permit) = reserve(&d, bulk) {
        permits.push(permit);
    }
    assert_eq!(permits.len(), 3, "three quarters of the config's calls");
    assert!(matches!(reserve(&d, lane(1)), Place::Call(_)));
    hold(&d, job(Lane { urgency: Urgency::TransactionalRetry, ..lane(1) }, 1));
    assert!(take(&d, 1).is_empty(), "what is tried again keeps to the same share");
    permits.clear();
    assert_eq!(seqs(&take(&d, 1)), [1]);
}

#[test]
fn a_message_does_not_overtake_those_held_before_it() {
    let d = dispatcher();
    let Place::Call(first) = reserve(&d, lane(1)) else { panic!("a permit") };
    hold(&d, job(lane(1), 10));
    assert!(matches!(reserve(&d, lane(1)), Place::Held(_)));
    let bulk = Lane { urgency: Urgency::Bulk, ..lane(1) };
    assert!(matches!(reserve(&d, bulk), Place::Call(_)), "but those of its own priority");
    drop(first);
    let Place::Call(_second) = reserve(&d, lane(1)) else { panic!("there is room for both") };
}

#[test]
fn nothing_overtakes_where_what_waits_elsewhere_needs_the_room() {
    let d = Dispatcher::new(Limits { calls: 3, ..limits() }, Arc::default());
    hold(&d, job(lane(1), 10));
    hold(&d, job(lane(2), 20));
    hold(&d, job(lane(3), 30));
    assert!(matches!(reserve(&d, lane(1)), Place::Held(_)));
    assert_eq!(take(&d, 9).len(), 3);
}

#[test]
fn a_call_that_ended_leaves_its_config_at_once_and_the_rest_when_it_is_settled() {
    let d = dispatcher();
    let mut permits = Vec::new();
    for _ in 0..3 {
        let Place::Call(mut permit) = reserve(&d, lane(1)) else { panic!("a permit") };
        permit.called();
        permit.called();
        permits.push(permit);
    }
    assert_eq!(d.calls(), 3);
    assert!(matches!(reserve(&d, lane(1)), Place::Held(_)), "three are the tenant's share");
    permits.pop();
    let Place::Call(under_way) = reserve(&d, lane(1)) else { panic!("a permit") };
    drop((permits, under_way));
    assert_eq!((d.calls(), d.state.lock().lanes.tenants()), (0, 0));
}

#[test]
fn a_newcomer_finds_room_where_others_hold_it_all() {
    let d = dispatcher();
    let mut held = Vec::new();
    let mut kept = Vec::new();
    for n in 1..=3 {
        for channel in [Channel::Sms, Channel::Email, Channel::Push] {
            loop {
                match reserve(&d, Lane { channel, ..lane(n) }) {
                    Place::Call(permit) => kept.push(permit),
                    Place::Held(promise) => held.push(promise),
                    Place::None => break,
                }
            }
        }
    }
    assert!(d.held() > 7, "{}", d.held());
    assert!(d.held() <= 14, "and that is bounded: {}", d.held());
    held.truncate(7);
    assert!(matches!(reserve(&d, lane(9)), Place::Held(_)));
}

#[test]
fn a_claim_brings_as_many_as_calls_ended() {
    let d = dispatcher();
    for ended in [20, 0, 1000] {
        for _ in 0..ended {
            let Place::Call(permit) = reserve(&d, lane(1)) else { panic!("a permit") };
            drop(permit);
        }
        assert_eq!(d.appetite().of_lane, ended.clamp(16, 128));
    }
}

#[test]
fn full_lanes_are_passed_over_by_claims() {
    let d = dispatcher();
    hold(&d, job(lane(1), 10));
    assert_eq!(d.appetite(), Appetite { jobs: 6, of_lane: 16, skip: vec![] });
    hold(&d, job(lane(1), 11));
    assert_eq!(d.appetite(), Appetite { jobs: 5, of_lane: 16, skip: vec![lane(1)] });
    assert_eq!(d.stop().len(), 2);
    assert_eq!(d.appetite().jobs, 0);
    assert!(matches!(reserve(&d, lane(2)), Place::None));
    assert_eq!(d.held(), 0);
}
/// Was a claim asked for since the last time?
fn asks(d: &Dispatcher) -> bool {
    use futures_util::FutureExt;
    d.has_room().now_or_never().is_some()
}

#[test]
fn a_claim_is_asked_for_when_a_full_lane_has_room_and_not_before() {
    let d = Dispatcher::new(Limits { calls: 100, tenant_calls: 100, held: 100, tenant_held: 50, lane_held: 4, ..limits() }, Arc::default());
    let call = |n| if let Place::Call(permit) = reserve(&d, lane(n)) { permit } else { panic!("a permit") };
    // Lane 1 is stuck: its config's calls don't end, and what is held of it waits.
    let stuck = [call(1), call(1)];
    (0..4).for_each(|n| hold(&d, job(lane(1), 10 + n)));
    let skip = d.appetite().skip;
    assert_eq!(skip, [lane(1)]);
    d.left_behind(false, &skip);
    assert!(!asks(&d));
    (0..10).for_each(|_| drop(call(2)));
    assert!(!asks(&d), "others' calls make no room for it");
    // What finds no place in it changes nothing of that.
    assert!(matches!(reserve(&d, lane(1)), Place::None));
    drop(call(2));
    assert!(!asks(&d));
    // Its calls end one after the other; it is half empty when three of the four that were held are called.
    let mut calls = Vec::from(stuck);
    let mut asked = Vec::new();
    for _ in 0..4 {
        calls.remove(0);
        asked.push(asks(&d));
        calls.extend(take(&d, 1).into_iter().map(|(_, permit)| permit));
    }
    assert_eq!(asked, [false, false, false, true]);
}

#[test]
fn a_claim_is_asked_for_by_any_call_when_the_last_one_was_full_or_the_node_is() {
    let d = dispatcher();
    d.left_behind(true, &[]);
    let Place::Call(permit) = reserve(&d, lane(2)) else { panic!("a permit") };
    drop(permit);
    assert!(asks(&d));
    assert!(d.appetite().skip.is_empty());
    let Place::Call(permit) = reserve(&d, lane(2)) else { panic!("a permit") };
    drop(permit);
    assert!(!asks(&d), "it has been seen to");
    // A lane that emptied while the claim was under way.
    d.left_behind(false, &[lane(1)]);
    assert!(asks(&d));
}

#[test]
fn a_full_node_asks_for_a_claim_with_the_call_that_makes_room_whosever_it_is() {
    let d = Dispatcher::new(Limits { calls: 100, tenant_calls: 100, held: 4, tenant_held: 50, lane_held: 50, ..limits() }, Arc::default());
    let call = |n| if let Place::Call(permit) = reserve(&d, lane(n)) { permit } else { panic!("a permit") };
    // Lane 2's calls don't end, and what it holds makes the node too full for a claim.
    let mut stuck = vec![call(2), call(2)];
    (0..2).for_each(|n| hold(&d, job(lane(2), 20 + n)));
    d.left_behind(false, &[lane(1)]);
    drop(call(1));
    assert!(!asks(&d), "lane 1 has room, and the node has none");
    stuck.remove(0);
    assert!(!asks(&d));
    stuck.extend(take(&d, 1).into_iter().map(|(_, permit)| permit));
    drop(call(3));
    assert!(asks(&d));
}
