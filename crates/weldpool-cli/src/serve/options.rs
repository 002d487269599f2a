//! Options of `weldpool serve`, by Triton's names where Triton has them.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};
use weldpool::env::Environment;
use weldpool::gc::GcConfig;
use weldpool::pressure::PressureConfig;
use weldpool::{Allocator, Config, Preset, Runtime};
use weldpool_server::server::ServerOptions;
use weldpool_server::service::{ModelControl, ServiceOptions};

use crate::byte_size;

/// Options of `weldpool serve`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder with models; can be given more than once.
    #[arg(long, alias = "model-store", required = true, value_name = "DIR", help_heading = MODELS)]
    model_repository: Vec<PathBuf>,
    /// Who decides when models are loaded: nobody after the start, the repository's changes, or
    /// clients.
    #[arg(long, value_enum, default_value_t = Control::None, help_heading = MODELS)]
    model_control_mode: Control,
    /// Model to load at the start with --model-control-mode=explicit; can be given more than once,
    /// and `*` is all of them.
    #[arg(long, value_name = "MODEL", help_heading = MODELS)]
    load_model: Vec<String>,
    /// Seconds between two looks at the repository with --model-control-mode=poll.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = MODELS)]
    repository_poll_secs: u64,
    /// Models loaded at the same time; by default as many as there are processors.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256), help_heading = MODELS)]
    model_load_thread_count: Option<u16>,
    /// Whether to stop when a model cannot be loaded at the start.
    #[arg(long, default_value_t = true, value_parser = BoolishValueParser::new(), action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = MODELS)]
    pub(crate) exit_on_error: bool,
    /// Whether the server is ready only when every model is.
    #[arg(long, default_value_t = true, value_parser = BoolishValueParser::new(), action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = MODELS)]
    strict_readiness: bool,
    /// Take configurations as they are, without completing them from the models.
    #[arg(long, help_heading = MODELS)]
    disable_auto_complete_config: bool,
    /// Setting of a backend, such as onnxruntime,intra_op_thread_count=2 or
    /// default-max-batch-size=8; a model's own configuration outranks it.
    #[arg(long, value_name = "[BACKEND,]NAME=VALUE", help_heading = MODELS)]
    backend_config: Vec<String>,
    /// The onnxruntime shared library; see the README for where it is looked for otherwise.
    #[arg(long, value_name = "FILE", help_heading = MODELS)]
    pub(crate) onnxruntime: Option<PathBuf>,

    /// Whether to serve HTTP.
    #[arg(long, default_value_t = true, value_parser = BoolishValueParser::new(), action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = NETWORK)]
    allow_http: bool,
    /// Address for HTTP.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS", help_heading = NETWORK)]
    http_address: String,
    /// Port for HTTP; 0 takes a free one.
    #[arg(long, default_value_t = 8000, value_name = "PORT", help_heading = NETWORK)]
    http_port: u16,
    /// Threads that read and write requests and run short models; by default half as many as there
    /// are processors, the other half being left to the models' own threads.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = NETWORK)]
    http_thread_count: Option<u16>,
    /// Whether to publish metrics.
    #[arg(long, default_value_t = true, value_parser = BoolishValueParser::new(), action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", help_heading = NETWORK)]
    allow_metrics: bool,
    /// Address for metrics; that of HTTP by default.
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    metrics_address: Option<String>,
    /// Port for metrics; 0 takes a free one.
    #[arg(long, default_value_t = 8002, value_name = "PORT", help_heading = NETWORK)]
    metrics_port: u16,

    /// Largest body of a request, also after decompression; KiB, MiB, GiB or TiB may follow the number.
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES", value_parser = byte_size::within(1..=1 << 40), help_heading = LIMITS)]
    http_max_input_size: u64,
    /// Largest head of a request, from 512 bytes to 1 MiB; KiB or MiB may follow the number.
    #[arg(long, default_value_t = 16 << 10, value_name = "BYTES", value_parser = byte_size::within(512..=1 << 20), help_heading = LIMITS)]
    http_max_header_size: u64,
    /// Connections open at the same time.
    #[arg(long, default_value_t = 4096, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = LIMITS)]
    max_connections: u32,
    /// Requests under way at the same time; further ones are answered with 503.
    #[arg(long, default_value_t = 4096, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = LIMITS)]
    max_requests: u32,
    /// Requests that may wait for one model; further ones are answered with 503.
    #[arg(long, default_value_t = 1024, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = LIMITS)]
    max_queue_size: u32,
    /// Longest time a request may take once it is read, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400), help_heading = LIMITS)]
    request_timeout_secs: u64,
    /// Most bytes the memory pool may hold from the system; four fifths of its memory, or of the
    /// limit set for this process, by default. KiB, MiB, GiB or TiB may follow the number.
    #[arg(long, value_name = "BYTES", value_parser = byte_size::within(1..=u64::MAX), help_heading = LIMITS)]
    pool_limit: Option<u64>,
    /// The memory pool's configuration: fine is the default one, seed has powers of two, pooling too, up to
    /// 256 MiB and with at most 32 idle blocks of each, adaptive follows the workload.
    #[arg(long, default_value_t, help_heading = LIMITS)]
    pool_preset: Preset,
    /// Seconds that requests in flight have to end after SIGTERM or SIGINT.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400), help_heading = LIMITS)]
    pub(crate) exit_timeout_secs: u64,

    /// Name of the server in its metadata.
    #[arg(long, default_value = "weldpool", value_name = "NAME")]
    id: String,
    /// More log lines: 1 for debugging, 2 for everything.
    #[arg(long, default_value_t = 0, value_name = "LEVEL")]
    pub(crate) log_verbose: u32,
}

