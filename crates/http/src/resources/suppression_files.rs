//! Suppressions as CSV (RFC 4180): a file of all of them, and lists that other systems wrote.
//!
//! A cell that a spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a line break: phone numbers do)
//! is written with an apostrophe before it, and so is one that begins with an apostrophe; reading takes it away again.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body as Stream,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder, Trim, WriterBuilder};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use raven_core::{
    Channel, Environment, SuppressionId, SuppressionReason, SuppressionSource, TenantId, Timestamp, json::Json, problem::chain,
    suppression::comparable,
};
use raven_store::{SuppressionFilter, SuppressionPage, SuppressionQuery, SuppressionRecord};
use serde::Serialize;
use uuid::Uuid;

use super::{AppState, send_request};
use crate::{
    App, body,
    caller::{AsAdmin, AsViewer, Session},
    codes,
    fields::Fields,
    openapi::closed::{ChannelName, EnvironmentName, SuppressionReasonName},
    problem::{Problem, Result},
    query::{Parameters, RawQuery},
};

/// Bytes of a file that is imported.
const LIMIT: usize = 10 * 1024 * 1024;
/// Rows that one transaction adds, and that are read at a time: others write between them.
const BATCH: usize = 500;
/// Rows that a page of the export looks at.
const SCAN: usize = 10_000;
/// Problems that an import tells.
const SHOWN: usize = 100;
/// Characters of a foreign reason that are kept.
const DETAIL_MAX: usize = 300;

/// What the pages after the first begin with.
const NO_NAMES: &[&str] = &[];
/// The columns of the file.
const COLUMNS: &[&str] = &["channel", "address", "reason", "source", "createdAt"];

/// A CSV file.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, max_length = 10_485_760, example = "address,channel,reason\nada@example.com,email,unsubscribed\n'+254722000000,sms,manual\n")]
#[expect(dead_code, reason = "the shape of a body, for the document")]
pub struct SuppressionCsv(String);

/// Parameters of the export, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name; this lists them for the document")]
pub struct ExportParameters {
    /// Of this channel.
    #[param(inline, value_type = Option<ChannelName>)]
    channel: Option<String>,
    /// Whose messages: `live` when absent, or the key's own.
    #[param(inline, value_type = Option<EnvironmentName>)]
    environment: Option<String>,
}

/// Parameters of the import, for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name; this lists them for the document")]
pub struct ImportParameters {
    /// The channel of rows that name none. When absent, a column `email` means email and a column `phone` means sms.
    #[param(inline, value_type = Option<ChannelName>)]
    channel: Option<String>,
    /// The reason of rows that name none, or one that is not known here: `manual` when absent.
    #[param(inline, value_type = Option<SuppressionReasonName>)]
    reason: Option<String>,
    /// Whose messages: `live` when absent, or the key's own.
    #[param(inline, value_type = Option<EnvironmentName>)]
    environment: Option<String>,
}

/// What became of the rows of a file.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub struct ImportView {
    /// Rows whose address is suppressed by them.
    #[schema(example = 120)]
    pub created: usize,
    /// Rows whose address was suppressed already, by an earlier row too: it stays as it was.
    #[schema(example = 3)]
    pub existing: usize,
    /// Rows that can't be read. They were left out, and the others count.
    #[schema(example = 1)]
    pub invalid: usize,
    /// What is wrong with the first hundred of those.
    pub errors: Vec<LineProblemView>,
}

/// What is wrong with a row.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LineProblemView {
    /// The line on which it begins, from 1.
    #[schema(minimum = 1, example = 17)]
    pub line: u64,
    /// What is wrong and what would be right.
    pub message: String,
}

fn channel(parameters: &mut Parameters<'_>) -> Option<Channel> {
    let names = || Channel::ALL.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
    parameters.read("channel", Channel::parse, || format!("must be one of {}", names()))
}

fn environment(parameters: &mut Parameters<'_>) -> Option<Environment> {
    parameters.read("environment", Environment::parse, || "must be live or test".to_owned())
}

/// All suppressions as a CSV file, newest first: `channel,address,reason,source,createdAt`.
///
/// Cells that a spreadsheet would take for a formula, as phone numbers are, have an apostrophe before them; an import takes it away.
#[utoipa::path(get, path = "/v1/admin/suppressions/export", tag = "suppressions", params(ExportParameters),
    responses((status = 200, description = "The file.", content_type = "text/csv", body = String)))]
