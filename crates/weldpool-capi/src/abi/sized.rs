//! Structures that grow with later versions: each begins with its size as the caller knows it.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::failure::{ErrorObject, Result};

/// Largest size that is believed.
const SIZE_MAX: usize = 4096;

/// A structure that begins with `struct_size` and only ever grows at its end.
///
/// # Safety
///
/// `#[repr(C)]` without gaps, its first field is a `usize`, its alignment is that of a `usize`, and any bits are a
/// value of it.
pub(crate) unsafe trait Structure: Copy {
    /// Its name in C.
    const NAME: &'static str;
}

/// A structure of all zeroes, whose fields mean their defaults.
pub(crate) fn zeroed<S: Structure>() -> S {
    // SAFETY: the promise of the trait.
    unsafe { std::mem::zeroed() }
}

/// Reads a structure of the caller's: what his version lacks is zero, and what ours lacks has to be.
pub(crate) fn read<S: Structure>(pointer: *const S, name: &str) -> Result<S> {
    let start = NonNull::new(pointer.cast_mut()).ok_or_else(|| ErrorObject::null(name))?;
    let size = size_of_callers(start)?;
    // SAFETY: the caller's structure is that long.
    let theirs = unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<u8>(), size) };
    let mut value = zeroed::<S>();
    let place = (&raw mut value).cast::<u8>();
    // SAFETY: any bits are a value of it. Sizes are multiples of a word, so no field is cut in two.
    let ours = unsafe { std::slice::from_raw_parts_mut(place, size_of::<S>()) };
    let common = size.min(ours.len());
    ours[..common].copy_from_slice(&theirs[..common]);
    if let Some(behind) = theirs[common..].iter().position(|&byte| byte != 0) {
        return Err(ErrorObject::argument(format!(
            "{} has a field at byte {} that this version of libweldpool does not know; it has to be zero",
            S::NAME,
            common + behind
        )));
    }
    Ok(value)
}

/// A structure of the caller's to be filled in.
#[derive(Debug)]
pub(crate) struct Filled<S> {
    start: NonNull<S>,
    size: usize,
}

impl<S: Structure> Filled<S> {
    pub(crate) fn new(pointer: *mut S, name: &str) -> Result<Self> {
        let start = NonNull::new(pointer).ok_or_else(|| ErrorObject::null(name))?;
        let size = size_of_callers(start)?;
        Ok(Self { start, size })
    }

    /// Fills in as much as the caller knows; what only he knows becomes zero, and his `struct_size` stays.
    pub(crate) fn put(&self, value: &S) {
        let word = size_of::<usize>();
        // SAFETY: the caller's structure is that long, and he does not use it during the call.
        let theirs =
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<u8>(), self.size) };
        let place = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: structures have no gaps, so every byte is initialised.
        let ours = unsafe { std::slice::from_raw_parts(place, size_of::<S>()) };
        let common = self.size.min(ours.len());
        theirs[word..common].copy_from_slice(&ours[word..common]);
        theirs[common..].fill(0);
    }
}

fn size_of_callers<S: Structure>(start: NonNull<S>) -> Result<usize> {
    // On 64-bit systems, the ones there are.
    const { assert!(align_of::<S>() == align_of::<usize>()) };
    let word = size_of::<usize>();
    if !start.cast::<usize>().is_aligned() {
        return Err(ErrorObject::argument(format!(
            "a {} that is not aligned",
            S::NAME
        )));
    }
    // SAFETY: the caller's promise: every structure begins with its size.
    let size = unsafe { start.cast::<usize>().read() };
    if size < word || size > SIZE_MAX || !size.is_multiple_of(word) {
        return Err(ErrorObject::argument(format!(
            "struct_size of a {} is {size}; set it to sizeof({})",
            S::NAME,
            S::NAME
        )));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Default)]
    #[repr(C)]
    struct Two {
        struct_size: usize,
        a: u64,
        b: u64,
    }

    // SAFETY: as the trait wants.
    unsafe impl Structure for Two {
        const NAME: &'static str = "two_t";
    }

    fn given(words: &mut [u64]) -> *mut Two {
        words[0] = size_of_val(words) as u64;
        words.as_mut_ptr().cast()
    }

    #[test]
    fn an_older_callers_tail_is_zero_and_a_newer_ones_must_be() {
        let older = read(given(&mut [0, 5]), "two").unwrap();
        assert_eq!((older.a, older.b), (5, 0));
        let newer = read(given(&mut [0, 5, 6, 0]), "two").unwrap();
        assert_eq!((newer.a, newer.b), (5, 6));
        let error = read(given(&mut [0, 5, 6, 1]), "two").unwrap_err();
        assert!(error.text().contains("at byte 24"), "{}", error.text());
    }

    #[test]
    fn wrong_sizes_are_refused() {
        for size in [0, 4, 12, 4104, u64::MAX] {
            let mut words = [size, 1, 2];
            let error = read(words.as_mut_ptr().cast::<Two>(), "two").unwrap_err();
            assert!(error.text().contains("sizeof(two_t)"), "{}", error.text());
        }
        assert!(read(std::ptr::null::<Two>(), "two").is_err());
    }

    #[test]
    fn as_much_is_filled_in_as_the_caller_knows() {
        let value = Two {
            struct_size: 99,
            a: 1,
            b: 2,
        };
        let mut older = [0u64, 7, 7];
        older[0] = 16;
        Filled::new(older.as_mut_ptr().cast::<Two>(), "two")
            .unwrap()
            .put(&value);
        assert_eq!(older, [16, 1, 7]);
        let mut newer = [0u64; 4];
        newer[3] = 9;
        Filled::new(given(&mut newer), "two").unwrap().put(&value);
        assert_eq!(newer, [32, 1, 2, 0]);
    }
}
