//! From a path to what it stands for.

use std::borrow::Cow;

use crate::http1::{Method, percent_decode};
use crate::{Error, Result};

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    ServerMetadata,
    Live,
    Ready,
    ModelMetadata(ModelPath<'a>),
    ModelReady(ModelPath<'a>),
    ModelConfig(ModelPath<'a>),
    ModelStatistics(ModelPath<'a>),
    AllStatistics,
    Infer(ModelPath<'a>),
    RepositoryIndex,
    /// Loads the model of this name.
    Load(Cow<'a, str>),
    /// Unloads the model of this name.
    Unload(Cow<'a, str>),
    /// A load or unload that names one of the repositories.
    NamedRepository,
    /// Something that Triton has and this server has not.
    Unsupported(Feature),
}

/// A model and, if the path has one, a version in digits without leading zeros.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ModelPath<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) version: Option<&'a str>,
}

/// What Triton has and this server has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Generate,
    Trace,
    Logging,
    SharedMemory { write: bool },
}

impl Feature {
    /// Its name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Feature::Generate => "the generate extension",
            Feature::Trace => "the trace extension",
            Feature::Logging => "the logging extension",
            Feature::SharedMemory { .. } => "shared memory",
        }
    }
}

const READ: &[Method] = &[Method::Get, Method::Head];
const WRITE: &[Method] = &[Method::Post];
const READ_AND_WRITE: &[Method] = &[Method::Get, Method::Head, Method::Post];

impl<'a> Route<'a> {
    /// Finds what a path, still percent-encoded, stands for; `None` if that is nothing.
    ///
    /// # Errors
    /// `InvalidArgument` if a model's name is not valid percent-encoding, `NotFound` if no model
    /// can have it.
    pub(crate) fn of(path: &'a str) -> Result<Option<Route<'a>>> {
        let Some(rest) = path.strip_prefix("/v2") else {
            return Ok(None);
        };
        // An empty segment, such as a slash at the end makes, is not nothing.
        let segments: Vec<&str> = rest.split('/').skip(1).collect();
        if !rest.is_empty() && !rest.starts_with('/') {
            return Ok(None);
        }
        Ok(match segments.as_slice() {
            [] => Some(Route::ServerMetadata),
            ["health", "live"] => Some(Route::Live),
            ["health", "ready"] => Some(Route::Ready),
            ["models", "stats"] => Some(Route::AllStatistics),
            ["models", name, rest @ ..] => of_model(name, rest)?,
            ["repository", "index"] | ["repository", _, "index"] => Some(Route::RepositoryIndex),
            ["repository", "models", name, "load"] => Some(Route::Load(model_name(name)?)),
            ["repository", "models", name, "unload"] => Some(Route::Unload(model_name(name)?)),
            ["repository", _, "models", _, "load" | "unload"] => Some(Route::NamedRepository),
            ["trace", "setting"] => Some(Route::Unsupported(Feature::Trace)),
            ["logging"] => Some(Route::Unsupported(Feature::Logging)),
            ["systemsharedmemory" | "cudasharedmemory", rest @ ..] => of_shared_memory(rest),
            _ => None,
        })
    }

    /// The methods it can be called with.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Route::ServerMetadata
            | Route::Live
            | Route::Ready
            | Route::ModelMetadata(_)
            | Route::ModelReady(_)
            | Route::ModelConfig(_)
            | Route::ModelStatistics(_)
            | Route::AllStatistics
            | Route::Unsupported(Feature::SharedMemory { write: false }) => READ,
            Route::Infer(_)
            | Route::RepositoryIndex
            | Route::Load(_)
            | Route::Unload(_)
            | Route::NamedRepository
            | Route::Unsupported(Feature::Generate | Feature::SharedMemory { write: true }) => {
                WRITE
            }
            Route::Unsupported(Feature::Trace | Feature::Logging) => READ_AND_WRITE,
        }
    }
}

fn of_model<'a>(name: &'a str, rest: &[&'a str]) -> Result<Option<Route<'a>>> {
    let (version, rest) = match rest {
        ["versions", version, rest @ ..] => match version_of(version) {
            Some(version) => (Some(version), rest),
            None => return Ok(None),
        },
        _ => (None, rest),
    };
    let make: fn(ModelPath<'a>) -> Route<'a> = match rest {
        [] => Route::ModelMetadata,
        ["ready"] => Route::ModelReady,
        ["config"] => Route::ModelConfig,
        ["stats"] => Route::ModelStatistics,
        ["infer"] => Route::Infer,
        ["generate" | "generate_stream"] => |_| Route::Unsupported(Feature::Generate),
        ["trace", "setting"] => |_| Route::Unsupported(Feature::Trace),
        _ => return Ok(None),
    };
    if name.is_empty() {
        return Ok(None);
    }
    Ok(Some(make(ModelPath {
        name: model_name(name)?,
        version,
    })))
}

fn of_shared_memory<'a>(rest: &[&str]) -> Option<Route<'a>> {
    let action = match rest {
        ["region", _, action] | [action] => *action,
        _ => return None,
    };
    let write = match action {
        "status" => false,
        "register" | "unregister" => true,
        _ => return None,
    };
    Some(Route::Unsupported(Feature::SharedMemory { write }))
}

/// A version in digits, without the zeros in front.
fn version_of(text: &str) -> Option<&str> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match text.trim_start_matches('0') {
        "" => Some("0"),
        version => Some(version),
    }
}

/// The name of a model in a path. Models are directories, so a name that could lead out of the
/// repository is the name of none.
fn model_name(segment: &str) -> Result<Cow<'_, str>> {
    let name = percent_decode(segment).map_err(|error| Error::invalid_argument(error.message()))?;
    let path_like = name.contains(['/', '\\'])
        || name.chars().any(char::is_control)
        || name == "."
        || name == "..";
    if path_like || name.is_empty() {
        return Err(Error::not_found(format!(
            "Request for unknown model: '{}' is not found",
            name.escape_debug()
        )));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &'static str, version: Option<&'static str>) -> ModelPath<'static> {
        ModelPath {
            name: Cow::Borrowed(name),
            version,
        }
    }

    #[test]
    fn paths_stand_for_what_they_say() {
        let cases = [
            ("/v2", Route::ServerMetadata),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models/stats", Route::AllStatistics),
            ("/v2/models/m", Route::ModelMetadata(model("m", None))),
            (
                "/v2/models/m/versions/3",
                Route::ModelMetadata(model("m", Some("3"))),
            ),
            (
                "/v2/models/m/versions/003/ready",
                Route::ModelReady(model("m", Some("3"))),
            ),
            (
                "/v2/models/m/versions/00/config",
                Route::ModelConfig(model("m", Some("0"))),
            ),
            (
                "/v2/models/m/stats",
                Route::ModelStatistics(model("m", None)),
            ),
            (
                "/v2/models/a%20b%C3%A9/infer",
                Route::Infer(model("a b\u{e9}", None)),
            ),
            (
                "/v2/models/versions/versions/1/infer",
                Route::Infer(model("versions", Some("1"))),
            ),
            (
                "/v2/models/m/generate",
                Route::Unsupported(Feature::Generate),
            ),
            (
                "/v2/models/m/versions/1/generate_stream",
                Route::Unsupported(Feature::Generate),
            ),
            (
                "/v2/models/m/trace/setting",
                Route::Unsupported(Feature::Trace),
            ),
            ("/v2/repository/index", Route::RepositoryIndex),
            ("/v2/repository/r/index", Route::RepositoryIndex),
            ("/v2/repository/models/m/load", Route::Load("m".into())),
            ("/v2/repository/models/m/unload", Route::Unload("m".into())),
            ("/v2/repository/r/models/m/load", Route::NamedRepository),
            ("/v2/logging", Route::Unsupported(Feature::Logging)),
            ("/v2/trace/setting", Route::Unsupported(Feature::Trace)),
            (
                "/v2/systemsharedmemory/status",
                Route::Unsupported(Feature::SharedMemory { write: false }),
            ),
            (
                "/v2/cudasharedmemory/region/r/register",
                Route::Unsupported(Feature::SharedMemory { write: true }),
            ),
        ];
        for (path, route) in cases {
            assert_eq!(Route::of(path).unwrap().unwrap(), route, "{path}");
        }
    }

    #[test]
    fn other_paths_stand_for_nothing() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v2/",
            "/v2x",
            "/v2//",
            "/v2/health",
            "/v2/health/live/",
            "/v2//health/live",
            "/v2/models",
            "/v2/models/",
            "/v2/models/m/",
            "/v2/models//infer",
            "/v2/models/m/foo",
            "/v2/models/m/versions",
            "/v2/models/m/versions/",
            "/v2/models/m/versions/x",
            "/v2/models/m/versions/-1",
            "/v2/models/m/versions/1/foo",
            "/v2/repository",
            "/v2/repository/models/m",
            "/v2/repository/models/m/foo",
            "/v2/systemsharedmemory",
            "/v2/systemsharedmemory/foo",
            "/v2/trace",
            "/metrics",
        ] {
            assert_eq!(Route::of(path), Ok(None), "{path}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_repository() {
        for name in [
            "..",
            ".",
            "%2e%2e",
            "a%2Fb",
            "..%2f..%2fetc",
            "a%5Cb",
            "a%00b",
            "a%0Ab",
        ] {
            let path = format!("/v2/repository/models/{name}/load");
            assert_eq!(Route::of(&path).unwrap_err().status(), 404, "{path}");
        }
        assert_eq!(Route::of("/v2/models/%zz").unwrap_err().status(), 400);
    }
}
