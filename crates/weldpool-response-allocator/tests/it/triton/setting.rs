//! The folders that the server needs: its library, backends and models.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use weldpool_bench::cargo;
use weldpool_bench::model::{Element, OneNode};
use weldpool_bench::peers::fetch;
use weldpool_bench::peers::triton;
use weldpool_triton_sys::Library;

#[derive(Debug)]
pub(super) struct Setting {
    pub(super) library: PathBuf,
    pub(super) backends: PathBuf,
    pub(super) repository: PathBuf,
    _folder: TempDir,
}

impl Setting {
    pub(super) fn prepare() -> Result<Setting, Box<dyn std::error::Error>> {
        let peers = cargo::target_directory()?.join("weldpool/peers");
        let wheel = triton::WHEEL.unpacked(&fetch::python()?, &peers)?;
        let library = fetch::file_starting(&wheel.join(triton::LIBRARIES), "libtritonserver-")?;
        let folder = TempDir::new()?;
        let backends = folder.path().join("backends");
        let repository = folder.path().join("models");
        add_backend(
            &backends,
            "outputs",
            &cargo::build_package_example(env!("CARGO_PKG_NAME"), "triton_outputs")?,
        )?;
        add_backend(
            &backends,
            "identity",
            &cargo::build_library("triton_identity")?,
        )?;
        add_model(&repository, "outputs", &outputs())?;
        let identity = OneNode {
            operator: "Identity",
            element: Element::Fp32,
            inputs: 1,
        };
        let two = "instance_group [ { kind: KIND_CPU count: 2 } ]\n";
        add_model(
            &repository,
            "identity",
            &(identity.config("identity") + two),
        )?;
        Ok(Setting {
            library,
            backends,
            repository,
            _folder: folder,
        })
    }
}

/// Loads a library of the wheel, and before it those beside it that it depends on: they are found by their names once
/// they are loaded, and nothing else says where they are.
pub(super) fn open(library: &Path) -> Result<Library, String> {
    let mut last = PathBuf::new();
    loop {
        let reason = match Library::open(library) {
            Ok(opened) => return Ok(opened),
            Err(reason) => reason,
        };
        let missing = reason
            .strip_suffix(": cannot open shared object file: No such file or directory")
            .map(|name| library.with_file_name(name));
        match missing {
            Some(file) if file.is_file() && file != last => {
                open(&file)?;
                last = file;
            }
            _ => return Err(reason),
        }
    }
}

/// The model of `examples/triton_outputs.rs`.
fn outputs() -> String {
    let outputs: Vec<_> = (0..8)
        .map(|index| format!("{{ name: \"OUTPUT{index}\" data_type: TYPE_UINT8 dims: [ -1 ] }}"))
        .collect();
    format!(
        "backend: \"outputs\"\nmax_batch_size: 0\nmodel_transaction_policy {{ decoupled: true }}\n\
         instance_group [ {{ kind: KIND_CPU count: 2 }} ]\n\
         input [ {{ name: \"COMMAND\" data_type: TYPE_INT64 dims: [ 6 ] }} ]\noutput [ {} ]\n",
        outputs.join(", ")
    )
}

fn add_backend(backends: &Path, name: &str, library: &Path) -> std::io::Result<()> {
    let home = backends.join(name);
    fs::create_dir_all(&home)?;
    fs::copy(library, home.join(format!("libtriton_{name}.so")))?;
    Ok(())
}

fn add_model(repository: &Path, name: &str, config: &str) -> std::io::Result<()> {
    let home = repository.join(name);
    fs::create_dir_all(home.join("1"))?;
    fs::write(home.join("config.pbtxt"), config)
}