pub async fn export(session: Session<AsViewer>, State(app): AppState, query: RawQuery) -> Result<Response> {
    let mut parameters = query.parameters(&["channel", "environment"]);
    let (channel, environment) = (channel(&mut parameters), environment(&mut parameters));
    parameters.finish()?;
    let environment = session.environment(environment.map(Some))?.unwrap_or(Environment::Live);
    let walk = Walk { app, tenant: session.tenant_id(), filter: SuppressionFilter { environment, channel, part: None }, before: None };
    // What fails at once is an error and no broken file.
    let first = walk.page().await?;
    let pages = stream::try_unfold((walk, Some(first), COLUMNS), |(mut walk, page, names)| async move {
        let page = match page {
            Some(page) => page,
            None if walk.before.is_none() => return Ok(None),
            None => walk.page().await.map_err(|e| {
                tracing::error!(error = chain(&e), "an export of suppressions breaks off");
                broken()
            })?,
        };
        walk.before = page.next;
        let text = written(names, &page.rows).map_err(|_| broken())?;
        Ok::<_, std::io::Error>(Some((text, (walk, None, NO_NAMES))))
    });
    let name = format!("attachment; filename=\"suppressions-{}.csv\"", environment.name());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present")),
        (header::CONTENT_DISPOSITION, HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("attachment"))),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, Stream::from_stream(pages)).into_response())
}

/// Why a file breaks off: whoever reads it sees that it is not whole.
fn broken() -> std::io::Error {
    std::io::Error::other("the file can't be read to its end")
}

/// A walk over suppressions.
struct Walk {
    app: Arc<App>,
    tenant: TenantId,
    filter: SuppressionFilter,
    before: Option<(Timestamp, SuppressionId)>,
}

impl Walk {
    async fn page(&self) -> raven_store::Result<SuppressionPage> {
        let query = SuppressionQuery { filter: self.filter.clone(), before: self.before, skip: 0, limit: BATCH, scan: SCAN };
        self.app.engine.store.list_suppressions(self.tenant, &query).await
    }
}

/// Rows as CSV, below the names of their columns where there are any.
fn written(names: &[&str], rows: &[SuppressionRecord]) -> Result<Bytes, csv::Error> {
    let mut writer = WriterBuilder::new().from_writer(Vec::new());
    if !names.is_empty() {
        writer.write_record(names)?;
    }
    for row in rows {
        let created_at = row.created_at.to_string();
        writer.write_record([row.channel.name(), &guarded(&row.address), row.reason.name(), row.source.name(), &created_at])?;
    }
    let text = writer.into_inner().map_err(|e| csv::Error::from(e.into_error()))?;
    Ok(Bytes::from(text))
}

/// What a spreadsheet makes something else of at the beginning of a cell, or what we put there for that.
const fn is_risky(first: char) -> bool {
    matches!(first, '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '\'')
}

/// A cell that is a text and nothing else.
fn guarded(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(is_risky) { Cow::Owned(format!("'{cell}")) } else { Cow::Borrowed(cell) }
}

/// A cell as it was before [`guarded`].
fn unguarded(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| rest.starts_with(is_risky)).unwrap_or(cell)
}

/// Suppress the addresses of a CSV file.
///
/// The first line names the columns: one of `address`, `email` and `phone`, and perhaps `channel` and `reason`; others are not looked at. Exports
/// of Raven, SendGrid, Mailgun and Postmark are understood as they are. Rows that can't be read are told, and all others count. Addresses
/// that are suppressed already stay as they are, so a file may be sent again. At most 10 MiB.
#[utoipa::path(post, path = "/v1/admin/suppressions/import", tag = "suppressions", params(ImportParameters),
    request_body(content = inline(SuppressionCsv), content_type = "text/csv"), responses((status = 200, body = ImportView)))]