const MODELS: &str = "Models";
const NETWORK: &str = "Network";
const LIMITS: &str = "Limits";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Control {
    None,
    Poll,
    Explicit,
}

impl Options {
    /// The pool that everything the server holds for requests and models comes from.
    pub(crate) fn allocator(&self, environment: &Environment) -> Result<Allocator> {
        let device = Runtime::default_device()?;
        let reserved_bytes_max = match self.pool_limit {
            Some(bytes) => bytes,
            None => device.budget()?.ceiling() / 5 * 4,
        };
        let preset = self.pool_preset.config();
        let mut config = Config {
            reserved_bytes_max: Some(reserved_bytes_max),
            pressure: PressureConfig::default(),
            gc: GcConfig {
                enabled: true,
                ..preset.gc
            },
            ..preset
        };
        environment.apply(&mut config);
        let allocator = Allocator::builder(device).config(config).build();
        allocator.context("cannot make the memory pool")
    }

    pub(crate) fn http_threads(&self) -> usize {
        let half = std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2));
        self.http_thread_count.map_or(half, usize::from)
    }

    pub(crate) fn server_options(&self) -> Result<ServerOptions> {
        ensure!(
            self.allow_http || self.allow_metrics,
            "--allow-http=false leaves nothing to serve"
        );
        let explicit = self.model_control_mode == Control::Explicit;
        ensure!(
            explicit || self.load_model.is_empty(),
            "--load-model needs --model-control-mode=explicit"
        );
        let mut service = ServiceOptions::new(self.model_repository.clone());
        service.control = match self.model_control_mode {
            Control::None => ModelControl::None,
            Control::Poll => ModelControl::Poll,
            Control::Explicit => ModelControl::Explicit,
        };
        service.startup_models = self.load_model.clone();
        service.poll_interval = Duration::from_secs(self.repository_poll_secs);
        service.strict_readiness = self.strict_readiness;
        service.auto_complete = !self.disable_auto_complete_config;
        if let Some(count) = self.model_load_thread_count {
            service.load_threads = count.into();
        }
        service.queue_length_max = self.max_queue_size as usize;
        service.requests_max = self.max_requests as usize;
        service.request_time_max = Duration::from_secs(self.request_timeout_secs);
        service.server_name = self.id.clone();
        for setting in &self.backend_config {
            backend_setting(setting, &mut service)
                .with_context(|| format!("--backend-config {setting}"))?;
        }

        let http_address = resolve("--http-address", &self.http_address)?;
        let metrics_address = match &self.metrics_address {
            Some(address) => resolve("--metrics-address", address)?,
            None => http_address,
        };
        let mut options = ServerOptions::new(service);
        options.http = self
            .allow_http
            .then(|| SocketAddr::new(http_address, self.http_port));
        options.metrics = self
            .allow_metrics
            .then(|| SocketAddr::new(metrics_address, self.metrics_port));
        options.limits.body_bytes_max = self.http_max_input_size;
        options.limits.decoded_bytes_max = self.http_max_input_size;
        options.limits.header_bytes_max = usize::try_from(self.http_max_header_size)?;
        options.limits.connections_max = self.max_connections;
        Ok(options)
    }
}

