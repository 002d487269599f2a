//! The program `bench`: runs the suites of this crate.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
#[cfg(target_os = "linux")]
use weldpool_bench::gpu;
use weldpool_bench::report::Report;
use weldpool_bench::rounds::Schedule;
use weldpool_bench::{
    Error, Result, alloc, echo, instructions, ours, pressure, replay, serve, soak, soak_alloc,
    triton,
};

/// Times a disturbed measurement is made, at most.
const ATTEMPTS: usize = 4;

/// Benchmarks of Weldpool against its peers.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Compare our allocator with glibc, mimalloc, jemalloc and allocators of ranges
    Alloc(AllocArgs),
    /// Count the instructions of an allocate and free pair with callgrind
    Instructions(Cases),
    /// Replay recorded traces of real models and compare what is held with what PyTorch held
    Replay(Cases),
    /// Compare our server with Triton and with the least that a server can do, over HTTP
    Serve(ServeArgs),
    /// Compare our backend in Triton with its Python backend, with a bare one and with our server, over HTTP
    Triton(TritonArgs),
    /// Send our server thousands of valid and malformed requests and look for leaks
    Soak(SoakArgs),
    /// Run the allocator with all features on, and compare the end with the start
    SoakAlloc(SoakAllocArgs),
    /// Fill memory up to a limit with the pressure monitor on, and without it
    Pressure(PressureArgs),
    /// The process that fills its memory up for the pressure suite
    #[command(hide = true)]
    PressureChild(PressureChildArgs),
    /// Compare our allocator on an NVIDIA GPU with CUDA's, RMM's and PyTorch's, and our copies with the driver's
    #[cfg(target_os = "linux")]
    Gpu(GpuArgs),
    /// Measure one contender of the GPU suite
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    GpuWorker(GpuWorkerArgs),
    /// Serve the ceiling of the serving suite: prepared answers, nothing parsed
    #[command(hide = true)]
    Echo {
        /// The port on 127.0.0.1; 0 for a free one
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Measure one contender in one case
    #[command(hide = true)]
    AllocWorker {
        #[arg(long)]
        contender: String,
        #[arg(long)]
        case: String,
        #[arg(long, value_parser = short_time)]
        warm_up: Duration,
        #[arg(long, value_parser = short_time)]
        samples: Duration,
    },
    /// Make pairs of allocations and frees and nothing else
    #[command(hide = true)]
    Pairs {
        #[arg(long)]
        contender: String,
        #[arg(long)]
        bytes: usize,
        #[arg(long)]
        pairs: u64,
    },
}

/// What every suite with a report takes.
#[derive(Debug, Args)]
struct Run {
    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure less, shortly and once: for a look, not for a record
    #[arg(long)]
    quick: bool,
    /// The commit that the report is to name
    #[arg(long, hide = true, default_value = "unknown")]
    commit: String,
}

impl Run {
    /// Prints the table, and writes the file that was asked for.
    fn show(&self, mut report: Report) -> Result<()> {
        let commit = ("commit".to_owned(), self.commit.clone());
        report.versions.extend([commit]);
        print!("{}", report.table());
        self.json
            .as_deref()
            .map_or(Ok(()), |path| report.write(path))
    }
}

/// The same for suites of many cases.
#[derive(Debug, Args)]
struct Cases {
    #[command(flatten)]
    run: Run,
    /// Only cases whose name contains TEXT
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

#[derive(Debug, Args)]
struct AllocArgs {
    #[command(flatten)]
    cases: Cases,
    /// Measurements of each contender in each case [default: 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    rounds: Option<u8>,
    /// Measure glibc also at settings with which it never gives memory back
    #[arg(long)]
    keeping_glibc: bool,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    run: Run,
    /// Seconds of one measurement [default: 3, with --quick 0.5]
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Measurements of each server in each cell
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Leave our server out
    #[arg(long)]
    peers_only: bool,
    /// Leave perf_analyzer, the second client, out
    #[arg(long)]
    no_perf_analyzer: bool,
    /// Requests that Triton's model runs at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    triton_instances: u8,
    /// Give the client and the servers processors of their own, which never halt: steadier on a busy machine,
    /// further from what users see, and at the expense of whatever else runs
    #[arg(long)]
    split: bool,
}

#[derive(Debug, Args)]
struct TritonArgs {
    #[command(flatten)]
    run: Run,
    /// Seconds of one measurement [default: 3, with --quick 0.5]
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Measurements of each server in each cell
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Executions of a model at once, in every server
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    instances: u8,
    /// Give the client and the servers processors of their own, which never halt: steadier on a busy machine,
    /// further from what users see, and at the expense of whatever else runs
    #[arg(long)]
    split: bool,
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// Requests in all
    #[arg(long, value_name = "N", default_value_t = soak::Options::default().requests)]
    requests: usize,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = soak::Options::default().concurrency)]
    concurrency: usize,
    /// Start of the random choices
    #[arg(long, value_name = "N", default_value_t = soak::Options::default().seed)]
    seed: u64,
}

