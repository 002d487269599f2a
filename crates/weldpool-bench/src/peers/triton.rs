//! The real Triton Inference Server, from the wheel that embeds it, with the identity backend of this crate.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cargo;
use crate::error::{Error, ErrorKind, Result};
use crate::http::Connection;
use crate::model::OneNode;
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

/// The backend's name in configurations; its library is `libtriton_identity.so`.
const BACKEND: &str = "identity";
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

impl Triton {
    /// Starts Triton from the folder `peers`, fetched with `python` if needed, serving `model` under `name`;
    /// its repository and log go to `scratch`.
    ///
    /// `instances` is how many requests the model runs at once.
    ///
    /// # Errors
    /// `Environment` off Linux x86_64, `Download` when the wheel cannot be had, `Process` when it does not start.
    pub fn start(
        python: &Path,
        peers: &Path,
        scratch: &Path,
        (name, model): (&str, OneNode),
        instances: usize,
    ) -> Result<Self> {
        if !is_supported() {
            let message = "Triton's wheel exists for Linux x86_64 with glibc only";
            return Err(Error::new(ErrorKind::Environment, message));
        }
        let wheel = WHEEL.unpacked(python, peers)?;
        let program = wheel.join("pytriton/tritonserver/bin/tritonserver");
        make_executable(&program)?;
        let layout = Layout::write(scratch, name, model, instances)?;
        let mut attempt = 1;
        loop {
            match Self::start_once(&program, &layout, scratch) {
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
                started => return started,
            }
        }
    }

    fn start_once(program: &Path, layout: &Layout, scratch: &Path) -> Result<Self> {
        let (http, metrics) = free_ports()?;
        let mut command = Command::new(program);
        command
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
        let mut process =
            Process::start("tritonserver", &mut command, &scratch.join("triton.log"))?;
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

/// The folders that Triton reads.
struct Layout {
    repository: PathBuf,
    backends: PathBuf,
}

impl Layout {
    fn write(scratch: &Path, name: &str, model: OneNode, instances: usize) -> Result<Self> {
        let library = cargo::build_library("triton_identity")?;
        let layout = Self {
            repository: scratch.join("triton-models"),
            backends: scratch.join("triton-backends"),
        };
        let write = || {
            let place = layout.repository.join(name);
            fs::create_dir_all(place.join("1"))?;
            let group = format!("instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\n");
            fs::write(place.join("config.pbtxt"), model.config(BACKEND) + &group)?;
            let backend = layout.backends.join(BACKEND);
            fs::create_dir_all(&backend)?;
            fs::copy(library, backend.join(format!("libtriton_{BACKEND}.so")))
        };
        write().map_err(|error| Error::io("writing Triton's model repository", error))?;
        Ok(layout)
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
        let requirements = include_str!("../../../../requirements/triton.txt");
        assert!(requirements.lines().any(|line| line == pin), "{pin}");
    }
}
