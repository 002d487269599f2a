//! A pair of memory fences of which the frequent one costs nothing.
//!
//! Of two threads that each write one word and then read the other's, at least one sees what the other
//! wrote, if one calls [`light`] and the other [`heavy`] in between. On Linux the heavy side has the
//! kernel put a full fence into every running thread of the process (membarrier(2),
//! `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, since Linux 4.14), so the light side only keeps the compiler from
//! reordering. Elsewhere both are full fences.

#![allow(unsafe_code)]

#[cfg(all(target_os = "linux", not(miri)))]
mod os {
    use std::sync::OnceLock;
    use std::sync::atomic::{Ordering, compiler_fence};

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes three numbers and touches no memory of the process.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    pub(crate) fn is_available() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        let register = || membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
        *REGISTERED.get_or_init(register)
    }

    #[inline(always)]
    pub(crate) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() -> bool {
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }
}

#[cfg(any(not(target_os = "linux"), miri))]
mod os {
    use std::sync::atomic::{Ordering, fence};

    pub(crate) fn is_available() -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() -> bool {
        fence(Ordering::SeqCst);
        true
    }
}

/// The rare side; only where [`is_available`]. Some microseconds. False if the system refuses it after
/// all, as it may once the process has given up the right to the call: then nothing was ordered.
pub(crate) use os::heavy;
/// Whether the pair works here. A system may forbid the call, as some containers do.
pub(crate) use os::is_available;
/// The frequent side.
pub(crate) use os::light;
