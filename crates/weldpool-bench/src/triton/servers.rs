//! Starts Triton with all its backends, and our own server, and stops them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Options;
use super::cells::Work;
use super::models::{IDENTITY, Model, bare_config};
use crate::error::{Error, ErrorKind, Result};
use crate::peers::fetch;
use crate::peers::triton::{self, Layout, PythonBackend, Triton};
use crate::process::Process;
use crate::repository::write_model;
use crate::{cargo, cpu, ours};

/// Our backend in Triton, in results.
pub const OURS: &str = "triton-metal_mps";
/// Triton's Python backend with a model that calls onnxruntime.
pub const PYTHON: &str = "triton-python";
/// The identity backend written in nothing but Triton's C ABI.
pub const BARE: &str = "triton-identity";
/// The same models in our own server.
pub const SERVE: &str = "weldpool-serve";

/// Our backend's name in configurations.
const BACKEND: &str = "metal_mps";

/// One way to serve the models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// Its name in results.
    pub(super) name: &'static str,
    /// Where it answers.
    pub(super) address: SocketAddr,
    /// Its processes; those of Triton are the same for all its backends, of which one is busy at a time.
    pub(super) pids: Vec<u32>,
    /// What its models have behind their names, to be told from those of other backends.
    pub(super) suffix: Option<&'static str>,
    /// Whether it runs models other than the identity.
    pub(super) computes: bool,
}

impl Server {
    /// Its model for `work`, if it has one.
    pub(super) fn model(&self, work: Work) -> Option<String> {
        let model = work.model();
        if model != IDENTITY && !self.computes {
            return None;
        }
        Some(name(model, self.suffix))
    }
}

fn name(model: &str, suffix: Option<&str>) -> String {
    suffix.map_or_else(|| model.to_owned(), |suffix| format!("{model}_{suffix}"))
}

/// All servers of a run; they stop when this is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) list: Vec<Server>,
    processes: Vec<Process>,
    versions: BTreeMap<String, String>,
    /// Repositories and logs.
    scratch_folder: TempDir,
}

impl Servers {
    /// Builds our backend and starts everything; what this machine does not have is told in `missing`.
    pub(super) fn start(options: &Options, missing: &mut Vec<String>) -> Result<Self> {
        let folder = TempDir::new().map_err(|error| Error::io("creating a folder", error))?;
        let mut servers = Self {
            list: Vec::new(),
            processes: Vec::new(),
            versions: BTreeMap::new(),
            scratch_folder: folder,
        };
        let scratch = servers.scratch_folder.path().to_owned();
        let models = Model::all()?;
        servers.start_triton(&scratch, &models, options, missing)?;
        servers.start_ours(&scratch, &models, options)?;
        Ok(servers)
    }

    fn start_triton(
        &mut self,
        scratch: &Path,
        models: &[Model],
        options: &Options,
        missing: &mut Vec<String>,
    ) -> Result<()> {
        let python = fetch::python()?;
        let peers = cargo::target_directory()?.join("weldpool/peers");
        let program = triton::program(&python, &peers)?;
        let layout = Layout::below(scratch)?;
        let wheel = triton::WHEEL.unpacked(&python, &peers)?;
        let mut environment: Vec<(&'static str, OsString)> = Vec::new();
        let mut packages = Vec::new();

        layout.add_backend(BACKEND, &backend()?)?;
        layout.add_backend(triton::IDENTITY, &cargo::build_library("triton_identity")?)?;
        let config = bare_config(triton::IDENTITY, options.instances);
        layout.add_model(&name(IDENTITY, Some(triton::IDENTITY)), &config, &[])?;
        let mut ways = vec![(OURS, BACKEND, true), (BARE, triton::IDENTITY, false)];
        match PythonBackend::find(&wheel, &python, &peers)? {
            Ok(found) => {
                found.add_to(&layout)?;
                environment.extend_from_slice(found.environment());
                packages = serde_json::to_vec(found.packages()).map_err(|error| {
                    Error::caused(ErrorKind::Environment, "the folders of packages", error)
                })?;
                self.versions.extend(found.versions().clone());
                ways.push((PYTHON, triton::PYTHON, true));
            }
            Err(reason) => missing.push(format!("{PYTHON}: {reason}")),
        }
        for model in models {
            for &(_, backend, _) in ways.iter().filter(|(_, _, computes)| *computes) {
                let config = model.config(backend, options.instances);
                let mut files: Vec<(&str, &[u8])> = vec![("model.onnx", model.onnx.as_slice())];
                if backend == triton::PYTHON {
                    files.push(("model.py", include_bytes!("model.py")));
                    files.push(("packages.json", &packages));
                }
                layout.add_model(&name(model.name, Some(backend)), &config, &files)?;
            }
        }

        let log = scratch.join("triton.log");
        let triton = Triton::start(&program, &layout, &environment, &log)?;
        // The stubs of the Python backend are processes of their own and part of the server.
        let pids = cpu::family(triton.process.pid())?;
        self.list
            .extend(ways.iter().map(|&(name, backend, computes)| Server {
                name,
                address: triton.address,
                pids: pids.clone(),
                suffix: Some(backend),
                computes,
            }));
        let wheel = triton::WHEEL;
        self.versions.insert("triton".to_owned(), triton.version);
        self.versions
            .insert(wheel.name.to_owned(), wheel.version.to_owned());
        self.processes.push(triton.process);
        Ok(())
    }

    fn start_ours(&mut self, scratch: &Path, models: &[Model], options: &Options) -> Result<()> {
        let program = ours::program()?;
        let repository = scratch.join("weldpool-models");
        for model in models {
            let config = model.config("onnxruntime", options.instances);
            write_model(
                &repository,
                model.name,
                &config,
                &[("model.onnx", &model.onnx)],
            )?;
        }
        let log = scratch.join("weldpool.log");
        let (process, listening) =
            ours::start(&mut ours::serve_command(&program, &repository), &log)?;
        self.versions
            .insert("weldpool".to_owned(), ours::version(&program)?);
        self.list.push(Server {
            name: SERVE,
            address: listening.http,
            pids: vec![process.pid()],
            suffix: None,
            computes: true,
        });
        self.processes.push(process);
        Ok(())
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

/// Builds our backend as it is shipped.
fn backend() -> Result<PathBuf> {
    cargo::build_package_library("weldpool-triton", "triton_metal_mps", &["--release"])
}
