//! The contenders' allocators, one file each.

#[cfg(feature = "suballocators")]
pub(super) mod cubecl;
pub(super) mod malloc;
pub(super) mod offset_allocator;
pub(super) mod ours;
pub(crate) mod reference;
pub(super) mod rlsf;
#[cfg(feature = "suballocators")]
pub(super) mod vma;
