//! What members of a tenant promise.

use std::sync::Arc;

use raven_core::{TenantId, UserId, permission::Role};

use super::fixture::{at, audit, member, tenant, user};
use crate::{MemberChange, Result, Store, TenantMember};

/// The `n`th human as a member who joined at that millisecond.
fn record(n: u8, role: Role) -> TenantMember {
    TenantMember { user: user(n), role, joined_at: at(i64::from(n)) }
}

fn done(n: u8, role: Role) -> MemberChange {
    MemberChange::Done(record(n, role))
}

/// The roles of a tenant's members, newest first.
async fn roles(store: &Arc<dyn Store>, tenant: TenantId) -> Result<Vec<(UserId, Role)>> {
    Ok(store.list_members(tenant, None, 100).await?.into_iter().map(|m| (m.user.id, m.role)).collect())
}

pub async fn members_are_listed_newest_first(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    for (n, role) in [(12, Role::Viewer), (10, Role::Admin), (11, Role::Member)] {
        member(&store, one, n, role).await?;
    }
    member(&store, two, 20, Role::Viewer).await?;
    let all = [record(12, Role::Viewer), record(11, Role::Member), record(10, Role::Admin), record(1, Role::Owner)];
    assert_eq!(store.list_members(one, None, 100).await?, all);
    let first = store.list_members(one, None, 3).await?;
    assert_eq!(first, all[..3]);
    assert_eq!(store.list_members(one, Some((first[2].joined_at, first[2].user.id)), 3).await?, all[3..]);
    assert_eq!(store.list_members(one, Some((at(1), user(1).id)), 3).await?, []);
    Ok(())
}

pub async fn a_member_is_found_in_their_tenant_only(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    member(&store, one, 10, Role::Member).await?;
    assert_eq!(store.find_member(one, user(10).id).await?, Some(record(10, Role::Member)));
    assert_eq!(store.find_member(two, user(10).id).await?, None);
    assert_eq!(store.find_member(two, user(1).id).await?, None);
    let outside = store.set_member_role(two, user(10).id, Role::Admin, Role::Owner, audit(two, 1)).await?;
    assert_eq!(outside, MemberChange::Missing);
    assert_eq!(store.remove_member(two, user(10).id, Role::Owner, audit(two, 2)).await?, MemberChange::Missing);
    assert_eq!(store.transfer_ownership(two, user(2).id, user(10).id, audit(two, 3)).await?, MemberChange::Missing);
    assert_eq!(store.find_member(one, user(10).id).await?, Some(record(10, Role::Member)));
    Ok(())
}

pub async fn a_role_is_changed_by_nobody_below_it(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let mut n = 10;
    for actor in Role::ALL.iter().copied() {
        for present in Role::ALL.iter().copied() {
            for next in Role::ALL.iter().copied() {
                n += 1;
                let user = member(&store, one, n, present).await?;
                let told = store.set_member_role(one, user, next, actor, audit(one, i64::from(n))).await?;
                let allowed = present <= actor && next <= actor;
                assert_eq!(told, if allowed { done(n, present) } else { MemberChange::AboveActor }, "{actor}: {present} to {next}");
                let role = if allowed { next } else { present };
                assert_eq!(store.find_member(one, user).await?, Some(record(n, role)));
                let (told, removable) = (store.remove_member(one, user, actor, audit(one, 100 + i64::from(n))).await?, role <= actor);
                assert_eq!(told, if removable { done(n, role) } else { MemberChange::AboveActor }, "{actor} removes {role}");
                assert_eq!(store.find_member(one, user).await?.is_none(), removable);
            }
        }
    }
    Ok(())
}

pub async fn the_last_owner_stays(store: Arc<dyn Store>) -> Result<()> {
    let (one, two) = (tenant(&store, 1).await?, tenant(&store, 2).await?);
    let (first, second) = (user(1).id, member(&store, one, 10, Role::Admin).await?);
    for role in [Role::Viewer, Role::Member, Role::Admin] {
        assert_eq!(store.set_member_role(one, first, role, Role::Owner, audit(one, 1)).await?, MemberChange::LastOwner);
    }
    assert_eq!(store.remove_member(one, first, Role::Owner, audit(one, 2)).await?, MemberChange::LastOwner);
    assert!(matches!(store.set_member_role(one, first, Role::Owner, Role::Owner, audit(one, 3)).await?, MemberChange::Done(_)));
    assert_eq!(store.set_member_role(one, second, Role::Owner, Role::Owner, audit(one, 4)).await?, done(10, Role::Admin));
    assert_eq!(store.remove_member(one, first, Role::Owner, audit(one, 5)).await?, done(1, Role::Owner));
    assert_eq!(store.remove_member(one, second, Role::Owner, audit(one, 6)).await?, MemberChange::LastOwner);
    assert_eq!(roles(&store, one).await?, [(second, Role::Owner)]);
    assert_eq!(roles(&store, two).await?, [(user(2).id, Role::Owner)]);
    Ok(())
}

pub async fn of_two_owners_who_leave_at_the_same_time_one_stays(store: Arc<dyn Store>) -> Result<()> {
    for n in 1..9 {
        let tenant = tenant(&store, n).await?;
        let owners = [user(n).id, member(&store, tenant, n + 100, Role::Owner).await?];
        let leave = |i: usize| {
            let (store, line) = (Arc::clone(&store), audit(tenant, i64::try_from(i).expect("two owners") + 1));
            async move {
                // Half of them leave, half of them only step back.
                if n % 2 == 0 {
                    store.remove_member(tenant, owners[i], Role::Owner, line).await
                } else {
                    store.set_member_role(tenant, owners[i], Role::Viewer, Role::Owner, line).await
                }
            }
        };
        let (one, other) = futures_util::future::try_join(leave(0), leave(1)).await?;
        let told = [one, other];
        assert_eq!(told.iter().filter(|t| matches!(t, MemberChange::Done(_))).count(), 1, "{told:?}");
        assert_eq!(told.iter().filter(|t| **t == MemberChange::LastOwner).count(), 1, "{told:?}");
        assert_eq!(roles(&store, tenant).await?.iter().filter(|(_, role)| *role == Role::Owner).count(), 1);
    }
    Ok(())
}

pub async fn ownership_is_transferred(store: Arc<dyn Store>) -> Result<()> {
    let one = tenant(&store, 1).await?;
    let (first, heir) = (user(1).id, member(&store, one, 10, Role::Viewer).await?);
    let stranger = user(50).id;
    assert_eq!(store.transfer_ownership(one, first, stranger, audit(one, 1)).await?, MemberChange::Missing);
    assert_eq!(store.transfer_ownership(one, heir, first, audit(one, 2)).await?, MemberChange::AboveActor);
    assert_eq!(store.transfer_ownership(one, stranger, heir, audit(one, 3)).await?, MemberChange::AboveActor);
    assert_eq!(roles(&store, one).await?, [(heir, Role::Viewer), (first, Role::Owner)]);
    assert_eq!(store.transfer_ownership(one, first, heir, audit(one, 4)).await?, done(10, Role::Viewer));
    assert_eq!(roles(&store, one).await?, [(heir, Role::Owner), (first, Role::Admin)]);
    assert_eq!(store.transfer_ownership(one, first, heir, audit(one, 5)).await?, MemberChange::AboveActor, "an owner no more");
    // Whoever names themselves stays what they are.
    assert_eq!(store.transfer_ownership(one, heir, heir, audit(one, 6)).await?, done(10, Role::Owner));
    assert_eq!(roles(&store, one).await?, [(heir, Role::Owner), (first, Role::Admin)]);
    Ok(())
}
