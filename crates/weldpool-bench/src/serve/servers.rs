//! Starts the servers of the suite and stops them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Options, overhead};
use crate::cargo;
use crate::error::{Error, Result};
use crate::model::{Element, OneNode};
use crate::ours;
use crate::peers::fetch::python;
use crate::peers::perf_analyzer;
use crate::peers::triton::{self, Layout, Triton};
use crate::process::Process;
use crate::request::MODEL;

/// Name of our server in results.
pub const OURS: &str = "weldpool";
/// Name of the ceiling in results.
pub const CEILING: &str = "bare-echo";

/// The model that all servers serve: the same semantics everywhere, one copy from input to output.
const IDENTITY: OneNode = OneNode {
    operator: "Identity",
    element: Element::Fp32,
    inputs: 1,
};

/// One server under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name in results.
    pub name: String,
    /// Where it answers.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
}

/// All servers of a run; they stop when this is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) list: Vec<Server>,
    versions: BTreeMap<String, String>,
    /// Where ours publishes metrics, if it runs.
    pub(super) ours_metrics: Option<SocketAddr>,
    processes: Vec<Process>,
    /// Repositories and logs.
    scratch_folder: TempDir,
}

impl Servers {
    /// Starts the ceiling, Triton where it exists, and ours unless only the peers are asked for.
    pub(super) fn start(
        options: &Options,
        peers: &Path,
        missing: &mut Vec<String>,
    ) -> Result<Self> {
        let scratch = TempDir::new().map_err(|error| Error::io("creating a folder", error))?;
        let mut servers = Self {
            list: Vec::new(),
            versions: BTreeMap::new(),
            ours_metrics: None,
            processes: Vec::new(),
            scratch_folder: scratch,
        };
        servers.start_echo()?;
        if triton::is_supported() {
            servers.start_triton(peers, options.triton_instances)?;
        } else {
            missing.push("Triton: its wheel exists for Linux x86_64 only".to_owned());
        }
        if !options.peers_only {
            servers.start_ours()?;
        }
        Ok(servers)
    }

    fn start_echo(&mut self) -> Result<()> {
        let program =
            std::env::current_exe().map_err(|error| Error::io("locating this program", error))?;
        let mut command = Command::new(program);
        command.args(["echo", "--port", "0"]);
        let log = self.scratch().join("echo.log");
        let timeout = Duration::from_secs(10);
        let (process, listening) =
            Process::start_listening("the bare echo", &mut command, &log, timeout)?;
        self.add(CEILING.to_owned(), listening.http, process);
        Ok(())
    }

    fn start_triton(&mut self, peers: &Path, instances: usize) -> Result<()> {
        let python = python()?;
        let program = triton::program(&python, peers)?;
        let layout = Layout::below(self.scratch())?;
        let library = cargo::build_library("triton_identity")?;
        layout.add_backend(triton::IDENTITY, &library)?;
        let group = format!("instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\n");
        let config = IDENTITY.config(triton::IDENTITY) + &group;
        layout.add_model(MODEL, &config, &[])?;
        let log = self.scratch().join("triton.log");
        let triton = Triton::start(&program, &layout, &[], &log)?;
        let name = format!("triton-{}", triton.version);
        self.versions.insert("triton".to_owned(), triton.version);
        for wheel in [triton::WHEEL, perf_analyzer::WHEEL] {
            self.versions
                .insert(wheel.name.to_owned(), wheel.version.to_owned());
        }
        self.add(name, triton.address, triton.process);
        Ok(())
    }

    fn start_ours(&mut self) -> Result<()> {
        let program = ours::program()?;
        let repository = self.scratch().join("weldpool-models");
        let mut models = vec![(MODEL, IDENTITY)];
        models.extend(overhead::MODELS.map(|(name, _)| (name, IDENTITY)));
        ours::write_repository(&repository, &models)?;
        let log = self.scratch().join("weldpool.log");
        let (process, listening) =
            ours::start(&mut ours::serve_command(&program, &repository), &log)?;
        self.versions
            .insert(OURS.to_owned(), ours::version(&program)?);
        self.ours_metrics = Some(listening.metrics);
        self.add(OURS.to_owned(), listening.http, process);
        Ok(())
    }

    fn scratch(&self) -> &Path {
        self.scratch_folder.path()
    }

    fn add(&mut self, name: String, address: SocketAddr, process: Process) {
        self.list.push(Server {
            name,
            address,
            pid: process.pid(),
        });
        self.processes.push(process);
    }

    /// Our server, if it runs.
    pub(super) fn ours(&self) -> Option<&Server> {
        self.list.iter().find(|server| server.name == OURS)
    }

    /// Stops all servers and returns their versions.
    ///
    /// # Errors
    /// `Process` when one does not end by itself.
    pub(super) fn stop(self) -> Result<BTreeMap<String, String>> {
        self.processes
            .into_iter()
            .try_for_each(|process| process.stop().map(drop))?;
        Ok(self.versions)
    }
}
