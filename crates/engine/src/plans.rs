//! Plans: what a tenant may do in a minute and in a day. The operator defines them; two are built in.

use std::{collections::BTreeMap, sync::Arc};

use raven_core::Priority;

/// The name of the plan that limits a little, for installations that serve strangers.
pub const FREE: &str = "free";
/// The name of the plan without limits.
pub const UNLIMITED: &str = "unlimited";

/// What counts as no quota: more messages than a day can bring, and still far from where sums overflow.
pub const NO_QUOTA: i64 = 1 << 60;

/// A plan. Absent limits don't limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name in the API and on the command line.
    pub name: String,
    /// Its name for people.
    pub display_name: String,
    /// Live messages that a tenant may have accepted in a day (UTC).
    pub daily_messages: Option<u32>,
    /// Requests a minute to the admin endpoints, for a tenant as a whole.
    pub admin_rpm: Option<u32>,
    /// Requests a minute with a key that has no rate of its own.
    pub key_rpm: Option<u32>,
    /// The highest rate that a key's own may have here.
    pub max_key_rpm: Option<u32>,
    /// Priority of messages of which neither the request nor the key says one.
    pub priority: Priority,
}

impl Plan {
    /// The built-in plan `free`, shown as Hatchling.
    #[must_use]
    pub fn free() -> Self {
        Self {
            name: FREE.to_owned(),
            display_name: "Hatchling".to_owned(),
            daily_messages: Some(10_000),
            admin_rpm: Some(60),
            key_rpm: Some(1000),
            max_key_rpm: None,
            priority: Priority::Transactional,
        }
    }

    /// The built-in plan `unlimited`.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            name: UNLIMITED.to_owned(),
            display_name: "Unlimited".to_owned(),
            daily_messages: None,
            admin_rpm: None,
            key_rpm: None,
            max_key_rpm: None,
            priority: Priority::Transactional,
        }
    }

    /// Messages of a day as acceptance counts them: every live message is counted, whatever the plan, so that a plan can be
    /// changed in the middle of a day.
    #[must_use]
    pub fn quota(&self) -> i64 {
        self.daily_messages.map_or(NO_QUOTA, i64::from)
    }

    /// Requests a minute with a key, whose own rate is `own`.
    #[must_use]
    pub fn rate_of_key(&self, own: Option<i32>) -> Option<u32> {
        match own.and_then(|rpm| u32::try_from(rpm).ok()) {
            Some(own) => Some(self.max_key_rpm.map_or(own, |most| own.min(most))),
            None => self.key_rpm,
        }
    }
}

/// The plans of an installation.
#[derive(Clone, Debug)]
pub struct Plans {
    plans: BTreeMap<String, Arc<Plan>>,
    default: Arc<Plan>,
}

impl Plans {
    /// The built-in plans and the operator's own, which may replace them; `default` is what a new tenant gets.
    ///
    /// # Errors
    /// A sentence, when the default is none of them.
    pub fn new(own: Vec<Plan>, default: &str) -> Result<Self, String> {
        let built_in = [Plan::free(), Plan::unlimited()];
        let plans: BTreeMap<_, _> = built_in.into_iter().chain(own).map(|plan| (plan.name.clone(), Arc::new(plan))).collect();
        let Some(found) = plans.get(default).cloned() else {
            let known: Vec<&str> = plans.keys().map(String::as_str).collect();
            return Err(format!("there is no plan {default:?}: known are {}", known.join(", ")));
        };
        Ok(Self { plans, default: found })
    }

    /// What a new tenant gets.
    #[must_use]
    pub const fn default(&self) -> &Arc<Plan> {
        &self.default
    }

    /// The plan with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Plan>> {
        self.plans.get(name)
    }

    /// The plan of a tenant. One that the operator has taken out of the settings since counts as the default.
    #[must_use]
    pub fn of(&self, name: &str) -> &Arc<Plan> {
        self.plans.get(name).unwrap_or(&self.default)
    }

    /// The names of all plans.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plans.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_plans_stand_beside_the_built_in_ones_and_may_replace_them() {
        let pro = Plan { name: "pro".to_owned(), max_key_rpm: Some(500), ..Plan::free() };
        let tight = Plan { daily_messages: Some(5), ..Plan::free() };
        let plans = Plans::new(vec![pro, tight], "pro").unwrap();
        assert_eq!(plans.names().collect::<Vec<_>>(), ["free", "pro", "unlimited"]);
        assert_eq!((plans.default().name.as_str(), plans.of("free").quota(), plans.of("gone").name.as_str()), ("pro", 5, "pro"));
        assert_eq!(plans.of("unlimited").quota(), NO_QUOTA);
        assert!(Plans::new(Vec::new(), "gold").unwrap_err().contains("free, unlimited"));
    }

    #[test]
    fn a_plan_caps_a_keys_own_rate() {
        let plan = Plan { max_key_rpm: Some(500), ..Plan::free() };
        assert_eq!([None, Some(100), Some(501)].map(|own| plan.rate_of_key(own)), [Some(1000), Some(100), Some(500)]);
        assert_eq!(Plan::unlimited().rate_of_key(None), None);
        assert_eq!(Plan::unlimited().rate_of_key(Some(7)), Some(7));
    }
}
