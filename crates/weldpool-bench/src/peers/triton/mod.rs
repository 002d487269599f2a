//! The real Triton Inference Server, from the wheel that embeds it.

mod layout;
mod python;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub use layout::Layout;
pub use python::{PYTHON, PythonBackend};

use crate::error::{Error, ErrorKind, Result};
use crate::http::Connection;
use crate::peers::fetch::{Wheel, make_executable};
use crate::process::Process;
use crate::request;

/// The wheel; it holds Triton 2.51.0.
pub const WHEEL: Wheel = Wheel {
    name: "nvidia-pytriton",
    version: "0.7.0",
    platform: "manylinux_2_35_x86_64",
    sha256: "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df",
};

/// Folder of the wheel with the libraries it brings along.
pub const LIBRARIES: &str = "nvidia_pytriton.libs";

/// Name in configurations of the identity backend of this crate, the example `triton_identity`.
pub const IDENTITY: &str = "identity";

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Starts tried, since a port found free may be taken by the time the server binds it.
const START_ATTEMPTS: usize = 3;

/// A running Triton.
#[derive(Debug)]
pub struct Triton {
    /// Its process.
    pub process: Process,
    /// Where it answers HTTP.
    pub address: SocketAddr,
    /// The version it reports, such as `2.51.0`.
    pub version: String,
}

/// Whether Triton's wheel exists for this platform.
pub fn is_supported() -> bool {
    cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    ))
}

/// The program `tritonserver` in the folder `peers`, fetched with `python` if needed.
///
/// # Errors
/// `Environment` off Linux x86_64, `Download` when the wheel cannot be had.
pub fn program(python: &Path, peers: &Path) -> Result<PathBuf> {
    if !is_supported() {
        let message = "Triton's wheel exists for Linux x86_64 with glibc only";
        return Err(Error::new(ErrorKind::Environment, message));
    }
    let wheel = WHEEL.unpacked(python, peers)?;
    let program = wheel.join("pytriton/tritonserver/bin/tritonserver");
    make_executable(&program)?;
    Ok(program)
}

impl Triton {
    /// Starts `program` with the models and backends of `layout`, `environment` added to its own, and waits until
    /// all models are ready.
    ///
    /// # Errors
    /// `Process` when it does not start, quoting the end of its `log`.
    pub fn start(
        program: &Path,
        layout: &Layout,
        environment: &[(&'static str, OsString)],
        log: &Path,
    ) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_once(program, layout, environment, log) {
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
                started => return started,
            }
        }
    }

    fn start_once(
        program: &Path,
        layout: &Layout,
        environment: &[(&'static str, OsString)],
        log: &Path,
    ) -> Result<Self> {
        let (http, metrics) = free_ports()?;
        let mut command = Command::new(program);
        command
            .envs(environment.iter().cloned())
            .arg("--model-repository")
            .arg(&layout.repository)
            .arg("--backend-directory")
            .arg(&layout.backends)
            .args([
                "--http-address",
                "127.0.0.1",
                "--allow-grpc",
                "false",
                "--log-verbose",
                "0",
            ])
            .args([
                "--http-port",
                &http.to_string(),
                "--metrics-port",
                &metrics.to_string(),
            ]);
        let mut process = Process::start("tritonserver", &mut command, log)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_ready(address) {
            if !process.is_running()? {
                return Err(process.failed("stopped early"));
            }
            if Instant::now() > deadline {
                return Err(process.failed("is not ready in time"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let version = version(address)?;
        Ok(Self {
            process,
            address,
            version,
        })
    }
}

/// Two ports of 127.0.0.1 that were free a moment ago; Triton cannot choose and name its own.
fn free_ports() -> Result<(u16, u16)> {
    let find = || {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok((first.local_addr()?.port(), second.local_addr()?.port()))
    };
    find().map_err(|error| Error::io("finding free ports", error))
}

fn is_ready(address: SocketAddr) -> bool {
    Connection::open(address)
        .and_then(|mut connection| {
            connection
                .exchange(&request::get("/v2/health/ready"))
                .map(|response| response.status)
        })
        .is_ok_and(|status| status == 200)
}

fn version(address: SocketAddr) -> Result<String> {
    let mut connection = Connection::open(address)?;
    let response = connection.exchange(&request::get("/v2"))?;
    serde_json::from_slice::<serde_json::Value>(response.body)
        .ok()
        .and_then(|metadata| metadata["version"].as_str().map(str::to_owned))
        .ok_or_else(|| Error::protocol("Triton does not tell its version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_uses_the_same_wheel() {
        let pin = format!(
            "{}=={} --hash=sha256:{}",
            WHEEL.name, WHEEL.version, WHEEL.sha256
        );
        let requirements = include_str!("../../../../../requirements/triton.txt");
        assert!(requirements.lines().any(|line| line == pin), "{pin}");
    }
}
