//! NVTX 3 between a program and a tool, by NVIDIA's headers: `nvToolsExt.h`, and in `nvtxDetail/` `nvtxTypes.h`,
//! `nvtxInit.h` and `nvtxImpl.h`.
//!
//! The tool's library exports `InitializeInjectionNvtx2`. It is called with a function that gives tables by number, of
//! which one gives, for each module of the interface, an array of pointers to slots; the tool writes its functions to the
//! slots that it wants to be called at. An empty slot is not called.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::null_mut;

use libloading::Library;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicPtr, Ordering};

/// `NVTX_VERSION`.
const VERSION: u16 = 3;

/// A place for a function of the tool's.
type Slot = AtomicPtr<c_void>;

/// A module of the interface: its slots and the pointers to them, with one that is null behind, as tools expect.
struct Module<const SLOTS: usize, const POINTERS: usize> {
    pointers: [*const Slot; POINTERS],
}

// SAFETY: the pointers are to statics of atomics.
unsafe impl<const SLOTS: usize, const POINTERS: usize> Sync for Module<SLOTS, POINTERS> {}

impl<const SLOTS: usize, const POINTERS: usize> Module<SLOTS, POINTERS> {
    const fn of(slots: &'static [Slot; SLOTS]) -> Self {
        assert!(POINTERS == SLOTS + 1);
        let mut pointers = [std::ptr::null(); POINTERS];
        // The first number stands for no function.
        let mut index = 1;
        while index < SLOTS {
            pointers[index] = &raw const slots[index];
            index += 1;
        }
        Self { pointers }
    }
}

macro_rules! modules {
    ($($number:literal $slots:ident $module:ident: $count:literal + 1 = $pointers:literal;)*) => {
        $(
            static $slots: [Slot; $count] = [const { AtomicPtr::new(null_mut()) }; $count];
            static $module: Module<$count, $pointers> = Module::of(&$slots);
        )*

        /// The array of a module (`NvtxCallbackModule`), and how many slots it has.
        fn module(number: u32) -> Option<(*const *const Slot, u32)> {
            match number {
                $($number => Some(($module.pointers.as_ptr(), $count)),)*
                _ => None,
            }
        }
    };
}

// Only functions of the fifth are called. The others are there because a tool may expect them to be.
modules! {
    1 CORE CORE_MODULE: 16 + 1 = 17;
    2 CUDA CUDA_MODULE: 9 + 1 = 10;
    3 OPENCL OPENCL_MODULE: 15 + 1 = 16;
    4 CUDART CUDART_MODULE: 7 + 1 = 8;
    5 CORE2 CORE2_MODULE: 16 + 1 = 17;
    6 SYNC SYNC_MODULE: 7 + 1 = 8;
}

/// Numbers of functions of the fifth module (`NvtxCallbackIdCore2`).
const RANGE_PUSH: usize = 4;
const RANGE_POP: usize = 5;
const REGISTER_STRING: usize = 10;
const DOMAIN_CREATE: usize = 12;

type PushFn = unsafe extern "C" fn(*mut c_void, *const Attributes) -> c_int;
type PopFn = unsafe extern "C" fn(*mut c_void) -> c_int;
type RegisterFn = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
type CreateFn = unsafe extern "C" fn(*const c_char) -> *mut c_void;

/// `NvtxExportTableCallbacks`, number 1.
#[repr(C)]
struct CallbacksTable {
    struct_size: usize,
    get_module: extern "C" fn(u32, *mut *const *const Slot, *mut u32) -> c_int,
}

/// `NvtxExportTableVersionInfo`, number 3.
#[repr(C)]
struct VersionTable {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_tool_version: extern "C" fn(u32),
}

static CALLBACKS: CallbacksTable = CallbacksTable {
    struct_size: size_of::<CallbacksTable>(),
    get_module,
};

