//! Load options, and the same settings by the names of onnxruntime's Triton backend.

use std::collections::BTreeMap;

use ort_sys::GraphOptimizationLevel as Level;

use super::raw::{Api, RunOptions, SessionOptions, Status};
use super::status::{During, error};
use crate::{Arena, Error, ErrorKind, ExecutionMode, GraphOptimization, LoadOptions, Result};

const INTRA_OP_THREADS: &str = "intra_op_thread_count";
const INTER_OP_THREADS: &str = "inter_op_thread_count";
const EXECUTION_MODE: &str = "execution_mode";
const GRAPH_LEVEL: &str = "optimization.graph.level";
const MEM_ARENA: &str = "enable_mem_arena";
const MEM_PATTERN: &str = "enable_mem_pattern";
const ARENA_SHRINKAGE: &str = "memory.enable_memory_arena_shrinkage";
const DEVICE_INITIALIZERS: &str = "session.use_device_allocator_for_initializers";
const ARENA: &str = "weldpool.arena";

/// Every parameter the engine understands.
pub(super) const PARAMETERS: &[&str] = &[
    INTRA_OP_THREADS,
    INTER_OP_THREADS,
    EXECUTION_MODE,
    GRAPH_LEVEL,
    MEM_ARENA,
    MEM_PATTERN,
    ARENA_SHRINKAGE,
    DEVICE_INITIALIZERS,
    ARENA,
];

/// The most threads one model may ask for.
const THREADS_MAX: usize = 1024;

/// The arena of models that say nothing about it. See docs/benchmarks/engine-arena.json.
const DEFAULT_ARENA: Arena = Arena::Pool;

/// Refuses values of parameters that no model could be loaded with.
pub(super) fn check(parameters: &BTreeMap<String, String>) -> Result<()> {
    Settings::default().apply_all(parameters)
}

/// Validated settings of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    intra_op_threads: usize,
    inter_op_threads: usize,
    execution_mode: ExecutionMode,
    graph_optimization: GraphOptimization,
    memory_pattern: bool,
    arena: Arena,
    /// Whether somebody chose the arena.
    arena_chosen: bool,
    /// Whether unused memory is given back after each run.
    shrink: bool,
    device_initializers: Option<bool>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            intra_op_threads: 0,
            inter_op_threads: 0,
            execution_mode: ExecutionMode::default(),
            graph_optimization: GraphOptimization::default(),
            memory_pattern: true,
            arena: DEFAULT_ARENA,
            arena_chosen: false,
            shrink: false,
            device_initializers: None,
        }
    }
}

impl Settings {
    /// Validates the options; a parameter outranks the field of the same meaning.
    pub(super) fn new(options: &LoadOptions) -> Result<Settings> {
        let mut settings = Settings {
            intra_op_threads: threads(options.intra_op_threads, "intra_op_threads")?,
            inter_op_threads: threads(options.inter_op_threads, "inter_op_threads")?,
            execution_mode: options.execution_mode,
            graph_optimization: options.graph_optimization,
            memory_pattern: options.memory_pattern,
            arena: options.arena.unwrap_or(DEFAULT_ARENA),
            arena_chosen: options.arena.is_some() || options.parameters.contains_key(ARENA),
            ..Settings::default()
        };
        settings.apply_all(&options.parameters)?;
        Ok(settings)
    }

