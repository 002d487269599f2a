//! What is known not to work, by class of device: `expectations.json`, a part of the program.

use anyhow::{Context, Result};
use serde::Deserialize;

const FILE: &str = include_str!("expectations.json");

/// The classes, of which a device is of the first that fits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectations {
    classes: Vec<Class>,
}

/// Devices of which the same is expected. One without names and kinds fits every device.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    /// Its name in reports.
    pub(super) class: String,
    /// Parts of the maker's name, one of which such a device has.
    #[serde(default)]
    names: Vec<String>,
    /// Kinds, of one of which such a device is.
    #[serde(default)]
    kinds: Vec<String>,
    /// Why figures of such a device are held against no bar, if they are not.
    pub(super) bars_unjudged: Option<String>,
    gaps: Vec<Gap>,
}

/// A step that may fail.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gap {
    step: String,
    pub(super) reason: String,
    pub(super) source: String,
}

impl Expectations {
    /// Reads those of this program.
    pub(super) fn read() -> Result<Self> {
        serde_json::from_str(FILE).context("the expectations of this program cannot be read")
    }

    /// The class of a device of this kind and name.
    pub(super) fn class(self, kind: &str, name: &str) -> Class {
        let of = |class: &Class| {
            let any = class.names.is_empty() && class.kinds.is_empty();
            let named = class.names.iter().any(|part| name.contains(part));
            any || named || class.kinds.iter().any(|one| one == kind)
        };
        self.classes.into_iter().find(of).unwrap_or_default()
    }
}

impl Class {
    /// The gap that explains why this step failed.
    pub(super) fn gap(&self, step: &str) -> Option<&Gap> {
        self.gaps.iter().find(|gap| gap.step == step)
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::Step;
    use super::*;

    fn class(kind: &str, name: &str) -> Class {
        Expectations::read().unwrap().class(kind, name)
    }

    #[test]
    fn paravirtual_and_physical_gpus_are_told_apart() {
        let step = "suite:memory::registered_memory_is_used_where_it_is";
        let paravirtual = class("metal", "Apple Paravirtual device");
        assert_eq!(paravirtual.class, "paravirtual");
        assert!(paravirtual.bars_unjudged.is_some());
        assert!(paravirtual.gap(step).is_some());
        assert!(
            paravirtual
                .gap("suite:queues::queues_wait_for_each_other")
                .is_none()
        );
        for (kind, name) in [("metal", "Apple M3 Ultra"), ("cuda", "NVIDIA H200")] {
            let physical = class(kind, name);
            assert_eq!(physical.class, "physical");
            assert!(physical.bars_unjudged.is_none() && physical.gap(step).is_none());
        }
        assert_eq!(class("host", "a processor").class, "host");
        for fake in ["fake:apple", "fake:discrete"] {
            let software = class(fake, "a model");
            assert_eq!(software.class, "software");
            assert!(software.bars_unjudged.is_some());
        }
    }

    #[test]
    fn every_gap_is_a_step_that_there_is_and_says_why() {
        for class in Expectations::read().unwrap().classes {
            for gap in class.gaps {
                assert!(gap.step.parse::<Step>().is_ok(), "{}", gap.step);
                assert!(!gap.reason.is_empty() && !gap.source.is_empty());
            }
        }
    }

    #[test]
    fn the_last_class_fits_every_device() {
        let last = Expectations::read().unwrap().classes.pop().unwrap();
        assert!(last.names.is_empty() && last.kinds.is_empty());
    }
}
