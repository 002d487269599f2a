//! Stands in for what the kernels name and do not depend on.

pub(crate) mod block {
    use super::device::StorageMode;
    use crate::sync::{AtomicUsize, Ordering};

    pub(crate) const THREAD_MAX: u8 = 4;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct CacheKey {
        pub(crate) slot: u32,
        pub(crate) id: u64,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct ListId(pub(crate) u16);

    impl ListId {
        pub(crate) const NONE: Self = Self(u16::MAX);

        pub(crate) fn new(index: usize) -> Self {
            Self(index.try_into().unwrap())
        }

        pub(crate) fn index(self) -> usize {
            self.0.into()
        }

        pub(crate) fn is_some(self) -> bool {
            true
        }
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Node(usize);

    impl Node {
        pub(crate) const FIRST: Self = Self(0);

        pub(crate) fn first(count: usize) -> impl Iterator<Item = Self> {
            (0..count).map(Self)
        }

        pub(crate) fn index(self) -> usize {
            self.0
        }
    }

    /// Where a block starts.
    #[derive(Debug)]
    pub(crate) struct Record(AtomicUsize);

    impl Record {
        pub(crate) fn new(start: usize) -> Self {
            Self(AtomicUsize::new(start))
        }

        pub(crate) fn start(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }

        /// As `Block::recut`.
        pub(crate) fn describe(&self, start: usize) {
            self.0.store(start, Ordering::Relaxed);
        }
    }

    /// A number that exists once.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Block(pub(crate) usize);

    impl Block {
        pub(crate) fn list(&self) -> ListId {
            ListId(0)
        }

        pub(crate) fn node(&self) -> Node {
            Node::FIRST
        }

        pub(crate) fn bytes(&self) -> usize {
            256
        }

        pub(crate) fn storage(&self) -> StorageMode {
            StorageMode::Shared
        }

        /// What stays behind stands for nothing.
        pub(crate) fn last(&self) -> Self {
            Self(self.0)
        }

        pub(crate) fn point(&self) -> Option<()> {
            None
        }
    }
}

pub(crate) mod device {
    #[derive(Debug, Clone, Copy)]
    pub(crate) enum StorageMode {
        Shared,
    }

    impl StorageMode {
        pub(crate) const ALL: [Self; 1] = [Self::Shared];

        pub(crate) fn index(self) -> usize {
            0
        }
    }
}

pub(crate) mod size_class {
    #[derive(Debug)]
    pub(crate) struct SizeClass {
        pub(crate) bytes: usize,
        pub(crate) initial: usize,
        pub(crate) cached_max: usize,
        pub(crate) kept: usize,
        pub(crate) thread_max: u8,
    }

    #[derive(Debug, Clone, Default)]
    pub(crate) struct ClassIndex;

    impl ClassIndex {
        pub(crate) fn index_of_last(&self, _last: usize) -> Option<usize> {
            None
        }
    }

    #[derive(Debug)]
    pub(crate) struct SizeClasses(pub(crate) [SizeClass; 1]);

    impl SizeClasses {
        pub(crate) fn index(&self) -> &ClassIndex {
            &ClassIndex
        }

        pub(crate) fn index_of(&self, _bytes: usize) -> Option<usize> {
            Some(0)
        }

        pub(crate) fn as_slice(&self) -> &[SizeClass] {
            &self.0
        }
    }
}

pub(crate) mod stats {
    #[derive(Debug, Default)]
    pub(crate) struct ClassStats {
        pub(crate) bytes: usize,
        pub(crate) allocations: u64,
        pub(crate) frees: u64,
        pub(crate) hits: u64,
        pub(crate) misses: u64,
        pub(crate) live_bytes: u64,
        pub(crate) live_bytes_peak: u64,
        pub(crate) held_bytes: u64,
        pub(crate) held_bytes_peak: u64,
    }
}

pub(crate) mod error {
    pub(crate) type Result<T> = std::result::Result<T, Error>;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum ErrorKind {
        InvalidRequest,
        LimitExceeded,
        Busy,
        Cancelled,
        DeviceLost,
    }

    #[derive(Debug, Clone)]
    pub(crate) struct Error(ErrorKind);

    impl Error {
        pub(crate) fn new(kind: ErrorKind, _message: &'static str) -> Self {
            Self(kind)
        }

        pub(crate) fn with_message(kind: ErrorKind, _message: String) -> Self {
            Self(kind)
        }

        pub(crate) fn kind(&self) -> ErrorKind {
            self.0
        }
    }
}

pub(crate) mod queue {
    use std::time::Duration;

    use super::error::Result;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct QueueId(pub(crate) u64);

    /// A point that is passed at the value 0 only.
    #[derive(Debug, Clone)]
    pub(crate) struct Fence {
        pub(crate) queue: QueueId,
        pub(crate) value: u64,
    }

    impl Fence {
        pub(crate) fn queue(&self) -> QueueId {
            self.queue
        }

        pub(crate) fn value(&self) -> u64 {
            self.value
        }

        pub(crate) fn is_complete(&self) -> Result<bool> {
            Ok(self.value == 0)
        }

        pub(crate) fn cover(&self) -> Result<()> {
            Ok(())
        }

        pub(crate) fn wait(&self, _timeout: Option<Duration>) -> Result<()> {
            Ok(())
        }
    }
}

pub(crate) mod request {
    pub(crate) const DEFAULT_ALIGNMENT: usize = 256;
}

pub(crate) mod strategy {
    pub(crate) struct Tuning {
        pub(crate) slack_per_1024: Option<u32>,
        pub(crate) growth_bytes: usize,
        pub(crate) moved_ranges_max: usize,
        pub(crate) few_pieces: bool,
    }
}
