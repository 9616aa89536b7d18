//! Which of a tenant's configs a message goes through. Pure functions: the same message and the same configs give the same
//! answer, so what is told of a route is what happens.
//!
//! The order: configs whose breaker is closed before others; those not tried in this round before those tried; those with a
//! weight before those that stand by with none; lower priorities before higher ones; those whose rules name the recipient before
//! those that take everybody; and by weight, decided by the message's own number.

use raven_core::{
    Channel, ConfigId, Seq,
    message::{Content, Features},
    reach::Reach,
};
use raven_store::Tried;

/// What a message asks of a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The one provider or config that it may go through.
    pub pin: Option<String>,
    /// What must be carried.
    pub features: Features,
    /// It names no sender, so the config must.
    pub sender: bool,
}

impl Needs {
    /// Those of a message.
    #[must_use]
    pub fn of(channel: Channel, content: &Content<'_>) -> Self {
        Self {
            pin: content.provider.as_deref().map(str::to_owned),
            features: content.features(),
            sender: channel == Channel::Email && content.from.is_none(),
        }
    }

    /// Those of a stored message (JSON). One that can't be read needs nothing: the attempt tells what is wrong with it.
    #[must_use]
    pub fn read(channel: Channel, content: &str) -> Self {
        serde_json::from_str(content).map(|content| Self::of(channel, &content)).unwrap_or_default()
    }
}

/// A message that is to be routed.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// How it travels.
    pub channel: Channel,
    /// Whom it reaches.
    pub recipient: &'a str,
    /// What it asks of a config.
    pub needs: &'a Needs,
    /// Its number, which decides where weights do.
    pub seq: Seq,
    /// What was tried in this round.
    pub tried: Option<&'a Tried>,
}

/// A config that may be chosen, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Contender<'a> {
    /// Its id.
    pub id: ConfigId,
    /// The provider's id.
    pub provider: &'a str,
    /// Lower ones come first.
    pub priority: i16,
    /// Its share.
    pub weight: i16,
    /// Whom it takes.
    pub reach: &'a Reach,
    /// What it carries.
    pub features: Features,
    /// Does it name a sender for messages that name none?
    pub default_sender: bool,
    /// Do its credentials not work?
    pub paused: bool,
    /// Is its breaker open?
    pub open: bool,
}

/// Why a config is no candidate for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// The message wants another one.
    Pin,
    /// Its rules don't name the recipient.
    Rules,
    /// Neither the message nor the config names a sender.
    Sender,
    /// It can't carry these.
    Features(Features),
    /// Its credentials don't work. The only one that may pass by itself.
    Paused,
}

/// Where a candidate stands: lower ones come first. The members count in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Its breaker is open.
    pub open: bool,
    /// It had its turn in this round.
    pub tried: bool,
    /// It has no weight: it stands by for when no other is left.
    pub stands_by: bool,
    /// As in the config.
    pub priority: i16,
    /// It takes everybody, and not this recipient by name.
    pub for_everybody: bool,
    /// Decides among those that are equal so far.
    pub draw: u64,
}

/// Is it a candidate, and where does it stand?
///
/// # Errors
/// Why it is none.
pub fn assess(contender: &Contender<'_>, query: &Query<'_>) -> Result<Rank, Objection> {
    let for_everybody = admit(contender, query)?;
    if contender.paused {
        return Err(Objection::Paused);
    }
    Ok(Rank {
        open: contender.open,
        tried: query.tried.is_some_and(|tried| tried.is_over(contender.id)),
        stands_by: contender.weight <= 0,
        priority: contender.priority,
        for_everybody,
        draw: draw(query.seq, contender.id, contender.weight),
    })
}

/// Could it take the message if nothing were wrong with it? `true` where it takes everybody.
///
/// # Errors
/// Why not.
pub fn admit(contender: &Contender<'_>, query: &Query<'_>) -> Result<bool, Objection> {
    let needs = query.needs;
    if let Some(pin) = &needs.pin
        && pin != contender.provider
        && ConfigId::parse(pin) != Some(contender.id)
    {
        return Err(Objection::Pin);
    }
    let for_everybody = contender.reach.is_everyone();
    if !for_everybody && !contender.reach.names(query.channel, query.recipient) {
        return Err(Objection::Rules);
    }
    if needs.sender && !contender.default_sender {
        return Err(Objection::Sender);
    }
    if needs.features.beyond(contender.features).next().is_some() {
        return Err(Objection::Features(needs.features));
    }
    Ok(for_everybody)
}