pub async fn import(session: Session<AsAdmin>, State(app): AppState, query: RawQuery, request: Request) -> Result<axum::Json<ImportView>> {
    let mut parameters = query.parameters(&["channel", "reason", "environment"]);
    let (channel, environment) = (channel(&mut parameters), environment(&mut parameters));
    let reasons = || SuppressionReason::ALL.iter().map(|r| r.name()).collect::<Vec<_>>().join(", ");
    let reason = parameters.read("reason", SuppressionReason::parse, || format!("must be one of {}", reasons()));
    parameters.finish()?;
    let environment = environment.or(session.confined_to()).unwrap_or(Environment::Live);
    if session.confined_to().is_some_and(|own| own != environment) {
        return Err(Problem::new(codes::INSUFFICIENT_SCOPE, "A key can suppress addresses of its own environment only."));
    }
    check_type(request.headers())?;
    let (file, _share) = body::raw(request, &app, LIMIT).await?;
    let usual = Usual { channel, reason: reason.unwrap_or(SuppressionReason::Manual) };

    // All rows are read before the first one counts: the entry in the log tells how many there are, and is there with the first ones.
    let mut view = ImportView::default();
    let mut rows = Rows::new(&file, usual)?;
    let mut valid = 0_usize;
    while let Some(batch) = rows.batch() {
        for row in batch {
            match row {
                Ok(_) => valid += 1,
                Err(problem) => {
                    view.invalid += 1;
                    if view.errors.len() < SHOWN {
                        view.errors.push(problem);
                    }
                }
            }
        }
        tokio::task::yield_now().await;
    }
    let (tenant, now) = (session.tenant_id(), app.engine.clock.now());
    let mut entry = session.entry("suppression.import", Uuid::nil());
    entry.after = serde_json::json!({ "environment": environment, "rows": valid, "invalid": view.invalid });
    let mut audit = Some(session.record(&app, &entry));
    let mut rows = Rows::new(&file, usual)?;
    while let Some(batch) = rows.batch() {
        let good: Vec<Row> = batch.into_iter().flatten().collect();
        if good.is_empty() {
            continue;
        }
        let (all, mut records) = (good.len(), Vec::with_capacity(good.len()));
        for Row { channel, address, reason, detail } in good {
            records.push(SuppressionRecord {
                id: SuppressionId(super::fresh_id(&app)?),
                tenant,
                environment,
                channel,
                address,
                reason,
                source: SuppressionSource::Import,
                message: None,
                detail,
                created_at: now,
            });
        }
        let created = app.engine.store.add_suppressions(tenant, records, audit.take()).await?;
        view.created += created;
        view.existing += all - created;
    }
    Ok(axum::Json(view))
}

fn check_type(headers: &HeaderMap) -> Result<()> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    // Browsers on Windows call CSV by the last of these.
    let known = ["text/csv", "application/csv", "application/vnd.ms-excel"];
    if known.iter().any(|kind| essence.eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    Err(Problem::new(codes::UNSUPPORTED_MEDIA_TYPE, "The body must be a CSV file: send Content-Type: text/csv."))
}

/// What rows are that don't say.
#[derive(Clone, Copy, Debug)]
struct Usual {
    channel: Option<Channel>,
    reason: SuppressionReason,
}

/// A row that can be read.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    channel: Channel,
    /// In the form in which addresses are compared.
    address: String,
    reason: SuppressionReason,
    /// A reason in words that are not ours.
    detail: Option<String>,
}

/// The rows of a file, some at a time.
struct Rows<'f> {
    file: &'f [u8],
    reader: csv::Reader<&'f [u8]>,
    address: usize,
    /// What the name of the address's column says.
    kind: Option<Channel>,
    channel: Option<usize>,
    reason: Option<usize>,
    usual: Usual,
}

