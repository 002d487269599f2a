//! What the examination runs on.

use std::fs;

use serde::Serialize;

/// Program, system and machine.
#[derive(Debug, Default, Serialize)]
pub(super) struct Environment {
    program_version: &'static str,
    build: &'static str,
    os: &'static str,
    os_version: String,
    arch: &'static str,
    pub(super) processor: String,
    pub(super) processors: usize,
    pub(super) memory_bytes: u64,
    /// What else the machine does leaves this share of its processors, from 0 to 1.
    pub(super) free_share: f64,
}

/// Whether figures of this build mean anything.
pub(super) const IS_OPTIMISED: bool = !cfg!(debug_assertions);

/// Where macOS says its version.
const MACOS_VERSION: &str = "/System/Library/CoreServices/SystemVersion.plist";

impl Environment {
    /// All but what the host device says.
    pub(super) fn this() -> Self {
        Self {
            program_version: env!("CARGO_PKG_VERSION"),
            build: if IS_OPTIMISED { "release" } else { "debug" },
            os: std::env::consts::OS,
            os_version: os_version(),
            arch: std::env::consts::ARCH,
            ..Self::default()
        }
    }

    /// In a line.
    pub(super) fn line(&self) -> String {
        format!(
            "weldpool {} ({} build), {} {} on {}, {}, {} processors ({:.0} % free), {:.1} GiB",
            self.program_version,
            self.build,
            self.os,
            self.os_version,
            self.arch,
            self.processor,
            self.processors,
            self.free_share * 100.0,
            self.memory_bytes as f64 / f64::from(1 << 30)
        )
    }
}

fn os_version() -> String {
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    // What follows the version names a build, which may name a place.
    let kernel = kernel.split('-').next().unwrap_or_default();
    match fs::read_to_string(MACOS_VERSION) {
        Ok(text) => match product_version(&text) {
            Some(version) => format!("{version} (kernel {kernel})"),
            None => kernel.to_owned(),
        },
        Err(_) => kernel.to_owned(),
    }
}

/// The product's version out of the property list, which is XML.
fn product_version(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("<key>ProductVersion</key>")?;
    let (_, value) = after.split_once("<string>")?;
    let (version, _) = value.split_once("</string>")?;
    Some(version.trim()).filter(|version| version.len() < 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_macos_is_in_its_property_list() {
        let text = "<plist version=\"1.0\"><dict>\n<key>ProductName</key>\n<string>macOS</string>\n\
                    <key>ProductVersion</key>\n\t<string>15.1</string>\n</dict></plist>";
        assert_eq!(product_version(text), Some("15.1"));
        for wrong in ["", "<key>ProductVersion</key>", "<string>1</string>"] {
            assert_eq!(product_version(wrong), None);
        }
    }
}
