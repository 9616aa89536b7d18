//! What the simulated providers do to a client, seen through the real adapters.

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use raven_core::{Channel, MessageId, Timestamp, message::Content};
use raven_providers::{Bound, Class, Cx, Outbound, SendError, Sent, find};
use raven_testkit::simulators::{AfricasTalking, Behaviour, Twilio};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A client of one provider.
struct Sender {
    call: Box<dyn raven_providers::HttpCall>,
    base_url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Sender {
    fn new(provider: &str, public: &Value, secret: &Value, base_url: String) -> Self {
        let provider = find(provider).expect("it is in the catalog");
        let (public, secret) = provider.spec.validate(Some(public), Some(secret)).expect("good settings");
        let Ok(Bound::Http(call)) = provider.bind(&public, &secret) else { panic!("it speaks HTTP") };
        Self { call, base_url, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    fn africas_talking(sim: &AfricasTalking) -> Self {
        Self::new("africas_talking", &json!({"username": "acme", "sender_id": "ACME"}), &json!({"api_key": "atsk_good"}), sim.base_url())
    }

    fn twilio(sim: &Twilio) -> Self {
        let public = json!({"account_sid": "AC00000000000000000000000000000001", "from": "+15005550006"});
        Self::new("twilio", &public, &json!({"auth_token": "good"}), sim.base_url())
    }

    /// Sends; the outer error is a lost answer.
    async fn send(&self, recipient: &str) -> Result<Result<Sent, SendError>, String> {
        let content = Content { body: Some("Habari ✓".into()), ..Content::default() };
        let id = MessageId::parse("8ad4f7c2-9e3b-4a1c-bc2f-1d8e3a9b7c4d").expect("an id");
        let message = Outbound { id, channel: Channel::Sms, recipient, content: &content, attempt: 1, now: Timestamp::from_millis(0) };
        let request = self
            .call
            .request(&message, &Cx { base_url: Some(self.base_url.as_str().into()), token: None, callback_url: None })
            .expect("a request");
        let response = self.client.request(request.map(Full::new)).await.map_err(|e| format!("{e:?}"))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| format!("{e:?}"))?.to_bytes();
        Ok(self.call.outcome(&http::Response::from_parts(parts, body)))
    }

    async fn class(&self, recipient: &str) -> (Class, String) {
        let error = self.send(recipient).await.expect("an answer").expect_err("no success");
        (error.class, error.code)
    }
}

#[tokio::test]
async fn both_accept_what_the_adapters_send() {
    let at = AfricasTalking::start().await;
    let sent = Sender::africas_talking(&at).send("+254722000000").await.expect("an answer").expect("success");
    let received = &at.received()[0];
    assert_eq!(sent.provider_message_id, received.accepted);
    assert_eq!(sent.cost.map(|c| c.to_string()).as_deref(), Some("KES 0.8"));
    assert_eq!(
        (received.recipient.as_str(), received.text.as_str(), received.sender.as_deref()),
        ("+254722000000", "Habari ✓", Some("ACME"))
    );

    let twilio = Twilio::start().await;
    let sent = Sender::twilio(&twilio).send("+254722000000").await.expect("an answer").expect("success");
    let received = &twilio.received()[0];
    assert_eq!((sent.provider_message_id, sent.segments), (received.accepted.clone(), Some(1)));
    assert_eq!(received.auth, "AC00000000000000000000000000000001:good");
}

#[tokio::test]
async fn scripted_refusals_reach_the_adapters_classes() {
    let sim = AfricasTalking::start().await;
    let sender = Sender::africas_talking(&sim);
    let second = Duration::from_secs(1);
    for (behaviour, class, code) in [
        (Behaviour::Refuse(403), Class::Rejected, "invalid_recipient"),
        (Behaviour::Refuse(405), Class::Retry { after: None }, "insufficient_balance"),
        (Behaviour::Refuse(799), Class::Rejected, "799"),
        (Behaviour::Garbage, Class::Unknown, "unreadable_answer"),
        (Behaviour::Html, Class::Unknown, "unreadable_answer"),
        (Behaviour::RateLimited { retry_after: Some(1) }, Class::RateLimited { after: Some(second) }, "rate_limited"),
        (Behaviour::RateLimited { retry_after: None }, Class::RateLimited { after: None }, "rate_limited"),
        (Behaviour::ServerError, Class::Retry { after: None }, "provider_unavailable"),
        (Behaviour::WrongCredentials, Class::Credentials, "invalid_credentials"),
        (Behaviour::Answer { status: 418, content_type: "text/plain", body: Bytes::from_static(b"short") }, Class::Rejected, "rejected"),
    ] {
        sim.script(behaviour.clone());
        assert_eq!(sender.class("+254722000000").await, (class, code.to_owned()), "{behaviour:?}");
    }
    assert!(sender.send("+254722000000").await.expect("an answer").is_ok(), "the script has ended");
    assert_eq!(sim.count(), 11);
    // Garbage is an answer that got lost, not a refusal.
    assert_eq!(sim.received().iter().filter(|m| m.accepted.is_some()).count(), 2);
    assert_eq!(sim.connections(), 1, "the connection is kept");

    let sim = Twilio::start().await;
    let sender = Sender::twilio(&sim);
    assert_eq!(sender.class("+15005550004").await, (Class::Rejected, "recipient_opted_out".into()));
    sim.script(Behaviour::RateLimited { retry_after: Some(1) });
    assert_eq!(sender.class("+254722000000").await, (Class::RateLimited { after: Some(second) }, "rate_limited".into()));
    sim.require("somebody:else");
    assert_eq!(sender.class("+254722000000").await, (Class::Credentials, "invalid_credentials".into()));
}

#[tokio::test]
async fn a_reset_before_the_request_leaves_nothing_and_one_after_it_a_message() {
    let sim = AfricasTalking::start().await;
    let sender = Sender::africas_talking(&sim);
    sim.script(Behaviour::ResetBeforeRequest);
    let lost = sender.send("+254722000000").await.expect_err("no answer");
    assert!(lost.contains("ConnectionReset") || lost.contains("BrokenPipe") || lost.contains("IncompleteMessage"), "{lost}");
    assert_eq!(sim.count(), 0);
    sim.script(Behaviour::ResetAfterRequest);
    sender.send("+254722000000").await.expect_err("no answer");
    let received = sim.received();
    assert!(received.len() == 1 && received[0].accepted.is_some());
}

#[tokio::test]
async fn a_reset_is_a_reset_and_not_an_end() {
    let sim = Twilio::start().await;
    sim.script(Behaviour::ResetAfterRequest);
    let mut stream = TcpStream::connect(("127.0.0.1", sim.port())).await.expect("it listens");
    let body = "To=%2B254722000000&From=ACME&Body=Hi";
    let head = format!(
        "POST /2010-04-01/Accounts/AC1/Messages.json HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YTpi\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it reads");
    let end = stream.read(&mut [0; 64]).await.expect_err("no end of the stream");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert_eq!(sim.count(), 1);
}

#[tokio::test]
async fn a_hanging_provider_has_the_message_and_hangs_only_there() {
    let sim = AfricasTalking::start().await;
    let sender = Sender::africas_talking(&sim);
    sim.script_for("+254722000001", Behaviour::Hang);
    sim.script_for("+254722000002", Behaviour::Trickle(Duration::from_micros(10)));
    sim.script_for("+254722000003", Behaviour::After(Duration::from_millis(1)));
    let hanging = sender.send("+254722000001");
    let others = async {
        let (second, third) = tokio::join!(sender.send("+254722000002"), sender.send("+254722000003"));
        second.expect("an answer").expect("success");
        third.expect("an answer").expect("success");
    };
    tokio::pin!(hanging);
    tokio::select! {
        biased;
        answer = &mut hanging => panic!("{answer:?}"),
        () = others => {}
    }
    // It may still be on its way there.
    while sim.count() < 3 {
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            answer = &mut hanging => panic!("{answer:?}"),
            () = std::future::ready(()) => {}
        }
    }
    assert!(sim.received().iter().all(|m| m.accepted.is_some()));
    drop(sim);
    hanging.await.expect_err("its connection ends with the simulator");
}

#[tokio::test]
async fn a_provider_can_go_away_and_come_back() {
    let sim = AfricasTalking::start().await;
    let (sender, port) = (Sender::africas_talking(&sim), sim.port());
    drop(sim);
    // The task that held the port ends when the runtime gets to it.
    let gone = loop {
        match sender.send("+254722000000").await {
            Err(gone) if gone.contains("ConnectionRefused") => break gone,
            _ => {}
        }
        tokio::task::yield_now().await;
    };
    assert!(gone.contains("Connect"), "{gone}");
    let sim = AfricasTalking::start_on(port).await;
    sender.send("+254722000000").await.expect("an answer").expect("success");
    assert_eq!(sim.count(), 1);
}
