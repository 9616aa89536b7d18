//! SMS over SMPP: the sessions that this process keeps with message centres. They are there whether or not anything is sent, or no
//! receipt and no inbound message would come.
//!
//! What lives here: whose session a message goes over, how it is opened and when again, and what follows for a message of several
//! parts. One session is `link`. What PDUs mean is the adapter's ([`raven_providers::sms::smpp`]).

mod keeper;
mod link;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use raven_core::{Clock, ConfigId, Timestamp, problem::chain};
use raven_providers::{
    Bound, Class, Outbound, SendError, Sent,
    sms::smpp::{Pdu, Settings, cut_short},
};
use raven_store::ConfigRecord;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::TaskTracker;

use crate::{
    callbacks::Intake,
    directory::Connection,
    guard::{Guard, GuardError},
    metrics::Metrics,
    transport::{CALL_CAP, ExtraRoots, tls_config},
};
use link::{Fate, Link, Take, Wire, session};

pub use keeper::Binding;
pub use link::Pace;

const CONNECT_CAP: Duration = Duration::from_secs(5);
/// Before a session that could not be opened is tried again because a message wants it.
const BREATH: Duration = Duration::from_secs(1);
/// The same, because nobody wants it but us: doubles up to the other.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Sessions that a tenant may have: sockets are everybody's.
const OF_TENANT: usize = 64;
/// Before parts are sent again that a message centre was too busy for.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a message begins anew whose session ended before anything of it was written.
const TRIES: usize = 2;

/// What a session travels over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The sessions of this process.
pub struct Sessions {
    guard: Guard,
    clock: Arc<dyn Clock>,
    cap: Duration,
    pace: Pace,
    tls: TlsConnector,
    intake: Intake,
    metrics: Arc<Metrics>,
    /// `None` when they are closed for good.
    lines: Mutex<Option<HashMap<ConfigId, Arc<Line>>>>,
    tasks: TaskTracker,
}

/// The sessions of a config.
struct Line {
    connection: Arc<Connection>,
    slots: Vec<Slot>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// A session, or the place of one.
#[derive(Default)]
struct Slot {
    link: Mutex<Option<Arc<Link>>>,
    /// Held by who opens it.
    opening: tokio::sync::Mutex<Option<Failed>>,
}

/// The last time that it could not be opened.
struct Failed {
    at: Timestamp,
    error: SendError,
    wait: Duration,
}

impl Slot {
    fn up(&self) -> Option<Arc<Link>> {
        self.link.lock().as_ref().filter(|link| link.is_up()).cloned()
    }
}

impl Line {
    fn new(connection: &Arc<Connection>, binds: u8) -> Self {
        let slots = (0..binds.max(1)).map(|_| Slot::default()).collect();
        Self { connection: connection.clone(), slots, turn: AtomicUsize::new(0) }
    }

    /// Has it a config's settings?
    fn serves(&self, config: &ConfigRecord) -> bool {
        let ours = self.connection.record();
        (ours.tenant, &ours.public, &ours.secret) == (config.tenant, &config.public, &config.secret)
    }

    /// The slot of the next message: in turn, one that has room, or else one that is there, or else any.
    fn next(&self) -> &Slot {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..self.slots.len()).map(|n| &self.slots[turn.wrapping_add(n) % self.slots.len()]);
        let has_room = |slot: &&Slot| slot.up().is_some_and(|link| link.room() > 0);
        in_turn().find(has_room).or_else(|| in_turn().find(|slot| slot.up().is_some())).unwrap_or(&self.slots[turn % self.slots.len()])
    }

    fn close(&self) {
        self.slots.iter().filter_map(Slot::up).for_each(|link| link.close());
    }
}

impl Sessions {
    /// None yet. Authorities are those of the public and these; an attempt may take `cap` (at most [`CALL_CAP`]).
    ///
    /// # Errors
    /// A sentence, when one of the extra certificates is no authority.
    pub(crate) fn new(
        guard: Guard,
        clock: Arc<dyn Clock>,
        extra: &ExtraRoots,
        cap: Duration,
        pace: Pace,
        intake: Intake,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let tls = TlsConnector::from(Arc::new(tls_config(extra)?));
        let (lines, tasks) = (Mutex::new(Some(HashMap::new())), TaskTracker::new());
        Ok(Self { guard, clock, cap: cap.min(CALL_CAP), pace, tls, intake, metrics, lines, tasks })
    }

