//! The reception of callbacks: who sent it, and that it is stored before it is answered. What waits is stored together.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use moka::future::Cache;
use raven_core::{Channel, Clock, ConfigId, Seq, TenantId, Timestamp, problem::chain, tenant::TenantStatus};
use raven_providers::{
    Bound, Callback, Challenge, Verdict,
    callback::{KEPT_HEADERS, Proof},
    sms::smpp,
};
use raven_store::{CallbackRecord, Store};
use tokio::sync::{mpsc, oneshot};

use super::{CallbackUrls, OWN};
use crate::{
    calls::Calls,
    directory::{Connection, Directory, TenantView},
    membership::Membership,
    metrics::{CallbackLabels, Metrics},
};

/// Callbacks that wait to be stored.
const WAITING: usize = 4096;
/// Callbacks that one transaction stores.
const BATCH: usize = 256;
/// Stored callbacks that wait in memory to be applied; the others are found in the database.
const APPLYING: usize = 4096;
/// Certificates remembered.
const CERTIFICATES: u64 = 64;
/// How long a certificate is remembered, and how long that there was none.
const FETCHED_FOR: Duration = Duration::from_secs(24 * 3600);
const MISSED_FOR: Duration = Duration::from_secs(60);

/// A request that says it is a callback.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Which tenant, as the path says.
    pub tenant: TenantId,
    /// Which channel.
    pub channel: Channel,
    /// Which provider.
    pub provider: &'static str,
    /// Which config; `None`: any of them.
    pub config: Option<ConfigId>,
    /// The token, from wherever it was given.
    pub token: Option<&'a str>,
    /// `POST` or `GET`.
    pub method: &'a Method,
    /// The whole URL, as the world sees it.
    pub url: &'a str,
    /// Its query, without the token.
    pub query: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a Bytes,
}

impl<'a> Arrival<'a> {
    fn callback(&self) -> Callback<'a> {
        Callback { method: self.method, query: self.query, headers: self.headers, body: self.body }
    }
}

/// What the provider is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored; the body that the provider waits for.
    Taken(&'static str),
    /// It asked whether the URL is ours.
    Challenged(String),
}

/// Why a callback is not taken. Nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing proves that it is the provider's.
    #[error("nothing proves that the callback is the provider's")]
    Unproven,
    /// It can't be stored now.
    #[error("callbacks can't be stored now")]
    Unavailable,
}

/// A callback that waits to be stored.
pub(crate) struct Waiting {
    record: CallbackRecord,
    answer: oneshot::Sender<bool>,
}

/// Where callbacks become durable.
#[derive(Clone)]
pub(crate) struct Intake {
    clock: Arc<dyn Clock>,
    membership: Arc<Membership>,
    metrics: Arc<Metrics>,
    waiting: mpsc::Sender<Waiting>,
}

impl Intake {
    pub(crate) fn new(clock: Arc<dyn Clock>, membership: Arc<Membership>, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Waiting>) {
        let (waiting, receiver) = mpsc::channel(WAITING);
        (Self { clock, membership, metrics, waiting }, receiver)
    }

    /// A key for one that came now.
    fn key(&self) -> Seq {
        self.membership.ids.next(self.clock.now())
    }

    /// Keeps one: when this answers, it is durable, or was before.
    async fn keep(&self, record: CallbackRecord) -> Result<(), Refusal> {
        let (answer, kept) = oneshot::channel();
        self.waiting.try_send(Waiting { record, answer }).map_err(|_| Refusal::Unavailable)?;
        kept.await.map(|_| ()).map_err(|_| Refusal::Unavailable)
    }

    /// Keeps what came over a session that we opened with a config's credentials; `false` when that can't be done now.
    pub(crate) async fn keep_delivery(&self, tenant: TenantId, config: ConfigId, pdu: &[u8]) -> bool {
        let seq = self.key();
        let record = CallbackRecord {
            seq,
            tenant,
            config,
            is_trusted: true,
            once: None,
            method: "DELIVER_SM".to_owned(),
            // What tells it from another one that says the same.
            query: format!("arrival={}", seq.0),
            headers: "{}".to_owned(),
            body: pdu.to_vec(),
            tries: 0,
        };
        let kept = self.keep(record).await.is_ok();
        self.tell(smpp::SPEC.id, if kept { "taken" } else { "unavailable" });
        kept
    }

