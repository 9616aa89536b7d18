//! A provider whose wire format is a table: where credentials stand, which fields there are, and what it answers.
//!
//! It is stricter than the providers: a field that none of their documents names is refused by all, or a misspelt one would
//! pass for none at all.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, Request, Response};
use raven_core::address;
use serde_json::Value;

use super::{Listed, Received, Simulator, Wire, body, server::answer, sheets};

/// A provider's table.
pub(super) struct Sheet {
    /// As in the catalog.
    pub(super) id: &'static str,
    /// What the base URL ends with.
    pub(super) path: &'static str,
    /// Where credentials stand.
    pub(super) auth: Auth,
    /// Where messages are posted to, behind the base URL; `*` is any one part.
    pub(super) send: &'static str,
    /// The documented fields of such a request, with spaces between them: `to[].email!` must be there, `badge:n` is a number,
    /// `track:b` true or false, `id:*` anything, all others are text. `headers.**` is whatever begins so.
    pub(super) fields: &'static str,
    /// Whom the message reaches and what it says, of a body whose fields are good.
    pub(super) read: fn(&Value) -> Result<Vec<Received>, Fault>,
    /// What is wrong with a recipient?
    pub(super) recipient: fn(&str) -> bool,
    /// The answer to a bad field.
    pub(super) fault: fn(&Fault) -> Response<Bytes>,
    /// The id of the `n`-th message.
    pub(super) name: fn(&Received, u64) -> String,
    /// The answer to a message that was accepted under this id.
    pub(super) sent: fn(&Received, &str) -> Response<Bytes>,
    /// The answer to a message that is refused for this reason.
    pub(super) refused: fn(&Received, u32) -> Response<Bytes>,
    /// The answer to a request for something else, by method and path behind the base URL.
    pub(super) ask: fn(&Method, &str) -> Option<Response<Bytes>>,
    /// The answer to wrong credentials, by path behind the base URL.
    pub(super) wrong_credentials: fn(&str) -> Response<Bytes>,
    /// The answer to too many requests.
    pub(super) rate_limited: fn() -> Response<Bytes>,
}

/// Where credentials stand.
pub(super) enum Auth {
    /// In a header, behind a word.
    Header(&'static str, &'static str),
    /// In HTTP Basic.
    Basic,
    /// In a member of the body, or of the query.
    Body(&'static str),
    /// In a bearer token that was handed out for a signed assertion.
    ServiceAccount,
}

/// What is wrong with a request.
#[derive(Debug)]
pub(super) struct Fault {
    /// The field: `to.0.email`.
    pub(super) field: String,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Unknown,
    Missing,
    Invalid,
}

impl Fault {
    pub(super) fn new(field: impl Into<String>, why: Why) -> Self {
        Self { field: field.into(), why }
    }

    /// In words.
    pub(super) fn text(&self) -> String {
        match self.why {
            Why::Unknown => format!("{} is not a known field", self.field),
            Why::Missing => format!("{} is missing", self.field),
            Why::Invalid => format!("{} is not valid", self.field),
        }
    }
}

/// An answer of JSON.
pub(super) fn json(status: u16, body: &Value) -> Response<Bytes> {
    answer(status, "application/json", body.to_string())
}

/// The first of these fields that is there.
pub(super) fn either(body: &Value, fields: &[&str]) -> Result<String, Fault> {
    let found = fields.iter().find_map(|field| body.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty()));
    found.map(str::to_owned).ok_or_else(|| Fault::new(fields[0].trim_start_matches('/').replace('/', "."), Why::Missing))
}

/// A message to each.
pub(super) fn to_each<'a>(recipients: impl Iterator<Item = &'a str>, text: &str, sender: Option<&str>) -> Vec<Received> {
    recipients.map(|to| Received::new(to.trim(), text, sender.map(str::to_owned), String::new())).collect()
}

/// Is it an address, or a name and one?
pub(super) fn mailbox(text: &str) -> bool {
    let bare = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>'));
    address::Email::parse(bare.trim()).is_ok()
}

/// Is it a phone number, with its plus or without?
pub(super) fn phone(text: &str) -> bool {
    address::phone(&format!("+{}", text.trim_start_matches('+'))).is_ok()
}

