//! Starting the binary, watching what it prints, talking to it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before the test gives up: far longer than it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const JWT_SECRET: &str = "a-secret-of-tests-that-nobody-must-see";
pub(crate) const MASTER_KEY: &str = "c2VjcmV0LW1hc3Rlci1rZXktb2YtdGVzdHMtMzJieXQ=";

/// A folder to run in.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The binary in a folder, with no environment but what the test adds.
pub(crate) fn raven(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raven"));
    command.args(arguments).current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// The same with the secrets that a server needs.
pub(crate) fn raven_with_secrets(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = raven(folder, arguments);
    command.env("RAVEN_JWT_SECRET", JWT_SECRET).env("RAVEN_MASTER_KEY", MASTER_KEY);
    command
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A process that goes on running; killed with the test.
pub(crate) struct Running {
    pid: u32,
    lines: Receiver<String>,
    /// All that was printed so far, of both streams.
    pub(crate) seen: String,
    ended: Receiver<ExitStatus>,
    over: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = streams.into_iter().map(|stream| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            })
        });
        let mut threads: Vec<_> = readers.collect();
        let (tell, ended) = channel();
        let pid = child.id();
        threads.push(std::thread::spawn(move || wait(child, &tell)));
        Self { pid, lines, seen: String::new(), ended, over: false, threads }
    }

    /// Waits for a line that contains `text`, and returns it.
    pub(crate) fn line(&mut self, text: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else { panic!("{text:?} did not come:\n{}", self.seen) };
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The address that a quickstart tells.
    pub(crate) fn quickstart_address(&mut self) -> String {
        self.line("Serving on http://").rsplit_once('/').unwrap().1.to_owned()
    }

    /// The address in the log of a server.
    pub(crate) fn serve_address(&mut self) -> String {
        let line = self.line("listening");
        let address = line.split("address=").nth(1).unwrap_or_else(|| panic!("no address in {line}"));
        address.split_whitespace().next().unwrap().to_owned()
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(!self.over);
        assert!(kill(name, self.pid));
    }

    /// Waits for the end; returns the exit code, and leaves all that was printed in `seen`.
    pub(crate) fn end(&mut self) -> i32 {
        let status = self.ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it goes on running:\n{}", self.seen));
        self.over = true;
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        while let Ok(line) = self.lines.try_recv() {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        status.code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            kill("KILL", self.pid);
        }
    }
}

/// By the shell's own `kill`: there is no program of that name on a small system.
fn kill(signal: &str, pid: u32) -> bool {
    Command::new("sh").args(["-c", &format!("kill -s {signal} {pid}")]).status().is_ok_and(|s| s.success())
}

fn wait(mut child: Child, tell: &std::sync::mpsc::Sender<ExitStatus>) {
    let _ = tell.send(child.wait().unwrap());
}

/// One request; returns status and body.
pub(crate) fn call(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("\r\n{body}"));
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
}
