//! Where log lines go and how many there are.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error. `verbose` is 0 for information, 1 for debugging, 2 and above
/// for everything; the variable `RUST_LOG` outranks it.
pub(crate) fn start(verbose: u32) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(verbose > 0);
    // A second start in one process keeps the first.
    let _already = subscriber.try_init();
}
