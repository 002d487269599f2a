//! `weldpool serve`.

mod options;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weldpool::env::Environment;
use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_server::Server;

pub(crate) use self::options::Options;
use self::progress::LoadProgress;
use crate::output;
use crate::signals::StopSignals;

pub(crate) fn run(options: Options) -> Result<()> {
    let environment = Environment::read()?;
    crate::logging::start(options.log_verbose, environment.debug);
    let allocator = options.allocator(&environment)?;
    let server_options = options.server_options()?;
    let engine = OnnxRuntime::load(options.onnxruntime.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(options.http_threads())
        .thread_name("weldpool-http")
        .build()
        .context("cannot start the threads of the server")?;
    let exit_timeout = Duration::from_secs(options.exit_timeout_secs);
    let result = runtime.block_on(async {
        let mut server = Server::bind(server_options, allocator.clone(), Arc::new(engine))?;
        for (name, address) in server.listeners() {
            announce(&format!("listening {name} {address}"))?;
        }
        let mut signals = StopSignals::new()?;
        server.start();
        let progress = LoadProgress::new();
        let loaded = tokio::select! {
            loaded = server.load_models(&progress) => Some(loaded?),
            () = signals.next() => None,
        };
        if let Some(failed) = loaded {
            if !failed.is_empty() && options.exit_on_error {
                server.shutdown(Duration::ZERO).await;
                let lines: Vec<String> = failed
                    .iter()
                    .map(|(model, reason)| format!("{model}: {reason}"))
                    .collect();
                bail!(
                    "{} of the models could not be loaded (--exit-on-error=false serves the \
                     others): {}",
                    failed.len(),
                    lines.join("; ")
                );
            }
            announce("ready")?;
            signals.next().await;
        }
        tracing::info!(
            "stopping; requests in flight have {} s, a second signal ends them",
            exit_timeout.as_secs()
        );
        tokio::select! {
            () = server.shutdown(exit_timeout) => Ok(()),
            () = signals.next() => bail!("stopped by a second signal"),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("pool: {}", allocator.stats());
    result
}

/// One line on standard output, for people and for programs that wait for it.
fn announce(line: &str) -> Result<()> {
    match output::line(line) {
        // A reader that has gone away must not stop the server.
        Err(error) if !error.is_closed() => Err(error.into()),
        _ => Ok(()),
    }
}
