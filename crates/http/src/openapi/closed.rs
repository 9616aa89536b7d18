//! Closed lists of names, and other schemas that several requests and answers share, for the document. The names come from
//! the tables that the code itself reads; none is written here a second time.

use std::{borrow::Cow, marker::PhantomData};

use raven_core::{
    Channel, Environment, Priority, Source, Status, SuppressionReason, SuppressionSource,
    keyword::Keyword,
    message::EventKind,
    permission::{Role, Scope},
    sms::Encoding,
    tenant::{InvitationStatus, SuspendedBy, TenantStatus},
};
use raven_providers::{CATALOG, Kind};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Ref, RefOr,
        schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type},
    },
};

use crate::{codes, resources::audit_log, resources::explain, resources::provider_test, resources::providers};

/// A closed list.
pub trait Closed {
    /// Its name among the document's schemas.
    const NAME: &'static str;
    /// What its values say.
    const TEXT: &'static str;

    /// Its values.
    fn names() -> Vec<&'static str>;
}

/// A text that is one of a closed list.
#[derive(Debug)]
pub struct OneOf<T>(PhantomData<T>);

impl<T: Closed> PartialSchema for OneOf<T> {
    fn schema() -> RefOr<Schema> {
        let names = T::names();
        ObjectBuilder::new().schema_type(Type::String).description(Some(T::TEXT)).enum_values(Some(names)).into()
    }
}

impl<T: Closed> ToSchema for OneOf<T> {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed(T::NAME)
    }
}

/// The name of a channel.
pub type ChannelName = OneOf<Channel>;
/// The name of a message's status.
pub type StatusName = OneOf<Status>;
/// The name of an environment.
pub type EnvironmentName = OneOf<Environment>;
/// The name of an environment, or `all`.
pub type EnvironmentFilter = OneOf<AnyEnvironment>;
/// The name of a source.
pub type SourceName = OneOf<Source>;
/// The name of a priority.
pub type PriorityName = OneOf<Priority>;
/// The name of why an address is suppressed.
pub type SuppressionReasonName = OneOf<SuppressionReason>;
/// The name of what made a suppression.
pub type SuppressionSourceName = OneOf<SuppressionSource>;
/// The name of an event.
pub type EventName = OneOf<EventKind>;
/// The name of an encoding.
pub type EncodingName = OneOf<Encoding>;
/// The name of what a word in an inbound message means.
pub type KeywordName = OneOf<Keyword>;
/// The name of a role.
pub type RoleName = OneOf<Role>;
/// The name of a scope.
pub type ScopeName = OneOf<Scope>;
/// The name of a tenant's status.
pub type TenantStatusName = OneOf<TenantStatus>;
/// The name of who suspended a tenant.
pub type SuspenderName = OneOf<SuspendedBy>;
/// The name of an invitation's status.
pub type InvitationStatusName = OneOf<InvitationStatus>;
/// The id of a provider of the catalog.
pub type ProviderId = OneOf<Providers>;
/// The name of the kind of a provider's setting.
pub type SettingKindName = OneOf<Kind>;
/// The name of a provider config's status.
pub type ConfigStatusName = OneOf<ConfigStatus>;
/// The name of what came of a test message.
pub type TestOutcomeName = OneOf<TestOutcomes>;
/// Why a message goes through a config, or does not.
pub type RoutingReasonName = OneOf<RoutingReasons>;
/// Why a message waits.
pub type WaitingReasonName = OneOf<WaitingReasons>;
/// The name of a kind of actor.
pub type ActorKindName = OneOf<ActorKind>;
/// The name of an error.
pub type ErrorCodeName = OneOf<codes::Code>;

/// An environment, or both.
#[derive(Debug)]
pub enum AnyEnvironment {}
/// The providers of the catalog.
#[derive(Debug)]
pub enum Providers {}
/// What a provider config's status can be.
#[derive(Debug)]
pub enum ConfigStatus {}
/// What came of a test message.
#[derive(Debug)]
pub enum TestOutcomes {}
/// Why a message goes through a config, or does not.
#[derive(Debug)]
pub enum RoutingReasons {}
/// Why a message waits.
#[derive(Debug)]
pub enum WaitingReasons {}
/// Kinds of actors.
#[derive(Debug)]
pub enum ActorKind {}

