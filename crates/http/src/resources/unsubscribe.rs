//! Where the links in emails lead. Whoever has one is the recipient, or somebody they gave it to: no caller is asked for. A `GET` only
//! shows a page, since scanners of links make those; a `POST` unsubscribes, from that page or from a mail program (RFC 8058).

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use raven_engine::unsubscribe::Subscriber;

use super::AppState;
use crate::{
    App, body, codes,
    layers::Context,
    problem::{Problem, Result},
    query::PathId,
};

/// Bytes of a body: a form of one field.
const LIMIT: usize = 16 * 1024;
/// The field of the page's form that a mail program does not send.
const FROM_PAGE: (&str, &str) = ("from", "page");

/// The page's style. Policies name it by its digest, so nothing else is taken for one.
const STYLE: &str = "body{font:1.125rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1.25rem;color:#1a1a1a;\
                     background:#fff}h1{font-size:1.5rem;line-height:1.25}button{font:inherit;padding:.75rem 1.5rem;border:0;border-radius:.375rem;\
                     background:#1a4fa0;color:#fff;cursor:pointer}button:focus-visible{outline:3px solid #f0a500;outline-offset:3px}p{overflow-wrap:\
                     anywhere}@media(prefers-color-scheme:dark){body{color:#eee;background:#161616}button{background:#8ab4f8;color:#10151c}}";
/// What a browser may do with the page: show it, in this style, and send its form back to us.
const POLICY: &str = "default-src 'none'; style-src 'sha256-m7MwdbR65FABQFKDmk+f+3eit/Ml1zTILAjZKLRyoeE='; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page about unsubscribing from emails, with a button that does it. Nothing happens by looking at it.
#[utoipa::path(get, path = "/v1/unsubscribe/{token}", tag = "suppressions", params(("token" = String, Path, description = "The token in the email's link.", max_length = 128, pattern = "^[A-Za-z0-9_-]+$", example = "mZ0tq2p5cV8rYk3xJ1bWnE7dHs4gUfLa6oTiQyXe9RzKwMvCjPBNhDAS0lG")),
    responses(
        (status = 200, description = "The page.", content_type = "text/html", body = String),
        (status = 404, description = "The link is not ours, or its email is kept no longer: a page that says so.", content_type = "text/html", body = String),
        (status = 429, description = "Too many wrong links came from this address: a page that says so.", content_type = "text/html", body = String),
        (status = 503, description = "Not now: a page that says so.", content_type = "text/html", body = String),
    ), security(()))]
pub async fn show(State(app): AppState, Extension(context): Extension<Arc<Context>>, PathId(token): PathId) -> Response {
    match find(&app, &context, &token).await {
        Ok(subscriber) => asking(&subscriber),
        Err(problem) => refusing(&problem),
    }
}

/// Unsubscribe the recipient of an email from all emails of its sender.
///
/// The link stands in the email's `List-Unsubscribe`, and mail programs send `List-Unsubscribe=One-Click` to it (RFC 8058). The address is
/// suppressed when this answers 200, and the email's timeline says so; to send it again changes nothing.
#[utoipa::path(post, path = "/v1/unsubscribe/{token}", tag = "suppressions", params(("token" = String, Path, description = "The token in the email's link.", max_length = 128, pattern = "^[A-Za-z0-9_-]+$", example = "mZ0tq2p5cV8rYk3xJ1bWnE7dHs4gUfLa6oTiQyXe9RzKwMvCjPBNhDAS0lG")),
    responses(
        (status = 200, description = "Done. A page, where the request came from one; else a line of text.", content(
            (String = "text/plain"),
            (String = "text/html"),
        )),
    ), security(()))]
