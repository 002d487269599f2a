//! The load generator: the same client, thread for thread, in front of every server.
//!
//! Each unit of concurrency is a thread with a connection of its own that sends a prepared request, reads the
//! answer to its last byte and verifies it, over and over. A latency is the time from the first byte handed to
//! the kernel to the last byte read. Only answers that end inside the window count, and the server's processor
//! time is read at its two edges.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{self, Others};
use crate::error::{Error, Result};
use crate::http::Connection;
use crate::statistics::percentile;

/// Every how many answers the whole tensor is compared; its ends are compared in each.
const FULL_CHECK_EVERY: usize = 32;
/// Bytes compared at either end of a tensor.
const ENDS_BYTES: usize = 64;

/// A request, and the answer that it must get each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The bytes to send.
    pub wire: Vec<u8>,
    /// The binary tensors of the answer.
    pub answer: Vec<u8>,
}

/// Sends the request `wire` and returns the binary tensors of the answer.
///
/// # Errors
/// `Io` when the connection fails, `Protocol` when the answer is an error.
pub fn ask<'a>(connection: &'a mut Connection, wire: &[u8]) -> Result<&'a [u8]> {
    let response = connection.exchange(wire)?;
    if response.status == 200 {
        return Ok(response.binary());
    }
    let text = String::from_utf8_lossy(response.body);
    Err(Error::protocol(format!(
        "status {}: {text}",
        response.status
    )))
}

/// What to do to which server.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Its processes, whose processor time is read.
    pub pids: Vec<u32>,
    /// What to send and what to expect.
    pub exchange: Arc<Exchange>,
    /// Requests in flight, each on a connection of its own.
    pub concurrency: usize,
    /// Time before the window, for connections and caches to settle.
    pub warm_up: Duration,
    /// Time measured.
    pub window: Duration,
}

/// What one run of a [`Load`] saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Answers inside the window.
    pub requests: usize,
    /// Answers per second.
    pub throughput: f64,
    /// Median latency seen by the client, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
    /// Processor time of the server per request, in microseconds.
    pub cpu_us: f64,
    /// Processors' worth of work that the machine did meanwhile for neither the server nor this client.
    pub foreign: f64,
}

/// The clocks read at the edges of a window.
#[derive(Debug, Clone)]
struct Clocks {
    at: Instant,
    server: Duration,
    others: Others,
}

impl Clocks {
    /// Reads what is asked about work during the window right at its edge, the slower rest outside it.
    fn start(server: &[u32]) -> Result<Self> {
        let others = others(server)?;
        Ok(Self {
            others,
            server: processor_time(server)?,
            at: Instant::now(),
        })
    }

    fn end(server: &[u32]) -> Result<Self> {
        let at = Instant::now();
        let time = processor_time(server)?;
        Ok(Self {
            at,
            server: time,
            others: others(server)?,
        })
    }
}

/// The processor time of all processes of a server.
fn processor_time(server: &[u32]) -> Result<Duration> {
    server.iter().map(|pid| cpu::processor_time(*pid)).sum()
}

/// What neither a server nor this client does.
fn others(server: &[u32]) -> Result<Others> {
    Others::read(&[server, &[std::process::id()]].concat())
}

/// End and latency of one answer.
type Answer = (Instant, Duration);

impl Load {
    /// Runs the load and returns what was seen inside the window.
    ///
    /// # Errors
    /// `Io` when a connection fails or a process is gone, `Protocol` when an answer is not the expected one or
    /// none came in the window.
    pub fn run(&self) -> Result<Sample> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.concurrency)
                .map(|_| scope.spawn(|| self.client(&stop)))
                .collect();
            thread::sleep(self.warm_up);
            let before = Clocks::start(&self.pids);
            thread::sleep(self.window);
            let after = Clocks::end(&self.pids);
            stop.store(true, Ordering::Relaxed);
            let mut answers = Vec::new();
            for client in clients {
                let result = client
                    .join()
                    .map_err(|_| Error::protocol("a client thread panicked"))?;
                answers.extend(result?);
            }
            sample(answers, &before?, &after?)
        })
    }

    fn client(&self, stop: &AtomicBool) -> Result<Vec<Answer>> {
        let Exchange { wire, answer } = &*self.exchange;
        let mut connection = Connection::open(self.address)?;
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let got = ask(&mut connection, wire)?;
            let end = Instant::now();
            verify(got, answer, answers.len() % FULL_CHECK_EVERY == 0)?;
            answers.push((end, end - start));
        }
        Ok(answers)
    }
}

