//! A server under test, and the plainest of clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::models::weldpool;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// `weldpool serve` on free ports, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) http: String,
    pub(crate) metrics: String,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(repository: &Path, options: &[&str]) -> Self {
        let mut command = command(repository, options);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = Self {
            child: command.spawn().unwrap(),
            http: String::new(),
            metrics: String::new(),
        };
        let mut lines = BufReader::new(server.child.stdout.take().unwrap()).lines();
        loop {
            let line = lines
                .next()
                .expect("the server ended before it was ready")
                .unwrap();
            if let Some(address) = line.strip_prefix("listening http ") {
                server.http = address.into();
            } else if let Some(address) = line.strip_prefix("listening metrics ") {
                server.metrics = address.into();
            } else if line == "ready" {
                return server;
            }
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        exchange(&self.http, "GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        exchange(&self.http, "POST", path, body)
    }

    /// A metric without labels, or with exactly these.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = exchange(&self.metrics, "GET", "/metrics", "").body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
            .parse()
            .unwrap()
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        until(|| self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// `weldpool serve` on 127.0.0.1, with free ports unless the options have others.
pub(crate) fn command(repository: &Path, options: &[&str]) -> Command {
    let mut command = weldpool();
    command
        .args(["serve", "--http-address=127.0.0.1"])
        .arg("--model-repository")
        .arg(repository)
        .args(options)
        .stdin(Stdio::null());
    for port in ["--http-port", "--metrics-port"] {
        if !options.contains(&port) {
            command.args([port, "0"]);
        }
    }
    command
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "nothing happened for {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An answer, its body as text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request on a connection of its own.
pub(crate) fn exchange(address: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    send(&mut stream, method, path, body);
    receive(&mut stream)
}

/// Sends a request that closes the connection.
pub(crate) fn send(stream: &mut TcpStream, method: &str, path: &str, body: &str) {
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\
         \r\n{body}"
    )
    .unwrap();
}

/// Reads an answer up to the end of the connection.
pub(crate) fn receive(stream: &mut TcpStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: body.to_owned(),
    }
}