pub async fn unsubscribe(
    State(app): AppState,
    Extension(context): Extension<Arc<Context>>,
    PathId(token): PathId,
    request: Request,
) -> Result<Response> {
    let is_form = has_type(request.headers(), "application/x-www-form-urlencoded");
    let (body, _share) = body::raw(request, &app, LIMIT).await?;
    let is_from_page = is_form && form_urlencoded::parse(&body).any(|(name, value)| (&*name, &*value) == FROM_PAGE);
    let how = if is_from_page { "the recipient, on the page of the email's link" } else { "the recipient, by the email's link" };
    let done = async {
        let subscriber = find(&app, &context, &token).await?;
        app.engine.unsubscribe(&subscriber, how).await?;
        Ok::<Subscriber, Problem>(subscriber)
    };
    match done.await {
        Ok(subscriber) if is_from_page => Ok(thanking(&subscriber)),
        Ok(_) => Ok((surroundings(), "You are unsubscribed.\n").into_response()),
        Err(problem) if is_from_page => Ok(refusing(&problem)),
        Err(problem) => Err(problem),
    }
}

/// Whom a link is for.
///
/// # Errors
/// `not_found`, or `rate_limited` after many that are wrong: they are counted by address, as wrong credentials are.
async fn find(app: &App, context: &Context, token: &str) -> Result<Subscriber> {
    if let Some(subscriber) = app.engine.find_subscriber(token).await? {
        return Ok(subscriber);
    }
    match context.address.and_then(|address| app.engine.limiter.count_failure(address).retry_after) {
        Some(seconds) => {
            Err(Problem::new(codes::RATE_LIMITED, "Too many wrong links came from this address. Wait a while.").after(seconds))
        }
        None => Err(Problem::new(codes::NOT_FOUND, "This link is not valid, or the email that it came with is kept no longer.")),
    }
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted)
}

fn asking(subscriber: &Subscriber) -> Response {
    let (sender, address) = (escaped(&subscriber.sender), escaped(&masked(&subscriber.address)));
    let (name, value) = FROM_PAGE;
    page(
        StatusCode::OK,
        "Unsubscribe",
        &format!(
            "<p>Do you want no more emails from <strong>{sender}</strong> at {address}?</p>\n\
             <form method=\"post\"><input type=\"hidden\" name=\"{name}\" value=\"{value}\"><button type=\"submit\">Unsubscribe</button></form>"
        ),
    )
}

fn thanking(subscriber: &Subscriber) -> Response {
    let (sender, address) = (escaped(&subscriber.sender), escaped(&masked(&subscriber.address)));
    let text =
        format!("<p role=\"status\"><strong>{sender}</strong> will send no more emails to {address}.</p>\n<p>You can close this page.</p>");
    page(StatusCode::OK, "You are unsubscribed", &text)
}

fn refusing(problem: &Problem) -> Response {
    let title = match problem.code.status {
        StatusCode::NOT_FOUND => "This link does not work",
        _ => "This did not work",
    };
    let text = match problem.code.status {
        StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS => escaped(&problem.message),
        _ => "Please try again in a minute.".to_owned(),
    };
    let mut response = page(problem.code.status, title, &format!("<p role=\"alert\">{text}</p>"));
    if let Some(seconds) = problem.wait() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A page of ours: it loads nothing, runs nothing, and is found by nobody.
fn page(status: StatusCode, title: &str, content: &str) -> Response {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{content}\n</main>\n</body>\n</html>\n"
    );
    let html = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (status, surroundings(), html, text).into_response()
}

/// What every answer to a link has: nobody keeps it, lists it, or learns from where it was left.
fn surroundings() -> [(HeaderName, HeaderValue); 4] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex, nofollow")),
    ]
}

/// An address, as whoever has it recognises it: `a***@example.com`.
fn masked(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{}***@{domain}", local.chars().take(1).collect::<String>()),
        None => "***".to_owned(),
    }
}

/// A text within HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use sha2::{Digest, Sha256};

    #[test]
    fn the_policy_names_the_style() {
        let digest = STANDARD.encode(Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("style-src 'sha256-{digest}'")), "{digest}");
    }

    #[test]
    fn addresses_are_masked_and_texts_escaped() {
        for (address, shown) in
            [("ada@example.com", "a***@example.com"), ("a@b.example", "a***@b.example"), ("jürgen@x.example", "j***@x.example")]
        {
            assert_eq!(masked(address), shown);
        }
        assert_eq!(escaped("<b>\"A\" & 'b'</b>"), "&lt;b&gt;&quot;A&quot; &amp; &#39;b&#39;&lt;/b&gt;");
    }
}
