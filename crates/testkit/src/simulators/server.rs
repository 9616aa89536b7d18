//! The server that the HTTP providers share: connections, scripted behaviours, and what was received.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{Behaviour, Received};

/// What makes a server a certain provider. Answers are whole; the server decides whether they arrive.
pub trait Wire: Send + Sync + 'static {
    /// The version path, which the base URL ends with.
    fn path(&self) -> &'static str;

    /// The credentials of a request, or the empty string.
    fn auth(&self, request: &Request<Bytes>) -> String;

    /// The messages that a request asks to send, or the answer to one that asks for something else or is no good.
    /// `accepted` finds an accepted message by its id.
    ///
    /// # Errors
    /// That answer.
    #[expect(clippy::result_large_err, reason = "the answer is as good a result as the messages")]
    fn read(&self, request: &Request<Bytes>, accepted: &dyn Fn(&str) -> Option<Received>) -> Result<Vec<Received>, Response<Bytes>>;

    /// An id for the `n`-th accepted message, or why its content is refused, as a code.
    ///
    /// # Errors
    /// The provider's code.
    fn accept(&self, message: &Received, n: u64) -> Result<String, u32>;

    /// The answer to messages, each accepted or refused with a code.
    fn answer(&self, request: &Request<Bytes>, messages: &[(Received, Result<String, u32>)]) -> Response<Bytes>;

    /// The answer to wrong credentials.
    fn wrong_credentials(&self, request: &Request<Bytes>) -> Response<Bytes>;

    /// The answer to too many requests.
    fn rate_limited(&self) -> Response<Bytes>;
}

