//! Which rows a node counts in. A counter gets a new version with each batch, and PostgreSQL drops the old ones as it goes; but
//! not while a snapshot that may see them is held open (a dump, a long report, a forgotten transaction), and then each batch goes
//! over all that came since. So a node that sees the row of a busy tenant leave its page, which it does only when the versions
//! on it can't go, counts on in a new row: the next part of its counters. With the snapshot gone it returns to the first one.
//!
//! What a node of slot `s` counts is the sum over slots `s + 256 * part`. A part that is left behind stays true; what it holds of
//! a quota is taken back as that of a silent node is ([`super::quota`]).

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

/// Slots that nodes have.
const SLOTS: i32 = 1 << 8;
/// After so many batches a tenant's row is looked at. A page holds about 100 versions.
const EVERY: u32 = 256;
/// The first part follows the last one, so that a snapshot that is held for long leaves a bounded number of rows.
const PARTS: i32 = 1 << 10;
/// Tenants that are remembered.
const TENANTS: usize = 1 << 12;

/// The slot that stands in the rows of a node's part.
pub(super) const fn slot(of_node: u8, part: i32) -> i32 {
    of_node as i32 + SLOTS * part
}

struct Part<R> {
    number: i32,
    batches: u32,
    /// A row, and the page that its newest version was on.
    place: Option<(R, i64)>,
}

/// The part of each tenant's counters that this node counts in; `R` names a row of them.
pub(super) struct Parts<R>(Mutex<HashMap<Uuid, Part<R>>>);

impl<R> Default for Parts<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<R: PartialEq> Parts<R> {
    /// The parts of some tenants, in their order.
    pub(super) fn of(&self, tenants: impl Iterator<Item = Uuid>) -> Vec<i32> {
        let parts = self.0.lock();
        let mut last = None;
        let mut part = |tenant: Uuid| match last {
            Some((of, part)) if of == tenant => part,
            _ => {
                let part = parts.get(&tenant).map_or(0, |part| part.number);
                last = Some((tenant, part));
                part
            }
        };
        tenants.map(&mut part).collect()
    }

    /// The part of a tenant.
    pub(super) fn number(&self, tenant: Uuid) -> i32 {
        self.0.lock().get(&tenant).map_or(0, |part| part.number)
    }

    /// Those of some tenants who are not in their first part any more, each once, and their parts.
    pub(super) fn beyond_first(&self, tenants: impl Iterator<Item = Uuid>) -> (Vec<Uuid>, Vec<i32>) {
        let mut beyond: Vec<(Uuid, i32)> = Vec::new();
        let parts = self.0.lock();
        for tenant in tenants {
            if let Some(part) = parts.get(&tenant).filter(|part| part.number > 0)
                && beyond.iter().all(|(known, _)| *known != tenant)
            {
                beyond.push((tenant, part.number));
            }
        }
        beyond.into_iter().unzip()
    }

    /// Notes that a batch counted for a tenant. Is it time to look where its row is now?
    pub(super) fn counted(&self, tenant: Uuid) -> bool {
        let mut parts = self.0.lock();
        if parts.len() >= TENANTS && !parts.contains_key(&tenant) {
            parts.retain(|_, part| part.number > 0);
            if parts.len() >= TENANTS {
                parts.clear();
            }
        }
        let part = parts.entry(tenant).or_insert(Part { number: 0, batches: 0, place: None });
        part.batches += 1;
        let due = part.batches >= EVERY;
        if due {
            part.batches = 0;
        }
        due
    }

    /// Takes note of where a tenant's row is: when it left its page since the last look, the next part begins.
    pub(super) fn saw(&self, tenant: Uuid, row: R, block: i64) {
        let mut parts = self.0.lock();
        let Some(part) = parts.get_mut(&tenant) else { return };
        let before = part.place.replace((row, block));
        let stayed = before.zip(part.place.as_ref()).and_then(|((row, block), now)| (row == now.0).then_some(block == now.1));
        let next = match stayed {
            Some(false) => (part.number + 1) % PARTS,
            Some(true) => 0,
            None => return,
        };
        if next != part.number {
            tracing::debug!(part = next, "a counter goes on in another row");
            (part.number, part.place) = (next, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Uuid = Uuid::from_u128(1);

    fn part<R: PartialEq>(parts: &Parts<R>) -> i32 {
        parts.of(std::iter::once(TENANT))[0]
    }

    #[test]
    fn a_row_is_looked_at_now_and_then() {
        let parts = Parts::<&str>::default();
        let looks: Vec<u32> = (1..=3 * EVERY).filter(|_| parts.counted(TENANT)).collect();
        assert_eq!(looks, [EVERY, 2 * EVERY, 3 * EVERY]);
    }

    #[test]
    fn a_part_begins_when_the_row_leaves_its_page_and_the_first_returns_when_it_stays() {
        let parts = Parts::default();
        parts.counted(TENANT);
        for (row, block, then) in [("a", 1, 0), ("a", 1, 0), ("b", 2, 0), ("b", 3, 1), ("c", 3, 1), ("c", 5, 2), ("d", 6, 2), ("d", 6, 0)] {
            parts.saw(TENANT, row, block);
            assert_eq!(part(&parts), then, "{row} {block}");
        }
        assert_eq!(parts.of([TENANT, TENANT, Uuid::from_u128(2)].into_iter()), [0, 0, 0]);
    }

    #[test]
    fn parts_begin_anew_after_the_last_and_never_meet_another_slot() {
        let parts = Parts::default();
        parts.counted(TENANT);
        let mut seen = std::collections::HashSet::new();
        for block in 0..i64::from(2 * PARTS) {
            parts.saw(TENANT, block / 2, block);
            seen.insert(part(&parts));
        }
        assert_eq!(seen.len(), usize::try_from(PARTS).unwrap());
        assert_eq!(seen.iter().max(), Some(&(PARTS - 1)));
        assert!(slot(255, 0) < slot(0, 1) && slot(255, PARTS - 1) < i32::MAX);
    }

    #[test]
    fn tenants_that_are_in_their_first_part_are_forgotten_first() {
        let parts = Parts::default();
        parts.counted(TENANT);
        parts.saw(TENANT, "a", 1);
        parts.saw(TENANT, "a", 2);
        for n in 0..2 * TENANTS {
            parts.counted(Uuid::from_u128(10 + n as u128));
        }
        assert_eq!(part(&parts), 1);
        assert!(parts.0.lock().len() <= TENANTS);
    }
}
