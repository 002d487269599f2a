//! `weldpool devices`: what memory there is.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use weldpool::{Device, Runtime};

use crate::output;

/// Options of `weldpool devices`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How to print the list.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// List the devices made of software too, which exist on every machine.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    Table,
    /// One JSON object per device and line, and one per kind of device that is not here, which says why ("absent").
    Json,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = Runtime::open().context("cannot open the devices")?;
    let mut devices = runtime.devices().to_vec();
    if options.all {
        for name in Runtime::SOFTWARE_DEVICE_NAMES {
            devices
                .push(Runtime::open_device(name).with_context(|| format!("cannot open {name}"))?);
        }
    }
    if options.format == Format::Table {
        output::line(format_args!(
            "{:<16} {:<34} {:>10} {:>10} {:>10} {:>6}  {:<8} STORAGE",
            "DEVICE", "NAME", "TOTAL", "AVAILABLE", "LIMIT", "PAGE", "UNIFIED"
        ))?;
    }
    for device in &devices {
        match options.format {
            Format::Table => output::line(row(device.as_ref())?)?,
            Format::Json => output::line(object(device.as_ref())?)?,
        }
    }
    for absent in runtime.absent() {
        let (name, error) = (&absent.name, &absent.error);
        match options.format {
            Format::Table => output::line(format_args!("{name:<16} is not here: {error}"))?,
            Format::Json => {
                output::line(json!({ "device": name, "absent": error.to_string() }))?;
            }
        }
    }
    Ok(())
}

/// A device as programs read it.
pub(crate) fn object(device: &dyn Device) -> Result<Value> {
    let properties = device.properties();
    let budget = device
        .budget()
        .context("cannot read the memory of a device")?;
    let modes: Vec<_> = properties
        .storage_modes
        .iter()
        .map(|mode| mode.name())
        .collect();
    Ok(json!({
        "device": format!("{}:{}", properties.kind.name(), properties.ordinal),
        "kind": properties.kind.name(),
        "ordinal": properties.ordinal,
        "name": properties.name,
        "unified": properties.unified,
        "chip": properties.chip.map(|chip| chip.name()),
        "page_bytes": properties.page_bytes,
        "granularity_bytes": properties.granularity,
        "alignment_min_bytes": properties.alignment_min,
        "segment_bytes_max": properties.segment_bytes_max,
        "storage_modes": modes,
        "numa_nodes": properties.numa_nodes,
        "peers": properties.peers,
        "parallelism": properties.parallelism,
        "memory_total_bytes": budget.total,
        "memory_available_bytes": budget.available,
        "memory_limit_bytes": budget.limit,
    }))
}

fn row(device: &dyn Device) -> Result<String> {
    let properties = device.properties();
    let budget = device
        .budget()
        .context("cannot read the memory of a device")?;
    let optional = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), gibibytes);
    let modes: Vec<_> = properties
        .storage_modes
        .iter()
        .map(|mode| mode.name())
        .collect();
    let name: String = properties.name.chars().take(34).collect();
    Ok(format!(
        "{:<16} {:<34} {:>10} {:>10} {:>10} {:>6}  {:<8} {}",
        format!("{}:{}", properties.kind.name(), properties.ordinal),
        name,
        gibibytes(budget.total),
        optional(budget.available),
        optional(budget.limit),
        properties.page_bytes,
        if properties.unified { "yes" } else { "no" },
        modes.join(","),
    ))
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
