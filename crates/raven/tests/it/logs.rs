//! What the log tells of requests and attempts, where it is asked to.

use serde_json::Value;

use crate::{
    crash::{Server, simulator},
    support::{Running, call},
};

#[test]
fn each_request_and_each_attempt_is_one_event_where_asked_for() {
    let (runtime, sim) = simulator();
    let server = Server::new(sim.base_url(), None);
    let mut command = server.command();
    command.args(["--log-format", "json"]).env("RAVEN_LOG", "info,raven::request=debug,raven::attempt=debug");
    let mut running = Running::start(command);
    running.line("listening");
    let sender = server.tenant();
    let (status, accepted) = sender.post(1).expect("an answer");
    assert_eq!(status, 202);
    let attempt = event(&running.line("\"attempted\""));
    assert_eq!(call(&server.address, "GET", "/v1/nothing", &[("x-request-id", "mine")], "").0, 404);
    let refused = event(&running.line("\"mine\""));
    running.signal("TERM");
    assert_eq!(running.end(), 0, "{}", running.seen);

    assert_eq!((attempt["message"].as_str(), attempt["target"].as_str()), (Some("attempted"), Some("raven::attempt")), "{attempt}");
    assert_eq!(attempt["id"], accepted["id"], "{attempt}");
    for (field, value) in [("provider", "africas_talking"), ("outcome", "sent"), ("status", "sent"), ("channel", "sms")] {
        assert_eq!(attempt[field], value, "{attempt}");
    }
    assert!(attempt["duration_us"].as_u64().is_some_and(|us| us >= 20_000), "the provider takes 20 ms: {attempt}");
    let sent: Vec<Value> = running.seen.lines().map(event).filter(|e| e["route"] == "/v1/messages").collect();
    let [sent] = sent.as_slice() else { panic!("one request, one event: {sent:?}") };
    assert_eq!((&sent["method"], &sent["status"], &sent["replayed"]), (&"POST".into(), &202.into(), &false.into()), "{sent}");
    assert_eq!((sent["tenant"].as_str(), sent["key"].is_string()), (attempt["tenant"].as_str(), true), "{sent}");
    assert_eq!((&refused["status"], &refused["code"], &refused["tenant"]), (&404.into(), &"not_found".into(), &Value::Null), "{refused}");
    assert!(!running.seen.contains("+2547") && !running.seen.contains("order-1"), "no recipient, and nothing that was said");
    drop(sim);
    runtime.shutdown_background();
}

fn event(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}
