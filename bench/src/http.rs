//! As little HTTP/1.1 as the measurements need: heads are read far enough to know the status and the length of what
//! follows. Every peer here sends `Content-Length`; anything else is an error, not a guess.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Bytes that an answer may have in all.
const ANSWER_MAX: usize = 1 << 20;

/// What a head says, of a request or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Status of an answer; 0 for a request.
    pub(crate) status: u16,
    /// Bytes of the head, with the empty line.
    pub(crate) len: usize,
    /// Bytes that follow it.
    pub(crate) body: usize,
}

impl Head {
    /// Bytes of head and body.
    pub(crate) const fn total(&self) -> usize {
        self.len + self.body
    }
}

/// Reads a head; `None` while its end has not come yet. A head without `Content-Length` has no body.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let (mut status, mut body, mut at, mut first) = (0, 0, 0, true);
    loop {
        let end = at + bytes[at..].iter().position(|b| *b == b'\n')?;
        let line = bytes[at..end].strip_suffix(b"\r").unwrap_or(&bytes[at..end]);
        at = end + 1;
        if first {
            first = false;
            if line.starts_with(b"HTTP/1.") {
                status = line.get(9..12).and_then(number).unwrap_or_default() as u16;
            }
        } else if line.is_empty() {
            return Some(Head { status, len: at, body });
        } else if let Some(length) = content_length(line) {
            body = length;
        }
    }
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let value = line.get(NAME.len()..)?;
    // The first letter decides almost every line.
    if line[0] | 0x20 != b'c' || !line[..NAME.len()].eq_ignore_ascii_case(NAME) {
        return None;
    }
    number(value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_usize, |n, d| if d.is_ascii_digit() { n.checked_mul(10)?.checked_add(usize::from(d - b'0')) } else { None })
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON, if the status is this one.
    pub(crate) fn json(&self, status: u16) -> Result<serde_json::Value> {
        ensure!(self.status == status, "answer {} instead of {status}: {}", self.status, String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).context("the answer is no JSON")
    }
}

/// A connection for one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens it.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed before the answer was complete");
            }
            ensure!(self.buffer.len() <= ANSWER_MAX, "an answer of more than {ANSWER_MAX} bytes");
            if let Some(head) = head(&self.buffer)
                && self.buffer.len() >= head.total()
            {
                return Ok(Answer { status: head.status, body: self.buffer[head.len..head.total()].to_vec() });
            }
        }
    }
}

/// A request's bytes.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\ncontent-LENGTH: 5\r\ncache: no\r\n\r\nhello";

    #[test]
    fn a_head_tells_status_and_length() {
        let head = head(ANSWER).expect("it is complete");
        assert_eq!((head.status, head.body, head.total()), (202, 5, ANSWER.len()));
        assert_eq!(&ANSWER[head.len..], b"hello");
    }

    #[test]
    fn a_head_that_has_not_come_in_whole_is_none() {
        let len = ANSWER.len() - 5;
        assert!((0..len).all(|n| head(&ANSWER[..n]).is_none()));
        assert!(head(&ANSWER[..len]).is_some());
    }

    #[test]
    fn a_request_is_read_like_an_answer() {
        let bytes = request("POST", "/x", &[("apikey", "k")], "{\"a\":1}");
        let read = head(&bytes).expect("it is complete");
        assert_eq!((read.status, read.body, read.total()), (0, 7, bytes.len()));
        let bytes = request("GET", "/x", &[], "");
        assert_eq!(head(&bytes).map(|h| h.total()), Some(bytes.len()));
    }

    #[test]
    fn a_length_that_is_no_number_counts_as_none() {
        for bad in ["", " ", "x", "-1", "1 2", "99999999999999999999999"] {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {bad}\r\n\r\n");
            assert_eq!(head(text.as_bytes()).map(|h| h.body), Some(0), "{bad:?}");
        }
        assert_eq!(head(b"HTTP/1.1 2x0 OK\r\n\r\n").map(|h| h.status), Some(0));
    }
}
