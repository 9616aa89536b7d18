//! Bodies of requests as JSON, whatever they came as, and the fields in them.

use bytes::Bytes;
use http::{Request, header};
use serde_json::{Map, Value, json};

/// A body of JSON, of a form, or of a form in parts. `None` when it is none of these.
pub(super) fn read(request: &Request<Bytes>) -> Option<Value> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (kind, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    match kind.trim().to_ascii_lowercase().as_str() {
        "application/json" => serde_json::from_slice(request.body()).ok(),
        "application/x-www-form-urlencoded" => {
            Some(gathered(form_urlencoded::parse(request.body()).map(|(name, value)| (name.into_owned(), value.into_owned().into()))))
        }
        "multipart/form-data" => {
            let boundary = parameters.split(';').find_map(|p| p.trim().strip_prefix("boundary="))?;
            Some(gathered(parts(request.body(), boundary.trim_matches('"'))?.into_iter()))
        }
        _ => None,
    }
}

/// Fields of a form; one that comes several times is a list.
fn gathered(fields: impl Iterator<Item = (String, Value)>) -> Value {
    let mut all = Map::new();
    for (name, value) in fields {
        match all.get_mut(&name) {
            None => {
                all.insert(name, value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = json!([first.take(), value]),
        }
    }
    Value::Object(all)
}

/// The parts of a form (RFC 7578). A file is its name, its type and its size.
fn parts(body: &[u8], boundary: &str) -> Option<Vec<(String, Value)>> {
    let opening = format!("--{boundary}");
    let between = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(opening.as_bytes())?;
    let mut found = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Some(found);
        }
        rest = rest.strip_prefix(b"\r\n")?;
        let end = position(rest, between.as_bytes())?;
        let (part, after) = (&rest[..end], &rest[end + between.len()..]);
        let head_end = position(part, b"\r\n\r\n")?;
        let (head, content) = (std::str::from_utf8(&part[..head_end]).ok()?, &part[head_end + 4..]);
        let disposition = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition: form-data"))?;
        let parameter = |name: &str| {
            let begin = disposition.find(&format!(" {name}=\""))? + name.len() + 3;
            let length = disposition[begin..].find('"')?;
            Some(disposition[begin..begin + length].to_owned())
        };
        let value = match parameter("filename") {
            None => Value::from(String::from_utf8(content.to_vec()).ok()?),
            Some(filename) => json!({"filename": filename, "size": content.len()}),
        };
        found.push((parameter("name")?, value));
        rest = after;
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A field of a body: where it is, how a table writes that place, and what stands there.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    /// `to.0.email`
    pub(super) path: String,
    /// `to[].email`
    pub(super) pattern: String,
    /// No list and no object, or an empty one.
    pub(super) value: &'a Value,
}

/// All fields of a body. What is null or empty is not there.
pub(super) fn leaves(body: &Value) -> Vec<Leaf<'_>> {
    let mut found = Vec::new();
    gather(body, String::new(), String::new(), &mut found);
    found
}

fn gather<'a>(value: &'a Value, path: String, pattern: String, found: &mut Vec<Leaf<'a>>) {
    let dot = if path.is_empty() { "" } else { "." };
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, member) in members {
                gather(member, format!("{path}{dot}{name}"), format!("{pattern}{dot}{name}"), found);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                gather(item, format!("{path}{dot}{n}"), format!("{pattern}[]"), found);
            }
        }
        _ => found.push(Leaf { path, pattern, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: &str, body: &'static str) -> Request<Bytes> {
        Request::builder().header(header::CONTENT_TYPE, kind).body(Bytes::from_static(body.as_bytes())).expect("a request")
    }

    #[test]
    fn bodies_of_every_kind_are_read_as_json() {
        let read = |kind, body| read(&request(kind, body));
        assert_eq!(read("application/json; charset=utf-8", r#"{"a":1}"#), Some(json!({"a": 1})));
        assert_eq!(read("application/json", "{"), None);
        assert_eq!(read("application/x-www-form-urlencoded", "a=1&b=%2B2&a=3+4"), Some(json!({"a": ["1", "3 4"], "b": "+2"})));
        assert_eq!(read("text/plain", "a=1"), None);
        let parts = "--x\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\nada\r\n--x\r\nContent-Disposition: form-data; \
            name=\"attachment\"; filename=\"a.csv\"\r\nContent-Type: text/csv\r\n\r\n1,2\r\n\r\n--x--\r\n";
        let expected = json!({"to": "ada", "attachment": {"filename": "a.csv", "size": 5}});
        assert_eq!(read("multipart/form-data; boundary=x", parts), Some(expected.clone()));
        assert_eq!(read("multipart/form-data; boundary=\"x\"", parts), Some(expected));
        assert_eq!(read("multipart/form-data; boundary=y", parts), None);
        assert_eq!(read("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\nada"), None);
    }

    #[test]
    fn fields_are_found_with_their_place_in_a_table() {
        let body = json!({"to": [{"email": "a"}, {"email": "b"}], "cc": [], "bcc": null, "n": 1});
        let found: Vec<_> = leaves(&body).into_iter().map(|l| (l.path, l.pattern, l.value.clone())).collect();
        let leaf = |path: &str, pattern: &str, value: Value| (path.to_owned(), pattern.to_owned(), value);
        let expected =
            [leaf("n", "n", json!(1)), leaf("to.0.email", "to[].email", json!("a")), leaf("to.1.email", "to[].email", json!("b"))];
        assert_eq!(found, expected);
    }
}