    fn apply_all(&mut self, parameters: &BTreeMap<String, String>) -> Result<()> {
        for (name, value) in parameters {
            self.apply(name, value.trim())?;
        }
        // An arena chosen by name is meant; switching arenas off leaves no pool to choose.
        if let Some(value) = parameters.get(ARENA) {
            self.arena = arena(value.trim())?;
        }
        Ok(())
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            INTRA_OP_THREADS => self.intra_op_threads = thread_count(name, value)?,
            INTER_OP_THREADS => self.inter_op_threads = thread_count(name, value)?,
            EXECUTION_MODE => {
                self.execution_mode = match value {
                    "0" => ExecutionMode::Sequential,
                    "1" => ExecutionMode::Parallel,
                    _ => return Err(bad(name, value, "0 (sequential) or 1 (parallel)")),
                }
            }
            // The backend's numbering: only these three, and 0 for its default, are documented.
            GRAPH_LEVEL => {
                self.graph_optimization = match value {
                    "0" => GraphOptimization::All,
                    "-1" => GraphOptimization::Basic,
                    "1" => GraphOptimization::Extended,
                    "2" => GraphOptimization::Disabled,
                    _ => {
                        return Err(bad(name, value, "-1 (basic), 1 (extended) or 2 (none)"));
                    }
                }
            }
            MEM_ARENA => {
                let on = boolean(name, value)?;
                self.arena = if on { self.arena } else { Arena::System };
            }
            MEM_PATTERN => self.memory_pattern = boolean(name, value)?,
            ARENA_SHRINKAGE => self.shrink = shrinkage(name, value)?,
            DEVICE_INITIALIZERS => self.device_initializers = Some(boolean(name, value)?),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn arena(&self) -> Arena {
        self.arena
    }

    /// Takes the library's own arena in place of the pool, unless the pool was asked for.
    pub(super) fn without_pool(mut self) -> Option<Settings> {
        self.arena = Arena::Engine;
        (!self.arena_chosen).then_some(self)
    }

    /// Whether the pool's unused memory is given back after each run. The library's own arena
    /// does it itself, by its run options.
    pub(super) fn shrinks_pool(&self) -> bool {
        self.shrink && self.arena == Arena::Pool
    }

    /// The library's options for loading.
    pub(super) fn session_options(&self, api: Api) -> Result<SessionOptions> {
        self.set_session_options(api)
            .map_err(|status| error(status, During::Start))
    }

    fn set_session_options(&self, api: Api) -> std::result::Result<SessionOptions, Status> {
        let mut options = api.session_options()?;
        options.set_intra_op_threads(self.intra_op_threads)?;
        options.set_inter_op_threads(self.inter_op_threads)?;
        options.set_parallel(self.execution_mode == ExecutionMode::Parallel)?;
        options.set_graph_optimization(match self.graph_optimization {
            GraphOptimization::Disabled => Level::ORT_DISABLE_ALL,
            GraphOptimization::Basic => Level::ORT_ENABLE_BASIC,
            GraphOptimization::Extended => Level::ORT_ENABLE_EXTENDED,
            GraphOptimization::All => Level::ORT_ENABLE_ALL,
        })?;
        options.set_memory_pattern(self.memory_pattern)?;
        options.set_arena(self.arena == Arena::Engine)?;
        if self.arena == Arena::Pool {
            options.use_env_allocators()?;
        }
        if let Some(on) = self.device_initializers {
            options.set_entry(DEVICE_INITIALIZERS, if on { "1" } else { "0" })?;
        }
        Ok(options)
    }

    /// The library's options for runs.
    pub(super) fn run_options(&self, api: Api) -> Result<RunOptions> {
        let set = || {
            let mut options = api.run_options()?;
            if self.shrink && self.arena == Arena::Engine {
                options.set_entry(ARENA_SHRINKAGE, "cpu:0")?;
            }
            Ok(options)
        };
        set().map_err(|status| error(status, During::Start))
    }
}

fn threads(count: Option<usize>, field: &str) -> Result<usize> {
    match count.unwrap_or(0) {
        count if count > THREADS_MAX => Err(bad(
            field,
            &count.to_string(),
            &format!("at most {THREADS_MAX}"),
        )),
        count => Ok(count),
    }
}

fn thread_count(name: &str, value: &str) -> Result<usize> {
    value
        .parse()
        .ok()
        .filter(|count| *count <= THREADS_MAX)
        .ok_or_else(|| {
            bad(
                name,
                value,
                &format!("a number from 0 (automatic) to {THREADS_MAX}"),
            )
        })
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad(name, value, "0 or 1")),
    }
}

