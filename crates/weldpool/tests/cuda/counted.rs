//! The first GPU behind a device that counts calls for memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weldpool::device::cuda::CudaDevice;
use weldpool::{Allocator, Config, Device};
use weldpool_testkit::{Call, FaultyDevice};

pub(crate) struct Counted {
    /// For streams of others.
    pub(crate) cuda: Arc<CudaDevice>,
    pub(crate) allocator: Allocator,
    device: Arc<FaultyDevice>,
    mapping: Arc<AtomicU64>,
    obtaining: Arc<AtomicU64>,
}

impl Counted {
    pub(crate) fn open(config: Config) -> Self {
        let cuda = Arc::new(CudaDevice::open(0).unwrap());
        let device = Arc::new(FaultyDevice::new(Arc::clone(&cuda) as Arc<dyn Device>));
        let (mapping, obtaining) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        for call in Call::VIRTUAL_MEMORY
            .into_iter()
            .chain([Call::CreateSegment])
        {
            let mapping = Arc::clone(&mapping);
            let obtained = matches!(call, Call::CreatePhysical | Call::CreateSegment);
            let obtaining = obtained.then(|| Arc::clone(&obtaining));
            device.before(call, move || {
                mapping.fetch_add(1, Ordering::Relaxed);
                if let Some(obtaining) = &obtaining {
                    obtaining.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>);
        Self {
            allocator: allocator.config(config).build().unwrap(),
            cuda,
            device,
            mapping,
            obtaining,
        }
    }

    /// Calls so far that map memory, or take mappings away.
    pub(crate) fn mapping_calls(&self) -> u64 {
        self.mapping.load(Ordering::Relaxed)
    }

    /// How many handles or segments something obtains, and of how many bytes in all.
    pub(crate) fn obtained<T>(&self, act: impl FnOnce() -> T) -> (T, u64, u64) {
        let (bytes, count) = (
            self.device.held().bytes(),
            self.obtaining.load(Ordering::Relaxed),
        );
        let result = act();
        (
            result,
            self.obtaining.load(Ordering::Relaxed) - count,
            self.device.held().bytes() - bytes,
        )
    }
}
