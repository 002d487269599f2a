//! The same choice for every request.

#![forbid(unsafe_code)]

use super::{Asked, Choice, Strategy, Surroundings};
use crate::device::StorageMode;

/// Serves every request in one way, whatever it asks for beyond that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// Whether requests are pooled. Default: they are.
    pub pool: bool,
    /// The storage mode; none for what the request asks. Default: none.
    pub storage: Option<StorageMode>,
    /// Least alignment in bytes. Default: 256.
    pub alignment: usize,
}

impl Default for Fixed {
    fn default() -> Self {
        Self {
            pool: true,
            storage: None,
            alignment: crate::request::DEFAULT_ALIGNMENT,
        }
    }
}

impl Strategy for Fixed {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        Choice {
            pool: self.pool,
            storage: self.storage.unwrap_or(asked.storage),
            alignment: asked.alignment.max(self.alignment),
        }
    }

    fn chooses(&self) -> bool {
        *self != Self::default()
    }
}
