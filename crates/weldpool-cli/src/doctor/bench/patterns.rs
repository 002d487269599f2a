//! Patterns that other allocators found hard: of MLX, and of PyTorch on Apple's GPUs.

use std::hint::black_box;
use std::sync::Arc;

use weldpool::{Allocator, Buffer, Result};

use super::operations::{Operation, Writer, peak_live, replay};
use super::rules::{Bands, Mlx, Rule, peak_reserved};
use super::{Bar, Bench, Better, KIB, MIB, NS, allocate};

/// Arrays of one value each, which a graph of scalar operations makes (MLX, PR #1911: 10 times 4096).
const SCALARS: usize = 4096;
const SCALAR_ROUNDS: usize = 10;
const SCALAR_BYTES: usize = 4;

/// Bytes that the largest of the other patterns has live.
const LIVE_BYTES: usize = 640 * MIB;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    scalars(bench)?;
    let rounds = if bench.quick { 1 } else { 8 };
    let scale = (LIVE_BYTES / bench.bytes_max.max(1) + 1).next_power_of_two();
    if scale > 1 {
        bench.note(format!("sizes of the patterns are divided by {scale}"));
    }
    for (case, rule_name, operations, rule) in [
        (
            "growing sizes (mlx#3350)",
            "MLX's rule",
            growing(rounds, scale),
            &mut Mlx::default() as &mut dyn Rule,
        ),
        (
            "varying inputs (pytorch#188045)",
            "PyTorch's bands",
            training(rounds, scale),
            &mut Bands::default(),
        ),
        (
            "PyTorch's size bands",
            "PyTorch's bands",
            bands(rounds, scale),
            &mut Bands::default(),
        ),
    ] {
        let live = peak_live(&operations);
        let theirs = peak_reserved(&operations, rule) as f64 / live as f64;
        let allocator = Allocator::builder(Arc::clone(&bench.device)).build()?;
        let storage = bench.storage;
        let time = bench
            .clock
            .once(|| replay(&operations, &allocator, storage))?;
        let stats = allocator.stats();
        let ours = stats.reserved.peak as f64 / stats.live.peak.max(1) as f64;
        let bar = Bar {
            what: format!("of what {rule_name} would hold"),
            better: Better::Lower,
            value: ours / theirs,
            limit: 1.0,
        };
        let unit = ("held / live", Better::Lower);
        bench.measure(
            case.to_owned(),
            unit,
            ours,
            &[(rule_name, theirs)],
            Some(bar),
        );
        let each = time / operations.len() as f64;
        bench.measure(format!("{case}, each call"), NS, each, &[], None);
    }
    Ok(())
}

fn scalars(bench: &mut Bench<'_>) -> Result<()> {
    let (allocator, storage) = (&bench.allocator, bench.storage);
    let rounds = if bench.quick { 1 } else { SCALAR_ROUNDS };
    let mut live: Vec<Buffer> = Vec::with_capacity(SCALARS);
    let mut ours = || {
        for _ in 0..rounds {
            for _ in 0..SCALARS {
                live.push(allocate(allocator, SCALAR_BYTES, storage)?);
            }
            live.clear();
        }
        Ok(())
    };
    let mut owned: Vec<Vec<u8>> = Vec::with_capacity(SCALARS);
    let mut system = || {
        for _ in 0..rounds {
            owned.extend((0..SCALARS).map(|_| black_box(Vec::with_capacity(SCALAR_BYTES))));
            owned.clear();
        }
        Ok(())
    };
    let both = bench.clock.contest([&mut ours, &mut system])?;
    let [ours, malloc] = both.map(|time| time / (rounds * SCALARS) as f64);
    let case = format!("scalar arrays, {rounds} times {SCALARS} (MLX)");
    bench.measure(case, NS, ours, &[("malloc", malloc)], None);
    Ok(())
}

/// Caches of keys and values that grow by copying: each step allocates the longer one before it frees the other.
fn growing(rounds: usize, scale: usize) -> Vec<Operation> {
    const CACHES: usize = 16;
    let mut writer = Writer::default();
    let mut live: Vec<u32> = Vec::new();
    for step in 0..4 * rounds {
        for cache in 0..CACHES {
            let longer = writer.allocate((4 * MIB + step * 512 * KIB) / scale);
            if let Some(shorter) = live.get_mut(cache) {
                writer.free(std::mem::replace(shorter, longer));
            } else {
                live.push(longer);
            }
        }
    }
    writer.operations
}

/// Numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Steps of training, each with inputs of another length: activations of all layers live until the backward pass.
fn training(rounds: usize, scale: usize) -> Vec<Operation> {
    const LAYERS: usize = 8;
    let mut writer = Writer::default();
    let mut random = Random(188_045);
    for _ in 0..8 * rounds {
        let length = 32 + random.below(481);
        let mut live = Vec::new();
        for _ in 0..LAYERS {
            for bytes in [length * 4096, length * 16_384, length * length * 64] {
                live.push(writer.allocate((bytes / scale).max(1)));
            }
        }
        while let Some(last) = live.pop() {
            writer.free(last);
        }
    }
    writer.operations
}

/// Sizes at both sides of each border, a few of each live.
fn bands(rounds: usize, scale: usize) -> Vec<Operation> {
    const SIZES: [usize; 9] = [
        4,
        64 * KIB,
        MIB,
        MIB + 1,
        4 * MIB,
        10 * MIB,
        10 * MIB + 1,
        40 * MIB,
        90 * MIB,
    ];
    const LIVE: usize = 12;
    let mut writer = Writer::default();
    let mut random = Random(190_438);
    let mut live = Vec::new();
    for _ in 0..50 * rounds {
        if live.len() == LIVE {
            writer.free(live.swap_remove(random.below(LIVE)));
        }
        let bytes = SIZES[random.below(SIZES.len())];
        live.push(writer.allocate((bytes / scale).max(1)));
    }
    writer.operations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_in_what_is_asked_of_the_device() {
        for scale in [1, 4] {
            for operations in [growing(8, scale), training(8, scale), bands(8, scale)] {
                let live = peak_live(&operations);
                assert!(live > 0 && live <= LIVE_BYTES / scale, "{live}");
            }
        }
    }

    /// The figures that made these patterns known.
    #[test]
    fn the_rules_hold_several_times_what_is_live() {
        let of = |operations: &[Operation], rule: &mut dyn Rule| {
            peak_reserved(operations, rule) as f64 / peak_live(operations) as f64
        };
        let growth = of(&growing(8, 1), &mut Mlx::default());
        assert!(growth > 3.0, "{growth}");
        let varying = of(&training(8, 1), &mut Bands::default());
        assert!(varying > 3.0, "{varying}");
        let sizes = of(&bands(8, 1), &mut Bands::default());
        assert!(sizes > 1.5, "{sizes}");
    }
}
