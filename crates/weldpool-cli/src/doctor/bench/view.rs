//! P7: memory of the pool used where it is, and memory of the program registered, beside a copy.

use std::hint::black_box;

use weldpool::{Buffer, BufferView, Queue, Result, StorageMode};
use weldpool_testkit::Pages;

use super::{Bench, MIB, NS, faster, size};

/// Sizes, and how many times as fast as a copy a view has to be.
const CASES: [(usize, f64); 3] = [(MIB, 15.0), (16 * MIB, 200.0), (256 * MIB, 3000.0)];

/// What the copy of a tensor goes through.
struct Place {
    view: BufferView,
    queue: Queue,
    /// Where the copy goes, and for a device where it is read to.
    copy: Buffer,
    scratch: Buffer,
    host: bool,
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let sizes = CASES.map(|(bytes, _)| bytes);
    // The tensor, its copy, and one to read into.
    let sizes: Vec<usize> = bench.sizes(&sizes, 3).collect();
    for (bytes, least) in CASES {
        if sizes.contains(&bytes) {
            view(bench, bytes, least)?;
            registration(bench, bytes)?;
        }
    }
    Ok(())
}

fn sum(view: &BufferView) -> Result<()> {
    let words = view.read::<u64>()?;
    let sum = words
        .iter()
        .fold(0_u64, |sum, word| sum.wrapping_add(*word));
    black_box(sum);
    Ok(())
}

impl Place {
    fn wrap(&self) -> Result<BufferView> {
        self.view.slice(0..self.view.len())
    }

    /// By the device, or where that is the host by a processor.
    fn copy(&mut self) -> Result<()> {
        if self.host {
            let from = self.view.read::<u8>()?;
            self.copy.write::<u8>()?.copy_from_slice(&from);
            return Ok(());
        }
        self.queue.copy(&self.view, &mut self.copy)?.wait(None)
    }

    fn read_view(&mut self) -> Result<()> {
        let view = self.wrap()?;
        if self.host {
            return sum(&view);
        }
        self.queue.copy(&view, &mut self.scratch)?.wait(None)
    }

    fn read_copy(&mut self) -> Result<()> {
        self.copy()?;
        if self.host {
            let words = self.copy.read::<u64>()?;
            black_box(
                words
                    .iter()
                    .fold(0_u64, |sum, word| sum.wrapping_add(*word)),
            );
            return Ok(());
        }
        self.queue.copy(&self.copy, &mut self.scratch)?.wait(None)
    }
}

fn view(bench: &mut Bench<'_>, bytes: usize, least: f64) -> Result<()> {
    let mut tensor = bench.buffer(bytes, StorageMode::Shared)?;
    tensor.write::<u8>()?.fill(1);
    let mut place = Place {
        view: tensor.share(),
        queue: bench.allocator.create_queue()?,
        copy: bench.buffer(bytes, bench.storage)?,
        scratch: bench.buffer(bytes, bench.storage)?,
        host: bench.is_host(),
    };
    let name = if place.host { "memcpy" } else { "pinned copy" };
    // One after the other, because both use the same tensor.
    let mut wrap = || {
        black_box(place.wrap()?.binding());
        Ok(())
    };
    let [wrapping] = bench.clock.contest([&mut wrap])?;
    let [copying] = bench.clock.contest([&mut || place.copy()])?;
    let bar = faster("a copy", wrapping, copying, least);
    let case = format!("view, {}", size(bytes));
    bench.measure(case, NS, wrapping, &[(name, copying)], Some(bar));
    let [in_place] = bench.clock.contest([&mut || place.read_view()])?;
    let [of_copy] = bench.clock.contest([&mut || place.read_copy()])?;
    let case = format!("view, {}, to the end of one full read", size(bytes));
    bench.measure(case, NS, in_place, &[(name, of_copy)], None);
    Ok(())
}

/// What it costs to make memory that exists known to the device.
fn registration(bench: &mut Bench<'_>, bytes: usize) -> Result<()> {
    let mut memory = Some(Pages::new(bytes / Pages::PAGE_BYTES));
    let mut refused = None;
    let allocator = &bench.allocator;
    let mut ours = || {
        let Some(pages) = memory.take() else {
            return Ok(());
        };
        match allocator.register(pages) {
            Ok(registered) => match registered.into_inner() {
                Ok(pages) => memory = Some(pages),
                Err(kept) => refused = Some(kept.error),
            },
            Err(error) => refused = Some(error.error),
        }
        Ok(())
    };
    let [registering] = bench.clock.contest([&mut ours])?;
    let case = format!("registration and its end, {}", size(bytes));
    match refused {
        Some(error) => bench.note(format!("{case}: {error}")),
        None => bench.measure(case, NS, registering, &[], None),
    }
    Ok(())
}
