//! The objects of the model that are alive, and how they are labelled.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::sync::{Arc, Mutex};

/// All objects of a device that are alive.
#[derive(Debug, Default)]
pub(super) struct Alive(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    objects: BTreeMap<u64, LiveObject>,
}

/// An object of the model that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveObject {
    /// What it is: `heap`, `buffer`, `command queue`, `event`, `fence`, `residency set`, `command buffer` or `encoder`.
    pub what: &'static str,
    /// Its label; empty when it was given none.
    pub label: String,
}

/// An object's place among those that are alive; gone with it.
#[derive(Debug)]
pub(super) struct Labelled {
    alive: Arc<Alive>,
    number: u64,
}

impl Alive {
    pub(super) fn add(self: &Arc<Self>, what: &'static str) -> Labelled {
        let mut known = self.0.lock();
        let number = known.next;
        known.next += 1;
        let label = String::new();
        known.objects.insert(number, LiveObject { what, label });
        Labelled {
            alive: Arc::clone(self),
            number,
        }
    }

    pub(super) fn list(&self) -> Vec<LiveObject> {
        self.0.lock().objects.values().cloned().collect()
    }
}

impl Labelled {
    pub(super) fn set(&self, label: &str) {
        if let Some(object) = self.alive.0.lock().objects.get_mut(&self.number) {
            label.clone_into(&mut object.label);
        }
    }
}

impl Drop for Labelled {
    fn drop(&mut self) {
        self.alive.0.lock().objects.remove(&self.number);
    }
}
