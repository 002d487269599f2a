//! Compares the pool with onnxruntime's own arena: steady latency and memory of the OCR models.
//!
//! ```text
//! cargo run --release -p weldpool-engine --example arena_comparison -- --models DIR \
//!     [--rounds N] [--machine TEXT] [--with COMMAND] [--json FILE]
//! ```
//!
//! `DIR` holds the three models of `rapidocr-onnxruntime`, under the names they have in its wheel or
//! as `det.onnx`, `rec.onnx` and `cls.onnx` (`target/weldpool/ocr-models`). The library is found as
//! the engine finds it. Needs Linux (`/proc`), and a C compiler `cc` for the counter of `malloc`
//! calls.
//!
//! Latency: one process holds the model once per arena and runs them in turn on one thread, so that
//! all sides see the same machine; the time is the processor's. What is loaded first runs a little
//! faster, so the processes of a case load in different orders, and the mean of their medians counts.
//! `--with` puts words in front of these processes; `--with "chrt -f 10 taskset -c 1"` keeps other
//! programs off their processor.
//!
//! Memory: one process per case and arena, with every `malloc` counted by a preloaded library, which
//! tells what goes past the pool.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use weldpool::{Allocator, Config};
use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_engine::{
    Arena, DataType, Engine, Instance, LoadOptions, Model, ModelSource, OutputRequest, Tensor,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A model, by a part of its file's name, and the input shapes it is run with in turn.
const CASES: [(&str, &[&[usize]]); 7] = [
    ("det", &[&[1, 3, 320, 320]]),
    ("det", &[&[1, 3, 640, 640]]),
    ("rec", &[&[1, 3, 48, 320]]),
    ("rec", &[&[6, 3, 48, 320]]),
    ("cls", &[&[1, 3, 48, 192]]),
    ("cls", &[&[6, 3, 48, 192]]),
    (
        "det",
        &[&[1, 3, 320, 320], &[1, 3, 480, 640], &[1, 3, 640, 640]],
    ),
];

const ARENAS: [Arena; 3] = [Arena::Pool, Arena::Engine, Arena::System];

/// How long the latency of a case is measured at least, in ms per process.
const MILLISECONDS_MIN: f64 = 6000.0;

/// Runs before measuring: the library plans its memory from the first ones.
const WARM_UP: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let option = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .and_then(|position| arguments.get(position + 1))
            .cloned()
    };
    let models = PathBuf::from(option("--models").ok_or("--models DIR is needed")?);
    fs::read_dir(&models).map_err(|error| {
        format!("cannot read the folder {}: {error}; `cargo xtask demo` fills target/weldpool/ocr-models", models.display())
    })?;
    let rounds: usize = option("--rounds").map_or(Ok(60), |text| text.parse())?;
    if let Some(case) = option("--latency") {
        let first = option("--first").ok_or("--first N is needed")?.parse()?;
        return latency(&models, case.parse()?, rounds, first);
    }
    if let Some(case) = option("--memory") {
        let arena = arena_named(&option("--arena").ok_or("--arena NAME is needed")?)?;
        return memory(&models, case.parse()?, rounds, arena);
    }
    let machine = option("--machine").unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        format!("{cores}-core {} {}", env::consts::ARCH, env::consts::OS)
    });
    let with = option("--with").unwrap_or_default();
    let report = compare(&models, rounds, &machine, &with)?;
    match option("--json") {
        Some(file) => fs::write(file, report)?,
        None => print!("{report}"),
    }
    Ok(())
}

