//! `cargo xtask demo`: real models, a real client, a picture with known text.

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::error::Result;
use crate::paths::{Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;

pub(crate) fn run(paths: &Paths, arguments: Arguments) -> Result<()> {
    let pipeline_arguments = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    let environment = Environment::prepare(paths, &mut steps, Profile::Release)?;
    let pipeline = Run::new(environment.python())
        // The checkout stays free of compiled Python.
        .args(["-B", "examples/demo/ocr_pipeline.py", "--server"])
        .arg(environment.program())
        .arg("--models")
        .arg(environment.ocr_models())
        .arg("--work")
        .arg(paths.cache().join("demo"))
        .args(pipeline_arguments)
        .directory(paths.root());
    steps.show("read a picture", environment.apply(pipeline))?;
    steps.done("demo");
    Ok(())
}
