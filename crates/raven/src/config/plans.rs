//! Plans of the operator's own: the tables `[plans.NAME]` of `raven.toml`.

use raven_core::Priority;
use raven_engine::plans::Plan;

/// The table in `raven.toml` that holds plans by name.
pub(crate) const PLANS: &str = "plans";

/// What a plan can say, for the document: key, form, meaning.
pub(crate) const KEYS: &[(&str, &str, &str)] = &[
    ("display_name", "TEXT", "Its name for people. The plan's own name when absent."),
    ("daily_messages", "NUMBER", "Live messages that a tenant may have accepted in a day (UTC). No limit when absent."),
    ("admin_rpm", "NUMBER", "Requests a minute to the admin endpoints, for a tenant as a whole. No limit when absent."),
    ("key_rpm", "NUMBER", "Requests a minute with an API key that has no rate of its own. No limit when absent."),
    ("max_key_rpm", "NUMBER", "The highest rate that an API key's own may have. No cap when absent."),
    (
        "priority",
        "NAME",
        "Priority of messages of which neither the request nor the API key says one: transactional (when absent) or bulk.",
    ),
];

/// The largest number that a limit may be.
const MOST: i64 = 1_000_000_000;

/// Reads the table of plans; every mistake is noted.
pub(crate) fn read(value: toml::Value, place: &str, mistakes: &mut Vec<String>) -> Vec<Plan> {
    let toml::Value::Table(table) = value else {
        mistakes.push(format!("{place}: must be tables of plans by their names, for example [plans.pro]"));
        return Vec::new();
    };
    table.into_iter().filter_map(|(name, value)| plan(name, value, place, mistakes)).collect()
}

fn plan(name: String, value: toml::Value, place: &str, mistakes: &mut Vec<String>) -> Option<Plan> {
    let place = format!("{name} in {place}");
    let good = (1..=40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if !good {
        mistakes.push(format!("{place}: a plan's name must be 1 to 40 lower-case letters, digits, '-' and '_'"));
        return None;
    }
    let toml::Value::Table(table) = value else {
        mistakes.push(format!("{place}: must be a table, for example [plans.{name}] with daily_messages = 100000 below"));
        return None;
    };
    let mut plan = Plan {
        display_name: name.clone(),
        name,
        daily_messages: None,
        admin_rpm: None,
        key_rpm: None,
        max_key_rpm: None,
        priority: Priority::Transactional,
    };
    for (key, value) in table {
        let place = format!("{key} in {place}");
        let limit = match key.as_str() {
            "display_name" => {
                match value {
                    toml::Value::String(text) if (1..=80).contains(&text.chars().count()) => plan.display_name = text,
                    _ => mistakes.push(format!("{place}: must be a text of 1 to 80 characters")),
                }
                continue;
            }
            "priority" => {
                match value.as_str().and_then(Priority::parse) {
                    Some(priority) => plan.priority = priority,
                    None => mistakes.push(format!("{place}: must be transactional or bulk")),
                }
                continue;
            }
            "daily_messages" => &mut plan.daily_messages,
            "admin_rpm" => &mut plan.admin_rpm,
            "key_rpm" => &mut plan.key_rpm,
            "max_key_rpm" => &mut plan.max_key_rpm,
            _ => {
                let known: Vec<&str> = KEYS.iter().map(|(key, ..)| *key).collect();
                mistakes.push(format!("{place}: a plan has no such key: known are {}", known.join(", ")));
                continue;
            }
        };
        match value {
            toml::Value::Integer(n) if (1..=MOST).contains(&n) => *limit = u32::try_from(n).ok(),
            _ => mistakes.push(format!("{place}: must be a whole number from 1 to {MOST}; leave it out for no limit")),
        }
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Vec<Plan>, Vec<String>) {
        let mut mistakes = Vec::new();
        let table: toml::Table = toml::from_str(text).unwrap();
        let plans = read(table[PLANS].clone(), "plans in raven.toml", &mut mistakes);
        (plans, mistakes)
    }

    #[test]
    fn a_plan_has_the_limits_that_it_names() {
        let (plans, mistakes) = of("[plans.pro]\ndisplay_name = 'Pro'\ndaily_messages = 100000\nkey_rpm = 5000\npriority = 'bulk'\n");
        assert_eq!(mistakes, Vec::<String>::new());
        let pro = Plan {
            name: "pro".to_owned(),
            display_name: "Pro".to_owned(),
            daily_messages: Some(100_000),
            admin_rpm: None,
            key_rpm: Some(5000),
            max_key_rpm: None,
            priority: Priority::Bulk,
        };
        assert_eq!(plans, [pro]);
    }

    #[test]
    fn mistakes_are_told_by_their_place() {
        for (text, told) in [
            ("plans = 3", "must be tables of plans"),
            ("[plans]\npro = 3", "must be a table"),
            ("[plans.Pro]", "lower-case"),
            ("[plans.pro]\ndaily_messages = 0", "from 1 to"),
            ("[plans.pro]\nkey_rpm = '7'", "whole number"),
            ("[plans.pro]\nrpm = 7", "known are"),
            ("[plans.pro]\npriority = 'urgent'", "transactional or bulk"),
        ] {
            let (_, mistakes) = of(text);
            assert!(mistakes.len() == 1 && mistakes[0].contains(told) && mistakes[0].contains("raven.toml"), "{text}: {mistakes:?}");
        }
    }
}
