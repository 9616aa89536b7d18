//! A real mail server: Debian's aiosmtpd in a process of its own, with a certificate made for the occasion.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

/// How connections are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// In clear, TLS not offered.
    #[default]
    None,
    /// STARTTLS is offered, and required before anything else.
    StartTls,
    /// TLS from the first byte.
    Implicit,
}

/// What kind of server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How connections are protected.
    pub security: Security,
    /// Name and password that clients must give. Without, anybody may send.
    pub credentials: Option<(String, String)>,
    /// Recipients that are refused, with the reply: `552 5.2.2 Over quota`.
    pub replies: HashMap<String, String>,
    /// The port; 0 for a free one.
    pub port: u16,
}

/// The server. Dropping it ends the process.
#[derive(Debug)]
pub struct Smtp {
    child: Child,
    port: u16,
    folder: TempDir,
}

/// A mail as it arrived, read by Python's own parser.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mail {
    /// Seconds since 1970, when it had been read to the end.
    pub at: f64,
    /// Sender of the envelope.
    pub mail_from: String,
    /// Recipients of the envelope.
    pub rcpt_tos: Vec<String>,
    /// Who had signed in.
    pub username: Option<String>,
    /// Did it come over TLS?
    pub tls: bool,
    /// Header fields, decoded, in order.
    pub headers: Vec<(String, String)>,
    /// Media type of the whole.
    pub content_type: String,
    /// Its leaves, decoded, in order.
    pub parts: Vec<Part>,
    /// What the parser found wrong with it.
    pub defects: Vec<String>,
}

impl Mail {
    /// The value of the header field with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// A leaf of a mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Media type.
    pub content_type: String,
    /// What it says.
    pub text: String,
}

impl Smtp {
    /// Starts one, and waits until it listens.
    ///
    /// # Panics
    /// If the machine has no `python3-aiosmtpd` or no `openssl`: `./scripts/test` installs both.
    #[must_use]
    pub fn start(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (certificate, key) = certificate(folder.path());
        let (username, password) = options.credentials.clone().unzip();
        let argument = json!({
            "security": match options.security {
                Security::None => "none",
                Security::StartTls => "starttls",
                Security::Implicit => "implicit",
            },
            "username": username, "password": password, "replies": options.replies, "port": options.port,
            "certificate": certificate, "key": key, "mail": folder.path().join("mail.jsonl"),
        });
        let log = folder.path().join("log");
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", include_str!("smtp_server.py"), &argument.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a file can be made in a new folder"))
            .spawn()
            .expect("/usr/bin/python3 is there (./scripts/test installs python3-aiosmtpd)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("its output can be read");
        let Ok(port) = line.trim().parse() else {
            let _ = child.wait();
            panic!(
                "the SMTP server did not start (./scripts/test installs python3-aiosmtpd):\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
        };
        Self { child, port, folder }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate that a client must trust, as PEM. It names `127.0.0.1` and `localhost`.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        fs::read_to_string(self.certificate_path()).unwrap_or_default()
    }

    /// The file of that certificate.
    #[must_use]
    pub fn certificate_path(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// All mail so far.
    ///
    /// # Panics
    /// If the server wrote something else.
    #[must_use]
    pub fn received(&self) -> Vec<Mail> {
        let text = fs::read_to_string(self.folder.path().join("mail.jsonl")).unwrap_or_default();
        // A line without its end is still being written.
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        whole.lines().map(|line| serde_json::from_str(line).expect("the server writes JSON lines")).collect()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a self-signed certificate for 127.0.0.1 and its key.
pub(super) fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    // Not an authority: TLS clients refuse one as the server's own certificate.
    const CONFIG: &str = "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=extensions\n[name]\nCN=localhost\n[extensions]\n\
        basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n";
    let (config, certificate, key) = (folder.join("openssl.cnf"), folder.join("certificate.pem"), folder.join("key.pem"));
    fs::write(&config, CONFIG).expect("a file can be made in a new folder");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-config"])
        .arg(&config)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is there (./scripts/test installs it)");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}