static VERSIONS: VersionTable = VersionTable {
    struct_size: size_of::<VersionTable>(),
    version: VERSION as u32,
    reserved: 0,
    set_tool_version,
};

extern "C" fn get_table(number: u32) -> *const c_void {
    match number {
        1 => (&raw const CALLBACKS).cast(),
        3 => (&raw const VERSIONS).cast(),
        _ => std::ptr::null(),
    }
}

extern "C" fn get_module(number: u32, table: *mut *const *const Slot, slots: *mut u32) -> c_int {
    let Some((pointers, count)) = module(number) else {
        return 0;
    };
    if !slots.is_null() {
        // SAFETY: the tool gives a place for the number, or none (nvtxTypes.h).
        unsafe { slots.write(count) };
    }
    if !table.is_null() {
        // SAFETY: as above.
        unsafe { table.write(pointers) };
    }
    1
}

/// The headers ignore it too.
extern "C" fn set_tool_version(_version: u32) {}

/// Opens the tool's library and has it fill in its functions. The library stays open.
pub(super) fn load(path: &Path) -> Result<()> {
    type Initialize = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
    let fail = |error: libloading::Error| {
        Error::with_message(
            ErrorKind::System,
            format!("the tool that NVTX_INJECTION64_PATH names cannot be used: {error}"),
        )
    };
    let library = open(path.as_os_str()).map_err(fail)?;
    // SAFETY: the signature is that of `NvtxInitializeInjectionNvtxFunc_t`.
    let initialize = unsafe { library.get::<Initialize>(b"InitializeInjectionNvtx2\0") };
    let initialize = *initialize.map_err(fail)?;
    // SAFETY: the tables are statics; the tool writes functions of the headers' signatures to their slots.
    let taken = unsafe { initialize(get_table) };
    // Functions of it may be in the slots either way.
    std::mem::forget(library);
    if taken == 0 {
        return Err(Error::with_message(
            ErrorKind::System,
            format!("the tool {} did not initialize", path.display()),
        ));
    }
    Ok(())
}

fn open(path: &OsStr) -> std::result::Result<Library, libloading::Error> {
    // SAFETY: whoever set the variable vouches for the library's initialisers, as for every NVTX program.
    unsafe { Library::new(path) }
}

/// The function in a slot of the fifth module.
fn function(number: usize) -> Option<*mut c_void> {
    let function = CORE2[number].load(Ordering::Acquire);
    (!function.is_null()).then_some(function)
}

/// A domain of the tool's, which only it follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Domain(*mut c_void);

// SAFETY: a handle may be used by all threads (nvToolsExt.h), and this side never follows it.
unsafe impl Send for Domain {}
// SAFETY: as for `Send`.
unsafe impl Sync for Domain {}

/// The text of a range: what the tool was told beforehand, or the text itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    kind: c_int,
    value: *const c_void,
}

// SAFETY: as for `Domain`; a text is a constant.
unsafe impl Send for Message {}
// SAFETY: as for `Send`.
unsafe impl Sync for Message {}

/// `NVTX_MESSAGE_TYPE_ASCII` and `NVTX_MESSAGE_TYPE_REGISTERED`.
const TEXT: c_int = 1;
const REGISTERED: c_int = 3;
/// `NVTX_PAYLOAD_TYPE_UNSIGNED_INT64`.
const UNSIGNED: c_int = 1;

/// `nvtxEventAttributes_v2`.
#[derive(Debug)]
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: c_int,
    color: u32,
    payload_type: c_int,
    reserved: c_int,
    payload: u64,
    message_type: c_int,
    message: *const c_void,
}

const _: () = assert!(size_of::<Attributes>() == 48);

/// A domain; the tool's default one where it makes none.
pub(super) fn create_domain(name: &CStr) -> Domain {
    let Some(function) = function(DOMAIN_CREATE) else {
        return Domain(null_mut());
    };
    // SAFETY: the slot has a function of this signature (`nvtxDomainCreateA_impl_fntype`).
    let create: CreateFn = unsafe { std::mem::transmute(function) };
    // SAFETY: the name ends with a nul, and is copied.
    Domain(unsafe { create(name.as_ptr()) })
}