    fn tell(&self, provider: &'static str, result: &'static str) {
        self.metrics.callbacks.get_or_create(&CallbackLabels { provider, result }).inc();
    }
}

/// Takes callbacks.
pub struct Reception {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) urls: Arc<CallbackUrls>,
    intake: Intake,
    certificates: Cache<String, (Timestamp, Option<Bytes>)>,
}

impl Reception {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        directory: Arc<Directory>,
        calls: Arc<Calls>,
        urls: Arc<CallbackUrls>,
        intake: Intake,
    ) -> Self {
        Self { clock, directory, calls, urls, intake, certificates: Cache::new(CERTIFICATES) }
    }

    /// Takes a callback: when this answers, it is durable.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn take(&self, arrival: &Arrival<'_>) -> Result<Answer, Refusal> {
        let taken = self.judge(arrival).await;
        let result = match &taken {
            Ok(Answer::Taken(_)) => "taken",
            Ok(Answer::Challenged(_)) => "challenged",
            Err(Refusal::Unproven) => "unproven",
            Err(Refusal::Unavailable) => "unavailable",
        };
        self.intake.tell(arrival.provider, result);
        taken
    }

    async fn judge(&self, arrival: &Arrival<'_>) -> Result<Answer, Refusal> {
        let view = self.directory.tenant(arrival.tenant).await.map_err(|e| {
            tracing::error!(error = chain(&*e), "a tenant can't be read; its callback is refused for now");
            Refusal::Unavailable
        })?;
        let view = view.filter(|view| view.record.status != TenantStatus::Archived).ok_or(Refusal::Unproven)?;
        if let Some(challenge) = candidates(&view, arrival).find_map(|(_, provider)| provider.challenge(&arrival.callback())) {
            return match challenge {
                Challenge::Answer(text) => Ok(Answer::Challenged(text)),
                Challenge::Refused => self.challenge_of_others(&view, arrival).ok_or(Refusal::Unproven),
            };
        }
        let mut unproven = None;
        for (connection, provider) in candidates(&view, arrival) {
            match self.authenticate(provider, arrival).await {
                Verdict::Genuine { once } => return self.keep(connection, arrival, true, once).await,
                Verdict::Unsigned => {
                    let opens = |token| self.urls.opens(arrival.tenant, connection.id, token);
                    if arrival.token.is_some_and(opens) {
                        return self.keep(connection, arrival, true, None).await;
                    }
                    // A wrong token is not the same as none.
                    if connection.record().allow_unsigned && arrival.token.is_none() {
                        unproven = unproven.or(Some(connection));
                    }
                }
                Verdict::Refused(why) => {
                    tracing::debug!(config = %connection.id, provider = arrival.provider, why, "a callback is refused");
                }
                Verdict::Certificate(_) => {}
            }
        }
        match unproven {
            Some(connection) => self.keep(connection, arrival, false, None).await,
            None => Err(Refusal::Unproven),
        }
    }

    /// The answer to a challenge that one config refused: another one of the tenant may have the right word.
    fn challenge_of_others(&self, view: &TenantView, arrival: &Arrival<'_>) -> Option<Answer> {
        candidates(view, arrival).find_map(|(_, provider)| match provider.challenge(&arrival.callback()) {
            Some(Challenge::Answer(text)) => Some(Answer::Challenged(text)),
            _ => None,
        })
    }

    async fn authenticate(&self, provider: &dyn raven_providers::HttpCall, arrival: &Arrival<'_>) -> Verdict {
        let proof = Proof { url: arrival.url, now: self.clock.now(), certificate: None };
        let verdict = provider.authenticate(&arrival.callback(), &proof);
        let Verdict::Certificate(url) = &verdict else { return verdict };
        match self.certificate(url).await {
            Some(certificate) => provider.authenticate(&arrival.callback(), &Proof { certificate: Some(&certificate), ..proof }),
            None => verdict,
        }
    }

    /// A certificate, from the provider's own host: the adapter saw to that.
    async fn certificate(&self, url: &str) -> Option<Bytes> {
        let now = self.clock.now();
        if let Some((at, known)) = self.certificates.get(url).await
            && now.since(at) < if known.is_some() { FETCHED_FOR } else { MISSED_FOR }
        {
            return known;
        }
        let request = Request::get(url).body(Bytes::new()).ok()?;
        let fetched = match self.calls.transport.call(request, Duration::ZERO).await {
            Ok(response) if response.status().is_success() => Some(response.into_body()),
            Ok(response) => {
                tracing::warn!(status = response.status().as_u16(), "a provider's certificate can't be fetched");
                None
            }
            Err(e) => {
                tracing::warn!(error = chain(&e), "a provider's certificate can't be fetched");
                None
            }
        };
        self.certificates.insert(url.to_owned(), (now, fetched.clone())).await;
        fetched
    }

    async fn keep(
        &self,
        connection: &Connection,
        arrival: &Arrival<'_>,
        is_trusted: bool,
        once: Option<String>,
    ) -> Result<Answer, Refusal> {
        let kept: serde_json::Map<String, serde_json::Value> =
            KEPT_HEADERS.iter().filter_map(|name| Some(((*name).to_owned(), arrival.headers.get(*name)?.to_str().ok()?.into()))).collect();
        let record = CallbackRecord {
            seq: self.intake.key(),
            tenant: arrival.tenant,
            config: connection.id,
            is_trusted,
            once,
            method: arrival.method.as_str().to_owned(),
            query: arrival.query.to_owned(),
            headers: serde_json::Value::Object(kept).to_string(),
            body: arrival.body.to_vec(),
            tries: 0,
        };
        self.intake.keep(record).await?;
        Ok(Answer::Taken(connection.provider.spec.callbacks.map_or("", |callbacks| callbacks.answer)))
    }
}

