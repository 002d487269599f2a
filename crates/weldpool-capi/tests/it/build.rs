//! The installation, and programs that are compiled against it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The crate's folder.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where libweldpool is installed.
pub(crate) fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prefix");
        let _absent = std::fs::remove_dir_all(&prefix);
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        install
            .args(["xtask", "install-c", "--prefix"])
            .arg(&prefix);
        if cfg!(debug_assertions) {
            install.arg("--debug");
        }
        succeed(install.current_dir(source("../..")));
        prefix
    })
}

/// How a program is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    Shared,
    Static,
    AddressSanitizer,
}

/// Compiles a C or C++ program of the crate's, by what pkg-config says.
pub(crate) fn compile(program: &str, with: With) -> PathBuf {
    let path = source(program);
    let cpp = path.extension().is_some_and(|extension| extension == "cpp");
    let out = folder().join(format!("{}-{with:?}", program.replace(['/', '.'], "-")));
    let (compiler, standard) = match cpp {
        true => ("c++", "-std=c++17"),
        false => ("cc", "-std=c11"),
    };
    let mut compile = Command::new(compiler);
    compile
        .args([
            standard,
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-pthread",
            // What a program defines itself may stand for functions that the library looks for.
            "-rdynamic",
        ])
        .args(pkg_config("--cflags"));
    if with == With::AddressSanitizer {
        compile.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    }
    compile.arg(&path).arg("-o").arg(&out);
    match with {
        With::Static => {
            compile.arg(prefix().join("lib/libweldpool.a"));
            let libraries = pkg_config("--static --libs");
            compile.args(libraries.iter().filter(|library| *library != "-lweldpool"));
        }
        With::Shared | With::AddressSanitizer => {
            compile.args(pkg_config("--libs"));
            compile.arg(format!("-Wl,-rpath,{}", prefix().join("lib").display()));
        }
    }
    succeed(&mut compile);
    out
}

/// What pkg-config says of the installation; where there is none, what it would read in the file.
pub(crate) fn pkg_config(options: &str) -> Vec<String> {
    let folder = prefix().join("lib/pkgconfig");
    let mut run = Command::new("pkg-config");
    run.args(options.split(' '))
        .arg("weldpool")
        .env("PKG_CONFIG_PATH", &folder);
    let said = match run.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            read_pkg_config(&folder.join("weldpool.pc"), options)
        }
        _ => succeed(&mut run),
    };
    said.split_whitespace().map(str::to_owned).collect()
}

/// The fields that `options` ask for, with variables replaced.
fn read_pkg_config(file: &Path, options: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let fields: &[&str] = match options {
        "--modversion" => &["Version"],
        "--cflags" => &["Cflags"],
        "--libs" => &["Libs"],
        "--static --libs" => &["Libs", "Libs.private"],
        other => panic!("{other} is not known here"),
    };
    let field = |name: &&str| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("{name} is not in {}", file.display()))
    };
    let mut said = fields.iter().map(field).collect::<Vec<_>>().join(" ");
    // Variables may stand in variables that come before them in the replacement.
    let variables: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    for (name, value) in variables.iter().rev() {
        said = said.replace(&format!("${{{name}}}"), value);
    }
    said
}

/// A folder for what tests make.
pub(crate) fn folder() -> &'static Path {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).unwrap();
    folder
}

/// Runs a command that has to succeed, and returns what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let printed = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{command:?}: {status}\n{printed}{}",
        String::from_utf8_lossy(&stderr)
    );
    printed
}
