//! The process of one step: whatever a driver does to it, the examination goes on.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weldpool::{Device, ErrorKind, Runtime, StorageMode};
use weldpool_testkit::{Subject, offered};

use super::event::{Absent, Event};
use super::step::Step;
use super::{bench, busy, stress};
use crate::{devices, output};

/// Messages of panics that are kept.
const PANICS_MAX: usize = 4;

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static DEVICE: OnceLock<String> = OnceLock::new();
/// Every device of the case; fakes are asked at its end what rules were broken.
static SUBJECTS: Mutex<Vec<Subject>> = Mutex::new(Vec::new());

/// Runs one step on a device and tells what comes of it on standard output.
pub(super) fn run(step: Step, device: &str, quick: bool) -> Result<ExitCode> {
    end_with_the_parent()?;
    keep_panics();
    let _first = DEVICE.set(device.to_owned());
    match step {
        Step::Devices => list()?.tell()?,
        Step::Facts => facts(device)?.tell()?,
        Step::Case(case) => match Subject::open(device) {
            Ok(subject) if !case.applies_to(subject.device().as_ref()) => {
                Event::NotApplicable.tell()?;
            }
            _ => tested(|| case.run(make))?,
        },
        Step::Injected(injected) => tested(|| injected.run(make))?,
        Step::Stress => tested(|| stress::run(&make(), quick))?,
        Step::Bench(which) => {
            let measured = bench::run(which, &make(), quick, &mut |event| {
                // Whoever reads it has gone away, and ends this process.
                let _lost = event.tell();
            });
            if let Err(error) = measured {
                let short = [ErrorKind::OutOfMemory, ErrorKind::LimitExceeded];
                let short_of_memory = short.contains(&error.kind());
                let message = error.to_string();
                Event::Failed {
                    short_of_memory,
                    message,
                }
                .tell()?;
            }
            tell_violations()?;
        }
    }
    Event::Done.tell()?;
    // Threads that work on what was left behind are not waited for.
    std::process::exit(0)
}

/// Ends this process when the one that examines is gone and thereby closes standard input.
fn end_with_the_parent() -> Result<()> {
    let wait = || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        std::process::exit(1);
    };
    let named = std::thread::Builder::new().name("weldpool-parent".into());
    named.spawn(wait).context("cannot start a thread")?;
    Ok(())
}

fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload_as_str().unwrap_or("a panic without words");
        let message = match panic.location() {
            Some(place) => format!("{said} ({}:{})", place.file(), place.line()),
            None => said.to_owned(),
        };
        // What is left where the panic ends the process.
        output::note(&message);
        let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        if panics.len() < PANICS_MAX {
            panics.push(message);
        }
    }));
}

/// The messages of the panics so far, in the order in which they were raised.
fn panics() -> String {
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    panics.join("; then ")
}

/// Makes the device under test for cases, which panic when they cannot go on.
fn make() -> Arc<dyn Device> {
    let name = DEVICE.get().map_or("", String::as_str);
    let subject = match Subject::open(name) {
        Ok(subject) => subject,
        Err(error) => panic!("{name} cannot be opened: {error}"),
    };
    let device = Arc::clone(subject.device());
    let mut subjects = SUBJECTS.lock().unwrap_or_else(PoisonError::into_inner);
    subjects.push(subject);
    device
}

fn tested(test: impl FnOnce()) -> Result<()> {
    if catch_unwind(AssertUnwindSafe(test)).is_err() {
        let message = panics();
        Event::Failed {
            short_of_memory: false,
            message,
        }
        .tell()?;
    }
    tell_violations()
}

fn tell_violations() -> Result<()> {
    let subjects = SUBJECTS.lock().unwrap_or_else(PoisonError::into_inner);
    let broken = subjects.iter().flat_map(Subject::violations);
    let told: Vec<String> = broken
        .take(PANICS_MAX)
        .map(|violation| format!("{:?}: {}", violation.rule, violation.text))
        .collect();
    if !told.is_empty() {
        let message = format!("rules of the driver were broken: {}", told.join("; "));
        Event::Failed {
            short_of_memory: false,
            message,
        }
        .tell()?;
    }
    Ok(())
}

fn list() -> Result<Event> {
    let runtime = Runtime::open().context("cannot open the devices")?;
    let names = runtime.devices().iter().map(|device| {
        let properties = device.properties();
        format!("{}:{}", properties.kind.name(), properties.ordinal)
    });
    let absent = runtime.absent().iter().map(|absent| Absent {
        device: absent.name.clone(),
        reason: absent.error.to_string(),
    });
    let host = runtime.devices().first().context("there is no host")?;
    Ok(Event::Devices {
        devices: names.collect(),
        absent: absent.collect(),
        processor: host.properties().name.clone(),
        processors: host.properties().parallelism,
        memory_bytes: host.budget()?.total,
        free_share: busy::free_share(),
    })
}

fn facts(name: &str) -> Result<Event> {
    let subject = match Subject::open(name) {
        Ok(subject) => subject,
        Err(error) => {
            return Ok(Event::Refused {
                wrong_name: error.kind() == ErrorKind::InvalidRequest,
                message: error.to_string(),
            });
        }
    };
    let device = subject.device().as_ref();
    let mut facts = devices::object(device)?;
    facts["virtual_memory"] = virtual_memory(device);
    facts["exports_memory"] = json!(offered(device).is_some());
    let staging = device.staging();
    facts["staging"] = json!({
        "chunk_bytes": staging.chunk_bytes,
        "chunk_bytes_min": staging.chunk_bytes_min,
        "part_bytes": staging.part_bytes,
        "pageable_bytes_max": staging.pageable_bytes_max,
        "threads_max": staging.threads_max,
    });
    Ok(Event::Facts {
        kind: device.properties().kind.name().to_owned(),
        name: device.properties().name.clone(),
        facts,
    })
}

/// What virtual memory there is, by storage mode.
fn virtual_memory(device: &dyn Device) -> Value {
    let of = |storage: StorageMode| {
        let properties = device.virtual_memory(storage)?.properties();
        let object = json!({
            "granularity_bytes": properties.granularity,
            "divisible": properties.divisible,
            "needs_access": properties.needs_access,
            "mappings_max": properties.mappings_max,
            "address_bytes_max": properties.address_bytes_max,
        });
        Some((storage.name().to_owned(), object))
    };
    Value::Object(StorageMode::ALL.into_iter().filter_map(of).collect())
}
