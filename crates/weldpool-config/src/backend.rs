//! Which engine a configuration asks for.

use std::fmt;
use std::path::Path;

use super::error::{Error, ErrorKind, Result};
use super::proto::ModelConfig;

/// A backend that is accepted in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// `backend: "onnxruntime"` or `platform: "onnxruntime_onnx"`.
    OnnxRuntime,
    /// `backend: "metal_mps"`.
    MetalMps,
}

/// The platform name that goes with [`Backend::OnnxRuntime`].
pub(super) const ONNXRUNTIME_PLATFORM: &str = "onnxruntime_onnx";

/// Platforms that Triton has backends of its own for.
const OTHER_PLATFORMS: [&str; 6] = [
    "ensemble",
    "pytorch_libtorch",
    "tensorflow_graphdef",
    "tensorflow_savedmodel",
    "tensorrt_plan",
    "custom",
];

impl Backend {
    /// Every backend that is accepted.
    pub const ALL: [Backend; 2] = [Backend::OnnxRuntime, Backend::MetalMps];

    /// The name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Backend::OnnxRuntime => "onnxruntime",
            Backend::MetalMps => "metal_mps",
        }
    }

    /// The instances an instance group has that gives no count, as Triton decides it.
    #[must_use]
    pub const fn default_instance_count(self) -> i32 {
        match self {
            Backend::OnnxRuntime => 2,
            Backend::MetalMps => 1,
        }
    }

    /// What the configuration asks for, from its backend, its platform, or the model's file.
    ///
    /// # Errors
    /// `Unsupported` for a backend that is not here, `Invalid` for a platform that does not exist
    /// or contradicts the backend, and where nothing tells.
    pub(super) fn of(config: &ModelConfig, model: &str, model_files: &[String]) -> Result<Backend> {
        let platform = config.platform.as_str();
        if !config.backend.is_empty() {
            let backend = Backend::ALL
                .into_iter()
                .find(|backend| backend.name() == config.backend)
                .ok_or_else(|| unsupported("backend", &config.backend, model))?;
            let fits = platform.is_empty() || platform == ONNXRUNTIME_PLATFORM;
            if fits {
                return Ok(backend);
            }
            return Err(Error::invalid(format!(
                "unexpected 'platform' and 'backend' pair, got: {platform}, {backend}"
            )));
        }
        match platform {
            ONNXRUNTIME_PLATFORM => Ok(Backend::OnnxRuntime),
            "" => Backend::of_files(config, model, model_files),
            _ if OTHER_PLATFORMS.contains(&platform) => {
                Err(unsupported("platform", platform, model))
            }
            _ => Err(Error::invalid(format!(
                "unexpected platform type '{platform}' for {model}"
            ))),
        }
    }

    fn of_files(config: &ModelConfig, model: &str, model_files: &[String]) -> Result<Backend> {
        let is_onnx = |name: &str| {
            Path::new(name)
                .extension()
                .is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
        };
        let given = config.default_model_filename.as_str();
        let found = if given.is_empty() {
            model_files.iter().any(|name| is_onnx(name))
        } else {
            is_onnx(given)
        };
        if found {
            return Ok(Backend::OnnxRuntime);
        }
        Err(Error::invalid(format!(
            "no backend is given for '{model}', and no version directory has an .onnx file that \
             would tell; set backend: \"{}\"",
            Backend::OnnxRuntime
        )))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn unsupported(field: &str, value: &str, model: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{field} '{value}' of '{model}' is not available; available backends are {}",
            Backend::ALL.map(Backend::name).join(" and ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backend_follows_from_what_is_given() {
        let files = ["model.onnx".to_owned()];
        type Case<'a> = (
            &'a str,
            &'a str,
            &'a str,
            &'a [String],
            std::result::Result<Backend, ErrorKind>,
        );
        let cases: [Case<'_>; 12] = [
            ("onnxruntime", "", "", &[], Ok(Backend::OnnxRuntime)),
            ("metal_mps", "", "", &[], Ok(Backend::MetalMps)),
            (
                "metal_mps",
                "onnxruntime_onnx",
                "",
                &[],
                Ok(Backend::MetalMps),
            ),
            ("", "onnxruntime_onnx", "", &[], Ok(Backend::OnnxRuntime)),
            ("", "", "net.ONNX", &[], Ok(Backend::OnnxRuntime)),
            ("", "", "", &files, Ok(Backend::OnnxRuntime)),
            ("", "", "net.plan", &files, Err(ErrorKind::Invalid)),
            ("", "", "", &[], Err(ErrorKind::Invalid)),
            ("python", "", "", &files, Err(ErrorKind::Unsupported)),
            ("", "tensorrt_plan", "", &files, Err(ErrorKind::Unsupported)),
            ("", "onnx_runtime", "", &files, Err(ErrorKind::Invalid)),
            (
                "onnxruntime",
                "tensorrt_plan",
                "",
                &files,
                Err(ErrorKind::Invalid),
            ),
        ];
        for (backend, platform, file, files, expected) in cases {
            let config = ModelConfig {
                backend: backend.into(),
                platform: platform.into(),
                default_model_filename: file.into(),
                ..Default::default()
            };
            let got = Backend::of(&config, "m", files).map_err(|error| error.kind());
            assert_eq!(got, expected, "{backend} {platform} {file}");
        }
    }
}
