//! Configuration of an allocator: a structure of which every zero means the default.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use memory::env::Environment;
use memory::profiling::Profiling;
use memory::{Config, Preset, SizeClass, SizeClasses};

use crate::abi::flags;
use crate::abi::pointer::items;
use crate::abi::sized::{Structure, read};
use crate::abi::text;
use crate::failure::{ErrorObject, Result};
use crate::strategy::StrategyHandle;

/// The default: fine size classes.
pub const WELDPOOL_PRESET_FINE: u32 = 0;
/// Size classes of the first design.
pub const WELDPOOL_PRESET_SEED: u32 = 1;
/// Powers of two, at most 32 idle blocks of each, and a thread that collects idle memory every minute.
pub const WELDPOOL_PRESET_POOLING: u32 = 2;
/// The adaptive strategy, which learns from the workload.
pub const WELDPOOL_PRESET_ADAPTIVE: u32 = 3;

/// No blocks are kept for reuse: each buffer is memory of its own.
pub const WELDPOOL_CONFIG_NO_POOLING: u32 = 1;
/// METAL_ALLOCATOR_DEBUG, METAL_ALLOCATOR_STATS and METAL_ALLOCATOR_PROFILE are read; they win over other flags.
pub const WELDPOOL_CONFIG_FROM_ENVIRONMENT: u32 = 2;
/// A thread watches memory pressure and has idle memory given back.
pub const WELDPOOL_CONFIG_WATCH_PRESSURE: u32 = 4;
/// A thread gives idle memory back that was not used for long.
pub const WELDPOOL_CONFIG_COLLECT: u32 = 8;
/// Sampled allocations keep a backtrace, for reports.
pub const WELDPOOL_CONFIG_BACKTRACES: u32 = 16;
/// Counters are checked against a walk over all live buffers at the end.
pub const WELDPOOL_CONFIG_DEBUG_CHECKS: u32 = 32;
/// Spans around slow paths go to the platform's profiler (Instruments, Nsight Systems).
pub const WELDPOOL_CONFIG_PROFILING: u32 = 64;

const FLAGS: u32 = 127;

/// A size class of one's own; see weldpool_config_t.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SizeClassOf {
    /// Size of its blocks in bytes; a multiple of 256.
    pub bytes: usize,
    /// Blocks made when the allocator is created.
    pub initial: usize,
    /// Idle blocks that stay with the class when idle memory is collected.
    pub kept: usize,
    /// Most idle blocks that all threads share.
    pub cached_max: usize,
    /// Most idle blocks that each thread keeps for itself, at most 128.
    pub thread_max: usize,
}

/// Configuration of an allocator. Zero is the default of every field, so start from
/// `weldpool_config_t config = {.struct_size = sizeof config};`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ConfigOf {
    /// sizeof(weldpool_config_t).
    pub struct_size: usize,
    /// Name of the pool in reports and logs. Default: the device's.
    pub name: *const c_char,
    /// One of WELDPOOL_PRESET_*, which the other fields change.
    pub preset: u32,
    /// Any of WELDPOOL_CONFIG_*, added up.
    pub flags: u32,
    /// Alignment of every buffer in bytes, a power of two from 256 to 1 GiB. Default: 256.
    pub alignment: usize,
    /// Hard limit on the bytes held from the driver. Default: none but the device's own.
    pub reserved_bytes_max: u64,
    /// Idle bytes kept; 1 keeps nothing. Default: a quarter of the device's memory.
    pub cached_bytes_max: u64,
    /// Smallest segment asked of the driver, in bytes. Default: 2 MiB.
    pub segment_bytes_min: usize,
    /// Most by which memory grows at once, unless a single request needs more, in bytes. Default: 64 MiB.
    pub segment_bytes_max: usize,
    /// Part of the greatest sum of live bytes, in 1024ths, by which memory held may exceed it before holes are mapped
    /// together. Default: 10.
    pub slack_per_1024: u32,
    /// Driver time that each request may cost on average for tightness, in nanoseconds. Default: 1000.
    pub driver_ns_per_operation: u32,
    /// How long an allocation that found no memory waits for work in flight, in nanoseconds; 1 waits for none. Default:
    /// one second.
    pub wait_max_ns: u64,
    /// How often pressure is assessed, in nanoseconds, from 10 ms to an hour. Default: one second.
    pub pressure_interval_ns: u64,
    /// Time between collections, in nanoseconds, from 10 ms to a day. Default: what the preset says.
    pub collect_interval_ns: u64,
    /// Bytes that a thread allocates for each allocation that is sampled; WELDPOOL_FOREVER samples none. Default: 512
    /// KiB.
    pub sample_interval_bytes: u64,
    /// Size classes instead of the preset's, ascending in size.
    pub classes: *const SizeClassOf,
    /// How many, at most 4096.
    pub class_count: usize,
    /// Decides how requests are served, instead of the preset's. The allocator keeps it; the handle may be freed.
    pub strategy: *const StrategyHandle,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for ConfigOf {
    const NAME: &'static str = "weldpool_config_t";
}

