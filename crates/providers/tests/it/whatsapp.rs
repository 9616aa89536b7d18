//! What can't be sent by WhatsApp, and what its providers say of credentials.

use raven_core::message::{Content, Template};
use raven_providers::{Bound, Class, Cx, HttpCall, SendError, find};

use crate::{answer, bound, outbound, read};

fn call(id: &str) -> Box<dyn HttpCall> {
    let Bound::Http(call) = bound(find(id).expect("it is in the catalog")) else { panic!("{id} speaks HTTP") };
    call
}

fn refused(id: &str, content: &Content<'_>) -> SendError {
    let provider = find(id).expect("it is in the catalog");
    let message = outbound(provider.spec.channel, "+254722000000", content);
    let error = call(id).request(&message, &Cx::default()).expect_err("it can't be sent");
    assert_eq!(error.class, Class::Rejected);
    error
}

fn template(name: &str, language: Option<&str>) -> Template {
    Template { name: name.to_owned(), language: language.map(str::to_owned), parameters: Vec::new(), header_media_url: None }
}

const SID: &str = "HX0123456789abcdef0123456789abcdef";

#[test]
fn a_message_says_one_thing() {
    for (id, name, language) in [("whatsapp_cloud", "hello", Some("en")), ("twilio_whatsapp", SID, None)] {
        assert_eq!(refused(id, &Content::default()).code, "missing_body");
        let both = Content { body: Some("Hi".into()), whatsapp_template: Some(template(name, language)), ..Content::default() };
        assert_eq!(refused(id, &both).code, "invalid_message");
        let media = Content { body: None, media_url: Some("https://example.com/a.png".into()), ..both };
        assert_eq!(refused(id, &media).code, "invalid_message");
    }
}

#[test]
fn texts_have_a_longest_length() {
    let body = |n: usize| Content { body: Some("é".repeat(n).into()), ..Content::default() };
    let caption = Content { media_url: Some("https://example.com/a.png".into()), ..body(1025) };
    assert_eq!(refused("whatsapp_cloud", &body(4097)).code, "body_too_long");
    assert_eq!(refused("whatsapp_cloud", &caption).code, "body_too_long");
    assert_eq!(refused("twilio_whatsapp", &body(1601)).code, "body_too_long");
    let audio = Content { body: Some("Hi".into()), media_url: Some("https://example.com/a.mp3".into()), ..Content::default() };
    assert_eq!(refused("whatsapp_cloud", &audio).code, "invalid_message");
}

#[test]
fn a_template_that_the_provider_can_not_fill_is_refused() {
    let with = |template| Content { whatsapp_template: Some(template), ..Content::default() };
    assert!(refused("whatsapp_cloud", &with(template("hello", None))).message.contains("language"));
    let audio = Template { header_media_url: Some("https://example.com/a.ogg".into()), ..template("hello", Some("en")) };
    assert_eq!(refused("whatsapp_cloud", &with(audio)).code, "invalid_template");
    for name in ["hello", "HX0123", &SID.replace("HX", "MG"), &SID.replace('f', "g")] {
        assert_eq!(refused("twilio_whatsapp", &with(template(name, None))).code, "invalid_template", "{name}");
    }
    let header = Template { header_media_url: Some("https://example.com/a.png".into()), ..template(SID, None) };
    for extra in [template(SID, Some("en")), header] {
        assert_eq!(refused("twilio_whatsapp", &with(extra)).code, "invalid_template");
    }
    let sender = Content { from: Some("ACME".into()), body: Some("Hi".into()), ..Content::default() };
    assert_eq!(refused("twilio_whatsapp", &sender).code, "invalid_sender");
}

#[test]
fn meta_tells_a_wrong_token_by_its_code() {
    let call = call("whatsapp_cloud");
    let request = call.verify(outbound(raven_core::Channel::Whatsapp, "", &Content::default()).now, &Cx::default()).expect("a check");
    assert_eq!(request.uri(), "https://graph.facebook.com/v25.0/106540352242922?fields=display_phone_number,verified_name,quality_rating");
    assert!(call.verified(&answer("HTTP/1.1 200 OK\n\n{\"display_phone_number\":\"+1 555\"}")).is_ok());
    let error = call.verified(&answer("HTTP/1.1 400 Bad Request\n\n{\"error\":{\"code\":190}}")).expect_err("it is wrong");
    assert_eq!((error.class, error.code.as_str()), (Class::Credentials, "invalid_credentials"));
    let error = call.verified(&answer("HTTP/1.1 503 Service Unavailable\n\n")).expect_err("it can't be told");
    assert!(matches!(error.class, Class::Retry { .. }));
}

#[test]
fn outside_the_window_the_advice_is_a_template() {
    for (id, file) in [("whatsapp_cloud", "error_131047"), ("twilio_whatsapp", "error_63016")] {
        let folder = crate::folder(find(id).expect("it is in the catalog")).join("answers");
        let error = call(id).outcome(&answer(&read(&folder.join(file).with_extension("http")))).expect_err("it is refused");
        assert_eq!(error.code, "outside_window");
        assert!(error.message.contains("send a whatsappTemplate"), "{}", error.message);
    }
}