impl Closed for Channel {
    const NAME: &'static str = "Channel";
    const TEXT: &'static str = "How a message travels.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Status {
    const NAME: &'static str = "Status";
    const TEXT: &'static str = "Where a message is in its life. It only moves to one that comes later in this list.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Environment {
    const NAME: &'static str = "Environment";
    const TEXT: &'static str = "`live` messages reach a provider, `test` ones the sandbox. Neither sees the other.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for AnyEnvironment {
    const NAME: &'static str = "EnvironmentFilter";
    const TEXT: &'static str = "One environment, or `all`.";

    fn names() -> Vec<&'static str> {
        Environment::ALL.iter().map(|v| v.name()).chain(["all"]).collect()
    }
}

impl Closed for Source {
    const NAME: &'static str = "Source";
    const TEXT: &'static str = "Who asked for a message: a service (`api`), or somebody in a session (`dashboard`).";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for EventKind {
    const NAME: &'static str = "EventType";
    const TEXT: &'static str = "What happened to a message.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Keyword {
    const NAME: &'static str = "Keyword";
    const TEXT: &'static str = "What a word alone in an inbound message means.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Priority {
    const NAME: &'static str = "Priority";
    const TEXT: &'static str = "What goes first.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for SuppressionReason {
    const NAME: &'static str = "SuppressionReason";
    const TEXT: &'static str = "Why an address is not written to.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for SuppressionSource {
    const NAME: &'static str = "SuppressionSource";
    const TEXT: &'static str = "What made a suppression: a `request`, a provider's `answer` to a send or its `callback`, a message of the recipient's \
                                (`inbound`), the `link` in an email, or an `import`.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Encoding {
    const NAME: &'static str = "Encoding";
    const TEXT: &'static str = "How the text of an SMS is encoded.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Role {
    const NAME: &'static str = "Role";
    const TEXT: &'static str = "What a human may do in a tenant; each role includes the ones before it.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Scope {
    const NAME: &'static str = "Scope";
    const TEXT: &'static str = "What a key may do.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for TenantStatus {
    const NAME: &'static str = "TenantStatus";
    const TEXT: &'static str = "What a tenant may do at all.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for SuspendedBy {
    const NAME: &'static str = "SuspendedBy";
    const TEXT: &'static str = "Who suspended a tenant, and can lift that.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for InvitationStatus {
    const NAME: &'static str = "InvitationStatus";
    const TEXT: &'static str = "What became of an invitation.";

    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|v| v.name()).collect()
    }
}

impl Closed for Providers {
    const NAME: &'static str = "ProviderId";
    const TEXT: &'static str = "A provider of the catalog.";

    fn names() -> Vec<&'static str> {
        CATALOG.iter().map(|provider| provider.spec.id).collect()
    }
}

impl Closed for Kind {
    const NAME: &'static str = "SettingType";
    const TEXT: &'static str = "What values a provider's setting takes.";

    fn names() -> Vec<&'static str> {
        // Kinds carry limits, so there is no list of them: what the catalog has is the list.
        let mut names: Vec<_> = CATALOG.iter().flat_map(|p| p.spec.fields).map(|field| field.kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Closed for ConfigStatus {
    const NAME: &'static str = "ConfigStatus";
    const TEXT: &'static str = "Whether a provider config's credentials were tried, and how that ended.";

    fn names() -> Vec<&'static str> {
        providers::STATUSES.to_vec()
    }
}

impl Closed for TestOutcomes {
    const NAME: &'static str = "TestOutcome";
    const TEXT: &'static str = "What came of a test message: `sent`, the provider took it; `rejected`, it won't take this message; `temporary`, it \
                                can't be reached or has trouble; `rate_limited`, it is too busy for us; `credentials`, the credentials or the \
                                account don't work; `unknown`, no answer came, so it may have been sent.";