/// Measures everything in processes of its own and writes the report.
fn compare(models: &Path, rounds: usize, machine: &str, with: &str) -> Result<String> {
    let counter = build_counter()?;
    let engine = OnnxRuntime::load(None)?;
    let mut rows = Vec::new();
    for (case, (model, shapes)) in CASES.iter().enumerate() {
        let name = case_name(model, shapes);
        let mut means = vec![0.0; ARENAS.len()];
        for first in 0..ARENAS.len() {
            let arguments = [
                "--latency",
                &case.to_string(),
                "--first",
                &first.to_string(),
            ];
            let times = numbers(&child(&engine, models, rounds, &arguments, with, None)?)?;
            for (mean, time) in means.iter_mut().zip(times) {
                *mean += time / ARENAS.len() as f64;
            }
        }
        rows.push(row(&format!("{name}: latency, 1 thread"), "ms", &means)?);
        let mut by_arena = Vec::new();
        for arena in ARENAS {
            let arguments = ["--memory", &case.to_string(), "--arena", arena_name(arena)];
            by_arena.push(numbers(&child(
                &engine,
                models,
                rounds,
                &arguments,
                "",
                Some(&counter),
            )?)?);
        }
        for (index, (label, unit)) in MEMORY.iter().enumerate() {
            let values = by_arena
                .iter()
                .map(|values| values.get(index).copied().ok_or("a number is missing"))
                .collect::<std::result::Result<Vec<f64>, _>>()?;
            rows.push(row(&format!("{name}: {label}"), unit, &values)?);
        }
        rows.push(format!(
            "{{\"case\": {}, \"unit\": \"KiB\", \"better\": \"lower\", \"ours\": {:.3}, \"peers\": {{}}, \
             \"ratio\": null}}",
            quoted(&format!("{name}: live in the pool, steady")),
            by_arena[0].last().ok_or("a number is missing")?
        ));
        eprintln!("{} of {}: {name}", case + 1, CASES.len());
    }
    let mut report = String::new();
    writeln!(report, "{{")?;
    writeln!(report, "  \"suite\": \"engine-arena\",")?;
    writeln!(
        report,
        "  \"command\": \"cargo run --release -p weldpool-engine --example arena_comparison -- --models DIR --rounds {rounds}{}\",",
        if with.is_empty() {
            String::new()
        } else {
            format!(" --with '{with}'")
        }
    )?;
    writeln!(report, "  \"date\": \"{}\",", today()?)?;
    writeln!(report, "  \"machine\": {},", quoted(machine))?;
    writeln!(
        report,
        "  \"versions\": {{\"weldpool-engine\": {}, \"onnxruntime\": {}, \"models\": \"rapidocr-onnxruntime 1.4.4\"}},",
        quoted(env!("CARGO_PKG_VERSION")),
        quoted(engine.version())
    )?;
    writeln!(report, "  \"config\": {},", quoted(&config()))?;
    writeln!(report, "  \"rows\": [\n    {}\n  ]", rows.join(",\n    "))?;
    writeln!(report, "}}")?;
    Ok(report)
}

/// What a memory process reports, in this order; then the live bytes of the pool, in KiB.
const MEMORY: [(&str, &str); 7] = [
    ("resident after load", "KiB"),
    ("resident, steady", "KiB"),
    ("resident peak", "KiB"),
    ("malloc, live after load", "KiB"),
    ("malloc, live, steady", "KiB"),
    ("malloc, bytes per run", "B"),
    ("malloc, calls per run", "calls"),
];

/// One row of the report: the pool against the two others.
fn row(case: &str, unit: &str, values: &[f64]) -> Result<String> {
    let [pool, engine, system] = values else {
        return Err("three numbers are needed".into());
    };
    let ratio = if *pool > 0.0 {
        engine.min(*system) / pool
    } else {
        1.0
    };
    Ok(format!(
        "{{\"case\": {}, \"unit\": {}, \"better\": \"lower\", \"ours\": {pool:.3}, \
         \"peers\": {{\"onnxruntime arena\": {engine:.3}, \"system malloc\": {system:.3}}}, \
         \"ratio\": {ratio:.3}}}",
        quoted(case),
        quoted(unit)
    ))
}