/// A setting as Triton writes it: `onnxruntime,NAME=VALUE`, or `NAME=VALUE` for all backends.
fn backend_setting(setting: &str, service: &mut ServiceOptions) -> Result<()> {
    let (backend, pair) = match setting.split_once(',') {
        Some((backend, pair)) => (Some(backend), pair),
        None => (None, setting),
    };
    let (name, value) = pair.split_once('=').context("it is not NAME=VALUE")?;
    match (backend, name) {
        (None, "default-max-batch-size") | (Some("onnxruntime"), "default-max-batch-size") => {
            service.default_max_batch_size =
                value.parse().context("the value is not a batch size")?;
        }
        (Some("onnxruntime" | "metal_mps"), name) => {
            service
                .engine_parameters
                .insert(name.to_owned(), value.to_owned());
        }
        (Some(other), _) => {
            bail!("there is no backend '{other}'; there are onnxruntime and metal_mps")
        }
        (None, name) => bail!("no setting '{name}' is for all backends; name one before a comma"),
    }
    Ok(())
}

fn resolve(option: &str, address: &str) -> Result<IpAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let mut found = (address, 0)
        .to_socket_addrs()
        .with_context(|| format!("{option} {address} is no address of this machine"))?;
    let first = found
        .next()
        .with_context(|| format!("{option} {address} has no address"))?;
    Ok(first.ip())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Result<ServerOptions> {
        let words = std::iter::once("serve").chain(line.split_whitespace());
        Line::try_parse_from(words)?.options.server_options()
    }

    #[test]
    fn tritons_options_are_understood() {
        let options = parse(
            "--model-repository=/a --model-repository /b --model-control-mode=explicit \
             --load-model=x --load-model=y --http-port=0 --http-address 127.0.0.1 \
             --metrics-port=9 --exit-on-error=false --strict-readiness=1 --log-verbose=1 \
             --backend-config=onnxruntime,intra_op_thread_count=2 \
             --backend-config=default-max-batch-size=8 --http-max-input-size=1000",
        )
        .unwrap();
        assert_eq!(
            options.service.repositories,
            [PathBuf::from("/a"), PathBuf::from("/b")]
        );
        assert_eq!(options.service.startup_models, ["x", "y"]);
        assert_eq!(
            options.service.engine_parameters["intra_op_thread_count"],
            "2"
        );
        assert_eq!(options.service.default_max_batch_size, 8);
        assert_eq!(options.limits.body_bytes_max, 1000);
        assert_eq!(options.metrics, Some("127.0.0.1:9".parse().unwrap()));
    }

    #[test]
    fn the_pool_has_the_preset_that_was_named() {
        let preset = |name: &str| {
            let words = ["serve", "--model-repository=/a", "--pool-preset", name];
            Line::try_parse_from(words).map(|line| line.options.pool_preset)
        };
        for wanted in Preset::ALL {
            assert_eq!(preset(wanted.name()).unwrap(), wanted);
        }
        let error = preset("rough").unwrap_err().to_string();
        assert!(error.contains("there are fine, seed, pooling"), "{error}");
    }

    #[test]
    fn contradictions_are_errors() {
        for line in [
            "",
            "--model-repository=/a --load-model=x",
            "--model-repository=/a --http-port=70000",
            "--model-repository=/a --allow-http=false --allow-metrics=false",
            "--model-repository=/a --backend-config=tensorrt,a=b",
            "--model-repository=/a --backend-config=onnxruntime",
            "--model-repository=/a --max-queue-size=0",
            "--model-repository=/a --repository-poll-secs=0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