/// The place of the best one of these contenders.
pub fn choose<'a>(contenders: impl Iterator<Item = Contender<'a>>, query: &Query<'_>) -> Option<usize> {
    let ranked = contenders.enumerate().filter_map(|(at, contender)| Some((assess(&contender, query).ok()?, at)));
    ranked.min().map(|(_, at)| at)
}

/// The lowest draw wins. Each is exponentially distributed, faster the larger the weight, so that the shares of first places are
/// those of the weights, among any that are left.
fn draw(seq: Seq, config: ConfigId, weight: i16) -> u64 {
    let (high, low) = config.0.as_u64_pair();
    let bits = mix(mix(mix(seq.0.cast_unsigned()) ^ high) ^ low);
    // Of 53 bits, above nought and at most one.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let chance = ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    let wait = -chance.ln() / f64::from(weight.max(1));
    // The bits of floats that are not negative are in order.
    wait.abs().to_bits()
}

/// Spreads a number over all 64 bits (the finalizer of SplitMix64).
const fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raven_core::message::Feature;
    use uuid::Uuid;

    use super::*;

    fn id(n: u8) -> ConfigId {
        ConfigId(Uuid::from_u128(0x4000_8000_0000_0000_0000 + u128::from(n)))
    }

    static EVERYONE: Reach = Reach { prefixes: Vec::new(), countries: Vec::new(), domains: Vec::new() };

    fn contender(n: u8) -> Contender<'static> {
        Contender {
            id: id(n),
            provider: "twilio",
            priority: 100,
            weight: 100,
            reach: &EVERYONE,
            features: Features::default(),
            default_sender: false,
            paused: false,
            open: false,
        }
    }

    fn needs() -> Needs {
        Needs::default()
    }

    fn query(needs: &Needs, seq: i64) -> Query<'_> {
        Query { channel: Channel::Sms, recipient: "+254722000000", needs, seq: Seq(seq), tried: None }
    }

    fn chosen(all: &[Contender<'_>], query: &Query<'_>) -> Option<ConfigId> {
        choose(all.iter().copied(), query).map(|at| all[at].id)
    }

    #[test]
    fn what_decides_comes_in_its_order() {
        let kenya = Reach { countries: vec!["KE".to_owned()], ..Reach::default() };
        let first = Contender { priority: 1, ..contender(1) };
        let mut tried = Tried::default();
        tried.end(id(1));
        let needs = needs();
        let plain = query(&needs, 7);
        for (what, other, query) in [
            ("an open breaker", Contender { open: true, ..first }, plain),
            ("what was tried", first, Query { tried: Some(&tried), ..plain }),
            ("no weight", Contender { weight: 0, ..first }, plain),
            ("a later priority", Contender { priority: 101, ..first }, plain),
            ("a pause", Contender { paused: true, ..first }, plain),
        ] {
            assert_eq!(chosen(&[other, contender(2)], &query), Some(id(2)), "{what}");
            assert_eq!(chosen(&[first, contender(2)], &plain), Some(id(1)));
        }
        for seq in 0..50 {
            let named = Contender { reach: &kenya, weight: 1, ..contender(3) };
            assert_eq!(chosen(&[contender(1), named, contender(2)], &query(&needs, seq)), Some(id(3)), "at equal priority");
            assert_eq!(chosen(&[first, named], &query(&needs, seq)), Some(id(1)), "after a lower one");
        }
    }

    #[test]
    fn who_is_left_is_chosen_though_it_is_not_the_best_of_all() {
        let needs = needs();
        let left = Contender { weight: 0, open: true, ..contender(1) };
        let paused = Contender { paused: true, ..contender(2) };
        assert_eq!(chosen(&[left, paused], &query(&needs, 1)), Some(id(1)));
        assert_eq!(chosen(&[paused], &query(&needs, 1)), None);
        assert_eq!(chosen(&[], &query(&needs, 1)), None);
    }

    #[test]
    fn an_objection_tells_why() {
        let uganda = Reach { prefixes: vec!["+256".to_owned()], ..Reach::default() };
        let of = |needs: &Needs, contender: Contender<'_>| assess(&contender, &query(needs, 1)).map(drop);
        let pin = |pin: &str| Needs { pin: Some(pin.to_owned()), ..needs() };
        assert_eq!(of(&pin("vonage"), contender(1)), Err(Objection::Pin));
        assert_eq!(of(&pin("twilio"), contender(1)), Ok(()));
        assert_eq!(of(&pin(&id(1).to_string()), contender(1)), Ok(()));
        assert_eq!(of(&pin(&id(2).to_string()), contender(1)), Err(Objection::Pin));
        assert_eq!(of(&needs(), Contender { reach: &uganda, ..contender(1) }), Err(Objection::Rules));
        let features = Features::of(&[Feature::MediaUrl, Feature::From]);
        let rich = Needs { features, ..needs() };
        assert_eq!(of(&rich, Contender { features: Features::of(&[Feature::From]), ..contender(1) }), Err(Objection::Features(features)));
        assert_eq!(of(&rich, Contender { features, ..contender(1) }), Ok(()));
        assert_eq!(of(&Needs { sender: true, ..needs() }, contender(1)), Err(Objection::Sender));
        assert_eq!(of(&needs(), Contender { paused: true, ..contender(1) }), Err(Objection::Paused));
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        const MESSAGES: i64 = 40_000;
        let all = [(1, 100), (2, 300), (3, 600), (4, 0)].map(|(n, weight)| Contender { weight, ..contender(n) });
        let needs = needs();
        let mut counts = [0_u32; 4];
        for n in 0..MESSAGES {
            // Neighbouring numbers, as those of messages are.
            counts[choose(all.into_iter(), &query(&needs, 0x0065_a000_0000_0000 + n)).unwrap()] += 1;
        }
        for (count, share) in counts.into_iter().zip([0.1, 0.3, 0.6, 0.0]) {
            let got = f64::from(count) / MESSAGES as f64;
            assert!((got - share).abs() < 0.012, "{counts:?}");
        }
        // And of the second places, when the first is gone.
        let mut seconds = [0_u32; 2];
        for n in 0..MESSAGES {
            seconds[choose(all[..2].iter().copied(), &query(&needs, n)).unwrap()] += 1;
        }
        assert!((f64::from(seconds[0]) / MESSAGES as f64 - 0.25).abs() < 0.012, "{seconds:?}");
    }

    #[test]
    fn what_a_stored_message_needs_is_read_from_it() {
        let email = r#"{"subject":"Hi","replyTo":"a@example.com","provider":"ses"}"#;
        let needs = Needs::read(Channel::Email, email);
        assert_eq!(needs, Needs { pin: Some("ses".to_owned()), features: Features::of(&[Feature::ReplyTo]), sender: true });
        assert_eq!(Needs::read(Channel::Sms, "no JSON"), Needs::default());
    }

    proptest! {
        #[test]
        fn the_choice_is_the_first_of_all_candidates_and_no_other_config_changes_who_is_before_whom(
            configs in proptest::collection::vec((0..4_i16, 0..3_i16, any::<bool>(), any::<bool>()), 1..8),
            seq in any::<i64>(),
            tried in proptest::collection::vec(0..8_u8, 0..4),
        ) {
            let mut round = Tried::default();
            tried.iter().for_each(|n| { round.end(id(*n)); });
            let needs = needs();
            let query = Query { tried: Some(&round), ..query(&needs, seq) };
            let all: Vec<_> = (0_u8..).zip(&configs)
                .map(|(n, (priority, weight, paused, open))| Contender { priority: *priority, weight: *weight, paused: *paused, open: *open, ..contender(n) })
                .collect();
            let mut ranked: Vec<_> = all.iter().filter_map(|c| Some((assess(c, &query).ok()?, c.id))).collect();
            ranked.sort_unstable();
            prop_assert_eq!(chosen(&all, &query), ranked.first().map(|(_, id)| *id));
            prop_assert_eq!(ranked.len(), all.iter().filter(|c| !c.paused).count());
            let backwards: Vec<_> = all.iter().rev().copied().collect();
            prop_assert_eq!(chosen(&backwards, &query), chosen(&all, &query));
            // Without the first one the second is chosen.
            let rest: Vec<_> = all.iter().copied().filter(|c| ranked.first().is_none_or(|(_, first)| *first != c.id)).collect();
            prop_assert_eq!(chosen(&rest, &query), ranked.get(1).map(|(_, id)| *id));
        }
    }
}