/// A configuration, and the name of the pool.
pub(crate) fn of(pointer: *const ConfigOf) -> Result<(Config, Option<String>)> {
    if pointer.is_null() {
        return Ok((Config::default(), None));
    }
    let given = read(pointer, "config")?;
    let name = text::optional(given.name, "config.name")?.map(str::to_owned);
    let mut config = preset(given.preset)?.config();
    numbers(&given, &mut config);
    if given.class_count > 0 {
        config.classes = classes(&given)?;
    }
    // SAFETY: the caller's promise: null, or a handle that lives.
    if let Some(strategy) = unsafe { given.strategy.as_ref() } {
        config.strategy = Some(Arc::clone(&strategy.strategy));
    }
    switches(given.flags, &mut config)?;
    Ok((config, name))
}

fn preset(number: u32) -> Result<Preset> {
    match number {
        WELDPOOL_PRESET_FINE => Ok(Preset::Fine),
        WELDPOOL_PRESET_SEED => Ok(Preset::Seed),
        WELDPOOL_PRESET_POOLING => Ok(Preset::Pooling),
        WELDPOOL_PRESET_ADAPTIVE => Ok(Preset::Adaptive),
        _ => Err(ErrorObject::argument(format!(
            "{number} is no preset; see WELDPOOL_PRESET_FINE"
        ))),
    }
}

/// Takes over what is not zero.
fn numbers(given: &ConfigOf, config: &mut Config) {
    fn set<T: PartialEq + Default>(value: T, field: &mut T) {
        if value != T::default() {
            *field = value;
        }
    }
    let optional = |bytes: u64| (bytes != 0).then_some(bytes);
    set(given.alignment, &mut config.alignment);
    set(
        optional(given.reserved_bytes_max),
        &mut config.reserved_bytes_max,
    );
    set(
        optional(given.cached_bytes_max),
        &mut config.cached_bytes_max,
    );
    set(given.segment_bytes_min, &mut config.segment_bytes_min);
    set(given.segment_bytes_max, &mut config.segment_bytes_max);
    set(given.slack_per_1024, &mut config.slack_per_1024);
    set(
        given.driver_ns_per_operation,
        &mut config.driver_ns_per_operation,
    );
    let time = Duration::from_nanos;
    set(time(given.wait_max_ns), &mut config.wait_max);
    set(
        time(given.pressure_interval_ns),
        &mut config.pressure.interval,
    );
    set(time(given.collect_interval_ns), &mut config.gc.interval);
    match given.sample_interval_bytes {
        u64::MAX => config.sample_interval_bytes = 0,
        // What no address space has is refused like what is too long.
        bytes => set(
            usize::try_from(bytes).unwrap_or(usize::MAX),
            &mut config.sample_interval_bytes,
        ),
    }
}

fn classes(given: &ConfigOf) -> Result<SizeClasses> {
    let classes = items(given.classes, given.class_count, "config.classes")?;
    let class = |class: &SizeClassOf| {
        let thread_max = u8::try_from(class.thread_max)
            .ok()
            .filter(|&most| most <= 128);
        let thread_max = thread_max.ok_or_else(|| {
            ErrorObject::argument(format!(
                "thread_max of a size class is {}; it must be at most 128",
                class.thread_max
            ))
        })?;
        Ok(SizeClass {
            bytes: class.bytes,
            initial: class.initial,
            kept: class.kept,
            cached_max: class.cached_max,
            thread_max,
        })
    };
    let classes = classes.iter().map(class).collect::<Result<Vec<_>>>()?;
    Ok(SizeClasses::new(classes)?)
}

fn switches(flags: u32, config: &mut Config) -> Result<()> {
    flags::check(flags, FLAGS, "a configuration")?;
    let has = |flag| flags & flag != 0;
    config.pooling &= !has(WELDPOOL_CONFIG_NO_POOLING);
    config.pressure.enabled |= has(WELDPOOL_CONFIG_WATCH_PRESSURE);
    config.gc.enabled |= has(WELDPOOL_CONFIG_COLLECT);
    config.backtraces |= has(WELDPOOL_CONFIG_BACKTRACES);
    config.debug_checks |= has(WELDPOOL_CONFIG_DEBUG_CHECKS);
    if has(WELDPOOL_CONFIG_PROFILING) {
        config.profiling = Profiling::Platform;
    }
    if has(WELDPOOL_CONFIG_FROM_ENVIRONMENT) {
        Environment::read()?.apply(config);
    }
    Ok(())
}