    fn names() -> Vec<&'static str> {
        provider_test::OUTCOMES.to_vec()
    }
}

impl Closed for RoutingReasons {
    const NAME: &'static str = "RoutingReasonCode";
    const TEXT: &'static str = "Why a message goes through a provider config, or does not.";

    fn names() -> Vec<&'static str> {
        explain::REASONS.to_vec()
    }
}

impl Closed for WaitingReasons {
    const NAME: &'static str = "WaitingReason";
    const TEXT: &'static str = "Why a message waits.";

    fn names() -> Vec<&'static str> {
        explain::WAITS.to_vec()
    }
}

impl Closed for ActorKind {
    const NAME: &'static str = "ActorType";
    const TEXT: &'static str = "Who acted: a human, a key, or an operator's command.";

    fn names() -> Vec<&'static str> {
        audit_log::ACTOR_KINDS.to_vec()
    }
}

impl Closed for codes::Code {
    const NAME: &'static str = "ErrorCode";
    const TEXT: &'static str = "What kind of error it is.";

    fn names() -> Vec<&'static str> {
        codes::ALL.iter().map(|code| code.name).collect()
    }
}

/// A web push subscription, as `PushSubscription.toJSON()` gives it in a browser.
#[derive(utoipa::ToSchema)]
#[schema(as = WebPushSubscription)]
#[expect(dead_code, reason = "the shape that send_request.rs reads, for the document")]
pub struct Subscription {
    /// Where the browser's push service takes messages for it.
    #[schema(format = "uri", pattern = "^https://[!-~]+$", max_length = 2048, example = "https://push.example.com/send/0a1b2c3d")]
    endpoint: String,
    /// Its keys.
    keys: SubscriptionKeys,
    /// From when the browser takes no messages for it.
    #[schema(rename = "expirationTime", required = false, schema_with = expiration_time)]
    expiration_time: Option<()>,
}

/// Browsers give a number or `null`; nothing reads it, so nothing is refused.
fn expiration_time() -> Schema {
    let text = "From when the browser takes no messages for it. Not looked at.";
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some(text)).examples([1_767_225_600_000_u64]).into()
}

/// The keys of a web push subscription, in base64url.
#[derive(utoipa::ToSchema)]
#[schema(as = WebPushKeys)]
#[expect(dead_code, reason = "the shape that send_request.rs reads, for the document")]
pub struct SubscriptionKeys {
    /// The browser's public key.
    #[schema(pattern = "^[A-Za-z0-9_=-]+$", min_length = 1, max_length = 128, example = "BAnExampleOfAPublicKey_in-base64url")]
    p256dh: String,
    /// The secret that it shares with us.
    #[schema(pattern = "^[A-Za-z0-9_=-]+$", min_length = 1, max_length = 128, example = "AnExampleOf_ASecret")]
    auth: String,
}

/// Whom a message reaches: a text, or a web push subscription.
#[derive(Debug)]
pub struct AnyRecipient;

impl PartialSchema for AnyRecipient {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A phone number in E.164 form, an email address, or a device token."))
            .pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]+$"))
            .min_length(Some(1))
            .max_length(Some(4096));
        let subscription = Ref::from_schema_name(Subscription::name());
        let either = OneOfBuilder::new().item(text).item(subscription);
        either.description(Some("Whom a message reaches.")).examples(["+254722000000"]).into()
    }
}

impl ToSchema for AnyRecipient {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Recipient")
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Subscription::name().into_owned(), Subscription::schema()));
        Subscription::schemas(schemas);
    }
}

/// The value of a provider's setting.
#[derive(Debug)]
pub struct Setting;

impl PartialSchema for Setting {
    fn schema() -> RefOr<Schema> {
        let kinds = SchemaType::from_iter([Type::String, Type::Boolean, Type::Integer, Type::Null]);
        let text = "The value of a provider's setting, of the type that the catalog tells; `null` is absent.";
        ObjectBuilder::new().schema_type(kinds).description(Some(text)).max_length(Some(4096)).into()
    }
}

impl ToSchema for Setting {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("SettingValue")
    }
}