/// Makes a server one of the providers in [`sheets`].
pub struct Play(&'static Sheet);

impl std::fmt::Debug for Play {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Play").field(&self.0.id).finish()
    }
}

impl Listed {
    /// Plays this provider of the catalog on a free port.
    ///
    /// # Panics
    /// If there is no table for it.
    pub async fn of(provider: &str) -> Self {
        let sheet = sheets::ALL.iter().find(|sheet| sheet.id == provider);
        Simulator::play(Play(sheet.unwrap_or_else(|| panic!("there is no table for {provider}"))), 0).await
    }
}

impl Play {
    /// The path behind the base URL.
    fn behind<'r>(&self, request: &'r Request<Bytes>) -> &'r str {
        request.uri().path().strip_prefix(self.0.path).unwrap_or_default()
    }
}

impl Wire for Play {
    fn path(&self) -> &'static str {
        self.0.path
    }

    fn auth(&self, request: &Request<Bytes>) -> String {
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match self.0.auth {
            Auth::Header(name, word) => header(name).strip_prefix(word).unwrap_or_default().to_owned(),
            Auth::Basic => {
                let plain = header("authorization").strip_prefix("Basic ").and_then(|b| STANDARD.decode(b).ok());
                plain.and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
            }
            Auth::Body(name) => {
                let member = body::read(request).and_then(|body| body[name].as_str().map(str::to_owned));
                let query = request.uri().query().unwrap_or_default();
                let parameter = || form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, value)| value.into_owned());
                member.or_else(parameter).unwrap_or_default()
            }
            Auth::ServiceAccount if self.behind(request) == "/token" => issuer(request).unwrap_or_default(),
            Auth::ServiceAccount => header("authorization").strip_prefix("Bearer ya29.").unwrap_or_default().to_owned(),
        }
    }

    fn read(&self, request: &Request<Bytes>, _: &dyn Fn(&str) -> Option<Received>) -> Result<Vec<Received>, Response<Bytes>> {
        let (sheet, path) = (self.0, self.behind(request));
        let auth = self.auth(request);
        if auth.is_empty() {
            return Err(self.wrong_credentials(request));
        }
        if let (Auth::ServiceAccount, "/token") = (&sheet.auth, path) {
            let handed_out = serde_json::json!({"access_token": format!("ya29.{auth}"), "expires_in": 3599, "token_type": "Bearer"});
            return Err(json(200, &handed_out));
        }
        if request.method() != Method::POST || !fits(sheet.send, path) {
            return Err((sheet.ask)(request.method(), path).unwrap_or_else(|| answer(404, "text/plain", "404 page not found")));
        }
        let Some(mut fields) = body::read(request) else { return Err((sheet.fault)(&Fault::new("body", Why::Invalid))) };
        check(sheet.fields, &fields).map_err(|fault| (sheet.fault)(&fault))?;
        let mut messages = (sheet.read)(&fields).map_err(|fault| (sheet.fault)(&fault))?;
        if let Some(bad) = messages.iter().find(|m| !(sheet.recipient)(&m.recipient)) {
            return Err((sheet.fault)(&Fault::new(format!("to: {}", bad.recipient), Why::Invalid)));
        }
        if let Auth::Body(name) = sheet.auth {
            fields[name] = "…".into();
        }
        for message in &mut messages {
            message.auth.clone_from(&auth);
            message.body.clone_from(&fields);
        }
        Ok(messages)
    }

    fn accept(&self, message: &Received, n: u64) -> Result<String, u32> {
        Ok((self.0.name)(message, n))
    }

    fn answer(&self, _: &Request<Bytes>, messages: &[(Received, Result<String, u32>)]) -> Response<Bytes> {
        match messages.first() {
            Some((message, Ok(id))) => (self.0.sent)(message, id),
            Some((message, Err(code))) => (self.0.refused)(message, *code),
            None => (self.0.fault)(&Fault::new("to", Why::Missing)),
        }
    }

    fn wrong_credentials(&self, request: &Request<Bytes>) -> Response<Bytes> {
        (self.0.wrong_credentials)(self.behind(request))
    }

    fn rate_limited(&self) -> Response<Bytes> {
        (self.0.rate_limited)()
    }
}