/// A text that the tool keeps, where it does.
pub(super) fn register(domain: Domain, text: &'static CStr) -> Message {
    let plain = Message {
        kind: TEXT,
        value: text.as_ptr().cast(),
    };
    let Some(function) = function(REGISTER_STRING) else {
        return plain;
    };
    // SAFETY: the slot has a function of this signature (`nvtxDomainRegisterStringA_impl_fntype`).
    let register: RegisterFn = unsafe { std::mem::transmute(function) };
    // SAFETY: the domain is the tool's; the text ends with a nul.
    let value = unsafe { register(domain.0, text.as_ptr()) };
    if value.is_null() {
        return plain;
    }
    Message {
        kind: REGISTERED,
        value,
    }
}

/// Begins a range on this thread.
pub(super) fn push(domain: Domain, message: Message, payload: u64) {
    let Some(function) = function(RANGE_PUSH) else {
        return;
    };
    let attributes = Attributes {
        version: VERSION,
        size: size_of::<Attributes>() as u16,
        category: 0,
        color_type: 0,
        color: 0,
        payload_type: UNSIGNED,
        reserved: 0,
        payload,
        message_type: message.kind,
        message: message.value,
    };
    // SAFETY: the slot has a function of this signature (`nvtxDomainRangePushEx_impl_fntype`).
    let push: PushFn = unsafe { std::mem::transmute(function) };
    // SAFETY: the domain and a registered message are the tool's; the attributes are read during the call.
    let _depth = unsafe { push(domain.0, &raw const attributes) };
}

/// Ends the range of this thread that was begun last.
pub(super) fn pop(domain: Domain) {
    let Some(function) = function(RANGE_POP) else {
        return;
    };
    // SAFETY: the slot has a function of this signature (`nvtxDomainRangePop_impl_fntype`).
    let pop: PopFn = unsafe { std::mem::transmute(function) };
    // SAFETY: the domain is the tool's.
    let _depth = unsafe { pop(domain.0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `std::ptr::read` of a table as a tool does it.
    fn slots(number: u32) -> Option<(Vec<*const Slot>, u32)> {
        let (mut table, mut count) = (std::ptr::null(), 0);
        if get_module(number, &raw mut table, &raw mut count) == 0 {
            return None;
        }
        let (pointers, same) = module(number).unwrap();
        assert_eq!((table, count), (pointers, same));
        // SAFETY: the array has a pointer more than slots.
        let all = unsafe { std::slice::from_raw_parts(table, count as usize + 1) };
        Some((all.to_vec(), count))
    }

    #[test]
    fn tables_have_a_slot_for_each_function_and_an_end() {
        for (number, count) in [(1, 16), (2, 9), (3, 15), (4, 7), (5, 16), (6, 7)] {
            let (pointers, told) = slots(number).unwrap();
            assert_eq!(told, count, "module {number}");
            assert!(pointers[0].is_null() && pointers[count as usize].is_null());
            let inner = &pointers[1..count as usize];
            assert!(inner.iter().all(|pointer| !pointer.is_null()));
        }
        for number in [0, 7, u32::MAX] {
            assert!(slots(number).is_none());
        }
        assert_eq!(get_module(5, null_mut(), null_mut()), 1);
        assert!(get_table(0).is_null() && get_table(2).is_null());
        assert!(!get_table(1).is_null() && !get_table(3).is_null());
    }

    #[test]
    fn a_library_that_is_no_tool_is_an_error() {
        for path in ["/nowhere/libnvtx.so", "/proc/self/exe"] {
            let error = load(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::System);
            assert!(
                error.to_string().contains("NVTX_INJECTION64_PATH"),
                "{error}"
            );
        }
    }
}
