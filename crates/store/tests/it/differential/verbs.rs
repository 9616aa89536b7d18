//! The verbs that are compared, in small numbers, so that what they name often meets.

use proptest::{prelude::*, sample::Index};
use raven_core::{Channel, Environment, Source, Status, permission::Role};
use raven_store::{MessageFilter, conformance::fixture::at};

use super::{HUMANS, KEYS, KINDS, NODES, TENANTS};

/// A message to accept, in small numbers.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) tenant: u8,
    pub(super) test: bool,
    pub(super) email: bool,
    pub(super) human: bool,
    /// The idempotency key and the payload.
    pub(super) key: Option<(u8, u8)>,
    pub(super) api_key: Option<u8>,
    pub(super) external_id: Option<u8>,
    pub(super) recipient: u8,
    pub(super) due_in: i64,
    /// The node that holds it, and whether it has started.
    pub(super) held: Option<(usize, bool)>,
}

/// An outcome to record.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) message: Index,
    pub(super) attempt: i16,
    pub(super) kind: usize,
    pub(super) next: u8,
    pub(super) started: bool,
    pub(super) details: Option<u8>,
}

#[derive(Clone, Debug)]
pub(super) enum Verb {
    /// With the limit of the day for the live ones. There always is one: what is accepted without counts from when the engine
    /// first looks, which each does at its own time.
    Accept(Vec<Draft>, i64),
    FindReplay {
        tenant: u8,
        test: bool,
        key: u8,
        payload: u8,
    },
    Claim {
        node: usize,
        per_lane: usize,
        skip: Option<(u8, bool, bool)>,
    },
    Start {
        node: usize,
        messages: Vec<Index>,
        attempt: i16,
    },
    Settle {
        node: usize,
        reports: Vec<Report>,
    },
    Release {
        node: usize,
        messages: Vec<Index>,
    },
    Reap {
        node: usize,
    },
    Look {
        message: Index,
        tenant: u8,
    },
    List {
        tenant: u8,
        filter: MessageFilter,
        limit: usize,
        before: Option<Index>,
    },
    Depth,
    Purge,
    ChangeState {
        tenant: u8,
        step: usize,
    },
    UpdateTenant {
        tenant: u8,
        plan: bool,
        country: Option<bool>,
    },
    Invite {
        tenant: u8,
        human: u8,
        role: usize,
    },
    /// By who was invited, or by somebody else.
    Answer {
        invitation: Index,
        human: Option<u8>,
        accept: bool,
    },
    RevokeInvitation {
        invitation: Index,
        tenant: u8,
    },
    SetRole {
        tenant: u8,
        human: u8,
        role: usize,
        actor: usize,
    },
    Remove {
        tenant: u8,
        human: u8,
        actor: usize,
    },
    Transfer {
        tenant: u8,
        from: u8,
        to: u8,
    },
    CreateTenant {
        slug: u8,
        key: Option<(u8, u8)>,
    },
    CreateKey {
        tenant: u8,
        prefix: u8,
        key: Option<(u8, u8)>,
    },
    RevokeKey {
        n: u8,
        tenant: u8,
    },
    UpdateKey {
        n: u8,
        tenant: u8,
        rpm: Option<i32>,
    },
    RotateKey {
        n: u8,
        tenant: u8,
        key: Option<(u8, u8)>,
    },
    Touch {
        n: u8,
        ago: i64,
    },
    Take {
        bucket: u8,
        want: i64,
        burst: i64,
    },
    ListKeys {
        tenant: u8,
        limit: usize,
    },
    Restart {
        node: usize,
    },
    Suppress {
        tenant: u8,
        test: bool,
        email: bool,
        recipient: u8,
        key: Option<(u8, u8)>,
    },
    Unsuppress {
        n: u8,
        tenant: u8,
    },
    ListSuppressions {
        tenant: u8,
        test: bool,
        email: Option<bool>,
        /// A digit that the address has.
        part: Option<u8>,
        skip: usize,
        limit: usize,
        scan: usize,
    },
}

