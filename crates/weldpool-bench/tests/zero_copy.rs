//! A binary tensor is not copied in the server: neither from the socket to the engine nor from the engine to the
//! socket.
//!
//! The server runs with `libcopy_counter.so` preloaded, which writes down every `memcpy` and `memmove` of 64 KiB
//! and more in the whole process and the buffers that its sockets fill and empty. What is counted is therefore not
//! the server's own word. Two controls show that it sees copies where there are some: a model that is a copy, and a
//! program that copies.
#![cfg(target_os = "linux")]
// A test fails by panicking, helpers included.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use weldpool_bench::http::Connection;
use weldpool_bench::model::{Element, OneNode};
use weldpool_bench::process::{Listening, Process};
use weldpool_bench::{cargo, ours, request};

const BYTES: usize = 1 << 20;
/// Bytes of a tensor that may arrive together with the request's head and move from there: less than the counter
/// counts, and a sixteenth of the tensor.
const WITH_HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests before the ones that count, for what an engine does once.
const WARM_UP: usize = 5;
const REQUESTS: usize = 5;

/// Computes on its tensor, so that no copy belongs to the model.
const RELU: OneNode = OneNode {
    operator: "Relu",
    element: Element::Fp32,
    inputs: 1,
};
/// Is a copy by definition: the one copy that a run of it must show.
const IDENTITY: OneNode = OneNode {
    operator: "Identity",
    element: Element::Fp32,
    inputs: 1,
};

/// One line of the counter's log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Copy {
        target: usize,
        source: usize,
        bytes: usize,
    },
    Receive(Range<usize>),
    Send(Range<usize>),
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let address = |word: &str| usize::from_str_radix(word, 16).ok();
        let range = |start: &str, bytes: &str| {
            let start = address(start)?;
            Some(start..start + bytes.parse::<usize>().ok()?)
        };
        match words[..] {
            ["memcpy" | "memmove", target, source, bytes] => Some(Self::Copy {
                target: address(target)?,
                source: address(source)?,
                bytes: bytes.parse().ok()?,
            }),
            ["receive", buffer, bytes] => Some(Self::Receive(range(buffer, bytes)?)),
            ["send", buffer, bytes] => Some(Self::Send(range(buffer, bytes)?)),
            _ => None,
        }
    }
}

/// The counter's log, read on from where the last reading ended.
struct Log {
    path: PathBuf,
    read: usize,
}

impl Log {
    /// The events since the last call.
    fn take(&mut self) -> Vec<Event> {
        // The line of an answer's last transfer is written after the client may have read the answer.
        thread::sleep(Duration::from_millis(100));
        let text = fs::read_to_string(&self.path).unwrap();
        let new = &text[self.read..];
        self.read = text.len();
        new.lines()
            .map(|line| Event::parse(line).unwrap_or_else(|| panic!("{line}")))
            .collect()
    }
}

fn copies(events: &[Event]) -> Vec<&Event> {
    events
        .iter()
        .filter(|event| matches!(event, Event::Copy { .. }))
        .collect()
}

/// Whether `ranges` together cover `whole`; they may overlap and come in any order.
fn covered(whole: Range<usize>, mut ranges: Vec<Range<usize>>) -> bool {
    ranges.sort_by_key(|range| range.start);
    let mut reached = whole.start;
    for range in ranges {
        if range.start <= reached {
            reached = reached.max(range.end);
        }
    }
    reached >= whole.end
}

fn counter() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        cargo::build_library("copy_counter").unwrap_or_else(|error| panic!("{error}"))
    })
}

/// A server with the counter preloaded.
struct Server {
    process: Process,
    listening: Listening,
    log: Log,
    _scratch: TempDir,
}

impl Server {
    fn start() -> Self {
        let program = ours::program().unwrap_or_else(|error| panic!("{error}"));
        let scratch = TempDir::new().unwrap();
        let repository = scratch.path().join("models");
        ours::write_repository(&repository, &[("relu", RELU), ("identity", IDENTITY)]).unwrap();
        let log = scratch.path().join("copies");
        let mut command = ours::serve_command(&program, &repository);
        command
            .env("LD_PRELOAD", counter())
            .env("WELDPOOL_COPY_LOG", &log);
        let (process, listening) = ours::start(&mut command, &scratch.path().join("server.log"))
            .unwrap_or_else(|error| panic!("{error}"));
        Self {
            process,
            listening,
            log: Log { path: log, read: 0 },
            _scratch: scratch,
        }
    }

