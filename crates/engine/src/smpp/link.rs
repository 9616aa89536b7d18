//! One SMPP session, from its bind to its end: a task that owns the connection, and a handle through which messages are submitted.
//!
//! It knows how far each message came. One whose first byte was not written was not sent; one that was begun and has no answer may have
//! been. What the message centre sends is answered when it is stored. The other side may do anything: no more of it is held in memory
//! than one PDU and a few answers, and one that falls silent is left.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use raven_providers::{
    Class, SendError,
    sms::smpp::{INVALID_COMMAND, Malformed, OK, Pdu, Settings, TRY_AGAIN, command},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// What comes in that is being stored. More than that is told to come again.
const STORING: usize = 64;
/// Bytes that wait to be written, beyond which nothing is read any more.
const UNWRITTEN: usize = 256 * 1024;
/// Bytes that one read takes.
const CHUNK: usize = 4096;
/// PDUs that are passed over while the answer to the bind is waited for.
const BEFORE_BIND: usize = 16;
/// The highest number of a PDU (SMPP 3.4, 3.2).
const LAST: u32 = 0x7fff_ffff;

/// How patient a session is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Silence after which the other side is asked whether it is there.
    pub idle: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long the end of a session may take.
    pub goodbye: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30), answer: Duration::from_secs(10), goodbye: Duration::from_secs(2) }
    }
}

/// Stores a `deliver_sm`; `false` when it can't be.
pub(super) type Take = Arc<dyn Fn(Bytes) -> BoxFuture<'static, bool> + Send + Sync>;

/// What became of a `submit_sm`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// This PDU answered it.
    Answered(Bytes),
    /// Nothing of it was written, as the session ended.
    NotWritten,
    /// Nothing of it was written, as too many others wait for their answers.
    Crowded,
    /// It was written, or begun, and nobody answered.
    Lost,
}

struct Request {
    body: Vec<u8>,
    answer: oneshot::Sender<Fate>,
    permit: OwnedSemaphorePermit,
}

/// The handle of a session.
pub(super) struct Link {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    closing: CancellationToken,
    over: CancellationToken,
}

impl Link {
    /// Does it take messages?
    pub(super) fn is_up(&self) -> bool {
        !self.over.is_cancelled() && !self.closing.is_cancelled()
    }

    /// How many messages it takes at once.
    pub(super) fn room(&self) -> usize {
        self.window.available_permits()
    }

    /// Lets what is outstanding end, and ends it.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    /// Submits a message: writes it before the one moment or not at all, and waits for the answer until the other.
    pub(super) async fn submit(&self, body: Vec<u8>, write_until: Instant, end: Instant) -> Fate {
        let permit = match timeout_at(write_until, self.window.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Fate::NotWritten,
            Err(_) => return Fate::Crowded,
        };
        let (answer, fate) = oneshot::channel();
        // Whoever has a permit has a place.
        if self.requests.try_send(Request { body, answer, permit }).is_err() {
            return Fate::NotWritten;
        }
        match timeout_at(end, fate).await {
            Ok(Ok(fate)) => fate,
            _ => Fate::Lost,
        }
    }
}

/// A connection as far as it was read and written.
pub(super) struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    read: BytesMut,
    unwritten: BytesMut,
    /// Bytes that were put there, and bytes that were written, since the beginning.
    put: u64,
    written: u64,
    sequence: u32,
}

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, read: BytesMut::new(), unwritten: BytesMut::new(), put: 0, written: 0, sequence: 0 }
    }

    /// Puts a PDU where it is written from; where it begins there.
    fn put(&mut self, pdu: &Pdu<'_>) -> u64 {
        let (begins, before) = (self.put, self.unwritten.len());
        pdu.write(&mut self.unwritten);
        self.put += u64::try_from(self.unwritten.len() - before).unwrap_or(0);
        begins
    }

    /// Puts a command; its number, and where it begins.
    fn ask(&mut self, command: u32, body: &[u8]) -> (u32, u64) {
        self.sequence = if self.sequence >= LAST { 1 } else { self.sequence + 1 };
        let sequence = self.sequence;
        (sequence, self.put(&Pdu { command, status: OK, sequence, body }))
    }

    /// The next whole PDU of what was read.
    fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        Ok(Pdu::whole(&self.read)?.map(|length| self.read.split_to(length).freeze()))
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        self.read.reserve(CHUNK);
        match self.reader.read_buf(&mut self.read).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        while self.unwritten.has_remaining() {
            self.written += u64::try_from(self.writer.write_buf(&mut self.unwritten).await?).unwrap_or(0);
        }
        self.writer.flush().await
    }

    /// Opens the session. Nothing was sent when it fails.
    pub(super) async fn bind(&mut self, settings: &Settings) -> Result<(), SendError> {
        self.ask(command::BIND_TRANSCEIVER, &settings.bind());
        self.flush().await.map_err(|e| broken(&e))?;
        for _ in 0..BEFORE_BIND {
            let pdu = loop {
                match self.next().map_err(|e| broken(&e))? {
                    Some(pdu) => break pdu,
                    None => self.fill().await.map_err(|e| broken(&e))?,
                }
            };
            let pdu = Pdu::read(&pdu).map_err(|e| broken(&e))?;
            if command::is_answer(pdu.command) {
                return settings.bound(&pdu);
            }
        }
        Err(broken(&"it talks and does not answer the bind"))
    }

    /// Ends a session in which nothing else is under way.
    pub(super) async fn unbind(mut self, pace: Pace) {
        self.ask(command::UNBIND, &[]);
        let goodbye = async {
            self.flush().await?;
            // Whatever it says: we go.
            self.fill().await?;
            self.writer.shutdown().await
        };
        let _ = timeout(pace.goodbye, goodbye).await;
    }
}

