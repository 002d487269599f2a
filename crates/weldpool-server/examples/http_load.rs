//! Measures the echo servers beside it with keep-alive clients, one thread and one connection each.
//!
//! Starts `bare_echo`, `hyper_echo` and `http1_echo` one at a time from the folder of this program,
//! in several rounds, and takes for each the round with the median rate. Prints a table, and with
//! `--json FILE` writes it in the form of the benchmark suite.
//!
//! Usage: `http_load [--seconds N] [--rounds N] [--json FILE]`

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::json;
use weldpool_server::http1::Limits;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const SERVERS: [&str; 3] = ["bare_echo", "hyper_echo", "http1_echo"];
const BODY_BYTES: [usize; 2] = [64, 1 << 20];
const CONNECTIONS: [usize; 2] = [1, 8];

struct Options {
    time: Duration,
    rounds: usize,
    json: Option<String>,
}

/// What one server did in one round of one case.
#[derive(Debug, Clone, Copy)]
struct Sample {
    per_second: f64,
    /// Processor time of the server per request, in microseconds.
    server_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A server that is stopped when dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(name: &str) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name(name);
        let mut process = Command::new(&program)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut line = String::new();
        let output = process.stdout.take().ok_or("the server has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default().parse()?;
        Ok(Self { process, address })
    }

    /// Processor time used so far by the threads of the server that are running.
    fn processor_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn request(bytes: usize) -> Vec<u8> {
    let json = format!(
        concat!(
            r#"{{"inputs":[{{"name":"INPUT0","datatype":"UINT8","shape":[1,{}],"#,
            r#""parameters":{{"binary_data_size":{}}}}}],"#,
            r#""outputs":[{{"name":"OUTPUT0","parameters":{{"binary_data":true}}}}]}}"#
        ),
        bytes, bytes
    );
    let mut request = format!(
        "POST /v2/models/identity/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\
         User-Agent: http_load\r\nContent-Type: application/octet-stream\r\n\
         Inference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n{json}",
        json.len(),
        json.len() + bytes
    )
    .into_bytes();
    request.resize(request.len() + bytes, 0);
    request
}

/// Sends requests one after the other until `end`, and returns their latencies.
fn client(
    address: SocketAddr,
    bytes: usize,
    start: &Barrier,
    time: Duration,
) -> Result<Vec<Duration>> {
    let request = request(bytes);
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; (1 << 20) + 4096];
    let mut latencies = Vec::with_capacity(1 << 20);
    // The first requests make connections, pools and caches warm.
    for _ in 0..10 {
        exchange(&mut stream, &request, bytes, &mut buffer)?;
    }
    start.wait();
    let end = Instant::now() + time;
    loop {
        let before = Instant::now();
        if before >= end {
            return Ok(latencies);
        }
        exchange(&mut stream, &request, bytes, &mut buffer)?;
        latencies.push(before.elapsed());
    }
}

fn exchange(stream: &mut TcpStream, request: &[u8], bytes: usize, buffer: &mut [u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut filled = 0;
    let total = loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Err("the server closed the connection".into());
        }
        filled += count;
        let window = &buffer[..filled.min(1024)];
        if let Some(end) = window.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = std::str::from_utf8(&window[..end])?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then_some(value)
            });
            let length: usize = length.ok_or("the response has no length")?.parse()?;
            if !head.starts_with("HTTP/1.1 200 ") || length <= bytes {
                return Err(format!("an unexpected response: {head}").into());
            }
            break end + 4 + length;
        }
    };
    while filled < total {
        match stream.read(&mut buffer[filled..])? {
            0 => return Err("the server closed the connection".into()),
            count => filled += count,
        }
    }
    Ok(())
}

fn measure(name: &str, bytes: usize, connections: usize, time: Duration) -> Result<Sample> {
    let server = Server::start(name)?;
    let start = Barrier::new(connections + 1);
    let (mut latencies, processor) = std::thread::scope(|scope| -> Result<_> {
        let clients: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(server.address, bytes, &start, time)))
            .collect();
        start.wait();
        let before = server.processor_time()?;
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.join().map_err(|_| "a client panicked")??);
        }
        Ok((latencies, server.processor_time()? - before))
    })?;
    latencies.sort_unstable();
    let count = latencies.len();
    if count == 0 {
        return Err("no request was answered in time".into());
    }
    let quantile = |part: usize| latencies[(count * part / 100).min(count - 1)].as_secs_f64() * 1e6;
    Ok(Sample {
        per_second: count as f64 / time.as_secs_f64(),
        server_us: processor.as_secs_f64() * 1e6 / count as f64,
        p50_us: quantile(50),
        p99_us: quantile(99),
    })
}

