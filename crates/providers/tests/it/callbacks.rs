//! Documented callbacks: is each known to be the provider's own, and what does it tell? The expectation lies beside the fixture.
//!
//! A fixture is a request as it comes: `POST /path?query`, header fields, an empty line, the body. `# now 1777631098114` before it
//! sets the time (the default). Settings are those of `callbacks/settings.json`, or else of the provider; a folder within `callbacks` has
//! settings of its own, for another way in which callbacks can be set up. `RAVEN_UPDATE_DOCS=1` writes expectations that are missing, to
//! be read.

use std::{fs, iter, path::Path};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use raven_core::Timestamp;
use raven_providers::{
    Bound, CATALOG, Callback, HttpCall, Provider, Road, Told, Verdict,
    callback::{Challenge, Proof},
};

use crate::{files, folder, json, read, secrets};

/// Where the fixtures were sent to.
const HOST: &str = "https://raven.example";

/// A callback from its fixture.
struct Fixture {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Vec<u8>,
    now: Timestamp,
}

impl Fixture {
    fn parse(text: &str) -> Self {
        let (mut now, mut rest) = (1_777_631_098_114, text);
        while let Some(comment) = rest.strip_prefix("# ") {
            let (line, after) = comment.split_once('\n').expect("a request after the comment");
            rest = after;
            if let Some(given) = line.strip_prefix("now ") {
                now = given.parse().expect("milliseconds");
            }
        }
        let (head, body) = rest.split_once("\n\n").unwrap_or((rest.trim_end(), ""));
        let mut lines = head.lines();
        let (method, target) = lines.next().and_then(|line| line.split_once(' ')).expect("a method and a target");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a header field");
            (name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"))
        });
        Self {
            method: method.parse().expect("a method"),
            target: target.to_owned(),
            headers: headers.collect(),
            // A text file ends with a line break, which is not the body's.
            body: body.strip_suffix('\n').unwrap_or(body).as_bytes().to_vec(),
            now: Timestamp::from_millis(now),
        }
    }

    fn callback(&self) -> Callback<'_> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        Callback { method: &self.method, query, headers: &self.headers, body: &self.body }
    }

    fn verdict(&self, call: &dyn HttpCall, certificates: &Path) -> Verdict {
        let url = format!("{HOST}{}", self.target);
        let verdict = call.authenticate(&self.callback(), &Proof { url: &url, now: self.now, certificate: None });
        let Verdict::Certificate(wanted) = &verdict else { return verdict };
        // The last part of the URL is the file's name; one that is not there is asked for in vain.
        let Ok(certificate) = fs::read(certificates.join(wanted.rsplit('/').next().unwrap_or_default())) else { return verdict };
        call.authenticate(&self.callback(), &Proof { url: &url, now: self.now, certificate: Some(&certificate) })
    }

    fn shown(&self, call: &dyn HttpCall, certificates: &Path) -> String {
        if let Some(challenge) = call.challenge(&self.callback()) {
            return match challenge {
                Challenge::Answer(text) => format!("challenge: {text}\n"),
                Challenge::Refused => "challenge refused\n".to_owned(),
            };
        }
        let verdict = match self.verdict(call, certificates) {
            Verdict::Genuine { once: None } => "genuine".to_owned(),
            Verdict::Genuine { once: Some(once) } => format!("genuine once: {once}"),
            Verdict::Unsigned => "unsigned".to_owned(),
            Verdict::Refused(why) => return format!("refused: {why}\n"),
            Verdict::Certificate(url) => return format!("needs the certificate at {url}\n"),
        };
        let told = match call.read(&self.callback()) {
            Ok(told) => serde_json::to_string_pretty(&told).expect("JSON"),
            Err(why) => format!("unreadable: {why}"),
        };
        format!("{verdict}\n{told}\n")
    }
}