fn broken(error: &dyn std::fmt::Display) -> SendError {
    SendError::new(
        Class::Retry { after: None },
        "provider_unreachable",
        format!("the session with the message centre did not begin: {error}"),
    )
}

/// A `submit_sm` that waits for its answer.
struct Pending {
    answer: oneshot::Sender<Fate>,
    begins: u64,
    until: Instant,
    /// Given back when it is over.
    _permit: OwnedSemaphorePermit,
}

/// The task of a session.
pub(super) struct Task<S> {
    wire: Wire<S>,
    requests: mpsc::Receiver<Request>,
    window: Arc<Semaphore>,
    closing: CancellationToken,
    over: CancellationToken,
    take: Take,
    pace: Pace,
    pending: BTreeMap<u32, Pending>,
    storing: FuturesUnordered<BoxFuture<'static, (u32, bool)>>,
    heard: Instant,
    /// Until when the other side has to say that it is there.
    asked: Option<Instant>,
    /// Since when nothing could be written of what waits.
    stuck: Option<Instant>,
    /// Until when the end may take.
    leaving: Option<Instant>,
}

/// Makes a session of a bound connection: its handle, and what is to be run.
pub(super) fn session<S: AsyncRead + AsyncWrite>(wire: Wire<S>, window: u8, pace: Pace, take: Take) -> (Link, Task<S>) {
    let places = usize::from(window.max(1));
    let (sender, requests) = mpsc::channel(places);
    let (closing, over) = (CancellationToken::new(), CancellationToken::new());
    let window = Arc::new(Semaphore::new(places));
    let link = Link { requests: sender, window: window.clone(), closing: closing.clone(), over: over.clone() };
    let task = Task {
        wire,
        requests,
        window,
        closing,
        over,
        take,
        pace,
        pending: BTreeMap::new(),
        storing: FuturesUnordered::new(),
        heard: Instant::now(),
        asked: None,
        stuck: None,
        leaving: None,
    };
    (link, task)
}

/// Why a session ended.
pub(super) type End = &'static str;

/// We ended it.
pub(super) const CLOSED: End = "it was closed";