/// Who signed the assertion that a token is asked for with, if it says what Google wants it to say. Whether it is genuine is
/// for a library of Google's to tell.
fn issuer(request: &Request<Bytes>) -> Option<String> {
    let form = body::read(request)?;
    if form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
        return None;
    }
    let mut parts = form["assertion"].as_str()?.split('.');
    let mut part = || serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(parts.next()?.trim_end_matches('=')).ok()?).ok();
    let (head, claims) = (part()?, part()?);
    let lasts = claims["exp"].as_i64()? - claims["iat"].as_i64()?;
    let scopes = claims["scope"].as_str()?;
    let good = head["alg"] == "RS256" && (1..=3600).contains(&lasts) && scopes.split(' ').any(|s| SCOPES.contains(&s));
    claims["iss"].as_str().filter(|_| good).map(str::to_owned)
}

/// Either lets messages be sent.
const SCOPES: &[&str] = &["https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"];

fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(wanted, part)| *wanted == part || (*wanted == "*" && !part.is_empty()))
}

/// Are these the documented fields, each of its kind, and all that must be there?
fn check(documented: &str, body: &Value) -> Result<(), Fault> {
    let leaves = body::leaves(body);
    let rules: Vec<(&str, &str, bool)> = documented
        .split_whitespace()
        .map(|text| {
            let required = text.ends_with('!');
            let text = text.trim_end_matches('!');
            let (name, kind) = text.split_once(':').filter(|(_, kind)| kind.len() == 1).unwrap_or((text, "s"));
            (name, kind, required)
        })
        .collect();
    for leaf in &leaves {
        let named = |name: &str| match name.strip_suffix("**") {
            Some(begin) => leaf.pattern.len() > begin.len() && leaf.pattern.starts_with(begin),
            None => leaf.pattern == name,
        };
        let Some((_, kind, _)) = rules.iter().find(|(name, ..)| named(name)) else {
            return Err(Fault::new(&leaf.path, Why::Unknown));
        };
        let good = match *kind {
            "n" => leaf.value.is_number(),
            "b" => leaf.value.is_boolean(),
            "*" => true,
            _ => leaf.value.is_string(),
        };
        if !good {
            return Err(Fault::new(&leaf.path, Why::Invalid));
        }
    }
    let there = |name: &str| leaves.iter().any(|leaf| leaf.pattern == name && leaf.value.as_str() != Some(""));
    match rules.iter().find(|(name, _, required)| *required && !there(name)) {
        Some((name, ..)) => Err(Fault::new(name.replace("[]", ".0"), Why::Missing)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_unknown_missing_or_of_another_kind_is_told_by_its_place() {
        const FIELDS: &str = "to[].email! n:n b:b any:* headers.** v:**";
        let wrong = |body: Value| check(FIELDS, &body).map_err(|fault| (fault.field, fault.why));
        let good = json!({"to": [{"email": "a"}], "n": 1, "b": true, "any": [], "headers": {"X-A": "1"}, "cc": null, "v:order": "1"});
        assert_eq!(wrong(good), Ok(()));
        assert_eq!(wrong(json!({"to": []})), Err(("to.0.email".into(), Why::Missing)));
        assert_eq!(wrong(json!({"to": [{"email": ""}]})), Err(("to.0.email".into(), Why::Missing)));
        assert_eq!(wrong(json!({"to": [{"email": "a"}, {"mail": "b"}]})), Err(("to.1.mail".into(), Why::Unknown)));
        assert_eq!(wrong(json!({"to": [{"email": 7}]})), Err(("to.0.email".into(), Why::Invalid)));
        assert_eq!(wrong(json!({"to": [{"email": "a"}], "n": "1"})), Err(("n".into(), Why::Invalid)));
    }

    #[test]
    fn a_star_is_one_part_of_a_path() {
        assert!(fits("/Account/*/Message/", "/Account/MA1/Message/"));
        for path in ["/Account//Message/", "/Account/MA1/Message", "/Account/MA1/b/Message/", ""] {
            assert!(!fits("/Account/*/Message/", path), "{path}");
        }
    }
}
