//! The model of autorelease pools: each thread's, one inside the other.

#![forbid(unsafe_code)]

use std::any::Any;
use std::cell::RefCell;

thread_local! {
    /// What is to be released at the end of each pool.
    static POOLS: RefCell<Vec<Vec<Box<dyn Any>>>> = const { RefCell::new(Vec::new()) };
}

/// A pool, until it is dropped; nothing on a thread that is ending, which has no locals any more.
struct Pool;

impl Pool {
    fn push() -> Self {
        let _ending = POOLS.try_with(|pools| pools.borrow_mut().push(Vec::new()));
        Self
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let released = POOLS.try_with(|pools| pools.borrow_mut().pop());
        // With the list free again, since their ends may use pools.
        drop(released);
    }
}

/// Runs `work` in a pool of its own; what was autoreleased meanwhile is released behind it.
pub(super) fn pooled<T>(work: impl FnOnce() -> T) -> T {
    let _pool = Pool::push();
    work()
}

/// Whether the thread is in a pool.
pub(super) fn in_a_pool() -> bool {
    POOLS
        .try_with(|pools| !pools.borrow().is_empty())
        .unwrap_or(true)
}

/// Keeps an object until the end of the innermost pool; without one for ever, as Metal does.
pub(super) fn autorelease(object: impl Any) {
    let object: Box<dyn Any> = Box::new(object);
    let _ending = POOLS.try_with(|pools| match pools.borrow_mut().last_mut() {
        Some(pool) => pool.push(object),
        None => std::mem::forget(object),
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static RELEASED: Cell<usize> = const { Cell::new(0) };
    }

    /// Has no bytes, so that one which stays for ever takes none.
    struct Object;

    impl Drop for Object {
        fn drop(&mut self) {
            RELEASED.set(RELEASED.get() + 1);
        }
    }

    #[test]
    fn what_is_autoreleased_lives_until_the_end_of_its_pool() {
        assert!(!in_a_pool());
        pooled(|| {
            autorelease(Object);
            pooled(|| autorelease(Object));
            assert_eq!(RELEASED.get(), 1);
            assert!(in_a_pool());
        });
        assert_eq!(RELEASED.get(), 2);
        autorelease(Object);
        assert_eq!(RELEASED.get(), 2, "without a pool it stays");
    }
}