    /// Makes one attempt.
    ///
    /// # Errors
    /// What follows from it.
    pub async fn send(&self, connection: &Arc<Connection>, settings: &Settings, message: &Outbound<'_>) -> Result<Sent, SendError> {
        let mut bodies = settings.submits(message)?.into_iter();
        let parts = bodies.len();
        let began = Instant::now();
        // What is written late would have no time left for its answer.
        let until = Until { write: began + self.cap * 2 / 3, end: began + self.cap };
        let line = self.line(connection)?;
        // If the first part is not taken, nothing was sent, and all is as with a message of one part.
        let first = self.submit(&line, settings, bodies.next().unwrap_or_default(), until).await?;
        let mut last = first;
        let mut left: Vec<(usize, Vec<u8>)> = (2..).zip(bodies).collect();
        while !left.is_empty() {
            let fates = join_all(left.iter().map(|(_, body)| self.submit(&line, settings, body.clone(), until))).await;
            let (mut again, mut failed) = (Vec::new(), Vec::new());
            for ((part, body), fate) in left.into_iter().zip(fates) {
                match fate {
                    Ok(id) if part == parts => last = id,
                    Ok(_) => {}
                    Err(error) if matches!(error.class, Class::Retry { .. } | Class::RateLimited { .. }) => again.push((part, body, error)),
                    Err(error) => failed.push((part, error)),
                }
            }
            // One that was refused tells more than one that may have gone out: the message is not whole.
            failed.sort_by_key(|(part, error)| (error.class == Class::Unknown, *part));
            if let Some((part, error)) = failed.into_iter().next() {
                return Err(cut_short(part, parts, error));
            }
            if let Some((part, _, error)) = again.first().filter(|_| Instant::now() + PAUSE >= until.write) {
                return Err(cut_short(*part, parts, error.clone()));
            }
            if !again.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            left = again.into_iter().map(|(part, body, _)| (part, body)).collect();
        }
        Ok(Sent { provider_message_id: last, segments: i16::try_from(parts).ok(), cost: None })
    }

