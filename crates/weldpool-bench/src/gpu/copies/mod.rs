//! Our copies beside the driver's.
//!
//! Host memory is touched before it is measured, copies are waited for on both sides, and each figure is the median
//! of several. The peers are `cuMemcpyAsync` of pageable and of pinned memory, each followed by a wait for the stream.

#![allow(unsafe_code)]

mod driver;
mod registration;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use weldpool::device::cuda::CudaDevice;
use weldpool::transfer::{Copier, CopierConfig};
use weldpool::{Allocator, Buffer, Device, Request, StorageMode};

use self::driver::{Driver, address_of};
use super::Options;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Better, Report, Row, Verdict};
use crate::statistics::median;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SIZES: [usize; 10] = [
    4 * KIB,
    16 * KIB,
    64 * KIB,
    256 * KIB,
    MIB,
    4 * MIB,
    16 * MIB,
    64 * MIB,
    256 * MIB,
    1024 * MIB,
];
/// From here on a copy of pageable memory has to be nearly as fast as one of pinned memory (P6).
const LARGE: usize = 64 * MIB;
const LARGE_RATIO_MIN: f64 = 0.9;
/// Sizes of P7, and how many times faster a view has to be than a copy.
const VIEWS: [(usize, f64); 3] = [(MIB, 15.0), (16 * MIB, 200.0), (256 * MIB, 3000.0)];
/// What a copy between devices has to reach of the driver's.
const PEER_RATIO_MIN: f64 = 0.9;
/// Threads and chunks that the sweep tries.
const SWEEP_THREADS: [usize; 4] = [1, 4, 8, 12];
const SWEEP_CHUNKS: [usize; 5] = [256 * KIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB];

/// Measures the copies that are wanted.
///
/// # Errors
/// `Environment` without a GPU, or when the driver refuses a call; rows that were measured before are in the report.
pub(super) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let mut suite = Suite::open(options, report)?;
    suite.report.config["copier"] = json!(format!("{:?}", suite.copier.config()));
    suite.report.config["staging"] = json!(format!("{:?}", suite.device.staging()));
    suite.report.config["device"] = json!(suite.device.properties().name);
    suite.copies()?;
    suite.views()?;
    suite.registrations()?;
    suite.peers()?;
    if options.sweep {
        suite.sweep()?;
    }
    Ok(())
}

struct Suite<'a> {
    options: &'a Options,
    device: Arc<dyn Device>,
    allocator: Allocator,
    copier: Copier,
    driver: Driver,
    report: &'a mut Report,
}

fn failed(error: weldpool::Error) -> Error {
    Error::caused(ErrorKind::Environment, "copying", error)
}

fn size(bytes: usize) -> String {
    match bytes {
        MIB.. => format!("{} MiB", bytes / MIB),
        _ => format!("{} KiB", bytes / KIB),
    }
}

fn private(allocator: &Allocator, bytes: usize) -> Result<Buffer> {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator.allocate_with(&request).map_err(failed)
}

impl<'a> Suite<'a> {
    fn open(options: &'a Options, report: &'a mut Report) -> Result<Self> {
        let device: Arc<dyn Device> = Arc::new(CudaDevice::open(0).map_err(failed)?);
        Ok(Self {
            options,
            allocator: Allocator::builder(Arc::clone(&device))
                .build()
                .map_err(failed)?,
            device,
            copier: Copier::new().map_err(failed)?,
            driver: Driver::open(0)?,
            report,
        })
    }

    /// Median nanoseconds of a call.
    fn time(&self, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
        let [median] = self.time_parts(|| {
            let start = Instant::now();
            call()?;
            Ok([start.elapsed()])
        })?;
        Ok(median)
    }

    /// Median nanoseconds of each part of a call, which it tells itself.
    fn time_parts<const N: usize>(
        &self,
        mut call: impl FnMut() -> Result<[Duration; N]>,
    ) -> Result<[f64; N]> {
        let (least, most) = match self.options.quick {
            true => (2, Duration::from_millis(20)),
            false => (7, Duration::from_millis(120)),
        };
        call()?;
        let begin = Instant::now();
        let mut times = [const { Vec::new() }; N];
        while times.iter().all(|times| times.len() < least)
            || (begin.elapsed() < most && times.iter().all(|times| times.len() < 100_000))
        {
            for (times, time) in times.iter_mut().zip(call()?) {
                times.push(time.as_nanos() as f64);
            }
        }
        Ok(times.map(|times| median(&times).unwrap_or(f64::NAN)))
    }

