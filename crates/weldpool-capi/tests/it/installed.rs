//! What `cargo xtask install-c` lays out.

use std::process::Command;

use super::build::{With, compile, pkg_config, prefix, succeed};

#[test]
fn programs_ask_for_the_version_of_the_interface() {
    let program = compile("examples/pool.c", With::Shared);
    let needed = succeed(Command::new("readelf").arg("-d").arg(program));
    assert!(needed.contains("[libweldpool.so.0]"), "{needed}");
    let lib = prefix().join("lib");
    assert_eq!(
        std::fs::read_link(lib.join("libweldpool.so"))
            .unwrap()
            .to_str(),
        Some("libweldpool.so.0")
    );
    let real = std::fs::canonicalize(lib.join("libweldpool.so.0")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        real.ends_with(format!("libweldpool.so.0.{version}")),
        "{real:?}"
    );
}

#[test]
fn pkg_config_knows_the_installation() {
    assert_eq!(pkg_config("--modversion"), [env!("CARGO_PKG_VERSION")]);
    let include = format!("-I{}", prefix().join("include").display());
    assert_eq!(pkg_config("--cflags"), [include]);
    assert_eq!(pkg_config("--libs").last().unwrap(), "-lweldpool");
    assert!(pkg_config("--static --libs").contains(&"-lpthread".to_owned()));
}

#[test]
fn headers_are_in_place() {
    for header in ["weldpool.h", "weldpool.hpp", "weldpool_resource.hpp"] {
        assert!(prefix().join("include").join(header).is_file(), "{header}");
    }
}
