//! What the engine counts, for Prometheus. Labels are providers, channels and outcomes: never a tenant, never a person.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Labels of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// The provider's id; `none` where no route was found.
    pub provider: String,
    /// The event that the attempt ended in.
    pub outcome: &'static str,
}

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, not the path.
    pub route: String,
    /// The method; `other` for one that no route has.
    pub method: &'static str,
    /// The status code.
    pub status: u16,
}

/// Labels of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChannelLabels {
    /// The channel's name.
    pub channel: &'static str,
}

/// Labels of a violated invariant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ViolationLabels {
    /// The name of the kind.
    pub kind: &'static str,
}

/// Labels of a callback.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallbackLabels {
    /// The provider's id.
    pub provider: &'static str,
    /// What became of it: when it came, and when it was applied.
    pub result: &'static str,
}

/// Labels of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProviderLabels {
    /// The provider's id.
    pub provider: &'static str,
}

/// All counters; the registry that renders them is [`Metrics::render`]ed.
pub struct Metrics {
    registry: Registry,
    /// Answered requests.
    pub requests: Family<RequestLabels, Counter>,
    /// Messages accepted (created).
    pub accepted: Counter,
    /// Messages turned away because the queue of acceptance was full or the database away.
    pub refused: Counter,
    /// Messages in one acceptance transaction.
    pub batch: Histogram,
    /// From a message's arrival in the queue of acceptance until it is durable, in seconds.
    pub accept: Histogram,
    /// A transaction of acceptance, in seconds: from asking for the messages until they are durable. Its sum, against the time
    /// that passed, tells how busy the writers are.
    pub commit: Histogram,
    /// Messages that waited when a writer last asked for them.
    pub waiting: Gauge,
    /// Calls by provider, in seconds.
    pub calls: Family<ProviderLabels, Histogram>,
    /// How often the breaker of a config opened (a probe that failed counts), by provider.
    pub breaker_opened: Family<ProviderLabels, Counter>,
    /// How often one closed.
    pub breaker_closed: Family<ProviderLabels, Counter>,
    /// How often a config was paused because its credentials were refused.
    pub paused: Family<ProviderLabels, Counter>,
    /// How often one was found to work again, by asking the provider or because a message went through.
    pub resumed: Family<ProviderLabels, Counter>,
    /// Attempts by provider and outcome.
    pub attempts: Family<AttemptLabels, Counter>,
    /// Callbacks by provider and what became of them.
    pub callbacks: Family<CallbackLabels, Counter>,
    /// Sessions with message centres.
    pub smpp_sessions: Gauge,
    /// Calls under way.
    pub in_flight: Gauge,
    /// Jobs held in memory, waiting for a permit.
    pub held: Gauge,
    /// Jobs in the database.
    pub queue_depth: Family<ChannelLabels, Gauge>,
    /// Age of the oldest job that is due, in milliseconds; 0 when none is.
    pub oldest_due: Family<ChannelLabels, Gauge>,
    /// 1 while the node's heartbeat is fresh.
    pub node_alive: Gauge,
    /// What was wrong at the last look, by kind.
    pub violations: Family<ViolationLabels, Gauge>,
    /// When that was, in seconds since 1970; 0 before the first look.
    pub checked_at: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("raven");
        let metrics = Self {
            requests: Family::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            batch: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]),
            accept: Histogram::new(latencies()),
            commit: Histogram::new(latencies()),
            waiting: Gauge::default(),
            calls: Family::new_with_constructor(|| Histogram::new(latencies())),
            breaker_opened: Family::default(),
            breaker_closed: Family::default(),
            paused: Family::default(),
            resumed: Family::default(),
            attempts: Family::default(),
            callbacks: Family::default(),
            smpp_sessions: Gauge::default(),
            in_flight: Gauge::default(),
            held: Gauge::default(),
            queue_depth: Family::default(),
            oldest_due: Family::default(),
            node_alive: Gauge::default(),
            violations: Family::default(),
            checked_at: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Answered requests", metrics.requests.clone());
        registry.register("callbacks", "Callbacks of providers by what became of them", metrics.callbacks.clone());
        registry.register("messages_accepted", "Messages accepted", metrics.accepted.clone());
        registry.register("messages_refused", "Messages turned away by overload or an unavailable database", metrics.refused.clone());
        registry.register("accept_batch_size", "Messages in one acceptance transaction", metrics.batch.clone());
        registry.register("accept_seconds", "From a message's arrival until it is durable", metrics.accept.clone());
        registry.register("accept_commit_seconds", "Transactions of acceptance", metrics.commit.clone());
        registry.register("accept_waiting", "Messages that waited when a writer last asked for them", metrics.waiting.clone());
        registry.register("attempt_seconds", "Provider calls", metrics.calls.clone());
        registry.register("breakers_opened", "Breakers of provider configs that opened", metrics.breaker_opened.clone());
        registry.register("breakers_closed", "Breakers of provider configs that closed", metrics.breaker_closed.clone());
        registry.register("configs_paused", "Provider configs paused because their credentials were refused", metrics.paused.clone());
        registry.register("configs_resumed", "Paused provider configs that were found to work again", metrics.resumed.clone());
        registry.register("attempts", "Attempts by provider and outcome", metrics.attempts.clone());
        registry.register("smpp_sessions", "Sessions with SMPP message centres", metrics.smpp_sessions.clone());
        registry.register("attempts_in_flight", "Provider calls under way", metrics.in_flight.clone());
        registry.register("jobs_held", "Jobs held in memory, waiting for a permit", metrics.held.clone());
        registry.register("queue_depth", "Jobs in the database by channel", metrics.queue_depth.clone());
        registry.register("queue_oldest_due_milliseconds", "Age of the oldest due job by channel", metrics.oldest_due.clone());
        registry.register("node_alive", "1 while this node's heartbeat is fresh", metrics.node_alive.clone());
        registry.register("invariant_violations", "What was wrong at the last look, by kind", metrics.violations.clone());
        registry.register("invariants_checked_timestamp_seconds", "When invariants were last looked at", metrics.checked_at.clone());
        Self { registry, ..metrics }
    }
}

/// Bounds of latencies: doubling from a quarter of a millisecond to 16 s.
fn latencies() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_25, 2.0, 17)
}

impl Metrics {
    /// The OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String fails only if a metric's own encoding does, and then what was written so far is shown.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