/// Devices whose arena is shrunk after each run, such as `cpu:0;gpu:0`; only the CPU's exists here.
fn shrinkage(name: &str, value: &str) -> Result<bool> {
    let mut cpu = false;
    for device in value.split(';').filter(|device| !device.is_empty()) {
        match device.split_once(':') {
            Some(("cpu", "0")) => cpu = true,
            Some(("gpu", id)) if id.parse::<u16>().is_ok() => {}
            _ => return Err(bad(name, value, "a list of devices such as cpu:0;gpu:0")),
        }
    }
    Ok(cpu)
}

fn arena(value: &str) -> Result<Arena> {
    match value {
        "pool" => Ok(Arena::Pool),
        "engine" => Ok(Arena::Engine),
        "system" => Ok(Arena::System),
        _ => Err(bad(ARENA, value, "pool, engine or system")),
    }
}

fn bad(name: &str, value: &str, allowed: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOption,
        format!(
            "parameter '{name}' is '{}', but must be {allowed}",
            value.escape_debug()
        ),
    )
}

#[cfg(test)]
mod tests {
    use weldpool::Allocator;

    use super::*;

    fn settings(name: &str, value: &str) -> Settings {
        let options = LoadOptions::new(Allocator::host().unwrap()).parameter(name, value);
        Settings::new(&options).unwrap()
    }

    #[test]
    fn graph_levels_are_the_backends() {
        for (value, expected) in [
            ("-1", GraphOptimization::Basic),
            ("0", GraphOptimization::All),
            ("1", GraphOptimization::Extended),
            ("2", GraphOptimization::Disabled),
        ] {
            assert_eq!(
                settings(GRAPH_LEVEL, value).graph_optimization,
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn parameters_outrank_fields() {
        let mut options = LoadOptions::new(Allocator::host().unwrap());
        options.intra_op_threads = Some(3);
        options.execution_mode = ExecutionMode::Parallel;
        options.memory_pattern = false;
        let by_field = Settings::new(&options).unwrap();
        assert_eq!(by_field.intra_op_threads, 3);
        assert_eq!(by_field.execution_mode, ExecutionMode::Parallel);
        assert!(!by_field.memory_pattern);

        let options = options
            .parameter(INTRA_OP_THREADS, " 5 ")
            .parameter(EXECUTION_MODE, "0")
            .parameter(MEM_PATTERN, "true");
        let by_name = Settings::new(&options).unwrap();
        assert_eq!(by_name.intra_op_threads, 5);
        assert_eq!(by_name.execution_mode, ExecutionMode::Sequential);
        assert!(by_name.memory_pattern);
    }

    #[test]
    fn only_a_default_pool_has_a_substitute() {
        let default = Settings::new(&LoadOptions::new(Allocator::host().unwrap())).unwrap();
        assert_eq!(default.without_pool().unwrap().arena, Arena::Engine);
        assert_eq!(settings(ARENA, "pool").without_pool(), None);
    }

    #[test]
    fn arenas_by_name() {
        assert_eq!(settings(MEM_ARENA, "1").arena, DEFAULT_ARENA);
        assert_eq!(settings(MEM_ARENA, "0").arena, Arena::System);
        assert_eq!(settings(ARENA, "engine").arena, Arena::Engine);
        assert!(settings(ARENA_SHRINKAGE, "cpu:0").shrink);
        assert!(!settings(ARENA_SHRINKAGE, "gpu:0").shrink);
        assert!(!settings(ARENA_SHRINKAGE, "").shrink);
        assert_eq!(
            settings(DEVICE_INITIALIZERS, "1").device_initializers,
            Some(true)
        );
    }

    #[test]
    fn values_are_checked_without_a_model() {
        let check = |name: &str, value: &str| check(&[(name.to_owned(), value.to_owned())].into());
        check(INTRA_OP_THREADS, " 2 ").unwrap();
        check("of another engine", "?").unwrap();
        for (name, value) in [
            (INTRA_OP_THREADS, "many"),
            (GRAPH_LEVEL, "3"),
            (MEM_PATTERN, "maybe"),
            (ARENA, "none"),
        ] {
            let error = check(name, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
