//! Where the client and the servers run, when runs on a busy machine are to be compared.
//!
//! Left to itself, the scheduler puts a client and a server that wait for each other on two processors while those
//! are idle, and on one while the others are busy; and on a virtual machine the wake-up of a halted processor costs
//! more than a whole small request. One and the same server has been seen at 15,000 requests per second on a quiet
//! machine and at 150,000 on a busy one. With this, the client gets one half of the processors, every server the
//! other, and no processor halts: each small request then costs two wake-ups across processors, whatever else runs.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
pub use linux::{Awake, Halves};
#[cfg(not(target_os = "linux"))]
pub use other::{Awake, Halves};

/// Where client and servers run, in words.
pub fn describe(halves: Option<Halves>) -> String {
    match halves.map(|halves| halves.counts()) {
        Some((client, server)) => {
            format!("client on {client} processors, servers on {server} others, none halting")
        }
        None => "left to the scheduler".to_owned(),
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::hint::black_box;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use crate::error::{Error, Result};

    /// Iterations of an idle thread between two looks at the order to stop.
    const SPINS: u32 = 1 << 16;

    /// The halves of the processors this process may use.
    #[derive(Debug, Clone, Copy)]
    pub struct Halves {
        client: CpuSet,
        server: CpuSet,
    }

    impl Halves {
        /// Splits the processors; `None` when there is only one.
        ///
        /// # Errors
        /// `Io` when the system does not tell which processors may be used.
        pub fn split() -> Result<Option<Self>> {
            let all = sched_getaffinity(None)
                .map_err(|error| Error::io("reading the processors to use", error.into()))?;
            let processors = members(&all);
            let (client, server) = processors.split_at(processors.len() / 2);
            let halves = Self {
                client: set_of(client),
                server: set_of(server),
            };
            Ok((!client.is_empty()).then_some(halves))
        }

        /// How many processors the client and the servers have.
        pub fn counts(&self) -> (u32, u32) {
            (self.client.count(), self.server.count())
        }

        /// Runs `start` with this thread on the servers' half, which the processes it starts inherit, and then
        /// moves this thread to the client's half, which its later threads inherit.
        ///
        /// # Errors
        /// That of `start`, or `Io` when the system refuses a placement.
        pub fn start_servers<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
            place(&self.server)?;
            let started = start();
            place(&self.client)?;
            started
        }
    }

    fn members(set: &CpuSet) -> Vec<usize> {
        (0..CpuSet::MAX_CPU)
            .filter(|processor| set.is_set(*processor))
            .collect()
    }

    fn set_of(processors: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        processors.iter().for_each(|processor| set.set(*processor));
        set
    }

    fn place(set: &CpuSet) -> Result<()> {
        sched_setaffinity(None, set).map_err(|error| Error::io("choosing processors", error.into()))
    }

    /// Keeps processors from halting until it is dropped: a thread on each that runs only when nothing else
    /// wants to.
    #[derive(Debug)]
    pub struct Awake {
        stop: Arc<AtomicBool>,
        threads: Vec<JoinHandle<()>>,
    }

    impl Awake {
        /// Lets processors halt again.
        pub fn end(self) {}

        /// Keeps all processors of both halves awake.
        ///
        /// # Errors
        /// `Io` when the system refuses the placement or the idle priority.
        pub fn all(halves: &Halves) -> Result<Self> {
            let mut awake = Self {
                stop: Arc::default(),
                threads: Vec::new(),
            };
            for processor in [members(&halves.client), members(&halves.server)].concat() {
                let (ready, placed) = mpsc::channel();
                let stop = Arc::clone(&awake.stop);
                awake.threads.push(thread::spawn(move || {
                    let result = idle_on(processor);
                    let refused = result.is_err();
                    // The other end waits for it.
                    let _ = ready.send(result);
                    if !refused {
                        spin(&stop);
                    }
                }));
                placed
                    .recv()
                    .map_err(|_| Error::protocol("an idle thread ended early"))??;
            }
            Ok(awake)
        }
    }

    impl Drop for Awake {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            for thread in self.threads.drain(..) {
                // It holds nothing that a panic could have left behind.
                let _ = thread.join();
            }
        }
    }

    /// Plain work instead of the processor's pause, which a hypervisor may take as a reason to step in.
    fn spin(stop: &AtomicBool) {
        let mut count = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..SPINS {
                count = black_box(count.wrapping_add(1));
            }
        }
    }

    /// Puts this thread on `processor` alone, at the priority below all others.
    fn idle_on(processor: usize) -> Result<()> {
        place(&set_of(&[processor]))?;
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: 0 names the calling thread; the parameters are only read.
        let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
        if status == 0 {
            return Ok(());
        }
        Err(Error::io(
            "taking the idle priority",
            std::io::Error::last_os_error(),
        ))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_halves_are_apart_and_complete() {
            let all = members(&sched_getaffinity(None).unwrap());
            let Some(halves) = Halves::split().unwrap() else {
                assert_eq!(all.len(), 1);
                return;
            };
            assert_eq!(
                [members(&halves.client), members(&halves.server)].concat(),
                all
            );
        }

        #[test]
        fn servers_inherit_their_half() {
            // On a thread of its own: the placement stays with the thread.
            thread::spawn(|| {
                let Some(halves) = Halves::split().unwrap() else {
                    return;
                };
                let inside =
                    halves.start_servers(|| Ok(members(&sched_getaffinity(None).unwrap())));
                assert_eq!(inside.unwrap(), members(&halves.server));
                assert_eq!(
                    members(&sched_getaffinity(None).unwrap()),
                    members(&halves.client)
                );
                drop(Awake::all(&halves).unwrap());
            })
            .join()
            .unwrap();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use crate::error::Result;

    /// Processors cannot be chosen on this system.
    #[derive(Debug, Clone, Copy)]
    pub struct Halves(std::convert::Infallible);

    impl Halves {
        /// Always `None`.
        ///
        /// # Errors
        /// Never.
        pub fn split() -> Result<Option<Self>> {
            Ok(None)
        }

        /// How many processors the client and the servers have.
        pub fn counts(&self) -> (u32, u32) {
            match self.0 {}
        }

        /// Runs `start`.
        ///
        /// # Errors
        /// That of `start`.
        pub fn start_servers<T>(&self, _start: impl FnOnce() -> Result<T>) -> Result<T> {
            match self.0 {}
        }
    }

    /// Processors cannot be kept from halting on this system.
    #[derive(Debug)]
    pub struct Awake;

    impl Awake {
        /// Lets processors halt again.
        pub fn end(self) {}

        /// Does nothing.
        ///
        /// # Errors
        /// Never.
        pub fn all(halves: &Halves) -> Result<Self> {
            match halves.0 {}
        }
    }
}