fn drafts() -> impl Strategy<Value = Draft> {
    let shape = (0..TENANTS, any::<bool>(), any::<bool>(), any::<bool>());
    let rest = (
        proptest::option::of((0..4_u8, 0..2_u8)),
        proptest::option::of(0..=KEYS),
        proptest::option::of(0..3_u8),
        0..3_u8,
        prop_oneof![4 => Just(0_i64), 1 => Just(150_i64)],
        proptest::option::of((0..NODES, any::<bool>())),
    );
    (shape, rest).prop_map(|((tenant, test, email, human), (key, api_key, external_id, recipient, due_in, held))| Draft {
        tenant,
        test,
        email,
        human,
        key,
        api_key,
        external_id,
        recipient,
        due_in,
        held,
    })
}

fn reports() -> impl Strategy<Value = Report> {
    (any::<Index>(), 0..3_i16, 0..KINDS.len(), 0..4_u8, any::<bool>(), proptest::option::of(0..3_u8))
        .prop_map(|(message, attempt, kind, next, started, details)| Report { message, attempt, kind, next, started, details })
}

fn filters() -> impl Strategy<Value = MessageFilter> {
    let of = |all: std::ops::Range<usize>| proptest::option::weighted(0.25, all);
    (of(0..2), of(0..Status::ALL.len()), of(0..2), of(0..3), of(0..3), of(0..2), of(0..300), of(0..300)).prop_map(
        |(environment, status, channel, recipient, external_id, source, from, until)| MessageFilter {
            environment: environment.map(|n| Environment::ALL[n]),
            status: status.map(|n| Status::ALL[n]),
            channel: channel.map(|n| Channel::ALL[n]),
            recipient: recipient.map(|n| format!("+25472200000{n}")),
            external_id: external_id.map(|n| format!("order-{n}")),
            source: source.map(|n| Source::ALL[n]),
            provider: None,
            from: from.map(|n| at(n as i64)),
            until: until.map(|n| at(n as i64)),
        },
    )
}

pub(super) fn verbs() -> impl Strategy<Value = Verb> {
    let node = || 0..NODES;
    let messages = || proptest::collection::vec(any::<Index>(), 1..4);
    prop_oneof![
        6 => (proptest::collection::vec(drafts(), 0..6), prop_oneof![0..12_i64, Just(1000)]).prop_map(|(drafts, quota)| Verb::Accept(drafts, quota)),
        1 => (0..TENANTS, any::<bool>(), 0..4_u8, 0..2_u8).prop_map(|(tenant, test, key, payload)| Verb::FindReplay { tenant, test, key, payload }),
        4 => (node(), 1..4_usize, proptest::option::of((0..TENANTS, any::<bool>(), any::<bool>())))
            .prop_map(|(node, per_lane, skip)| Verb::Claim { node, per_lane, skip }),
        4 => (node(), messages(), 1..3_i16).prop_map(|(node, messages, attempt)| Verb::Start { node, messages, attempt }),
        5 => (node(), proptest::collection::vec(reports(), 0..4)).prop_map(|(node, reports)| Verb::Settle { node, reports }),
        2 => (node(), messages()).prop_map(|(node, messages)| Verb::Release { node, messages }),
        1 => node().prop_map(|node| Verb::Reap { node }),
        2 => (any::<Index>(), 0..TENANTS).prop_map(|(message, tenant)| Verb::Look { message, tenant }),
        3 => (0..TENANTS, filters(), 1..6_usize, proptest::option::of(any::<Index>()))
            .prop_map(|(tenant, filter, limit, before)| Verb::List { tenant, filter, limit, before }),
        1 => Just(Verb::Depth),
        1 => Just(Verb::Purge),
        2 => steps(),
        6 => people(),
        1 => (0..8_u8, proptest::option::of((0..2_u8, 0..2_u8))).prop_map(|(slug, key)| Verb::CreateTenant { slug, key }),
        1 => (0..TENANTS, 0..8_u8, proptest::option::of((0..2_u8, 0..2_u8))).prop_map(|(tenant, prefix, key)| Verb::CreateKey { tenant, prefix, key }),
        1 => (0..8_u8, 0..TENANTS).prop_map(|(n, tenant)| Verb::RevokeKey { n, tenant }),
        1 => (0..8_u8, 0..TENANTS, proptest::option::of(1..9)).prop_map(|(n, tenant, rpm)| Verb::UpdateKey { n, tenant, rpm }),
        1 => (0..8_u8, 0..TENANTS, proptest::option::of((0..2_u8, 0..2_u8))).prop_map(|(n, tenant, key)| Verb::RotateKey { n, tenant, key }),
        1 => (0..8_u8, 0..30_i64).prop_map(|(n, ago)| Verb::Touch { n, ago }),
        2 => (0..2_u8, 0..6_i64, 1..9_i64).prop_map(|(bucket, want, burst)| Verb::Take { bucket, want, burst }),
        1 => (0..TENANTS, 1..4_usize).prop_map(|(tenant, limit)| Verb::ListKeys { tenant, limit }),
        1 => node().prop_map(|node| Verb::Restart { node }),
        6 => suppressions(),
    ]
}