impl<'f> Rows<'f> {
    /// Reads the names of the columns.
    ///
    /// # Errors
    /// `validation_failed`, when no column has addresses, or several have.
    fn new(file: &'f [u8], usual: Usual) -> Result<Self> {
        let wrong = |text: &str| Problem::field("body", text);
        let first = file.split(|b| *b == b'\n').next().unwrap_or_default();
        // Spreadsheets of some countries write semicolons.
        let delimiter = if first.contains(&b';') && !first.contains(&b',') { b';' } else { b',' };
        let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).trim(Trim::All).from_reader(file);
        let names = reader.byte_headers().map_err(|_| wrong("must be a CSV file"))?;
        let (mut address, mut channel, mut reason) = (None, None, None);
        for (at, name) in names.iter().enumerate() {
            let plain: String = String::from_utf8_lossy(name).chars().filter(char::is_ascii_alphanumeric).collect();
            match plain.to_ascii_lowercase().as_str() {
                kind @ ("address" | "recipient" | "email" | "emailaddress" | "phone" | "phonenumber") => {
                    if address.is_some() {
                        return Err(wrong("must have one column of addresses only: address, email or phone"));
                    }
                    let of = match kind {
                        "email" | "emailaddress" => Some(Channel::Email),
                        "phone" | "phonenumber" => Some(Channel::Sms),
                        _ => None,
                    };
                    address = Some((at, of));
                }
                "channel" => channel = Some(at),
                "reason" | "suppressionreason" => reason = Some(at),
                _ => {}
            }
        }
        let Some((address, kind)) = address else {
            return Err(wrong("must be a CSV file whose first line names its columns, one of them address, email or phone"));
        };
        Ok(Self { file, reader, address, kind, channel, reason, usual })
    }

    /// The next rows; `None` at the end.
    fn batch(&mut self) -> Option<Vec<Result<Row, LineProblemView>>> {
        let (mut rows, mut record) = (Vec::new(), ByteRecord::new());
        while rows.len() < BATCH {
            let line = self.reader.position().line();
            match self.reader.read_byte_record(&mut record) {
                Ok(false) => break,
                Ok(true) => {
                    let line = record.position().map_or(line, |at| at.line() + self.blank_lines(at.byte()));
                    rows.push(self.row(&record).map_err(|message| LineProblemView { line, message }));
                }
                // The reader takes any bytes and any number of cells; what is left is that a file in memory can't be read.
                Err(_) => {
                    rows.push(Err(LineProblemView { line, message: "can't be read".to_owned() }));
                    break;
                }
            }
        }
        (!rows.is_empty()).then_some(rows)
    }

    /// Blank lines from here on: the reader passes them over, and says that the next row begins before them.
    fn blank_lines(&self, from: u64) -> u64 {
        let rest = usize::try_from(from).ok().and_then(|from| self.file.get(from..)).unwrap_or_default();
        rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).map(|b| u64::from(*b == b'\n')).sum()
    }

    fn row(&self, record: &ByteRecord) -> Result<Row, String> {
        let cell = |at: Option<usize>| {
            let bytes = at.and_then(|at| record.get(at)).unwrap_or_default();
            std::str::from_utf8(bytes).map(unguarded).map_err(|_| "is not UTF-8".to_owned())
        };
        let channel = match cell(self.channel)? {
            "" => self.usual.channel.or(self.kind).ok_or("names no channel: add a column channel, or ?channel= to the URL")?,
            name => Channel::parse(&name.to_ascii_lowercase()).ok_or("has a channel that is none of sms, email, push, whatsapp")?,
        };
        let (reason, detail) = match cell(self.reason)? {
            "" => (self.usual.reason, None),
            text => match known_reason(text) {
                Some(reason) => (reason, None),
                None => (self.usual.reason, Some(text.chars().filter(|c| !c.is_control()).take(DETAIL_MAX).collect())),
            },
        };
        let text = cell(Some(self.address))?;
        if text.is_empty() {
            return Err("has no address".to_owned());
        }
        let address = match serde_json::from_str::<Json<'_>>(text) {
            Ok(object @ Json::Object(_)) if channel == Channel::Push => object,
            _ => Json::String(text.into()),
        };
        let mut fields = Fields::nested(Vec::new(), &[], "");
        let address = send_request::recipient("address", Some(channel), &address, &mut fields);
        match (address, fields.finish()) {
            (Some(address), Ok(())) => Ok(Row { channel, address: comparable(channel, &address).into_owned(), reason, detail }),
            (_, told) => {
                let first = told.err().and_then(|problem| problem.errors.into_iter().next());
                Err(first.map_or_else(|| "has an address that can't be read".to_owned(), |p| format!("{} {}", p.field, p.message)))
            }
        }
    }
}

