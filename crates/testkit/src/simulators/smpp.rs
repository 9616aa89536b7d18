//! A real SMPP message centre in a process of its own (`tests/smpp`), and what it is told to do.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::smtp::certificate;

/// The account that it takes.
pub const SYSTEM_ID: &str = "acme";
/// Its password.
pub const PASSWORD: &str = "hushhush";

/// The message centre. Dropping it ends the process.
#[derive(Debug)]
pub struct MessageCentre {
    child: Child,
    port: u16,
    control: String,
    folder: TempDir,
}

/// What it saw so far.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    /// Binds that it took.
    pub binds: u32,
    /// Sessions that there are.
    pub sessions: u32,
    /// What was submitted and taken, in order.
    pub submits: Vec<Submit>,
    /// How its own messages were answered.
    pub deliveries: Vec<u32>,
}

/// A `submit_sm` that was taken, as the library reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct Submit {
    /// The sender.
    pub from: String,
    /// The type of its number.
    pub ton: u8,
    /// The recipient, without a plus.
    pub to: String,
    /// The text, without its header.
    pub text: String,
    /// The data coding.
    pub encoding: u8,
    /// The parts of the header, in hexadecimal digits.
    pub udh: Option<Vec<String>>,
    /// What receipt is asked for.
    pub receipt: u8,
    /// The id that it got.
    pub id: String,
    /// Over which session it came.
    pub session: u32,
}

impl MessageCentre {
    /// Starts one in clear.
    #[must_use]
    pub fn start() -> Self {
        Self::begin(false)
    }

    /// Starts one that speaks TLS.
    #[must_use]
    pub fn start_tls() -> Self {
        Self::begin(true)
    }

    fn begin(tls: bool) -> Self {
        let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/smpp");
        assert!(
            home.join("node_modules/smpp").exists(),
            "tests/smpp/node_modules with the message centre is missing: run ./scripts/test, or ./scripts/node-modules alone"
        );
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut command = Command::new("node");
        command.arg(home.join("centre.mjs")).stdin(Stdio::null()).stdout(Stdio::piped());
        if tls {
            let (certificate, key) = certificate(folder.path());
            command.arg(certificate).arg(key);
        }
        let mut child = command.spawn().expect("node is there (./scripts/test installs it)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("its output can be read");
        let value = |name: &str| line.split_whitespace().find_map(|part| part.strip_prefix(name)).expect("it told where it is").to_owned();
        Self { port: value("smpp=").parse().expect("a port"), control: value("control="), child, folder }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate that a client must trust, as PEM.
    ///
    /// # Panics
    /// If it does not speak TLS.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("certificate.pem")).expect("it speaks TLS")
    }

    /// What it saw so far.
    pub async fn seen(&self) -> Seen {
        serde_json::from_value(self.ask("/state", &json!({})).await).expect("a state")
    }

    /// What becomes of the next messages to somebody (digits alone); each part counts. A number is a `command_status`, `silence`,
    /// `drop`, or nothing out of the ordinary.
    pub async fn script(&self, to: &str, hows: Value) {
        self.ask("/script", &json!({ to: hows })).await;
    }

    /// Sends a receipt; what it was answered, nothing if there is no session.
    pub async fn receipt(&self, id: &str, state: &str) -> Option<u32> {
        self.status("/receipt", &json!({ "id": id, "state": state })).await
    }

    /// Sends a receipt whose parameters tell all.
    pub async fn receipt_by_parameters(&self, id: &str, state: &str) -> Option<u32> {
        self.status("/receipt", &json!({ "id": id, "state": state, "tlv": true })).await
    }

    /// Sends somebody's message, whole.
    pub async fn inbound(&self, from: &str, to: &str, text: &str) -> Option<u32> {
        self.status("/inbound", &json!({ "from": from, "to": to, "text": text })).await
    }

    /// Sends somebody's message in parts.
    pub async fn inbound_parts(&self, from: &str, to: &str, parts: &[&str]) -> Option<u32> {
        self.status("/inbound", &json!({ "from": from, "to": to, "parts": parts })).await
    }

    /// Cuts all connections.
    pub async fn drop_connections(&self) {
        self.ask("/drop", &json!({})).await;
    }

    /// Takes another password from now on.
    pub async fn set_password(&self, password: &str) {
        self.ask("/password", &json!({ "password": password })).await;
    }

    /// Takes so many sessions at a time from now on.
    pub async fn set_most(&self, most: u32) {
        self.ask("/binds", &json!({ "most": most })).await;
    }

    async fn status(&self, path: &str, body: &Value) -> Option<u32> {
        self.ask(path, body).await["status"].as_u64().and_then(|status| u32::try_from(status).ok())
    }

    async fn ask(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nhost: centre\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(&self.control).await.expect("the message centre runs");
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).expect("JSON")
    }
}

impl Drop for MessageCentre {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