/// Runs this program again for one measurement and returns what it prints.
fn child(
    engine: &OnnxRuntime,
    models: &Path,
    rounds: usize,
    arguments: &[&str],
    with: &str,
    counter: Option<&Path>,
) -> Result<String> {
    let program = env::current_exe()?;
    let mut words = with.split_whitespace();
    let mut command = match words.next() {
        Some(word) => {
            let mut command = Command::new(word);
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .arg("--models")
        .arg(models)
        .args(["--rounds", &rounds.to_string()])
        .args(arguments);
    // Searching for the library may start programs, which would be counted as well.
    command.env("ORT_DYLIB_PATH", engine.path());
    if let Some(counter) = counter {
        command.env("LD_PRELOAD", counter);
        command.env("MALLOC_COUNTER_FILE", counter.with_extension("counts"));
    }
    let output = command.output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{arguments:?}: {message}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A model on one arena, with an input per shape.
struct Loaded {
    model: Arc<dyn Model>,
    instance: Box<dyn Instance>,
    inputs: Vec<Tensor>,
    next: usize,
}

impl Loaded {
    fn new(
        engine: &OnnxRuntime,
        allocator: &Allocator,
        file: &Path,
        shapes: &[&[usize]],
        arena: Arena,
    ) -> Result<Loaded> {
        let mut options = LoadOptions::new(allocator.clone());
        options.arena = Some(arena);
        options.intra_op_threads = Some(1);
        let model = engine.load(ModelSource::Path(file), &options)?;
        let instance = model.instance()?;
        let inputs = shapes
            .iter()
            .map(|shape| {
                let count: usize = shape.iter().product();
                let values: Vec<f32> = (0..count).map(|i| (i % 251) as f32 / 251.0).collect();
                Tensor::from_values(allocator, DataType::Fp32, shape.to_vec(), &values)
            })
            .collect::<weldpool_engine::Result<_>>()?;
        Ok(Loaded {
            model,
            instance,
            inputs,
            next: 0,
        })
    }

    /// Runs once, with the next shape.
    fn run(&mut self) -> Result<()> {
        let input = &self.inputs[self.next % self.inputs.len()];
        self.next += 1;
        let outputs = self.instance.run(
            &[(&self.model.inputs()[0].name, input)],
            &[OutputRequest::new(&self.model.outputs()[0].name)],
        )?;
        drop(outputs);
        Ok(())
    }
}

/// Prints the median time of a run per arena, in ms, having loaded the arenas from `first` on.
fn latency(models: &Path, case: usize, rounds: usize, first: usize) -> Result<()> {
    let (file, shapes) = case_files(models, case)?;
    let engine = OnnxRuntime::load(None)?;
    let count = ARENAS.len();
    let mut loaded = Vec::new();
    for position in 0..count {
        let arena = ARENAS[(first + position) % count];
        let allocator = Allocator::host()?;
        let mut one = Loaded::new(&engine, &allocator, &file, shapes, arena)?;
        for _ in 0..WARM_UP * shapes.len() {
            one.run()?;
        }
        loaded.push(one);
    }
    // Short runs are repeated more often: a median of a few of them is mostly noise.
    let start = processor_time();
    for one in &mut loaded {
        for _ in shapes {
            one.run()?;
        }
    }
    let per_round = (processor_time() - start).max(0.001);
    let rounds = rounds.max((MILLISECONDS_MIN / per_round) as usize);
    let mut times = vec![Vec::new(); count];
    for round in 0..rounds {
        for position in 0..count {
            // Whoever runs after another finds its caches spoiled; let each come after each.
            let index = (position + round) % count;
            let start = processor_time();
            for _ in shapes {
                loaded[index].run()?;
            }
            let spent = processor_time() - start;
            times[(first + index) % count].push(spent / shapes.len() as f64);
        }
    }
    for mut times in times {
        times.sort_by(f64::total_cmp);
        println!("{}", times[times.len() / 2]);
    }
    Ok(())
}

/// Prints what [`MEMORY`] says, and the live bytes of the pool, for one arena.
fn memory(models: &Path, case: usize, rounds: usize, arena: Arena) -> Result<()> {
    let (file, shapes) = case_files(models, case)?;
    let engine = OnnxRuntime::load(None)?;
    let allocator = Allocator::host()?;
    let mut loaded = Loaded::new(&engine, &allocator, &file, shapes, arena)?;
    let (resident_loaded, counts_loaded) = (resident("VmRSS:")?, counts()?);
    let runs = rounds.max(WARM_UP) * shapes.len();
    for _ in 0..runs {
        loaded.run()?;
    }
    let before = counts()?;
    for _ in 0..runs {
        loaded.run()?;
    }
    let after = counts()?;
    let per_run = |from: u64, to: u64| (to - from) as f64 / runs as f64;
    for number in [
        resident_loaded,
        resident("VmRSS:")?,
        resident("VmHWM:")?,
        counts_loaded.live as f64 / 1024.0,
        after.live as f64 / 1024.0,
        per_run(before.bytes, after.bytes),
        per_run(before.calls, after.calls),
        allocator.stats().live.value as f64 / 1024.0,
    ] {
        println!("{number}");
    }
    Ok(())
}

/// What the preloaded counter says.
struct Counts {
    live: u64,
    bytes: u64,
    calls: u64,
}

fn counts() -> Result<Counts> {
    let file = env::var_os("MALLOC_COUNTER_FILE").ok_or("MALLOC_COUNTER_FILE is not set")?;
    let bytes = fs::read(file)?;
    let number = |index: usize| -> Result<u64> {
        let bytes = bytes
            .get(index * 8..index * 8 + 8)
            .ok_or("the counter's file is too short")?;
        Ok(u64::from_ne_bytes(bytes.try_into()?))
    };
    Ok(Counts {
        live: number(0)?,
        bytes: number(1)?,
        calls: number(2)?,
    })
}

/// Compiles the counter beside this program.
fn build_counter() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/malloc_counter.c");
    let library = env::current_exe()?.with_file_name("malloc_counter.so");
    let status = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .map_err(|error| format!("cc, which the counter of malloc calls needs: {error}"))?;
    if !status.success() {
        return Err("cc could not compile the counter of malloc calls".into());
    }
    Ok(library)
}

/// A line of `/proc/self/status`, in KiB.
fn resident(field: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .ok_or("no such field")?;
    let number = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(number.parse()?)
}

/// How long this thread has run on a processor so far, in ms.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// The pool's configuration, in short.
fn config() -> String {
    let config = Config::default();
    format!(
        "default: {} size classes up to {} B, segments of {} to {} B, alignment {} B",
        config.classes.as_slice().len(),
        config
            .classes
            .as_slice()
            .last()
            .map_or(0, |class| class.bytes),
        config.segment_bytes_min,
        config.segment_bytes_max,
        config.alignment
    )
}

fn case_files(models: &Path, case: usize) -> Result<(PathBuf, &'static [&'static [usize]])> {
    let (part, shapes) = CASES.get(case).ok_or("no such case")?;
    for entry in fs::read_dir(models)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let named = name == format!("{part}.onnx") || name.contains(&format!("_{part}_"));
        if named && name.ends_with(".onnx") {
            return Ok((path, shapes));
        }
    }
    Err(format!(
        "no model {part}.onnx or *_{part}_*.onnx in {}",
        models.display()
    )
    .into())
}

fn case_name(model: &str, shapes: &[&[usize]]) -> String {
    let shapes: Vec<String> = shapes
        .iter()
        .map(|shape| {
            shape
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("x")
        })
        .collect();
    format!("{model} {}", shapes.join(", "))
}

const fn arena_name(arena: Arena) -> &'static str {
    match arena {
        Arena::Pool => "pool",
        Arena::Engine => "engine",
        Arena::System => "system",
    }
}

fn arena_named(name: &str) -> Result<Arena> {
    ARENAS
        .into_iter()
        .find(|arena| arena_name(*arena) == name)
        .ok_or_else(|| format!("no arena {name}").into())
}

fn numbers(text: &str) -> Result<Vec<f64>> {
    Ok(text
        .lines()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The date in UTC, as `YYYY-MM-DD`.
fn today() -> Result<String> {
    let days = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400;
    // Days since 0000-03-01, in which leap days come last in a year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}