/// Every provider that calls back, with its settings for it and its fixtures: once for each way in which its callbacks can be set up.
fn all() -> impl Iterator<Item = (&'static Provider, Box<dyn HttpCall>, Vec<std::path::PathBuf>)> {
    CATALOG.iter().filter(|p| p.spec.callbacks.is_some_and(|callbacks| callbacks.road == Road::Url)).flat_map(|provider| {
        let usual = folder(provider).join("callbacks");
        let entries = fs::read_dir(&usual).unwrap_or_else(|e| panic!("{}: {e}", usual.display()));
        let mut others: Vec<_> = entries.map(|e| e.expect("a readable folder").path()).filter(|path| path.is_dir()).collect();
        others.sort();
        iter::once(usual).chain(others).filter_map(move |within| {
            let own = within.join("settings.json");
            let file = json(&if own.exists() { own } else { folder(provider).join("settings.json") });
            let (public, secret) = provider
                .spec
                .validate(file.get("publicConfig"), file.get("secretConfig"))
                .unwrap_or_else(|p| panic!("{}: {:?}", provider.spec.id, p.into_vec()));
            let Bound::Http(call) = provider.bind(&public, &secret).expect("valid settings fit") else { return None };
            Some((provider, call, files(within, "http")))
        })
    })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
fn every_documented_callback_tells_what_is_expected() {
    let mut wrong = Vec::new();
    for (provider, call, files) in all() {
        for file in files {
            let found = Fixture::parse(&read(&file)).shown(&*call, &folder(provider).join("callbacks"));
            let beside = file.with_extension("expected");
            if !beside.exists() && std::env::var_os("RAVEN_UPDATE_DOCS").is_some() {
                fs::write(&beside, &found).expect("a writable folder");
            }
            let expected = read(&beside);
            if found != expected {
                wrong.push(format!("{}:\nexpected\n{expected}\nfound\n{found}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_signed_callback_that_was_changed_is_refused() {
    for (provider, call, files) in all() {
        let folder = folder(provider).join("callbacks");
        let mut signed = 0;
        for file in &files {
            let original = Fixture::parse(&read(file));
            let Verdict::Genuine { once } = original.verdict(&*call, &folder) else { continue };
            signed += 1;
            let genuine = |changed: &Fixture| matches!(changed.verdict(&*call, &folder), Verdict::Genuine { .. });
            // Where the signature does not cover the body, it can be used only once.
            if once.is_none() && !original.body.is_empty() {
                let mut changed = Fixture::parse(&read(file));
                // A letter or a digit becomes another one, so that the form of the body stays.
                let at = changed.body.iter().rposition(u8::is_ascii_alphanumeric).expect("a letter or a digit");
                changed.body[at] = if changed.body[at] == b'1' { b'2' } else { b'1' };
                assert!(!genuine(&changed), "{}: the body was changed", file.display());
                changed.body.clone_from(&original.body);
                changed.body.truncate(at);
                assert!(!genuine(&changed), "{}: the body was cut", file.display());
            }
            let mut bare = Fixture::parse(&read(file));
            bare.headers.clear();
            if !original.headers.keys().all(|name| name == "content-type") {
                assert!(!genuine(&bare), "{}: there are no header fields", file.display());
            }
        }
        // Set up in another way, it may sign nothing.
        if files.iter().any(|file| file.parent() != Some(&folder)) {
            continue;
        }
        let says_so = !provider.spec.callbacks.is_some_and(|c| c.authenticity.starts_with("not signed"));
        assert_eq!(signed > 0, says_so, "{}: {signed} signed fixtures", provider.spec.id);
    }
}

#[test]
fn a_secret_in_a_callback_is_taken_out() {
    for (provider, call, files) in all() {
        for file in files {
            let fixture = Fixture::parse(&read(&file));
            for secret in secrets(provider) {
                let text = String::from_utf8_lossy(&fixture.body).into_owned();
                // In place of the first value that stands in quotes after a colon, or after an equals sign.
                let Some((head, tail)) = text.split_once(":\"").or_else(|| text.split_once('=')) else { continue };
                let mark = if text.contains(":\"") { ":\"" } else { "=" };
                let end = tail.find(['"', '&']).unwrap_or(tail.len());
                let body = format!("{head}{mark}{secret}{}", &tail[end..]).into_bytes();
                let changed = Callback { body: &body, ..fixture.callback() };
                let shown = format!("{:?}", call.read(&changed));
                assert!(!shown.contains(&secret), "{}: {shown}", file.display());
            }
        }
    }
}

/// Nothing that was told is longer or stranger than what the database takes.
fn check(told: &[Told]) {
    for each in told {
        if let Told::Report(report) = each {
            assert!(!report.key.contains(char::is_control) && report.key.len() <= 512, "{report:?}");
            assert!(report.payload.len() <= 4096 && !report.payload.contains('\0'), "{report:?}");
            assert!(report.code.as_ref().is_none_or(|c| !c.is_empty() && !c.contains(char::is_control)), "{report:?}");
            assert!(report.provider_message_id.as_ref().is_none_or(|id| !id.is_empty() && id.len() <= 512), "{report:?}");
        }
        if let Told::Inbound(inbound) = each {
            assert!(!inbound.provider_message_id.is_empty() && inbound.provider_message_id.len() <= 512, "{inbound:?}");
            assert!(!inbound.text.contains('\0') && !inbound.payload.contains('\0'), "{inbound:?}");
            assert!(!format!("{}{}", inbound.from, inbound.to).contains(char::is_control), "{inbound:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_callback_makes_an_adapter_panic(
        query in "[ -~]{0,60}",
        body in prop::collection::vec(any::<u8>(), 0..300),
        file in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        for (_, call, files) in all() {
            let mut fixture = Fixture::parse(&read(file.get(&files)));
            let at = from.index(fixture.body.len() + 1);
            let mut spliced = fixture.body.clone();
            spliced.splice(at..(at + with.len()).min(spliced.len()), with.iter().copied());
            for body in [body.clone(), spliced, fixture.body[..at].to_vec()] {
                fixture.body = body;
                let url = format!("{HOST}/v1/webhooks?{query}");
                let callback = Callback { query: &query, ..fixture.callback() };
                let proof = Proof { url: &url, now: fixture.now, certificate: Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") };
                let _ = (call.authenticate(&callback, &proof), call.challenge(&callback));
                check(&call.read(&callback).unwrap_or_default());
            }
        }
    }
}
