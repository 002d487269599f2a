//! The folders that Triton's tests need: its wheel, and the backend, built with faults on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use weldpool_bench::cargo;
use weldpool_bench::peers::fetch::{self, make_executable};
use weldpool_bench::peers::perf_analyzer::PerfAnalyzer;
use weldpool_bench::peers::triton;

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) python: PathBuf,
    /// The program `tritonserver`.
    pub(crate) server: PathBuf,
    /// What to give as `--backend-directory`.
    pub(crate) backends: PathBuf,
    /// The library of the backend.
    pub(crate) library: PathBuf,
    pub(crate) perf_analyzer: PerfAnalyzer,
}

/// Prepares all of it, once; none where there is no Triton.
pub(crate) fn places() -> Option<&'static Places> {
    static PLACES: OnceLock<Option<Places>> = OnceLock::new();
    PLACES
        .get_or_init(|| {
            if !triton::is_supported() {
                eprintln!("no Triton for this platform: nothing to test against");
                return None;
            }
            Some(prepare().expect("Triton and the backend are prepared"))
        })
        .as_ref()
}

fn prepare() -> Result<Places, Box<dyn std::error::Error>> {
    let python = fetch::python()?;
    let peers = cargo::target_directory()?.join("weldpool/peers");
    let wheel = triton::WHEEL.unpacked(&python, &peers)?;
    let tritons = wheel.join("pytriton/tritonserver");
    let server = tritons.join("bin/tritonserver");
    make_executable(&server)?;
    let built = cargo::build_package_library(
        "weldpool-triton",
        "triton_metal_mps",
        &["--features", "faults"],
    )?;
    let backends = Path::new(env!("CARGO_TARGET_TMPDIR")).join("triton-backends");
    let home = backends.join("metal_mps");
    fs::create_dir_all(&home)?;
    let library = home.join("libtriton_metal_mps.so");
    fs::copy(built, &library)?;
    Ok(Places {
        perf_analyzer: PerfAnalyzer::ready(&python, &peers)?,
        python,
        server,
        backends,
        library,
    })
}