fn options() -> Result<Options> {
    let mut options = Options {
        time: Duration::from_secs(3),
        rounds: 5,
        json: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => options.time = Duration::from_secs_f64(value.parse()?),
            "--rounds" => options.rounds = value.parse::<usize>()?.max(1),
            "--json" => options.json = Some(value),
            _ => return Err(format!("{name} is not an option").into()),
        }
    }
    Ok(options)
}

/// A row of the suite. The ratio is above one where ours leads the best of the two peers.
fn row(case: &str, unit: &str, higher: bool, values: [f64; 3]) -> serde_json::Value {
    let [ceiling, hyper, ours] = values.map(|value| (value * 100.0).round() / 100.0);
    let best = if higher {
        ceiling.max(hyper)
    } else {
        ceiling.min(hyper)
    };
    let ratio = if higher { ours / best } else { best / ours };
    json!({
        "case": case,
        "unit": unit,
        "better": if higher { "higher" } else { "lower" },
        "ours": ours,
        "peers": { "bare echo (ceiling)": ceiling, "hyper, one copy": hyper },
        "ratio": (ratio * 1000.0).round() / 1000.0,
    })
}

fn main() -> Result<()> {
    let options = options()?;
    let mut rows = Vec::new();
    println!(
        "{:<22} {:<11} {:>11} {:>12} {:>9} {:>9}",
        "case", "server", "requests/s", "server us/rq", "p50 us", "p99 us"
    );
    for bytes in BODY_BYTES {
        for connections in CONNECTIONS {
            let case = format!("{bytes} B, {connections} connections");
            let mut samples = vec![Vec::new(); SERVERS.len()];
            for _ in 0..options.rounds {
                for (name, samples) in SERVERS.iter().zip(&mut samples) {
                    samples.push(measure(name, bytes, connections, options.time)?);
                }
            }
            let mut medians = Vec::new();
            for (name, samples) in SERVERS.iter().zip(&mut samples) {
                samples.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
                let median = samples[samples.len() / 2];
                println!(
                    "{case:<22} {name:<11} {:>11.0} {:>12.2} {:>9.1} {:>9.1}",
                    median.per_second, median.server_us, median.p50_us, median.p99_us
                );
                medians.push(median);
            }
            let of = |value: fn(&Sample) -> f64| [0, 1, 2].map(|index| value(&medians[index]));
            rows.push(row(
                &case,
                "requests/s",
                true,
                of(|sample| sample.per_second),
            ));
            rows.push(row(
                &case,
                "server CPU us/request",
                false,
                of(|sample| sample.server_us),
            ));
            rows.push(row(&case, "p50 us", false, of(|sample| sample.p50_us)));
            rows.push(row(&case, "p99 us", false, of(|sample| sample.p99_us)));
        }
    }
    if let Some(file) = &options.json {
        write(Path::new(file), &options, rows)?;
    }
    Ok(())
}

/// The versions of what is measured, as this program was built.
fn versions() -> serde_json::Value {
    let lock = include_str!("../../../Cargo.lock");
    let version = |package: &str| {
        let behind = lock
            .split_once(&format!("name = \"{package}\"\nversion = \""))?
            .1;
        behind.split('"').next()
    };
    let packages = [
        "weldpool-server",
        "tokio",
        "httparse",
        "hyper",
        "hyper-util",
    ];
    packages
        .map(|package| (package.to_owned(), json!(version(package))))
        .into_iter()
        .collect()
}

fn write(file: &Path, options: &Options, rows: Vec<serde_json::Value>) -> Result<()> {
    let report = json!({
        "suite": "http-body-reader",
        "command": format!(
            "cargo build --release -p weldpool-server --examples && \
             target/release/examples/http_load --seconds {} --rounds {} --json FILE",
            options.time.as_secs_f64(),
            options.rounds
        ),
        "date": "2026-11-21",
        "machine": "2-core x86_64 VM",
        "versions": versions(),
        "config": {
            "server threads": 2,
            "limits": format!("{:?}", Limits::default()),
            "client": "one thread and one keep-alive connection each, on the same machine",
            "seconds": options.time.as_secs_f64(),
            "rounds": options.rounds,
            "taken": "the round with the median rate",
        },
        "rows": rows,
    });
    let mut out = std::fs::File::create(file)?;
    serde_json::to_writer_pretty(&mut out, &report)?;
    out.write_all(b"\n")?;
    Ok(())
}
