//! `docs/providers.md` and `docs/sandbox.md` are made from the catalog and the sandbox. `RAVEN_UPDATE_DOCS=1 cargo test` writes it.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use raven_core::{Channel, message::Feature};
use raven_providers::{CATALOG, Callbacks, Kind, Provider, Road, sandbox::LIVES, schema::Rule};

const HEAD: &str = "# Providers

Made from the catalog (`crates/providers/src/registry.rs`), which `GET /v1/admin/providers/catalog` answers too.

A tenant's admin connects a provider with `POST /v1/admin/providers`: its id, a label, and the settings below. Then
`POST /v1/admin/providers/{id}/verify` asks the provider whether the credentials work, without sending anything, and
`POST /v1/admin/providers/{id}/test` sends a real test message through it (to the `to` in the body), once, and tells what the provider said.
Secret settings are sealed before they are stored, and never shown again; `PATCH /v1/admin/providers/{id}` replaces single ones.

```
curl -X POST http://127.0.0.1:8080/v1/admin/providers -H 'X-Raven-Key: rk_live_…' -H 'Content-Type: application/json' \\
  -d '{\"provider\":\"africas_talking\",\"label\":\"SMS\",\"publicConfig\":{\"username\":\"acme\"},\"secretConfig\":{\"api_key\":\"atsk_…\"}}'
```

An operator can point a provider at another base URL with `RAVEN_PROVIDER_<ID>_BASE_URL`, for example
`RAVEN_PROVIDER_AFRICAS_TALKING_BASE_URL=http://127.0.0.1:9901/version1`.

## What becomes of a message

Most providers tell afterwards whether a message arrived, and what people answer, by calling the URL of the config (SMPP: over the session
that sends). Below stands where each wants to have it, and how such a callback is known to be the provider's own. A secret that callbacks are signed with is a setting
like others. While it is not given, only the token in the URL stands for them: give it wherever the provider has one.

## How far to trust an adapter

Each is held to requests, answers and callbacks written down from the provider's own documentation (`crates/providers/fixtures`). No test
calls a provider itself: that takes an account with each. Our simulators are written from the documentation as well; where an SDK is content
with one, whoever wrote the SDK has read it the same way, and the adapter sends to the same simulator. What was proven beyond that:
";

const CARRIES: &str = "
## What each carries

A message with a field that its provider does not carry is refused with 400 `unsupported_feature`. `tags` and `metadata` are shown with
the message in any case, and passed on where the provider takes them.
";

/// The adapter and the provider's own library speak to one simulator, and each understands what it gets.
const SDK: &str = "the official SDK sends to our simulator, and is content with what it gets";

/// What an adapter's fidelity was proven by, beside documented requests, answers and callbacks. One that is not named has nothing but those.
const PROVEN: &[(&str, &[&str])] = &[
    ("africas_talking", &[SDK]),
    ("twilio", &[SDK, "its callbacks, signed by the official SDK, are taken by the running server"]),
    ("vonage", &[SDK, "callbacks are signed by the official SDK, and its own test signatures pass"]),
    ("infobip", &[SDK]),
    ("messagebird", &[SDK, "callbacks are signed as the official SDK checks it, and its own test signatures get the same verdicts"]),
    ("termii", &["a library of the community sends to our simulator, and is content with what it gets"]),
    ("plivo", &[SDK, "callbacks are signed by the official SDK, and its own test signatures pass"]),
    (
        "whatsapp_cloud",
        &[
            "a library of the community sends to our simulator, and is content with what it gets",
            "callbacks are signed as a library of the community checks it",
        ],
    ),
    ("smpp", &["a message centre made with node-smpp takes messages, and its receipts and inbound messages are understood"]),
    ("smtp", &["messages are sent to real mail servers"]),
    ("postmark", &[SDK]),
    ("resend", &[SDK, "callbacks are signed by Svix's own library, and the published example of Standard Webhooks is genuine"]),
    (
        "ses",
        &[
            "messages are sent to moto, an SES that is not ours (it checks no signature), and what its SNS signs is genuine",
            "signatures of requests are those of AWS's published examples, and AWS's own validator takes the callbacks that we take",
        ],
    ),
    ("sendgrid", &[SDK, "callbacks are what SendGrid's own library takes, and the example that it is tested with is genuine"]),
    ("mailgun", &[SDK]),
    ("brevo", &[SDK]),
    ("mailjet", &[SDK]),
    ("fcm", &[SDK, "Google's own library takes the assertion that tokens are asked for with"]),
    ("apns", &["a JWT library that is not ours takes the token"]),
    (
        "web_push",
        &[
            "encryption is that of the example in RFC 8291, and http_ece, which is not ours, decrypts what is sent",
            "py-vapid, which is not ours, takes the VAPID header",
        ],
    ),
];

