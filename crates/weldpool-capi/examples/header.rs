//! Writes include/weldpool.h from the library's sources, or with `--check` compares it: `cargo xtask header`.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = directory.join("include/weldpool.h");
    let text = match generate(directory) {
        Ok(text) => text,
        Err(error) => return fail(&format!("{}: {error}", directory.display())),
    };
    if std::env::args().any(|argument| argument == "--check") {
        return match std::fs::read_to_string(&path) {
            Ok(committed) if committed == text => ExitCode::SUCCESS,
            _ => fail("include/weldpool.h is not what the sources say; run `cargo xtask header`"),
        };
    }
    match std::fs::write(&path, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{}: {error}", path.display())),
    }
}

fn generate(directory: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let config = cbindgen::Config::from_file(directory.join("cbindgen.toml"))?;
    let bindings = cbindgen::Builder::new()
        .with_crate(directory)
        .with_config(config)
        .generate()?;
    let mut text = Vec::new();
    bindings.write(&mut text);
    Ok(plain(&String::from_utf8(text)?))
}

/// Comments as C has them: without rustdoc's headings for promises, and its links.
fn plain(text: &str) -> String {
    let text = text.replace("// # Safety\n//\n", "").replace("[`", "`");
    text.replace("`]", "`")
}

fn fail(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}
