//! An adapter that panics is its message's misfortune alone.

use bytes::Bytes;
use http::{Request, Response};
use raven_core::Timestamp;
use raven_engine::{attempt::UNKNOWN_FOR, engine::Load};
use raven_providers::{Cx, HttpProvider, Outbound, Provider, SendError, Sent, Spec, sms::africas_talking::AfricasTalking as Real};
use raven_testkit::{
    app::{TestOptions, on_both_with},
    simulators::AfricasTalking,
};
use serde_json::{Value, json};

/// Africa's Talking, but for messages that are poison.
struct Poisonous;

impl HttpProvider for Poisonous {
    type Settings = <Real as HttpProvider>::Settings;

    const SPEC: Spec = Real::SPEC;

    fn request(settings: &Self::Settings, message: &Outbound<'_>, cx: &Cx<'_>) -> Result<Request<Bytes>, SendError> {
        assert_ne!(message.content.body.as_deref(), Some("poison"), "a bug");
        Real::request(settings, message, cx)
    }

    fn outcome(settings: &Self::Settings, response: &Response<Bytes>) -> Result<Sent, SendError> {
        Real::outcome(settings, response)
    }

    fn verify(settings: &Self::Settings, now: Timestamp, cx: &Cx<'_>) -> Option<Request<Bytes>> {
        Real::verify(settings, now, cx)
    }
}

fn find(id: &str) -> Option<&'static Provider> {
    const POISONOUS: Provider = Provider::over_http::<Poisonous>();
    (id == Poisonous::SPEC.id).then_some(&POISONOUS)
}

#[tokio::test]
async fn a_message_that_panics_an_adapter_stops_no_other_and_is_not_repeated() {
    let sim = AfricasTalking::start().await;
    let base_urls = [("africas_talking".to_owned(), sim.base_url())].into();
    on_both_with(TestOptions { base_urls, find_provider: Some(find), ..TestOptions::default() }, async |app| {
        let tenant = app.tenant("Acme").await;
        app.configure_sms(&tenant).await;
        let before = sim.count();
        let mut ids = Vec::new();
        for n in 0..20 {
            let body = if n % 2 == 0 { "poison" } else { "Hi Ada" };
            let accepted =
                app.post_message(&tenant.live, json!({ "channel": "sms", "to": "+254722000000", "body": body })).await.expect(202);
            ids.push(accepted["id"].as_str().expect("an id").to_owned());
        }
        app.settle().await;
        assert_eq!(app.engine.load(), Load::default(), "every permit came back");
        assert_eq!(sim.count(), before + 10);
        for (n, id) in ids.iter().enumerate() {
            let message = app.message(&tenant.live, id).await;
            let (status, last): (_, &Value) = (&message["status"], message["events"].as_array().and_then(|e| e.last()).expect("an event"));
            if n % 2 == 0 {
                // The engine can't know how far the adapter came.
                assert_eq!((status, &last["eventType"]), (&json!("sending"), &json!("outcome_unknown")));
            } else {
                assert_eq!(status, "sent");
            }
        }
        app.advance(UNKNOWN_FOR).await;
        let ended = app.message(&tenant.live, &ids[0]).await;
        assert_eq!((&ended["status"], &ended["failureReason"]), (&json!("failed"), &json!("outcome_unknown")));
        assert_eq!(sim.count(), before + 10, "nothing was tried again");
    })
    .await;
}
