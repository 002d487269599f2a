//! The models there are and the state of each version.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::model::ModelHandle;
use super::types::IndexEntry;
use crate::error::{Error, Result};

/// The state of one version of a model.
#[derive(Debug, Clone)]
pub(crate) enum VersionState {
    /// It is being loaded.
    Loading,
    /// It can run; loading it took so long.
    Ready(ModelHandle, Duration),
    /// It could not be loaded, for this reason.
    Unavailable(String),
    /// It was unloaded because somebody wanted that.
    Unloaded,
}

/// Stands for the versions of a model while nothing is known of them.
pub(crate) const UNKNOWN_VERSION: u64 = u64::MAX;

type Versions = BTreeMap<u64, VersionState>;

/// All models that were ever loaded, or tried to be.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    models: RwLock<BTreeMap<String, Versions>>,
}

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Versions>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Versions>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version asked for, or the latest that is ready.
    ///
    /// # Errors
    ///
    /// With Triton's words, and its kind for each case: 404 for what is not there.
    pub(crate) fn find(&self, name: &str, version: Option<&str>) -> Result<ModelHandle> {
        let models = self.read();
        let unknown =
            |what: &str| Error::not_found(format!("Request for unknown model: '{name}' {what}"));
        let versions = models.get(name).ok_or_else(|| unknown("is not found"))?;
        let state = match version {
            None => versions
                .values()
                .rev()
                .find(|state| matches!(state, VersionState::Ready(..)))
                .ok_or_else(|| unknown("has no available versions"))?,
            Some(text) => versions
                .get(&parse_version(text)?)
                .ok_or_else(|| unknown(&format!("version {text} is not found")))?,
        };
        match state {
            VersionState::Ready(model, _) => Ok(ModelHandle::clone(model)),
            VersionState::Loading | VersionState::Unavailable(_) | VersionState::Unloaded => {
                Err(Error::unavailable(format!(
                    "Request for unknown model: '{name}' version {} is not at ready state",
                    version.unwrap_or_default()
                )))
            }
        }
    }

    /// The versions of a model that are ready.
    pub(crate) fn ready_versions(&self, name: &str) -> Vec<ModelHandle> {
        self.read()
            .get(name)
            .map(ready)
            .unwrap_or_default()
            .into_iter()
            .map(|(model, _)| model)
            .collect()
    }

    /// The state of a version, if it is ready.
    pub(crate) fn ready_state(&self, name: &str, version: u64) -> Option<VersionState> {
        let models = self.read();
        let state = models.get(name)?.get(&version)?;
        matches!(state, VersionState::Ready(..)).then(|| state.clone())
    }

    /// Every version that is ready, and how long loading it took.
    pub(crate) fn all_ready(&self) -> Vec<(ModelHandle, Duration)> {
        self.read().values().flat_map(ready).collect()
    }

    /// Whether every version is ready that was to be loaded and not unloaded since.
    pub(crate) fn is_all_ready(&self) -> bool {
        let models = self.read();
        models
            .values()
            .flat_map(Versions::values)
            .all(|state| matches!(state, VersionState::Ready(..) | VersionState::Unloaded))
    }

    /// Sets the state of versions, leaving the others.
    pub(crate) fn set(&self, name: &str, states: impl IntoIterator<Item = (u64, VersionState)>) {
        self.write()
            .entry(name.to_owned())
            .or_default()
            .extend(states);
    }

    /// Replaces all versions of a model; the former ones go once nobody uses them.
    pub(crate) fn replace(&self, name: &str, versions: Versions) {
        let former = self.write().insert(name.to_owned(), versions);
        drop(former);
    }

    /// Marks every version of a model as unloaded; returns those that were ready.
    pub(crate) fn unload(&self, name: &str) -> Vec<ModelHandle> {
        let mut models = self.write();
        let Some(versions) = models.get_mut(name) else {
            return Vec::new();
        };
        let states = versions
            .values_mut()
            .map(|state| std::mem::replace(state, VersionState::Unloaded));
        states
            .filter_map(|state| match state {
                VersionState::Ready(model, _) => Some(model),
                _ => None,
            })
            .collect()
    }

    /// Whether the model was ever loaded, or tried to be.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.read().contains_key(name)
    }

    /// Names of all models known.
    pub(crate) fn names(&self) -> Vec<String> {
        self.read().keys().cloned().collect()
    }

    /// One entry per version; models of the repository that are not known have one without.
    pub(crate) fn index(&self, repository: &[String], ready_only: bool) -> Vec<IndexEntry> {
        let models = self.read();
        let mut entries: Vec<IndexEntry> = Vec::new();
        for (name, versions) in models.iter() {
            for (version, state) in versions {
                let (state, reason) = match state {
                    VersionState::Ready(..) => ("READY", String::new()),
                    VersionState::Loading => ("LOADING", String::new()),
                    VersionState::Unavailable(reason) => ("UNAVAILABLE", reason.clone()),
                    VersionState::Unloaded => ("UNAVAILABLE", "unloaded".to_owned()),
                };
                entries.push(IndexEntry {
                    name: name.clone(),
                    version: if *version == UNKNOWN_VERSION {
                        String::new()
                    } else {
                        version.to_string()
                    },
                    state: state.into(),
                    reason,
                });
            }
        }
        for name in repository.iter().filter(|name| !models.contains_key(*name)) {
            entries.push(IndexEntry {
                name: name.clone(),
                version: String::new(),
                state: String::new(),
                reason: String::new(),
            });
        }
        entries.retain(|entry| !ready_only || entry.state == "READY");
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }
}