#[derive(Debug, Args)]
struct SoakAllocArgs {
    #[command(flatten)]
    run: Run,
    /// How long to run
    #[arg(long, value_name = "N", default_value_t = 30.0)]
    minutes: f64,
    /// Threads that allocate
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    threads: u8,
    /// Start of the random choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct PressureArgs {
    #[command(flatten)]
    run: Run,
    /// The limit in MiB
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..=65536))]
    limit_mib: u32,
    /// Make control groups with the limit in this one, whose children have a memory controller. `cargo xtask
    /// bench pressure` without it boots a machine of its own
    #[arg(long, value_name = "DIRECTORY")]
    group: PathBuf,
    /// The command that the report is to name
    #[arg(long, hide = true)]
    command: Option<String>,
}

#[derive(Debug, Args)]
struct PressureChildArgs {
    #[arg(long)]
    group: PathBuf,
    #[arg(long)]
    pace: pressure::Pace,
    #[arg(long)]
    monitor: bool,
    #[arg(long)]
    quick: bool,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
struct GpuArgs {
    #[command(flatten)]
    cases: Cases,
    /// Where the wheels of librmm, rapids-logger and nvidia-cuda-cccl are unpacked; RMM is left out without
    #[arg(long, value_name = "DIRECTORY")]
    wheels: Option<PathBuf>,
    /// Try numbers of threads and sizes of chunks of copies too
    #[arg(long)]
    sweep: bool,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
struct GpuWorkerArgs {
    #[arg(long)]
    contender: String,
    #[arg(long)]
    library: Option<PathBuf>,
    #[arg(long)]
    filter: String,
    #[arg(long)]
    traces: bool,
    #[arg(long, value_parser = short_time)]
    warm_up: Duration,
    #[arg(long, value_parser = short_time)]
    samples: Duration,
}

/// Reads a number of seconds that a measurement of a server can last.
fn seconds(text: &str) -> std::result::Result<Duration, String> {
    seconds_in(text, 0.1..=600.0)
}

/// Reads a number of seconds that a measurement of an allocator can last.
fn short_time(text: &str) -> std::result::Result<Duration, String> {
    seconds_in(text, 1e-4..=60.0)
}

fn seconds_in(text: &str, range: RangeInclusive<f64>) -> std::result::Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text} is not a number"))?;
    if range.contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!(
            "{text} is not between {} and {}",
            range.start(),
            range.end()
        ))
    }
}

impl Run {
    /// Length of one measurement of a server.
    fn window(&self, asked: Option<Duration>) -> Duration {
        let default = Duration::from_millis(if self.quick { 500 } else { 3000 });
        asked.unwrap_or(default)
    }

    /// How often servers are measured.
    fn schedule(&self, rounds: u8) -> Schedule {
        Schedule {
            rounds: usize::from(rounds),
            attempts: if self.quick { 1 } else { ATTEMPTS },
        }
    }
}

fn serve(args: &ServeArgs) -> Result<()> {
    let options = serve::Options {
        command: command_line(),
        window: args.run.window(args.seconds),
        schedule: args.run.schedule(args.rounds),
        peers_only: args.peers_only,
        second_client: !args.run.quick && !args.no_perf_analyzer,
        triton_instances: usize::from(args.triton_instances),
        split: args.split,
    };
    args.run.show(serve::run(&options)?)
}

fn compare_backends(args: &TritonArgs) -> Result<()> {
    let options = triton::Options {
        command: command_line(),
        window: args.run.window(args.seconds),
        schedule: args.run.schedule(args.rounds),
        instances: usize::from(args.instances),
        split: args.split,
    };
    args.run.show(triton::run(&options)?)
}

fn allocate(args: &AllocArgs) -> Result<()> {
    let (warm_up, samples, rounds) = if args.cases.run.quick {
        (5, 20, 1)
    } else {
        (50, 150, 5)
    };
    let options = alloc::Options {
        command: command_line(),
        quick: args.cases.run.quick,
        filter: args.cases.filter.clone(),
        rounds: usize::from(args.rounds.unwrap_or(rounds)),
        effort: alloc::Effort {
            warm_up: Duration::from_millis(warm_up),
            samples: Duration::from_millis(samples),
        },
        keeping_c_library: args.keeping_glibc,
    };
    args.cases.run.show(alloc::run(&options)?)
}

