//! The allocator follows the workload.

#![forbid(unsafe_code)]

use super::{Asked, Choice, Driven, Strategy, Surroundings, Tuning};

/// Follows the workload.
#[derive(Debug, Default)]
pub struct Adaptive {}

impl Strategy for Adaptive {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        Choice::of(asked)
    }

    fn chooses(&self) -> bool {
        false
    }

    fn tune(&self, _driven: &Driven) -> Option<Tuning> {
        None
    }
}
