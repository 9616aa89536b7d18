//! Providers that hand out a token for the credentials.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use raven_core::Timestamp;
use raven_providers::{Cx, HttpProvider, Outbound, Provider, SendError, Sent, Spec, Token, sms::africas_talking::AfricasTalking as Real};
use raven_testkit::app::{TestApp, TestOptions, TestTenant, on_both_with};
use serde_json::json;
use tokio::net::TcpListener;

const LASTS: Duration = Duration::from_secs(600);

/// Africa's Talking, had it tokens.
struct Tokened;

impl HttpProvider for Tokened {
    type Settings = <Real as HttpProvider>::Settings;

    const SPEC: Spec = Real::SPEC;

    const WANTS_TOKEN: bool = true;

    fn request(settings: &Self::Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        let mut request = Real::request(settings, message, cx)?;
        let token = HeaderValue::from_str(cx.token.expect("a token")).expect("a header's value");
        request.headers_mut().insert(HeaderName::from_static("apikey"), token);
        Ok(request)
    }

    fn outcome(settings: &Self::Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        Real::outcome(settings, response)
    }

    fn verify(_: &Self::Settings, _: Timestamp, _: &Cx<'_>) -> Option<Request<Bytes>> {
        None
    }

    fn token_request(_: &Self::Settings, _: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        let base = cx.base_url.as_deref().expect("the test's own");
        Some(Request::post(format!("{base}/token")).body(Bytes::new()).expect("a request"))
    }

    fn token(_: &Self::Settings, response: &Response<Bytes>) -> Result<Token, SendError> {
        Ok(Token { secret: String::from_utf8(response.body().to_vec()).expect("a text").into(), lasts: LASTS })
    }
}

fn find(id: &str) -> Option<&'static Provider> {
    const TOKENED: Provider = Provider::over_http::<Tokened>();
    (id == Tokened::SPEC.id).then_some(&TOKENED)
}

/// The provider: counts the tokens that it hands out, and takes the last one only.
#[derive(Default)]
struct Service {
    tokens: AtomicUsize,
    sent: AtomicUsize,
    hangs: AtomicBool,
}

impl Service {
    async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let (service, base) = (Arc::<Self>::default(), format!("http://{}", listener.local_addr().expect("an address")));
        let this = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                let answers = service_fn(move |request| {
                    let this = this.clone();
                    async move { Ok::<_, Infallible>(this.answer(&request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answers));
            }
        });
        (service, base)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/token" {
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let token = format!("token-{}", self.tokens.fetch_add(1, Ordering::SeqCst) + 1);
            return Response::new(Full::from(token));
        }
        let good = format!("token-{}", self.tokens.load(Ordering::SeqCst));
        let (status, body) = if request.headers()["apikey"] == good.as_str() {
            let n = self.sent.fetch_add(1, Ordering::SeqCst);
            let recipient = json!({ "statusCode": 101, "status": "Success", "number": "+254722000000", "cost": "KES 0.8", "messageId": format!("ATXid_{n}") });
            (201, json!({ "SMSMessageData": { "Message": "Sent", "Recipients": [recipient] } }).to_string())
        } else {
            (401, "The supplied authentication is invalid".to_owned())
        };
        Response::builder().status(status).body(Full::from(body)).expect("an answer")
    }
}

async fn with_service(test: impl AsyncFn(TestApp, TestTenant, &Service)) {
    let (service, base) = Service::start().await;
    let options =
        TestOptions { base_urls: [("africas_talking".to_owned(), base)].into(), find_provider: Some(find), ..TestOptions::default() };
    on_both_with(options, async |app| {
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        test(app, tenant, &service).await;
    })
    .await;
}

async fn send(app: &TestApp, tenant: &TestTenant) -> String {
    let body = json!({ "channel": "sms", "to": "+254722000000", "body": "Hi" });
    app.post_message(&tenant.live, body).await.expect(202)["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn one_token_serves_many_messages_until_its_end() {
    with_service(async |app, tenant, service| {
        let (tokens, sent) = (service.tokens.load(Ordering::SeqCst), service.sent.load(Ordering::SeqCst));
        join_all((0..20).map(|_| send(&app, &tenant))).await;
        app.settle().await;
        assert_eq!((service.tokens.load(Ordering::SeqCst), service.sent.load(Ordering::SeqCst)), (tokens + 1, sent + 20));
        app.advance(LASTS).await;
        send(&app, &tenant).await;
        app.settle().await;
        assert_eq!((service.tokens.load(Ordering::SeqCst), service.sent.load(Ordering::SeqCst)), (tokens + 2, sent + 21));
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_used_again() {
    with_service(async |app, tenant, service| {
        send(&app, &tenant).await;
        app.settle().await;
        // Withdrawn before its time.
        service.tokens.fetch_add(1, Ordering::SeqCst);
        let id = send(&app, &tenant).await;
        app.settle().await;
        assert_eq!(app.message(&tenant.live, &id).await["status"], "sending");
        app.advance(Duration::from_secs(120)).await;
        assert_eq!(app.message(&tenant.live, &id).await["status"], "sent");
    })
    .await;
}

#[tokio::test]
async fn a_token_service_that_hangs_keeps_no_call_beyond_its_time_and_sends_nothing() {
    with_service(async |app, tenant, service| {
        service.hangs.store(true, Ordering::SeqCst);
        let sent = service.sent.load(Ordering::SeqCst);
        let ids = join_all((0..40).map(|_| send(&app, &tenant))).await;
        // Would each wait for those before it, they would take longer than a test's patience.
        app.settle().await;
        for id in &ids {
            let message = app.message(&tenant.live, id).await;
            let events = message["events"].as_array().expect("events");
            assert_eq!(events.last().expect("an event")["eventType"], "retry_scheduled", "nothing can have gone out: {message}");
        }
        service.hangs.store(false, Ordering::SeqCst);
        // The breaker opened, and lets calls through little by little now.
        for _ in 0..40 {
            app.advance(Duration::from_secs(3)).await;
        }
        assert_eq!(service.sent.load(Ordering::SeqCst), sent + 40);
    })
    .await;
}
