//! Work that others submit to a queue's stream by themselves.

use crate::binding::Resource;

/// How work that others submit fits between the work of a queue, where that takes objects of the driver's (Metal: the
/// command queue to submit to, and shared events). The objects are valid while the queue is; whoever uses one later retains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExternalOrder {
    /// What to submit to (`MTLCommandQueue`).
    pub queue: Resource,
    /// What the work has to wait for before it begins: an event (`MTLSharedEvent`) and its value.
    pub wait: (Resource, u64),
    /// What the work has to signal behind its end, likewise; the host raises it if the work fails, in the completed
    /// handler of its last command buffer and before anything else there.
    pub signal: (Resource, u64),
}