/// Compares an answer with the expected one: its length and both ends, and all of it if `full`.
fn verify(answer: &[u8], expected: &[u8], full: bool) -> Result<()> {
    let ends = ENDS_BYTES.min(expected.len());
    let same = answer.len() == expected.len()
        && if full {
            answer == expected
        } else {
            answer[..ends] == expected[..ends]
                && answer[answer.len() - ends..] == expected[expected.len() - ends..]
        };
    if same {
        return Ok(());
    }
    let (got, wanted) = (answer.len(), expected.len());
    Err(Error::protocol(format!(
        "the answer's {got} bytes are not the {wanted} bytes expected"
    )))
}

fn sample(answers: Vec<Answer>, before: &Clocks, after: &Clocks) -> Result<Sample> {
    let mut latencies: Vec<u64> = answers
        .into_iter()
        .filter(|(at, _)| (before.at..=after.at).contains(at))
        .map(|(_, latency)| latency.as_nanos() as u64)
        .collect();
    latencies.sort_unstable();
    let requests = latencies.len();
    let microseconds = |percent| percentile(&latencies, percent).map(|value| value as f64 / 1e3);
    let (Some(p50_us), Some(p99_us)) = (microseconds(50.0), microseconds(99.0)) else {
        return Err(Error::protocol("no answer came inside the window"));
    };
    let window = (after.at - before.at).as_secs_f64();
    let cpu = after.server.saturating_sub(before.server);
    let foreign = before.others.used_until(&after.others);
    Ok(Sample {
        requests,
        throughput: requests as f64 / window,
        p50_us,
        p99_us,
        cpu_us: cpu.as_secs_f64() * 1e6 / requests as f64,
        foreign: foreign.as_secs_f64() / window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request;

    #[test]
    fn a_wrong_answer_is_noticed() {
        let sent = request::payload(1024);
        assert!(verify(&sent, &sent, true).is_ok());
        assert!(verify(&sent, &sent, false).is_ok());
        assert!(verify(&sent[..1020], &sent, false).is_err());
        let mut middle = sent.clone();
        middle[512] ^= 1;
        assert!(verify(&middle, &sent, true).is_err());
        let mut end = sent.clone();
        end[1023] ^= 1;
        assert!(verify(&end, &sent, false).is_err());
    }

    fn clocks(at: Instant, server_us: u64) -> Clocks {
        Clocks {
            at,
            server: Duration::from_micros(server_us),
            others: Others::default(),
        }
    }

    #[test]
    fn only_the_window_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let answers = vec![
            (at(0), Duration::from_micros(10)),
            (at(500), Duration::from_micros(30)),
            (at(1000), Duration::from_micros(20)),
            (at(1001), Duration::from_micros(99)),
        ];
        let (before, after) = (clocks(at(0), 100), clocks(at(1000), 700));
        let sample = sample(answers, &before, &after).unwrap();
        assert_eq!(sample.requests, 3);
        assert!((sample.throughput - 3.0).abs() < 1e-9);
        assert!((sample.p50_us - 20.0).abs() < 1e-9);
        assert!((sample.p99_us - 30.0).abs() < 1e-9);
        assert!((sample.cpu_us - 200.0).abs() < 1e-9);
        assert!(sample.foreign.abs() < 1e-9);
    }

    #[test]
    fn an_empty_window_is_an_error() {
        let now = clocks(Instant::now(), 0);
        assert!(sample(Vec::new(), &now, &now).is_err());
    }
}