/// An answer with a body and its type.
pub(super) fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A provider on a port of its own. Dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Simulator<W> {
    address: SocketAddr,
    shared: Arc<Shared<W>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<W> {
    wire: W,
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    ids: AtomicU64,
    connections: AtomicU64,
    under_way: AtomicU64,
    most: AtomicU64,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Behaviour>,
    by_recipient: HashMap<String, Behaviour>,
    otherwise: Option<Behaviour>,
    credentials: Option<String>,
}

impl<W: Wire + Default> Simulator<W> {
    /// On a free port.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// On this port, for one that went away and comes back.
    ///
    /// # Panics
    /// If it is taken.
    pub async fn start_on(port: u16) -> Self {
        Self::play(W::default(), port).await
    }
}

impl<W: Wire> Simulator<W> {
    /// As this provider on this port; 0 for a free one.
    ///
    /// # Panics
    /// If it is taken.
    pub(super) async fn play(wire: W, port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            wire,
            script: Mutex::default(),
            received: Mutex::default(),
            ids: AtomicU64::default(),
            connections: AtomicU64::default(),
            under_way: AtomicU64::default(),
            most: AtomicU64::default(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    /// What replaces the documented base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.wire.path())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next request not yet spoken for gets this, once. Further calls queue.
    pub fn script(&self, behaviour: Behaviour) {
        self.shared.script.lock().next.push_back(behaviour);
    }

    /// Every request to this recipient gets this, before anything that is queued. A reset before the request can't know one.
    pub fn script_for(&self, recipient: &str, behaviour: Behaviour) {
        self.shared.script.lock().by_recipient.insert(recipient.to_owned(), behaviour);
    }

    /// Every request that nothing else speaks for gets this.
    pub fn script_always(&self, behaviour: Behaviour) {
        self.shared.script.lock().otherwise = Some(behaviour);
    }

    /// Only these credentials are good from now on. Until then any are.
    pub fn require(&self, credentials: &str) {
        self.shared.script.lock().credentials = Some(credentials.to_owned());
    }

    /// All messages received so far, in the order in which their requests were read.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().clone()
    }

    /// How many that is, without copying them.
    pub fn count(&self) -> usize {
        self.shared.received.lock().len()
    }

    /// The most requests that were under way at a time.
    pub fn most_at_once(&self) -> u64 {
        self.shared.most.load(Ordering::Relaxed)
    }

    /// How many connections were opened.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl<W> Drop for Simulator<W> {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept<W: Wire>(listener: TcpListener, shared: Arc<Shared<W>>) {
    // Connections end with this set, so with the simulator.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(serve(stream, shared.clone()));
                }
                // Out of descriptors, or a client gone again: the next may do better.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve<W: Wire>(stream: TcpStream, shared: Arc<Shared<W>>) {
    let _ = stream.set_nodelay(true);
    if shared.resets_unread() {
        let _ = stream.set_zero_linger();
        return;
    }
    let reset = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (shared, reset) = (shared.clone(), reset.clone());
        async move {
            let response = shared.respond(request).await;
            if response.is_err() {
                reset.store(true, Ordering::Relaxed);
            }
            response
        }
    });
    let mut connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    let _ = (&mut connection).await;
    if reset.load(Ordering::Relaxed) {
        // Closing with nothing lingering sends RST.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// The connection is to be reset.
#[derive(Debug, thiserror::Error)]
#[error("reset")]
struct Reset;

/// A body that ends before its end.
#[derive(Debug, thiserror::Error)]
#[error("the body breaks off")]
struct Broken;

type Body = UnsyncBoxBody<Bytes, Broken>;

impl<W: Wire> Shared<W> {
    /// Is the next thing in the script a reset before the request is read?
    fn resets_unread(&self) -> bool {
        let mut script = self.script.lock();
        let queued = script.next.front() == Some(&Behaviour::ResetBeforeRequest);
        if queued {
            script.next.pop_front();
        }
        queued || (script.next.is_empty() && script.otherwise == Some(Behaviour::ResetBeforeRequest))
    }

    fn behaviour(&self, recipients: &[Received]) -> Behaviour {
        let mut script = self.script.lock();
        let own = recipients.iter().find_map(|m| script.by_recipient.get(&m.recipient)).cloned();
        own.or_else(|| script.next.pop_front()).or_else(|| script.otherwise.clone()).unwrap_or(Behaviour::Normal)
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        if self.resets_unread() {
            return Err(Reset);
        }
        let (parts, body) = request.into_parts();
        // A client that went away in mid-request leaves nothing.
        let body = Limited::new(body, 1 << 20).collect().await.map_err(|_| Reset)?.to_bytes();
        let request = Request::from_parts(parts, body);
        let wrong = self.script.lock().credentials.as_ref().is_some_and(|good| *good != self.wire.auth(&request));
        if wrong {
            return Ok(whole(self.wire.wrong_credentials(&request)));
        }
        let find = |id: &str| self.received.lock().iter().find(|m| m.accepted.as_deref() == Some(id)).cloned();
        let mut messages = match self.wire.read(&request, &find) {
            Ok(messages) => messages,
            Err(answer) => return Ok(whole(answer)),
        };
        let behaviour = self.behaviour(&messages);
        let outcomes: Vec<_> = messages.iter().map(|m| self.outcome(m, &behaviour)).collect();
        let at = Instant::now();
        for (message, outcome) in messages.iter_mut().zip(&outcomes) {
            message.at = at;
            message.accepted = outcome.as_ref().ok().cloned().filter(|_| behaviour.accepts());
        }
        self.received.lock().extend(messages.iter().cloned());
        let answer = self.wire.answer(&request, &messages.into_iter().zip(outcomes).collect::<Vec<_>>());
        self.most.fetch_max(self.under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let delivered = self.deliver(behaviour, &request, answer).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        delivered
    }

    fn outcome(&self, message: &Received, behaviour: &Behaviour) -> Result<String, u32> {
        match behaviour {
            Behaviour::Refuse(code) => Err(*code),
            _ => self.wire.accept(message, self.ids.fetch_add(1, Ordering::Relaxed) + 1),
        }
    }

    async fn deliver(&self, behaviour: Behaviour, request: &Request<Bytes>, documented: Response<Bytes>) -> Result<Response<Body>, Reset> {
        let status = documented.status().as_u16();
        Ok(match behaviour {
            Behaviour::Normal | Behaviour::Refuse(_) => whole(documented),
            Behaviour::After(pause) => {
                tokio::time::sleep(pause).await;
                whole(documented)
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::ResetBeforeRequest | Behaviour::ResetAfterRequest => return Err(Reset),
            Behaviour::Garbage => whole(answer(status, "application/json", &b"\x00\xff\xfe{]\"\x80garbage\r\n\r\n"[..])),
            Behaviour::Html => whole(answer(200, "text/html", "<!DOCTYPE html><title>Welcome</title><h1>It works</h1>")),
            Behaviour::RateLimited { retry_after } => {
                let mut response = self.wire.rate_limited();
                response.headers_mut().extend(retry_after.map(|seconds| (header::RETRY_AFTER, HeaderValue::from(seconds))));
                whole(response)
            }
            Behaviour::ServerError => whole(answer(500, "text/html", "<h1>Internal Server Error</h1>")),
            Behaviour::Trickle(pause) => trickle(documented, pause),
            Behaviour::HalfBody => half(documented),
            Behaviour::WrongType => {
                let mut response = documented;
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=iso-8859-1"));
                whole(response)
            }
            Behaviour::Redirect { to } => {
                let mut response = answer(307, "text/plain", "");
                response.headers_mut().extend(HeaderValue::from_str(&to).ok().map(|to| (header::LOCATION, to)));
                whole(response)
            }
            Behaviour::WrongCredentials => whole(self.wire.wrong_credentials(request)),
            Behaviour::Answer { status, content_type, body } => whole(answer(status, content_type, body)),
        })
    }
}

fn whole(response: Response<Bytes>) -> Response<Body> {
    response.map(|body| Full::new(body).map_err(never).boxed_unsync())
}

const fn never(e: Infallible) -> Broken {
    match e {}
}

/// The whole length is told, and half of it comes.
fn half(response: Response<Bytes>) -> Response<Body> {
    let length = response.body().len();
    let mut response = response.map(|mut body| {
        let first = body.split_to(length / 2);
        BodyExt::boxed_unsync(StreamBody::new(stream::iter([Ok(Frame::data(first)), Err(Broken)])))
    });
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn trickle(response: Response<Bytes>, pause: Duration) -> Response<Body> {
    response.map(|body| {
        let bytes = stream::unfold(body, move |mut rest| async move {
            if rest.is_empty() {
                return None;
            }
            tokio::time::sleep(pause).await;
            let first = rest.split_to(1);
            Some((Ok(Frame::data(first)), rest))
        });
        BodyExt::boxed_unsync(StreamBody::new(bytes))
    })
}
