//! What goes through a provider config, and how fast: the fields that say so, and how they are shown.

use std::borrow::Cow;

use raven_core::{Channel, address::Email, country, json::Json, reach::Reach};
use raven_store::Routing;
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};

use crate::fields::Fields;

/// Items of each list of rules.
const RULES_MAX: usize = 100;
/// The highest priority and weight.
const RANK_MAX: i64 = 1000;
/// The fastest pace.
const RATE_MAX: i64 = 10_000;
/// The most calls at a time.
const CONCURRENCY_MAX: i64 = 512;

/// Which recipients a config takes. One that any of these names is taken; absent or empty rules take everybody.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RoutingRules)]
pub struct RulesView {
    /// Beginnings of phone numbers, for sms and whatsapp: `+` and 1 to 15 digits.
    #[schema(required = false, max_items = 100, example = json!(["+254"]))]
    pub prefixes: Vec<String>,
    /// Countries of phone numbers, for sms and whatsapp: ISO 3166-1 alpha-2. Countries that share a calling code are told apart.
    #[schema(required = false, max_items = 100, example = json!(["KE"]))]
    pub countries: Vec<String>,
    /// Domains of email addresses, without those under them.
    #[schema(required = false, max_items = 100, example = json!(["example.com"]))]
    pub domains: Vec<String>,
}

/// Which recipients a config is to take. One that any of these names is taken; absent or empty rules take everybody.
#[derive(utoipa::ToSchema)]
#[schema(as = RoutingRulesRequest)]
#[expect(dead_code, reason = "the shape that is read below, for the document")]
pub struct RulesRequest {
    #[schema(required = false, schema_with = prefixes)]
    prefixes: Option<Vec<String>>,
    #[schema(required = false, schema_with = countries)]
    countries: Option<Vec<String>>,
    #[schema(required = false, schema_with = domains)]
    domains: Option<Vec<String>>,
}

fn texts(item: ObjectBuilder, example: &str, about: &str) -> Schema {
    let item = item.schema_type(Type::String).examples([example]);
    ArrayBuilder::new().items(item).max_items(Some(RULES_MAX)).description(Some(about)).examples([json!([example])]).into()
}

fn prefixes() -> Schema {
    let item = ObjectBuilder::new().pattern(Some(r"^\+[1-9][0-9]{0,14}$"));
    texts(item, "+254", "Beginnings of phone numbers, for sms and whatsapp: `+` and 1 to 15 digits.")
}

fn countries() -> Schema {
    let item = ObjectBuilder::new().pattern(Some("^[A-Za-z]{2}$"));
    texts(item, "KE", "Countries of phone numbers, for sms and whatsapp: ISO 3166-1 alpha-2. Those that share a calling code are told apart.")
}

fn domains() -> Schema {
    let item = ObjectBuilder::new().min_length(Some(1)).max_length(Some(253));
    texts(item, "example.com", "Domains of email addresses, without those under them.")
}

impl RulesView {
    /// Those of a config, as they are stored.
    pub(super) fn of(rules: Option<&str>) -> Option<Self> {
        let Reach { prefixes, countries, domains } = serde_json::from_str(rules?).ok()?;
        Some(Self { prefixes, countries, domains })
    }
}

/// The fields as they came.
pub(super) struct RoutingFields<'a> {
    pub(super) priority: Option<i64>,
    pub(super) weight: Option<i64>,
    pub(super) rules: Option<Json<'a>>,
    pub(super) rate_per_second: Option<i64>,
    pub(super) burst: Option<i64>,
    pub(super) concurrency: Option<i64>,
}

/// What changes: `None` leaves it, `Some(None)` takes it away.
pub(super) struct RoutingChange {
    priority: Option<Option<i16>>,
    weight: Option<Option<i16>>,
    rules: Option<Option<String>>,
    rate_per_second: Option<Option<i32>>,
    burst: Option<Option<i32>>,
    concurrency: Option<Option<i32>>,
}

impl RoutingFields<'_> {
    /// Checks every rule, noting each problem; those about the channel where it is known.
    pub(super) fn parse(self, channel: Option<Channel>, fields: &mut Fields<'_>) -> RoutingChange {
        RoutingChange {
            priority: whole("priority", self.priority, 0, RANK_MAX, fields),
            weight: whole("weight", self.weight, 0, RANK_MAX, fields),
            rules: match self.rules {
                Some(json) => Some(rules(json, channel, fields)),
                None => fields.is_null("rules").then_some(None),
            },
            rate_per_second: whole("ratePerSecond", self.rate_per_second, 1, RATE_MAX, fields),
            burst: whole("burst", self.burst, 1, RATE_MAX, fields),
            concurrency: whole("concurrency", self.concurrency, 1, CONCURRENCY_MAX, fields),
        }
    }
}

