//! Strategies that are functions of the caller's.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::fmt;
use std::sync::Arc;

use memory::strategy::{Asked, Choice, Strategy, Surroundings};

use crate::abi::callback::{DestroyFunction, UserData};
use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::Place;
use crate::abi::sized::Structure;
use crate::abi::text;
use crate::failure::ErrorObject;
use crate::storage;

/// A strategy, for weldpool_config_t. It may serve several allocators.
pub struct StrategyHandle {
    pub(crate) strategy: Arc<dyn Strategy>,
}

impl fmt::Debug for StrategyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StrategyHandle(..)")
    }
}

/// What a request asks for, and how the allocator stands.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AskedOf {
    /// Size of this structure as the library knows it.
    pub struct_size: usize,
    /// Bytes that are asked for.
    pub bytes: usize,
    /// Alignment in bytes, 256 if the request names none.
    pub alignment: usize,
    /// One of WELDPOOL_STORAGE_*.
    pub storage: u32,
    /// Zero.
    pub unused: u32,
    /// Name of the buffer, for the time of the call.
    pub name: *const c_char,
    /// Bytes held from the driver.
    pub reserved_bytes: u64,
    /// The most that may be held; 0 for no limit.
    pub limit_bytes: u64,
    /// Bytes requested and not yet freed.
    pub live_bytes: u64,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for AskedOf {
    const NAME: &'static str = "weldpool_asked_t";
}

/// How a request is to be served; given as the request asks.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ChoiceOf {
    /// Size of this structure as the library knows it.
    pub struct_size: usize,
    /// 1: from the pool and back into it. 0: from memory of its own, which goes back to the device when it is freed.
    pub pool: u32,
    /// One of WELDPOOL_STORAGE_*. One that the device lacks fails the request.
    pub storage: u32,
    /// Alignment in bytes, a power of two up to 1 GiB.
    pub alignment: usize,
}

// SAFETY: repr(C) of words and numbers, begun by its size.
unsafe impl Structure for ChoiceOf {
    const NAME: &'static str = "weldpool_choice_t";
}

/// Decides how a request is served, by changing the choice. Called on the requesting thread, on several at once, with
/// no lock held; it must not allocate from the same allocator, nor unwind.
pub type ChooseFunction = Option<
    unsafe extern "C" fn(user_data: *mut c_void, asked: *const AskedOf, choice: *mut ChoiceOf),
>;

struct Callback {
    choose: unsafe extern "C" fn(*mut c_void, *const AskedOf, *mut ChoiceOf),
    user_data: UserData,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a function of C")
    }
}

impl Strategy for Callback {
    fn choose(&self, asked: &Asked, surroundings: &Surroundings<'_>) -> Choice {
        let name = text::terminated(asked.name);
        let given = AskedOf {
            struct_size: size_of::<AskedOf>(),
            bytes: asked.bytes,
            alignment: asked.alignment,
            storage: storage::number(asked.storage),
            unused: 0,
            name: name.as_ptr(),
            reserved_bytes: surroundings.reserved_bytes(),
            limit_bytes: surroundings.limit_bytes().unwrap_or(0),
            live_bytes: surroundings.live_bytes(),
        };
        let mut choice = ChoiceOf {
            struct_size: size_of::<ChoiceOf>(),
            pool: 1,
            storage: given.storage,
            alignment: asked.alignment,
        };
        // SAFETY: the caller's promise; both structures live for the call.
        unsafe { (self.choose)(self.user_data.get(), &raw const given, &raw mut choice) };
        match storage::mode(choice.storage) {
            Ok(storage) if choice.pool <= 1 => Choice {
                pool: choice.pool == 1,
                storage,
                alignment: choice.alignment,
            },
            _ => {
                let (pool, storage) = (choice.pool, choice.storage);
                tracing::error!(
                    pool,
                    storage,
                    "a strategy's choice is none; served as asked"
                );
                Choice::of(asked)
            }
        }
    }
}

/// A strategy that calls a function for each request. What the function answers is checked: a storage or a pool that is
/// no constant serves the request as it asks, a wrong alignment fails it.
///
/// `user_data` is taken over in any case: `destroy`, if given, is called once when neither handle nor allocator needs
/// it any more, or at once where this call fails. Free with weldpool_strategy_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_strategy_create(
    choose: ChooseFunction,
    user_data: *mut c_void,
    destroy: DestroyFunction,
    strategy: *mut *mut StrategyHandle,
) -> Option<Box<ErrorObject>> {
    let user_data = UserData::new(user_data, destroy);
    fallible(|| {
        let place = Place::new(strategy, "strategy")?;
        let choose = choose.ok_or_else(|| ErrorObject::null("choose"))?;
        place.give(StrategyHandle {
            strategy: Arc::new(Callback { choose, user_data }),
        });
        Ok(())
    })
}

/// Frees a handle; allocators that use the strategy go on with it. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_strategy_free(strategy: Option<Box<StrategyHandle>>) {
    infallible((), || drop(strategy));
}