    fn row(
        &mut self,
        case: &str,
        unit: &'static str,
        better: Better,
        ours: f64,
        peers: &[(&str, f64)],
    ) {
        let peers = peers.iter().map(|&(name, value)| (name.to_owned(), value));
        self.report
            .rows
            .push(Row::new(case, unit, better, Some(ours), peers.collect()));
    }

    fn bar(&mut self, bar: &'static str, case: String, value: f64, limit: f64) {
        self.report
            .bars
            .push(Verdict::new(bar, case, "", Better::Higher, value, limit));
    }

    /// Copies of pageable memory, both ways.
    fn copies(&mut self) -> Result<()> {
        for bytes in SIZES {
            for upward in [true, false] {
                let way = if upward {
                    "host to device"
                } else {
                    "device to host"
                };
                let case = format!("{way}, pageable, {}", size(bytes));
                if !self.options.wants(&case) {
                    continue;
                }
                let mut host = vec![1_u8; bytes];
                let mut there = private(&self.allocator, bytes)?;
                let ours = self.time(|| {
                    let copied = if upward {
                        self.copier.copy(&host, &mut there)
                    } else {
                        self.copier.copy(&there, &mut host)
                    };
                    copied.map(drop).map_err(failed)
                })?;
                drop(there);
                let theirs = self.driver.device(bytes)?;
                let pinned = self.driver.pinned(bytes)?;
                self.driver.make_current()?;
                let copy = |host: u64| {
                    self.time(|| {
                        let (to, from) = match upward {
                            true => (theirs.address(), host),
                            false => (host, theirs.address()),
                        };
                        // SAFETY: both are of so many bytes and used by nobody else.
                        unsafe { self.driver.copy(to, from, theirs.bytes()) }
                    })
                };
                let (pageable, pinned) = (copy(address_of(&host))?, copy(pinned.address())?);
                let rate = |ns: f64| bytes as f64 / ns;
                let peers = [
                    ("driver, pageable", rate(pageable)),
                    ("driver, pinned", rate(pinned)),
                ];
                self.row(&case, "GB/s", Better::Higher, rate(ours), &peers);
                let against = format!("{case}: times the driver's of pageable memory");
                self.bar("P6", against, pageable / ours, 1.0);
                if bytes >= LARGE {
                    let against = format!("{case}: of the driver's of pinned memory");
                    self.bar("P6", against, pinned / ours, LARGE_RATIO_MIN);
                }
            }
        }
        Ok(())
    }

    /// A tensor of the pool's memory as it is, and by copy.
    fn views(&mut self) -> Result<()> {
        for (bytes, least) in VIEWS {
            let case = format!("view against copy, {}", size(bytes));
            if !self.options.wants(&case) {
                continue;
            }
            let mut host = self.allocator.allocate(bytes).map_err(failed)?;
            host.write::<u8>().map_err(failed)?.fill(1);
            let view = host.share();
            let address =
                |buffer: &weldpool::BufferView| buffer.binding().device_address.unwrap_or(0);
            let wrap = || {
                view.slice(0..bytes)
                    .map(|part| address(&part))
                    .map_err(failed)
            };
            // A single one is shorter than the clock can tell.
            const AT_ONCE: u32 = 1000;
            let wrapping = self.time(|| {
                for _ in 0..AT_ONCE {
                    std::hint::black_box(wrap()?);
                }
                Ok(())
            })? / f64::from(AT_ONCE);
            let theirs = self.driver.device(bytes)?;
            self.driver.make_current()?;
            let from = wrap()?;
            let copy = || {
                // SAFETY: both are of so many bytes and used by nobody else.
                unsafe { self.driver.copy(theirs.address(), from, bytes) }
            };
            let copying = self.time(copy)?;
            let read_view = self.time(|| {
                let at = wrap()?;
                // SAFETY: the view is alive.
                unsafe { self.driver.read(at, bytes) }
            })?;
            let read_copy = self.time(|| {
                copy()?;
                // SAFETY: as above.
                unsafe { self.driver.read(theirs.address(), bytes) }
            })?;
            self.row(
                &case,
                "ns",
                Better::Lower,
                wrapping,
                &[("driver, pinned", copying)],
            );
            self.bar(
                "P7",
                format!("{case}: times faster"),
                copying / wrapping,
                least,
            );
            let case = format!("{case}, to the end of one read by the device");
            self.row(
                &case,
                "ns",
                Better::Lower,
                read_view,
                &[("driver, pinned", read_copy)],
            );
        }
        Ok(())
    }

