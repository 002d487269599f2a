//! Who may touch the bins of a thread that others may come to.
//!
//! Nearly always that is the thread itself, which pays two stores for it. Somebody else closes the bins,
//! has the thread see it, and waits until it is outside.

#![forbid(unsafe_code)]

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, fences, spin_while};

/// The right to one thread's bins; at most one of [`Inside`], [`Held`] and [`Closed`] exists at a time.
#[derive(Debug)]
pub(crate) struct Lending {
    /// Whether the owner may go inside.
    open: AtomicBool,
    /// Whether the owner is inside, or about to look whether it may be.
    busy: AtomicBool,
    /// Of whoever has the right for longer.
    held: Mutex<()>,
    /// Whether the fences work here. Without them the owner always takes the lock.
    fenced: AtomicBool,
    /// Whether the owner took the lock since it can no longer go inside without.
    parted: AtomicBool,
    /// Whether the owner stays outside until it has [unbarred](Self::unbar) itself.
    barred: AtomicBool,
}

/// The owner is inside; it leaves when this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Inside<'a>(&'a AtomicBool);

/// The owner holds the lock.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held<'a>(#[expect(dead_code, reason = "held until dropped")] MutexGuard<'a, ()>);

/// The owner is kept outside until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Closed<'a> {
    lending: &'a Lending,
    _held: MutexGuard<'a, ()>,
}

impl Lending {
    pub(crate) fn new() -> Self {
        Self::with_fences(fences::is_available())
    }

    /// `fenced` says whether the fences work.
    pub(crate) fn with_fences(fenced: bool) -> Self {
        Self {
            open: AtomicBool::new(fenced),
            busy: AtomicBool::new(false),
            held: Mutex::new(()),
            fenced: AtomicBool::new(fenced),
            parted: AtomicBool::new(!fenced),
            barred: AtomicBool::new(false),
        }
    }

    /// The right, if nobody else wants it. For the owner, which is not inside yet.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        self.busy.store(true, Ordering::Relaxed);
        let inside = Inside(&self.busy);
        fences::light();
        // Whoever closed before did so in vain only if it sees that we are inside.
        self.open.load(Ordering::Acquire).then_some(inside)
    }

    /// The right, once others are done. For the owner, which is not inside.
    pub(crate) fn hold(&self) -> Held<'_> {
        let held = self.held.lock();
        if !self.fenced.load(Ordering::Relaxed) {
            // It is not inside, and sees under the lock that it may not be again.
            self.parted.store(true, Ordering::Relaxed);
        }
        Held(held)
    }

    /// Lets the owner inside again after it was [barred](Closed::bar). For the owner, which holds the lock.
    pub(crate) fn unbar(&self, _held: &Held<'_>) {
        self.barred.store(false, Ordering::Relaxed);
        self.open
            .store(self.fenced.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The right, once the owner is outside. For others. None where nobody can tell whether the owner is
    /// inside, until it has been here once more.
    pub(crate) fn close(&self) -> Option<Closed<'_>> {
        let held = self.held.lock();
        if self.fenced.load(Ordering::Relaxed) {
            self.open.store(false, Ordering::Relaxed);
            if !fences::heavy() {
                self.fenced.store(false, Ordering::Relaxed);
                return None;
            }
            // The owner is inside for a few dozen instructions, unless it was preempted.
            spin_while(&self.busy);
        } else if !self.parted.load(Ordering::Relaxed) {
            return None;
        }
        Some(Closed {
            lending: self,
            _held: held,
        })
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Closed<'_> {
    /// Keeps the owner outside beyond this, though it may take the lock.
    pub(crate) fn bar(&self) {
        self.lending.barred.store(true, Ordering::Relaxed);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        // The owner, when it enters, sees what was done here.
        let load = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let open = load(&self.lending.fenced) && !load(&self.lending.barred);
        self.lending.open.store(open, Ordering::Release);
    }
}
