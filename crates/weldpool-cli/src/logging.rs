//! Where log lines go and how many there are.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use weldpool::env::DebugLevel;

/// Sends log lines to standard error. `verbose` is 1 for debugging, 2 and above for everything, 0 for
/// what `asked` says, by default information; the variable `RUST_LOG` outranks both.
pub(crate) fn start(verbose: u32, asked: Option<DebugLevel>) {
    let level = match verbose {
        0 => asked.unwrap_or(DebugLevel::Info),
        1 => DebugLevel::Debug,
        _ => DebugLevel::Trace,
    };
    let level = level.name();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would panic to say that standard error takes no more.
        .log_internal_errors(false)
        .with_target(verbose > 0);
    // A second start in one process keeps the first.
    let _already = subscriber.try_init();
}