    /// Copies from one device to another.
    fn peers(&mut self) -> Result<()> {
        let sizes = [MIB, 16 * MIB, 256 * MIB];
        let name = |bytes| format!("device to device, {}", size(bytes));
        if !sizes.iter().any(|&bytes| self.options.wants(&name(bytes))) {
            return Ok(());
        }
        if CudaDevice::count().map_err(failed)? < 2 {
            self.report
                .missing
                .push("device to device: there is one GPU".into());
            return Ok(());
        }
        let second: Arc<dyn Device> = Arc::new(CudaDevice::open(1).map_err(failed)?);
        let second = Allocator::builder(second).build().map_err(failed)?;
        let other = Driver::open(1)?;
        let enabled = self.driver.enable_peer(&other).is_ok();
        for bytes in sizes {
            if !self.options.wants(&name(bytes)) {
                continue;
            }
            let from = private(&self.allocator, bytes)?;
            let visible = Request::new(bytes).storage(StorageMode::Private);
            let visible = second.allocate_with(&visible.visible_to_peers(true));
            let mut to = visible.map_err(failed)?;
            let path = self.copier.copy(&from, &mut to).map_err(failed)?.path;
            let ours = self.time(|| self.copier.copy(&from, &mut to).map(drop).map_err(failed))?;
            let (there, here) = (other.device(bytes)?, self.driver.device(bytes)?);
            self.driver.make_current()?;
            let theirs = self.time(|| {
                let to = (there.address(), other.context());
                // SAFETY: both are of so many bytes and used by nobody else.
                unsafe { self.driver.copy_peer(to, here.address(), bytes) }
            })?;
            let case = format!("{} ({}, peer access {enabled})", name(bytes), path.name());
            let rate = |ns: f64| bytes as f64 / ns;
            self.row(
                &case,
                "GB/s",
                Better::Higher,
                rate(ours),
                &[("driver", rate(theirs))],
            );
            self.bar(
                "P6",
                format!("{case}: of the driver's"),
                theirs / ours,
                PEER_RATIO_MIN,
            );
        }
        Ok(())
    }

    /// How the figures depend on threads and chunks.
    fn sweep(&mut self) -> Result<()> {
        for bytes in [MIB, 16 * MIB, 256 * MIB] {
            let mut host = vec![1_u8; bytes];
            for threads in SWEEP_THREADS {
                for chunk in SWEEP_CHUNKS {
                    let config = CopierConfig {
                        threads_max: threads,
                        chunk_bytes: Some(chunk),
                        ..CopierConfig::default()
                    };
                    let copier = Copier::with_config(config).map_err(failed)?;
                    let mut there = private(&self.allocator, bytes)?;
                    let up =
                        self.time(|| copier.copy(&host, &mut there).map(drop).map_err(failed))?;
                    let down =
                        self.time(|| copier.copy(&there, &mut host).map(drop).map_err(failed))?;
                    for (way, ns) in [("host to device", up), ("device to host", down)] {
                        let case = format!(
                            "sweep, {way}, {}, {threads} threads, chunks of {}",
                            size(bytes),
                            size(chunk)
                        );
                        self.row(&case, "GB/s", Better::Higher, bytes as f64 / ns, &[]);
                    }
                }
            }
        }
        for bytes in [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB] {
            for (name, most) in [("pageable", usize::MAX), ("staged", 0)] {
                let mut host = vec![1_u8; bytes];
                let config = CopierConfig {
                    pageable_bytes_max: Some(most),
                    ..CopierConfig::default()
                };
                let copier = Copier::with_config(config).map_err(failed)?;
                let mut there = private(&self.allocator, bytes)?;
                let up = self.time(|| copier.copy(&host, &mut there).map(drop).map_err(failed))?;
                let down =
                    self.time(|| copier.copy(&there, &mut host).map(drop).map_err(failed))?;
                for (way, ns) in [("host to device", up), ("device to host", down)] {
                    let case = format!("sweep, {way}, {}, {name}", size(bytes));
                    self.row(&case, "ns", Better::Lower, ns, &[]);
                }
            }
        }
        Ok(())
    }
}
