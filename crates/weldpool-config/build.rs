//! Compiles the protobuf schemas to Rust types and to descriptors, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// The schemas, relative to `proto/`.
const SCHEMAS: [&str; 1] = ["model_config.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let include = Path::new("proto");
    for schema in SCHEMAS {
        println!("cargo::rerun-if-changed={}", include.join(schema).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    let mut compiler = protox::Compiler::new([include])?;
    compiler.include_imports(true);
    // Comments of the schema become documentation of the types.
    compiler.include_source_info(true);
    compiler.open_files(SCHEMAS)?;
    let mut descriptors = compiler.file_descriptor_set();

    prost_build::Config::new()
        .out_dir(&out)
        // Ordered, so that whatever is made from a configuration is the same each time.
        .btree_map(["."])
        .compile_fds(descriptors.clone())?;

    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