/// A reason by our name, or by what other systems call it.
fn known_reason(text: &str) -> Option<SuppressionReason> {
    SuppressionReason::parse(text).or_else(|| {
        let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        match plain.to_ascii_lowercase().as_str() {
            "hardbounce" | "bounce" | "bounced" => Some(SuppressionReason::HardBounce),
            "spamcomplaint" | "complaint" | "spam" | "spamreport" => Some(SuppressionReason::SpamComplaint),
            "unsubscribe" | "unsubscribed" | "optout" | "optedout" => Some(SuppressionReason::Unsubscribed),
            "manual" | "manualsuppression" => Some(SuppressionReason::Manual),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, channel: Option<Channel>) -> Vec<Result<Row, (u64, String)>> {
        let usual = Usual { channel, reason: SuppressionReason::Manual };
        let mut rows = Rows::new(file.as_bytes(), usual).expect("columns");
        let mut all = Vec::new();
        while let Some(batch) = rows.batch() {
            all.extend(batch.into_iter().map(|row| row.map_err(|p| (p.line, p.message))));
        }
        all
    }

    fn row(channel: Channel, address: &str, reason: SuppressionReason) -> Result<Row, (u64, String)> {
        Ok(Row { channel, address: address.to_owned(), reason, detail: None })
    }

    #[test]
    fn cells_come_back_as_they_went_out() {
        for cell in
            ["+254722000000", "=1+1@example.com", "'x@example.com", "'+x@example.com", "ada@example.com", "-", "@", "''", "{\"a\":1}"]
        {
            let out = guarded(cell);
            assert!(!out.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{out}");
            assert_eq!(unguarded(&out), cell);
        }
        // What others write has no apostrophe, or one of its own.
        for cell in ["+254722000000", "'ada@example.com"] {
            assert_eq!(unguarded(cell), cell);
        }
    }

    #[test]
    fn exports_of_other_systems_are_understood() {
        use SuppressionReason::{HardBounce, Manual, SpamComplaint, Unsubscribed};
        let sendgrid = "\u{feff}email,created\nAda@Example.com,1700000000\n";
        assert_eq!(read(sendgrid, None), [row(Channel::Email, "ada@example.com", Manual)]);
        let mailgun = "address,tags,created_at\r\nada@example.com,*,\"Fri, 21 Oct 2026 11:02:55 UTC\"\r\n";
        assert_eq!(read(mailgun, Some(Channel::Email)), [row(Channel::Email, "ada@example.com", Manual)]);
        let postmark = "EmailAddress,SuppressionReason,Origin,CreatedAt\na@example.com,HardBounce,Recipient,x\nb@example.com,SpamComplaint,Recipient,x\nc@example.com,ManualSuppression,Customer,x\n";
        assert_eq!(
            read(postmark, None),
            [
                row(Channel::Email, "a@example.com", HardBounce),
                row(Channel::Email, "b@example.com", SpamComplaint),
                row(Channel::Email, "c@example.com", Manual)
            ]
        );
        let excel = "Phone;Reason\n+254722000000;Opt-out\n'+254722000001;\n";
        assert_eq!(read(excel, None), [row(Channel::Sms, "+254722000000", Unsubscribed), row(Channel::Sms, "+254722000001", Manual)]);
        let bounces = "status,reason,email,created\n5.1.1,\"550 no such user, sorry\",ada@example.com,1700000000\n";
        let read = read(bounces, None);
        assert_eq!(read[0].as_ref().map(|row| (row.reason, row.detail.as_deref())), Ok((Manual, Some("550 no such user, sorry"))));
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_quotes_nothing() {
        let file = "address,channel\n\"two\nlines\",email\n\nada@example.com,pigeon\n,sms\nada@example.com\n0722000000,sms\ngood@example.com,EMAIL,and,more\n";
        let found = read(file, None);
        let lines: Vec<u64> = found.iter().filter_map(|row| row.as_ref().err()).map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 5, 6, 7, 8]);
        assert_eq!(found[5], row(Channel::Email, "good@example.com", SuppressionReason::Manual));
        for problem in found.iter().filter_map(|row| row.as_ref().err()) {
            assert!(!["two", "pigeon", "0722000000", "ada"].iter().any(|word| problem.1.contains(word)), "{problem:?}");
        }
    }

    #[test]
    fn a_file_says_where_its_addresses_are() {
        let usual = Usual { channel: None, reason: SuppressionReason::Manual };
        for file in ["", "\n", "a,b\nx,y\n", "email,phone\nx,y\n", "ada@example.com\n"] {
            assert!(Rows::new(file.as_bytes(), usual).is_err(), "{file}");
        }
        let mut rows = Rows::new(b"email\n\xff@example.com\n", usual).expect("columns");
        assert_eq!(rows.batch().expect("rows")[0].as_ref().expect_err("not UTF-8").message, "is not UTF-8");
    }
}