impl<S: AsyncRead + AsyncWrite> Task<S> {
    /// Until the session is over; why it is.
    pub(super) async fn run(mut self) -> End {
        let over = self.over.clone().drop_guard();
        let end = self.serve().await;
        drop(over);
        // What was being said when the other side went away, such as our own goodbye.
        let _ = timeout(self.pace.goodbye, async {
            self.wire.flush().await?;
            self.wire.writer.shutdown().await
        })
        .await;
        for (_, Pending { answer, begins, .. }) in std::mem::take(&mut self.pending) {
            let _ = answer.send(if begins < self.wire.written { Fate::Lost } else { Fate::NotWritten });
        }
        self.window.close();
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            let _ = request.answer.send(Fate::NotWritten);
        }
        end
    }

    async fn serve(&mut self) -> End {
        loop {
            loop {
                match self.wire.next() {
                    Ok(Some(pdu)) => {
                        if let Some(end) = self.hear(pdu) {
                            return end;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return "what came is no SMPP",
                }
            }
            if self.closing.is_cancelled() && self.leaving.is_none() && self.pending.is_empty() && self.storing.is_empty() {
                self.wire.ask(command::UNBIND, &[]);
                self.leaving = Some(Instant::now() + self.pace.goodbye);
            }
            if self.wire.unwritten.is_empty() {
                self.stuck = None;
            } else if self.stuck.is_none() {
                self.stuck = Some(Instant::now());
            }
            let due = self.due();
            self.wire.read.reserve(CHUNK);
            let Wire { reader, writer, read, unwritten, written, .. } = &mut self.wire;
            let (backed_up, closing) = (unwritten.len() > UNWRITTEN, self.closing.is_cancelled());
            tokio::select! {
                came = reader.read_buf(read), if !backed_up => match came {
                    Ok(0) => return "the message centre closed the connection",
                    Ok(_) => {}
                    Err(_) => return "the connection broke",
                },
                wrote = writer.write_buf(unwritten), if unwritten.has_remaining() => match wrote {
                    Ok(0) | Err(_) => return "the connection broke",
                    Ok(bytes) => {
                        *written += u64::try_from(bytes).unwrap_or(0);
                        self.stuck = None;
                        // TLS keeps some of it until it is told to.
                        if unwritten.is_empty() && writer.flush().await.is_err() {
                            return "the connection broke";
                        }
                    }
                },
                request = self.requests.recv(), if !closing && !backed_up => match request {
                    Some(request) => self.begin(request),
                    None => return CLOSED,
                },
                Some((sequence, kept)) = self.storing.next(), if !self.storing.is_empty() => self.answer_delivery(sequence, kept),
                () = self.closing.cancelled(), if !closing => {}
                () = sleep_until(due) => if let Some(end) = self.look() {
                    return end;
                },
            }
        }
    }

    fn begin(&mut self, request: Request) {
        // Nobody waits for it any more, so nobody would learn what became of it.
        if request.answer.is_closed() {
            return;
        }
        let (sequence, begins) = self.wire.ask(command::SUBMIT_SM, &request.body);
        let until = Instant::now() + self.pace.answer;
        self.pending.insert(sequence, Pending { answer: request.answer, begins, until, _permit: request.permit });
    }

    /// What is done about a PDU; why that is the end, if it is.
    fn hear(&mut self, bytes: Bytes) -> Option<End> {
        (self.heard, self.asked) = (Instant::now(), None);
        let Ok(pdu) = Pdu::read(&bytes) else { return Some("what came is no SMPP") };
        let sequence = pdu.sequence;
        match pdu.command {
            command::DELIVER_SM if self.storing.len() < STORING => {
                let kept = (self.take)(bytes.clone());
                self.storing.push(Box::pin(async move { (sequence, kept.await) }));
            }
            command::DELIVER_SM => self.answer_delivery(sequence, false),
            command::ENQUIRE_LINK => self.answer(command::ENQUIRE_LINK, OK, sequence, &[]),
            command::UNBIND => {
                self.answer(command::UNBIND, OK, sequence, &[]);
                return Some("the message centre ended the session");
            }
            command if command == command::answer(command::UNBIND) => return self.leaving.map(|_| CLOSED),
            command if command::is_answer(command) => {
                // Of the others nobody waits for an answer: it came too late, or to a question of this session itself.
                if let Some(pending) = self.pending.remove(&sequence) {
                    let _ = pending.answer.send(Fate::Answered(bytes));
                }
            }
            command::ALERT_NOTIFICATION | command::OUTBIND => {}
            _ => {
                self.wire.put(&Pdu { command: command::GENERIC_NACK, status: INVALID_COMMAND, sequence, body: &[] });
            }
        }
        None
    }

    fn answer(&mut self, to: u32, status: u32, sequence: u32, body: &[u8]) {
        self.wire.put(&Pdu { command: command::answer(to), status, sequence, body });
    }

    /// The answer has room for a message id, which stays empty (4.6.2).
    fn answer_delivery(&mut self, sequence: u32, kept: bool) {
        self.answer(command::DELIVER_SM, if kept { OK } else { TRY_AGAIN }, sequence, &[0]);
    }

    /// When something has to be looked at.
    fn due(&self) -> Instant {
        let idle = self.asked.unwrap_or(self.heard + self.pace.idle);
        let stuck = self.stuck.map(|since| since + self.pace.answer);
        let answers = self.pending.values().map(|pending| pending.until);
        answers.chain(stuck).chain(self.leaving).fold(idle, Instant::min)
    }

    /// Looks at what is late.
    fn look(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.leaving.is_some_and(|until| until <= now) {
            return Some(CLOSED);
        }
        if self.stuck.is_some_and(|since| since + self.pace.answer <= now) {
            return Some("the message centre reads nothing");
        }
        if self.asked.is_some_and(|until| until <= now) {
            return Some("the message centre is silent");
        }
        let late: Vec<u32> = self.pending.iter().filter(|(_, pending)| pending.until <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in &late {
            if let Some(pending) = self.pending.remove(sequence) {
                // Even if nothing of it was written yet: it may still be.
                let _ = pending.answer.send(Fate::Lost);
            }
        }
        if self.asked.is_none() && (!late.is_empty() || self.heard + self.pace.idle <= now) {
            self.wire.ask(command::ENQUIRE_LINK, &[]);
            self.asked = Some(now + self.pace.answer);
        }
        None
    }
}

#[cfg(test)]
mod tests;