    /// Opens a session and ends it.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn verify(&self, connection: &Connection, settings: &Settings) -> Result<(), SendError> {
        let opened = timeout(self.cap, self.open(settings)).await;
        match opened.unwrap_or_else(|_| Err(unreachable("the message centre did not answer in time"))) {
            Ok(wire) => {
                wire.unbind(self.pace).await;
                Ok(())
            }
            // An account may have no second session beside the one that these settings have already opened.
            Err(e) if e.class != Class::Credentials && self.is_up(connection) => {
                tracing::debug!(config = %connection.id, error = e.code, "no second session for a check; the first one stands for it");
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn is_up(&self, connection: &Connection) -> bool {
        let line = self.lines.lock().as_ref().and_then(|lines| lines.get(&connection.id).cloned());
        line.is_some_and(|line| line.serves(connection.record()) && line.slots.iter().any(|slot| slot.up().is_some()))
    }

    /// The line of a config, with these settings and no others.
    ///
    /// # Errors
    /// When its tenant has as many sessions as a tenant may have, or there are no lines any more.
    fn line(&self, connection: &Arc<Connection>) -> Result<Arc<Line>, SendError> {
        let Bound::Smpp(settings) = &connection.bound else { return Err(unreachable("the config is of another provider")) };
        let mut lines = self.lines.lock();
        let lines = lines.as_mut().ok_or_else(|| unreachable("this process is stopping"))?;
        if let Some(line) = lines.get(&connection.id).filter(|line| line.serves(connection.record())) {
            return Ok(line.clone());
        }
        let tenant = connection.record().tenant;
        let others = lines.values().filter(|line| line.connection.id != connection.id && line.connection.record().tenant == tenant);
        if others.map(|line| line.slots.len()).sum::<usize>() + usize::from(settings.binds) > OF_TENANT {
            let why = format!("a tenant's SMPP configs have {OF_TENANT} sessions on a node at most: lower binds, or delete configs");
            return Err(SendError::new(Class::Retry { after: None }, "too_many_sessions", why));
        }
        let line = Arc::new(Line::new(connection, settings.binds));
        if let Some(old) = lines.insert(connection.id, line.clone()) {
            old.close();
        }
        Ok(line)
    }

    /// Submits one part; the id that it got.
    async fn submit(&self, line: &Line, settings: &Settings, body: Vec<u8>, until: Until) -> Result<Option<String>, SendError> {
        // The session may end between the question whether it is there and the message: there is time for a new one.
        for _ in 0..TRIES {
            let link = timeout_at(until.write, self.link(line, line.next()));
            let link = link.await.unwrap_or_else(|_| Err(unreachable("the message centre did not answer in time")))?;
            match link.submit(body.clone(), until.write, until.end).await {
                Fate::Answered(answer) => {
                    let answer = Pdu::read(&answer).map_err(|e| SendError::new(Class::Unknown, "unreadable_answer", e.to_string()))?;
                    return settings.outcome(&answer);
                }
                Fate::Lost => return Err(SendError::new(Class::Unknown, "no_answer", "the message centre did not confirm the message")),
                Fate::Crowded => {
                    return Err(SendError::new(Class::Retry { after: None }, "window_full", "too many messages wait for their answers"));
                }
                Fate::NotWritten => {}
            }
        }
        Err(unreachable("the session ended before the message was written"))
    }

    /// The session of a slot: the one that is there, or a new one.
    async fn link(&self, line: &Line, slot: &Slot) -> Result<Arc<Link>, SendError> {
        if let Some(link) = slot.up() {
            return Ok(link);
        }
        let mut failed = slot.opening.lock().await;
        if let Some(link) = slot.up() {
            return Ok(link);
        }
        if let Some(last) = failed.as_ref().filter(|last| self.clock.now() < last.at.after(BREATH)) {
            return Err(last.error.clone());
        }
        self.open_slot(line, slot, &mut failed).await
    }

    /// Opens a session for a slot, and remembers it when it can't. For who holds `opening`.
    async fn open_slot(&self, line: &Line, slot: &Slot, failed: &mut Option<Failed>) -> Result<Arc<Link>, SendError> {
        let Bound::Smpp(settings) = &line.connection.bound else { return Err(unreachable("the config is of another provider")) };
        let (id, tenant) = (line.connection.id, line.connection.record().tenant);
        let opened = timeout(self.cap, self.open(settings)).await;
        let wire = match opened.unwrap_or_else(|_| Err(unreachable("the message centre did not answer in time"))) {
            Ok(wire) => wire,
            Err(error) => {
                tracing::warn!(config = %id, %tenant, error = error.code, why = error.message, "no session with a message centre");
                let wait = failed.as_ref().map_or(FIRST, |last| (last.wait * 2).min(LONGEST));
                *failed = Some(Failed { at: self.clock.now(), error: error.clone(), wait });
                return Err(error);
            }
        };
        let intake = self.intake.clone();
        let take: Take = Arc::new(move |pdu| {
            let intake = intake.clone();
            Box::pin(async move { intake.keep_delivery(tenant, id, &pdu).await })
        });
        let (link, task) = session(wire, settings.window, self.pace, take);
        let link = Arc::new(link);
        {
            // Whoever closes lines closes what is in their slots: this one must not come after that.
            let lines = self.lines.lock();
            let is_ours = |lines: &HashMap<ConfigId, Arc<Line>>| lines.get(&id).is_some_and(|known| std::ptr::eq(&**known, line));
            if !lines.as_ref().is_some_and(is_ours) {
                link.close();
            }
            *slot.link.lock() = Some(link.clone());
        }
        *failed = None;
        tracing::info!(config = %id, %tenant, "a session with a message centre began");
        let metrics = self.metrics.clone();
        metrics.smpp_sessions.inc();
        self.tasks.spawn(async move {
            let end = task.run().await;
            metrics.smpp_sessions.dec();
            if end == link::CLOSED {
                tracing::info!(config = %id, %tenant, "a session with a message centre was closed");
            } else {
                tracing::warn!(config = %id, %tenant, end, "a session with a message centre ended");
            }
        });
        Ok(link)
    }

    /// Connects and binds.
    async fn open(&self, settings: &Settings) -> Result<Wire<Box<dyn Stream>>, SendError> {
        let address = self.guard.resolve(&settings.host, settings.port).await.map_err(|e| match e {
            GuardError::Unresolved => unreachable("the message centre's host name has no address"),
            GuardError::NotPublic => SendError::new(Class::Rejected, "host_not_allowed", e.to_string()),
        })?;
        let stream = match timeout(CONNECT_CAP, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(unreachable(&format!("no connection to the message centre: {e}"))),
            Err(_) => return Err(unreachable("no connection to the message centre in time")),
        };
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Stream> = if settings.tls { Box::new(self.encrypt(settings, stream).await?) } else { Box::new(stream) };
        let mut wire = Wire::new(stream);
        wire.bind(settings).await?;
        Ok(wire)
    }

    async fn encrypt(&self, settings: &Settings, stream: TcpStream) -> Result<TlsStream<TcpStream>, SendError> {
        let name = match settings.host.parse::<IpAddr>() {
            Ok(ip) => ServerName::IpAddress(ip.into()),
            Err(_) => {
                ServerName::try_from(settings.host.clone()).map_err(|e| SendError::new(Class::Rejected, "tls_unusable", chain(&e)))?
            }
        };
        let encrypted = self.tls.connect(name, stream).await;
        encrypted.map_err(|e| SendError::new(Class::Retry { after: None }, "tls_failed", chain(&e)))
    }

    /// Ends all sessions, and lets none begin any more. What is outstanding has until then to end.
    pub async fn close(&self, deadline: Instant) {
        let lines = self.lines.lock().take();
        lines.iter().flat_map(HashMap::values).for_each(|line| line.close());
        self.tasks.close();
        let _ = timeout_at(deadline, self.tasks.wait()).await;
    }
}

/// How long an attempt has.
#[derive(Clone, Copy)]
struct Until {
    /// To be written.
    write: Instant,
    /// To be answered.
    end: Instant,
}

fn unreachable(text: &str) -> SendError {
    SendError::new(Class::Retry { after: None }, "provider_unreachable", text)
}