/// The connections that a callback may belong to.
fn candidates<'v>(
    view: &'v TenantView,
    arrival: &Arrival<'_>,
) -> impl Iterator<Item = (&'v Arc<Connection>, &'v dyn raven_providers::HttpCall)> {
    let (channel, provider, config) = (arrival.channel, arrival.provider, arrival.config);
    view.connections()
        .iter()
        .filter(move |c| c.provider.spec.id == provider && c.provider.spec.channel == channel && config.is_none_or(|id| id == c.id))
        .filter_map(|c| match &c.bound {
            Bound::Http(provider) => Some((c, &**provider)),
            // Nothing of theirs comes over HTTP.
            Bound::Smtp(_) | Bound::Smpp(_) => None,
        })
}

/// Stores what waits, and hands it on.
pub(crate) struct Recorder {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) waiting: mpsc::Receiver<Waiting>,
    pub(crate) stored: mpsc::Sender<CallbackRecord>,
}

/// The way from the recorder to the applier.
pub(crate) fn passage() -> (mpsc::Sender<CallbackRecord>, mpsc::Receiver<CallbackRecord>) {
    mpsc::channel(APPLYING)
}

impl Recorder {
    /// Until nobody can bring any more.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.waiting.recv_many(&mut batch, BATCH).await > 0 {
            let (records, answers): (Vec<_>, Vec<_>) = batch.drain(..).map(|w: Waiting| (w.record, w.answer)).unzip();
            match self.store.record_callbacks(&records, self.clock.now().after(OWN)).await {
                Ok(kept) => {
                    for ((record, answer), kept) in records.into_iter().zip(answers).zip(kept) {
                        let _ = answer.send(kept);
                        if kept {
                            // Without room in memory it is found in the database a little later.
                            let _ = self.stored.try_send(record);
                        }
                    }
                }
                // Whoever waits learns it by the answer that does not come.
                Err(e) => tracing::error!(error = chain(&e), callbacks = records.len(), "callbacks can't be stored"),
            }
        }
    }
}