/// What happens to suppressions, but for what outcomes bring.
fn suppressions() -> impl Strategy<Value = Verb> {
    prop_oneof![
        4 => (0..TENANTS, any::<bool>(), any::<bool>(), 0..3_u8, proptest::option::of((0..2_u8, 0..2_u8)))
            .prop_map(|(tenant, test, email, recipient, key)| Verb::Suppress { tenant, test, email, recipient, key }),
        1 => (0..8_u8, 0..TENANTS).prop_map(|(n, tenant)| Verb::Unsuppress { n, tenant }),
        2 => (0..TENANTS, any::<bool>(), proptest::option::of(any::<bool>()), proptest::option::of(0..3_u8), 0..3_usize, 1..3_usize, 1..5_usize)
            .prop_map(|(tenant, test, email, part, skip, limit, scan)| {
                Verb::ListSuppressions { tenant, test, email, part, skip, limit, scan }
            }),
    ]
}

/// What happens to a tenant.
fn steps() -> impl Strategy<Value = Verb> {
    prop_oneof![
        2 => (0..TENANTS, 0..6_usize).prop_map(|(tenant, step)| Verb::ChangeState { tenant, step }),
        1 => (0..TENANTS, any::<bool>(), proptest::option::of(any::<bool>()))
            .prop_map(|(tenant, plan, country)| Verb::UpdateTenant { tenant, plan, country }),
    ]
}

/// What happens to members and invitations.
pub(super) fn people() -> impl Strategy<Value = Verb> {
    prop_oneof![
        4 => (0..TENANTS, 0..HUMANS, 0..Role::ALL.len()).prop_map(|(tenant, human, role)| Verb::Invite { tenant, human, role }),
        5 => (any::<Index>(), proptest::option::weighted(0.2, 0..HUMANS), proptest::bool::weighted(0.8))
            .prop_map(|(invitation, human, accept)| Verb::Answer { invitation, human, accept }),
        1 => (any::<Index>(), 0..TENANTS).prop_map(|(invitation, tenant)| Verb::RevokeInvitation { invitation, tenant }),
        3 => (0..TENANTS, 0..HUMANS, 0..Role::ALL.len(), 1..Role::ALL.len())
            .prop_map(|(tenant, human, role, actor)| Verb::SetRole { tenant, human, role, actor }),
        2 => (0..TENANTS, 0..HUMANS, 1..Role::ALL.len()).prop_map(|(tenant, human, actor)| Verb::Remove { tenant, human, actor }),
        1 => (0..TENANTS, 0..HUMANS, 0..HUMANS).prop_map(|(tenant, from, to)| Verb::Transfer { tenant, from, to }),
        1 => steps(),
    ]
}
