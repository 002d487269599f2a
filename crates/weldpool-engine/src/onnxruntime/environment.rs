//! The process-wide environment of each onnxruntime library, and whose allocator it offers.
//!
//! The library offers registered allocators to every session that is made with
//! `session.use_env_allocators`, and a session keeps what it took up. An allocator is therefore
//! registered only while sessions that want it are being made, and the environment is left as it
//! was found. Sessions for one allocator are made side by side; those for another wait.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use weldpool::Allocator;

use super::allocator::PoolMemory;
use super::library::Found;
use super::raw::{AllocatorTable, Api, Env, MemoryInfo, MemoryKind};
use super::status::{During, error};
use crate::{Error, ErrorKind, Result};

/// The environment of one library.
#[derive(Debug)]
pub(super) struct Environment {
    path: PathBuf,
    host_memory: MemoryInfo,
    tables: Mutex<Vec<Weak<AllocatorTable>>>,
    offer: Mutex<Offer>,
    offer_ended: Condvar,
    env: Arc<Env>,
    api: Api,
}

/// The allocator that is registered at the moment, and how many sessions are being made with it.
#[derive(Debug, Default)]
struct Offer {
    allocator: Option<Arc<AllocatorTable>>,
    sessions: usize,
}

impl Environment {
    /// The environment of this library: the one that exists, or a new one.
    pub(super) fn of(found: Found) -> Result<Arc<Environment>> {
        static ENVIRONMENTS: Mutex<Option<HashMap<usize, Weak<Environment>>>> = Mutex::new(None);
        let mut environments = lock(&ENVIRONMENTS);
        let environments = environments.get_or_insert_default();
        let identity = found.api.identity();
        if let Some(environment) = environments.get(&identity).and_then(Weak::upgrade) {
            return Ok(environment);
        }
        let start = |status| error(status, During::Start).context("starting onnxruntime");
        let environment = Arc::new(Environment {
            path: found.path,
            host_memory: found.api.host_memory(MemoryKind::Default).map_err(start)?,
            tables: Mutex::default(),
            offer: Mutex::default(),
            offer_ended: Condvar::new(),
            env: Arc::new(found.api.create_env().map_err(start)?),
            api: found.api,
        });
        environments.insert(identity, Arc::downgrade(&environment));
        Ok(environment)
    }

    pub(super) fn api(&self) -> Api {
        self.api
    }

    pub(super) fn env(&self) -> &Arc<Env> {
        &self.env
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How the memory of inputs and outputs is described.
    pub(super) fn host_memory(&self) -> &MemoryInfo {
        &self.host_memory
    }

    /// The table through which the library takes memory from this allocator: the one that another
    /// model uses, or a new one. Its kind of memory is not the one that programs register arenas
    /// for, so theirs stays registered beside it; where both could serve a session, the later one
    /// does, which is this.
    pub(super) fn allocator_table(&self, allocator: &Allocator) -> Result<Arc<AllocatorTable>> {
        let mut tables = lock(&self.tables);
        tables.retain(|table| table.strong_count() > 0);
        // Only the pool that a live block came from knows its address.
        let probe = allocator.allocate(1)?;
        let address = probe.binding().host;
        let same_pool = |table: &Arc<AllocatorTable>| {
            address.is_some_and(|address| table.memory().knows(address))
        };
        if let Some(table) = tables.iter().filter_map(Weak::upgrade).find(same_pool) {
            return Ok(table);
        }
        let info = self
            .api
            .host_memory(MemoryKind::Output)
            .map_err(|status| error(status, During::Start))?;
        let memory = PoolMemory::new(allocator.clone());
        let table = Arc::new(AllocatorTable::new(self.api, info, memory));
        tables.push(Arc::downgrade(&table));
        Ok(table)
    }

    /// Registers this allocator for as long as the returned share lives, in which a session is to
    /// be made. Waits while sessions are being made with another one.
    ///
    /// # Errors
    /// `Unsupported` if this library does not let its arena be replaced.
    pub(super) fn offer(&self, table: &Arc<AllocatorTable>) -> Result<OfferShare<'_>> {
        let unsupported = |why: &str| {
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "onnxruntime's arena cannot be replaced here: {why}; choose another with the \
                     parameter weldpool.arena"
                ),
            )
        };
        if !self.api.can_throw() {
            return Err(unsupported(
                "its C++ runtime cannot be told that memory is short",
            ));
        }
        let mut offer = lock(&self.offer);
        while offer.sessions > 0
            && !offer
                .allocator
                .as_ref()
                .is_some_and(|offered| Arc::ptr_eq(offered, table))
        {
            offer = self
                .offer_ended
                .wait(offer)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if offer.sessions == 0 {
            self.env
                .register(table)
                .map_err(|status| unsupported(&status.message))?;
            offer.allocator = Some(Arc::clone(table));
        }
        offer.sessions += 1;
        Ok(OfferShare(self))
    }
}

/// One session's share in the current offer; the last one to go ends it.
#[must_use]
pub(super) struct OfferShare<'a>(&'a Environment);

impl Drop for OfferShare<'_> {
    fn drop(&mut self) {
        let mut offer = lock(&self.0.offer);
        offer.sessions -= 1;
        if offer.sessions > 0 {
            return;
        }
        if let Some(table) = offer.allocator.take()
            && let Err(status) = self.0.env.unregister(table.info())
        {
            // Without the offer's end the library would keep an address that is about to go.
            tracing::error!(
                "onnxruntime keeps an allocator registered: {}",
                status.message
            );
            std::mem::forget(table);
        }
        self.0.offer_ended.notify_all();
    }
}

/// Locks; every value kept here is whole between statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::onnxruntime::library;

    fn this_process() -> Arc<Environment> {
        let Some(path) = crate::env::onnxruntime_library() else {
            panic!("ORT_DYLIB_PATH is not set; run these tests with `cargo xtask test`");
        };
        Environment::of(library::open(Some(&path)).unwrap()).unwrap()
    }

    /// One test, because all of it is about the one environment of the process.
    #[test]
    fn offers_take_turns_and_leave_no_trace() {
        let environment = this_process();
        assert!(Arc::ptr_eq(&environment, &this_process()));
        let (one, other) = (Allocator::host().unwrap(), Allocator::host().unwrap());
        let table = environment.allocator_table(&one).unwrap();
        assert!(Arc::ptr_eq(
            &table,
            &environment.allocator_table(&one.clone()).unwrap()
        ));
        let other_table = environment.allocator_table(&other).unwrap();
        assert!(!Arc::ptr_eq(&table, &other_table));

        // Another user's arena is there before and after.
        let theirs = environment.api().host_memory(MemoryKind::Default).unwrap();
        environment.env().register_own_arena(&theirs).unwrap();
        let (entered, wait_entered) = mpsc::channel();
        thread::scope(|scope| {
            let first = environment.offer(&table).unwrap();
            // The same allocator does not wait, not even on the same thread.
            let second = environment.offer(&table).unwrap();
            scope.spawn(|| {
                let share = environment.offer(&other_table).unwrap();
                entered.send(()).unwrap();
                drop(share);
            });
            // Another one does.
            let wait = Duration::from_millis(50);
            assert!(wait_entered.recv_timeout(wait).is_err());
            drop(first);
            assert!(wait_entered.recv_timeout(wait).is_err());
            drop(second);
            wait_entered.recv().unwrap();
        });
        // Each registration has ended: ending it again fails. Theirs has not.
        assert!(environment.env().unregister(table.info()).is_err());
        environment.env().unregister(&theirs).unwrap();
        assert_eq!(lock(&environment.offer).sessions, 0);
    }
}