    /// Sends `wire` a few times to warm up and a few times more, and returns the events of the latter.
    fn events(&mut self, wire: &[u8], tensor: &[u8]) -> Vec<Event> {
        let mut connection = Connection::open(self.listening.http).unwrap();
        let mut send = |count| {
            for _ in 0..count {
                let response = connection.exchange(wire).unwrap();
                assert_eq!(
                    response.status,
                    200,
                    "{}",
                    String::from_utf8_lossy(response.body)
                );
                assert_eq!(response.binary(), tensor);
            }
        };
        send(WARM_UP);
        self.log.take();
        send(REQUESTS);
        self.log.take()
    }

    fn stop(self) {
        assert!(self.process.stop().unwrap().success());
    }
}

#[test]
fn a_binary_tensor_is_not_copied() {
    let mut server = Server::start();
    let tensor = request::payload(BYTES);
    let events = server.events(&request::infer("relu", &tensor), &tensor);
    assert_eq!(copies(&events), Vec::<&Event>::new());
    server.stop();
}

#[test]
fn the_engine_reads_what_the_socket_filled_and_the_socket_sends_what_it_wrote() {
    let mut server = Server::start();
    let tensor = request::payload(BYTES);
    let events = server.events(&request::infer("identity", &tensor), &tensor);
    let received: Vec<_> = events
        .iter()
        .filter_map(|event| {
            if let Event::Receive(range) = event {
                Some(range.clone())
            } else {
                None
            }
        })
        .collect();
    let sent: Vec<_> = events
        .iter()
        .filter_map(|event| {
            if let Event::Send(range) = event {
                Some(range.clone())
            } else {
                None
            }
        })
        .collect();
    let copies = copies(&events);
    assert_eq!(
        copies.len(),
        REQUESTS,
        "one copy per request, the model's own: {copies:?}"
    );
    for copy in copies {
        let Event::Copy {
            target,
            source,
            bytes,
        } = *copy
        else {
            unreachable!()
        };
        assert_eq!(bytes, BYTES);
        let own = source + WITH_HEAD_BYTES_MAX..source + bytes;
        assert!(covered(own, received.clone()), "{copy:?} of {received:?}");
        assert!(
            covered(target..target + bytes, sent.clone()),
            "{copy:?} of {sent:?}"
        );
    }
    server.stop();
}

/// Copies as the standard library does; run again by the next test with the counter in front.
#[test]
fn copying_child() {
    let length = std::hint::black_box(BYTES);
    let source = request::payload(length);
    let mut target = vec![0; length];
    target.copy_from_slice(std::hint::black_box(&source));
    assert_eq!(std::hint::black_box(&target), &source);
    target.copy_within(..length / 2, length / 4);
    assert_eq!(target[length / 4..length * 3 / 4], source[..length / 2]);
}

#[test]
fn the_counter_sees_copies_in_rust() {
    let scratch = TempDir::new().unwrap();
    let log = scratch.path().join("copies");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "copying_child"])
        .env("LD_PRELOAD", counter())
        .env("WELDPOOL_COPY_LOG", &log)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let mut log = Log { path: log, read: 0 };
    let lengths: Vec<usize> = log
        .take()
        .iter()
        .filter_map(|event| {
            if let Event::Copy { bytes, .. } = event {
                Some(*bytes)
            } else {
                None
            }
        })
        .collect();
    assert!(lengths.contains(&BYTES), "copy_from_slice: {lengths:?}");
    assert!(lengths.contains(&(BYTES / 2)), "copy_within: {lengths:?}");
}

#[test]
fn coverage_is_that_of_all_ranges_together() {
    assert!(covered(10..20, vec![15..25, 5..15]));
    assert!(covered(10..20, vec![10..20, 30..40]));
    assert!(!covered(10..20, vec![10..14, 15..20]));
    assert!(!covered(10..20, Vec::new()));
}
