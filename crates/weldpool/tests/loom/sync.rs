//! What `src/sync.rs` gives the library, over the model checker.

use std::sync::PoisonError;

pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use loom::sync::{Arc, Condvar};

/// The pair of fences of which one costs nothing; here both are full ones.
pub(crate) mod fences {
    use loom::sync::atomic::{Ordering, fence};

    pub(crate) fn is_available() -> bool {
        true
    }

    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    std::thread_local! {
        /// Whether the system refuses the rare side; all threads of a model run on one of the system.
        pub(crate) static REFUSED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    pub(crate) fn heavy() -> bool {
        if REFUSED.get() {
            return false;
        }
        fence(Ordering::SeqCst);
        true
    }
}

/// Lets the checker run another thread while the flag is up.
pub(crate) fn spin_while(flag: &AtomicBool) {
    while flag.load(Ordering::Acquire) {
        loom::thread::yield_now();
    }
}

/// Lets the checker run another thread while there is nothing.
pub(crate) fn until_some<T>(mut read: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(some) = read() {
            return some;
        }
        loom::thread::yield_now();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

pub(crate) type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The checker has none: a flag published after the value, so that a thread may see it late.
#[derive(Debug, Default)]
pub(crate) struct OnceLock<T> {
    ready: AtomicBool,
    making: Mutex<()>,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            ready: AtomicBool::new(false),
            making: Mutex::new(()),
            value: std::sync::OnceLock::new(),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.ready
            .load(Ordering::Acquire)
            .then(|| self.value.get())?
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        let _making = self.making.lock();
        let value = self.value.get_or_init(make);
        self.ready.store(true, Ordering::Release);
        value
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.value.take()
    }
}