impl RoutingChange {
    /// Applies it.
    ///
    /// # Errors
    /// The field and what it must be: a burst needs a rate.
    pub(super) fn apply(&self, routing: &mut Routing) -> Result<(), (&'static str, &'static str)> {
        let usual = Routing::default();
        if let Some(priority) = self.priority {
            routing.priority = priority.unwrap_or(usual.priority);
        }
        if let Some(weight) = self.weight {
            routing.weight = weight.unwrap_or(usual.weight);
        }
        if let Some(rules) = &self.rules {
            routing.rules.clone_from(rules);
        }
        if let Some(rate) = self.rate_per_second {
            routing.rate_per_second = rate;
        }
        if let Some(burst) = self.burst {
            routing.burst = burst;
        }
        if let Some(concurrency) = self.concurrency {
            routing.concurrency = concurrency;
        }
        if routing.rate_per_second.is_none() && routing.burst.take().is_some() && self.burst.is_some() {
            return Err(("burst", "is of a pace: give ratePerSecond with it"));
        }
        Ok(())
    }
}

fn whole<T: TryFrom<i64>>(name: &'static str, n: Option<i64>, min: i64, max: i64, fields: &mut Fields<'_>) -> Option<Option<T>> {
    let Some(n) = n else { return fields.is_null(name).then_some(None) };
    match T::try_from(n) {
        Ok(value) if (min..=max).contains(&n) => Some(Some(value)),
        _ => {
            fields.note(name, format!("must be a whole number from {min} to {max}"));
            None
        }
    }
}

/// Reads rules; `None` where they name nothing.
fn rules(json: Json<'_>, channel: Option<Channel>, fields: &mut Fields<'_>) -> Option<String> {
    let Json::Object(members) = json else {
        fields.note("rules", "must be an object with prefixes, countries and domains");
        return None;
    };
    let mut inner = Fields::nested(members, &["prefixes", "countries", "domains"], "rules.");
    let texting = channel.is_none_or(|channel| matches!(channel, Channel::Sms | Channel::Whatsapp));
    let mailing = channel.is_none_or(|channel| channel == Channel::Email);
    let reach = Reach {
        prefixes: list("prefixes", texting, channel, &mut inner, prefix),
        countries: list("countries", texting, channel, &mut inner, country),
        domains: list("domains", mailing, channel, &mut inner, domain),
    };
    fields.absorb(inner);
    if reach.is_everyone() { None } else { serde_json::to_string(&reach).ok() }
}

fn list(
    name: &'static str,
    belongs: bool,
    channel: Option<Channel>,
    fields: &mut Fields<'_>,
    read: fn(&str) -> Result<String, &'static str>,
) -> Vec<String> {
    let Some(json): Option<Json<'_>> = fields.take(name) else { return Vec::new() };
    if let Some(channel) = channel.filter(|_| !belongs) {
        fields.note(name, format!("is not a rule of the channel {channel}"));
        return Vec::new();
    }
    let Json::Array(items) = json else {
        fields.note(name, "must be an array of strings");
        return Vec::new();
    };
    if items.len() > RULES_MAX {
        fields.note(name, format!("must have at most {RULES_MAX} items, and has {}", items.len()));
        return Vec::new();
    }
    let mut texts = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        match item {
            Json::String(text) => match read(text) {
                Ok(text) => texts.push(text),
                Err(why) => fields.note(&format!("{name}[{at}]"), why),
            },
            _ => fields.note(&format!("{name}[{at}]"), "must be a string"),
        }
    }
    texts
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let digits = text.strip_prefix('+').unwrap_or_default();
    let good = (1..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if good { Ok(text.to_owned()) } else { Err("must be '+' and 1 to 15 digits, for example +254") }
}

fn country(text: &str) -> Result<String, &'static str> {
    let code = text.to_ascii_uppercase();
    if country::is_known(&code) {
        Ok(code)
    } else {
        Err("must be a country that has phone numbers: two letters of ISO 3166-1, for example KE")
    }
}

fn domain(text: &str) -> Result<String, &'static str> {
    let address = format!("a@{}", text.to_lowercase());
    let email = Email::parse(&address).map(|email| email.domain().to_owned());
    email.map_err(|_| "must be a domain of email addresses, for example example.com")
}

/// The lists of rules as one text, for people.
pub(super) fn told(reach: &RulesView) -> String {
    let part = |name: &str, list: &[String]| (!list.is_empty()).then(|| Cow::Owned(format!("{name} {}", list.join(", "))));
    let parts = [part("prefixes", &reach.prefixes), part("countries", &reach.countries), part("domains", &reach.domains)];
    parts.into_iter().flatten().collect::<Vec<Cow<'_, str>>>().join("; ")
}