fn ready(versions: &Versions) -> Vec<(ModelHandle, Duration)> {
    versions
        .values()
        .filter_map(|state| match state {
            VersionState::Ready(model, time) => Some((ModelHandle::clone(model), *time)),
            _ => None,
        })
        .collect()
}

fn parse_version(text: &str) -> Result<u64> {
    text.parse().ok().filter(|&version| version != UNKNOWN_VERSION).ok_or_else(|| {
        Error::invalid_argument(format!(
            "failed to get model version from specified version string '{text}': it should be an \
             integral value > 0"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_cannot_run_is_told_as_triton_does() {
        let registry = Registry::default();
        registry.set(
            "m",
            [
                (1, VersionState::Unavailable("broken".into())),
                (2, VersionState::Loading),
            ],
        );
        let cases = [
            ("x", None, ErrorKind::NotFound, "'x' is not found"),
            ("x", Some("1"), ErrorKind::NotFound, "'x' is not found"),
            (
                "m",
                None,
                ErrorKind::NotFound,
                "'m' has no available versions",
            ),
            (
                "m",
                Some("3"),
                ErrorKind::NotFound,
                "'m' version 3 is not found",
            ),
            (
                "m",
                Some("1"),
                ErrorKind::Unavailable,
                "version 1 is not at ready state",
            ),
            (
                "m",
                Some("99999999999999999999"),
                ErrorKind::InvalidArgument,
                "integral value > 0",
            ),
            (
                "m",
                Some("0"),
                ErrorKind::NotFound,
                "'m' version 0 is not found",
            ),
        ];
        for (name, version, kind, part) in cases {
            let error = registry.find(name, version).unwrap_err();
            assert_eq!(error.kind(), kind, "{name} {version:?}");
            assert!(error.message().contains(part), "{error}");
        }
        assert!(!registry.is_all_ready());
        assert!(registry.unload("m").is_empty(), "none was ready");
        assert!(registry.is_all_ready(), "what was unloaded is not missed");
        assert!(registry.knows("m") && !registry.knows("x"));
    }

    #[test]
    fn the_index_has_a_line_per_version_and_per_model_that_was_never_loaded() {
        let registry = Registry::default();
        registry.set(
            "b",
            [
                (1, VersionState::Unavailable("broken".into())),
                (2, VersionState::Loading),
            ],
        );
        let lines = |ready| {
            let entries = registry.index(&["a".into(), "b".into()], ready);
            entries
                .iter()
                .map(|one| format!("{} {} {} {}", one.name, one.version, one.state, one.reason))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            lines(false),
            ["a   ", "b 1 UNAVAILABLE broken", "b 2 LOADING "]
        );
        assert!(lines(true).is_empty());
    }
}