/// The fields that providers of a channel can differ in.
fn features(channel: Channel) -> Vec<Feature> {
    let all: BTreeSet<Feature> = of(channel).flat_map(|p| p.spec.features).copied().collect();
    all.into_iter().collect()
}

fn of(channel: Channel) -> impl Iterator<Item = &'static Provider> {
    CATALOG.iter().filter(move |p| p.spec.channel == channel)
}

fn written() -> Result<String, std::fmt::Error> {
    let mut out = HEAD.to_owned();
    writeln!(out, "\n| provider | proven by |\n|---|---|")?;
    for provider in CATALOG {
        let proof = PROVEN
            .iter()
            .find(|(id, _)| *id == provider.spec.id)
            .map_or_else(|| "what is documented only".to_owned(), |(_, proofs)| proofs.join("; "));
        writeln!(out, "| [{}](#{}) | {proof} |", provider.spec.name, provider.spec.id)?;
    }
    out.push_str(CARRIES);
    let channels = || Channel::ALL.iter().copied().filter(|channel| of(*channel).next().is_some());
    for channel in channels() {
        let features = features(channel);
        let names: Vec<String> = features.iter().map(|f| format!("`{}`", f.name())).collect();
        writeln!(out, "\n| {channel} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()))?;
        for provider in of(channel) {
            let marks: Vec<&str> = features.iter().map(|f| if provider.spec.features.contains(f) { "yes" } else { "–" }).collect();
            writeln!(out, "| [{}](#{}) | {} |", provider.spec.name, provider.spec.id, marks.join(" | "))?;
        }
    }
    for provider in CATALOG {
        let spec = provider.spec;
        writeln!(out, "\n## {}\n\n{}, channel {}. Its own documentation: <{}>.", spec.id, spec.name, spec.channel, spec.docs_url)?;
        if let Some(base) = spec.base_url {
            writeln!(out, "Base URL: `{base}`.")?;
        }
        writeln!(out, "\n| setting | | type | |\n|---|---|---|---|")?;
        for field in spec.fields {
            let side = if field.secret { "secretConfig" } else { "publicConfig" };
            let need = if field.required { "required" } else { "optional" };
            let kind = match field.kind {
                Kind::OneOf(values) => values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", "),
                kind => kind.name().to_owned(),
            };
            writeln!(out, "| `{side}.{}` | {need} | {kind} | {} |", field.name, field.help.replace('|', "\\|"))?;
        }
        for rule in spec.rules {
            let names = |names: &[&str], word| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(word);
            match rule {
                Rule::AnyOf(all) => writeln!(out, "\nAt least one of {} is given.", names(all, ", "))?,
                Rule::Together(a, b) => writeln!(out, "\n{} are given together, or neither.", names(&[*a, *b], " and "))?,
            }
        }
        match spec.callbacks {
            Some(Callbacks { road: Road::Url, authenticity, setup, .. }) => {
                writeln!(out, "\nCallbacks are {authenticity}.\n\nTo set them up: {setup}")?;
            }
            Some(Callbacks { road: Road::Session, authenticity, setup, .. }) => {
                writeln!(out, "\nReceipts and inbound messages {authenticity}.\n\nTo set them up: {setup}")?;
            }
            None => writeln!(out, "\nIt makes no callbacks.")?,
        }
    }
    Ok(out)
}

const SANDBOX: &str = "# The sandbox

Messages of test keys (`rk_test_…`) go through the whole pipeline and reach nobody: the sandbox plays the provider, and needs none to be
configured. Every message is sent and delivered within a second, but for those to magic recipients, which have the lives below. What
would have been sent is read back with `GET /v1/sandbox/messages`.

In a magic email address, what stands between a plus and the at sign is yours: `delivered+order-1042@raven.test`.

| life | sms, whatsapp | email | push |
|---|---|---|---|
";

fn lives() -> Result<String, std::fmt::Error> {
    let mut out = SANDBOX.to_owned();
    for life in LIVES {
        let to = |channel| life.recipient(channel);
        writeln!(out, "| {} | `{}` | `{}` | `{}` |", life.about, to(Channel::Sms), to(Channel::Email), to(Channel::Push))?;
    }
    Ok(out)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for new documents")]
fn the_pages_made_from_the_catalog_are_what_it_says() {
    for (name, page) in [("providers.md", written()), ("sandbox.md", lives())] {
        let page = page.expect("a text takes all");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
        if std::env::var_os("RAVEN_UPDATE_DOCS").is_some() {
            fs::write(&path, &page).expect("docs can be written");
        }
        let same = fs::read_to_string(&path).is_ok_and(|kept| kept == page);
        assert!(same, "docs/{name} is out of date: RAVEN_UPDATE_DOCS=1 cargo test -p raven-providers writes it");
    }
}