fn count_instructions(args: &Cases) -> Result<()> {
    let options = instructions::Options {
        command: command_line(),
        filter: args.filter.clone(),
        pairs: if args.run.quick { 1_000 } else { 10_000 },
    };
    args.run.show(instructions::run(&options)?)
}

fn replay_traces(args: &Cases) -> Result<()> {
    let options = replay::Options {
        command: command_line(),
        quick: args.run.quick,
        filter: args.filter.clone(),
    };
    args.run.show(replay::run(&options)?)
}

/// Runs the endurance test; a server that fails it makes this program fail too.
fn endure(args: &SoakArgs) -> Result<()> {
    let options = soak::Options {
        requests: args.requests,
        concurrency: args.concurrency.max(1),
        seed: args.seed,
    };
    let outcome = soak::serve_and_run(&ours::program()?, &options)?;
    println!("{}", outcome.summary());
    let failures = outcome.failures();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::protocol(format!(
        "the server fails:\n{}",
        failures.join("\n")
    )))
}

/// Runs the allocator's endurance test; what is not steady makes this program fail.
fn endure_alloc(args: &SoakAllocArgs) -> Result<()> {
    let seconds = if args.run.quick {
        20.0
    } else {
        60.0 * args.minutes
    };
    let duration = Duration::try_from_secs_f64(seconds)
        .map_err(|error| Error::protocol(format!("--minutes {}: {error}", args.minutes)))?;
    let report = soak_alloc::run(&soak_alloc::Options {
        duration,
        threads: usize::from(args.threads),
        seed: args.seed,
        command: command_line(),
    })?;
    let met = report.bars.iter().all(|bar| bar.met);
    args.run.show(report)?;
    if met {
        return Ok(());
    }
    Err(Error::protocol(
        "the allocator is not at the end as at the start",
    ))
}

fn press(args: &PressureArgs) -> Result<()> {
    let report = pressure::run(&pressure::Options {
        command: args.command.clone().unwrap_or_else(command_line),
        limit_bytes: u64::from(args.limit_mib) << 20,
        group: args.group.clone(),
        quick: args.run.quick,
    })?;
    args.run.show(report)
}

/// The command as it is to be typed, with `FILE` for files, which name nobody's folders then, and without what
/// `cargo xtask bench` adds.
fn command_line() -> String {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(added) = arguments.iter().position(|one| one == "--commit") {
        arguments.drain(added..arguments.len().min(added + 2));
    }
    let arguments = arguments.into_iter().map(|argument| {
        if argument.contains(std::path::MAIN_SEPARATOR) {
            "FILE".to_owned()
        } else {
            argument
        }
    });
    ["cargo", "xtask", "bench"]
        .into_iter()
        .map(str::to_owned)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

fn main() -> ExitCode {
    let result = match Cli::parse().suite {
        Suite::Alloc(args) => allocate(&args),
        Suite::Instructions(args) => count_instructions(&args),
        Suite::Replay(args) => replay_traces(&args),
        Suite::Serve(args) => serve(&args),
        Suite::Triton(args) => compare_backends(&args),
        Suite::Soak(args) => endure(&args),
        Suite::SoakAlloc(args) => endure_alloc(&args),
        Suite::Pressure(args) => press(&args),
        Suite::PressureChild(args) => pressure::child(&pressure::Child {
            group: args.group,
            pace: args.pace,
            monitor: args.monitor,
            quick: args.quick,
        }),
        #[cfg(target_os = "linux")]
        Suite::Gpu(args) => gpu::run(&gpu::Options {
            command: command_line(),
            quick: args.cases.run.quick,
            filter: args.cases.filter.clone(),
            wheels: args.wheels,
            sweep: args.sweep,
        })
        .and_then(|report| args.cases.run.show(report)),
        #[cfg(target_os = "linux")]
        Suite::GpuWorker(args) => gpu::work(&gpu::Work {
            contender: &args.contender,
            library: args.library.as_deref(),
            filter: &args.filter,
            traces: args.traces,
            effort: alloc::Effort {
                warm_up: args.warm_up,
                samples: args.samples,
            },
        }),
        Suite::Echo { port } => echo::serve(port),
        Suite::AllocWorker {
            contender,
            case,
            warm_up,
            samples,
        } => alloc::work(&contender, &case, alloc::Effort { warm_up, samples }),
        Suite::Pairs {
            contender,
            bytes,
            pairs,
        } => alloc::make_pairs(&contender, bytes, pairs),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
