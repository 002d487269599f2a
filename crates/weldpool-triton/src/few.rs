//! Lists that are short most of the time, and take no memory of their own then: a request costs many of them.

use smallvec::SmallVec;

/// What there is for each request: one, where nothing is batched.
pub(crate) type Lone<T> = SmallVec<[T; 1]>;

/// What there is for each input or output.
pub(crate) type Few<T> = SmallVec<[T; 4]>;

/// The sizes of a tensor's dimensions.
pub(crate) type Dims<T = usize> = SmallVec<[T; 6]>;
