//! Accepts connections, counts them, and ends them in an orderly way.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::{Connection, Progress, Settings};
use super::error::{Error, ErrorKind, Result};
use super::handler::{Handler, Observer};
use super::limits::Limits;

/// Connections that the system queues before they are accepted.
const BACKLOG: u32 = 1024;

/// Time to wait when a connection cannot be accepted for want of file descriptors or memory.
const ACCEPT_RETRY_TIME: Duration = Duration::from_millis(50);

/// A server that listens on one address.
///
/// Connections run as tasks of the runtime that [`serve`](Self::serve) is awaited on.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    settings: Settings,
    control: ServerControl,
}

/// Stops a [`Server`] and tells its counts. Clones control the same server.
#[derive(Clone)]
pub struct ServerControl {
    registry: Arc<Registry>,
    stop: Arc<watch::Sender<Option<Instant>>>,
}

/// Counts of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections open now.
    pub connections_open: u64,
    /// Connections open now that wait for a request.
    pub connections_idle: u64,
    /// Connections accepted so far.
    pub connections_accepted: u64,
    /// Idle connections closed to make room for others, or to shut down.
    pub connections_evicted: u64,
    /// Connections cut off with a request in flight because a shutdown took too long.
    pub connections_aborted: u64,
    /// Requests given to the handler.
    pub requests: u64,
    /// Requests refused before they reached the handler.
    pub requests_rejected: u64,
}

impl Server {
    /// Listens on `address`; port zero lets the system choose. Has to be called on a `tokio`
    /// runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidLimit`], [`ErrorKind::AddressInUse`], and
    /// [`ErrorKind::AddressUnavailable`] for whatever else the system says, or without a runtime.
    /// Each is one line that names the address.
    pub fn bind(address: SocketAddr, limits: Limits) -> Result<Self> {
        limits.validate()?;
        let listener = listen(address).map_err(|error| bind_error(address, error))?;
        let address = listener
            .local_addr()
            .map_err(|error| bind_error(address, error))?;
        let control = ServerControl {
            registry: Arc::default(),
            stop: Arc::new(watch::Sender::new(None)),
        };
        Ok(Self {
            listener,
            address,
            settings: Settings::new(limits, None),
            control,
        })
    }

    /// Has `observer` told of every response.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.settings.observer = Some(observer);
        self
    }

    /// The address that is listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle by which this server can be stopped and watched.
    #[must_use]
    pub fn control(&self) -> ServerControl {
        self.control.clone()
    }

    /// Serves until [`ServerControl::shutdown`], and returns the final counts once every
    /// connection is closed.
    ///
    /// # Cancellation
    ///
    /// Dropping the future aborts every connection at once.
    pub async fn serve<H: Handler>(self, handler: H) -> ServerStats {
        let Self {
            listener,
            settings,
            control,
            ..
        } = self;
        let settings = Arc::new(settings);
        let handler = Arc::new(handler);
        let slots = Arc::new(Semaphore::new(settings.limits.connections_max as usize));
        let _abort_on_drop = AbortOnDrop(&control.registry);
        let mut stop = control.stop.subscribe();

        let accept = async {
            loop {
                let (stream, peer) = control.registry.accept(&listener).await;
                let slot = control.registry.slot(&slots, &settings).await;
                control
                    .registry
                    .spawn(stream, peer, &handler, &settings, slot);
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => {}
            () = accept => {}
        }
        drop(listener);
        settings.set_closing(true);
        control.registry.close_idle();
        control
            .registry
            .drain(&slots, settings.limits.connections_max, stop)
            .await;
        control.stats()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("limits", &self.settings.limits)
            .finish_non_exhaustive()
    }
}

impl ServerControl {
    /// Stops the server: nothing more is accepted, idle connections close at once, requests in
    /// flight are answered. What is not done after `drain_time` is cut off. A second call can only
    /// shorten the time.
    pub fn shutdown(&self, drain_time: Duration) {
        let now = Instant::now();
        // A time too long to be added up is as good as this one.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let due = now + drain_time.min(YEAR);
        self.stop.send_if_modified(|deadline| {
            let sooner = deadline.is_none_or(|deadline| due < deadline);
            if sooner {
                *deadline = Some(due);
            }
            sooner
        });
    }

    /// The counts now. Walks the open connections.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.registry.stats()
    }
}

impl fmt::Debug for ServerControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerControl")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The open connections of a server.
#[derive(Default)]
struct Registry {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    entries: HashMap<u64, Entry>,
    next_id: u64,
    /// Counts of connections that are closed, and those that no connection has.
    past: ServerStats,
}

struct Entry {
    progress: Arc<Progress>,
    /// Missing until the task is spawned.
    task: Option<AbortHandle>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next connection.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                // The client has given up while it waited.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => {
                    tracing::warn!("a connection cannot be accepted: {error}");
                    self.evict();
                    tokio::time::sleep(ACCEPT_RETRY_TIME).await;
                }
            }
        }
    }

    /// A slot for one more connection, for which others have to close when there is none.
    async fn slot(&self, slots: &Arc<Semaphore>, settings: &Settings) -> OwnedSemaphorePermit {
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            return slot;
        }
        tracing::warn!(
            "{} connections are open, the limit; the next one waits",
            settings.limits.connections_max
        );
        settings.set_closing(true);
        self.evict();
        let slot = slots.clone().acquire_owned().await;
        settings.set_closing(false);
        match slot {
            Ok(slot) => slot,
            // The semaphore is never closed, so this is never reached.
            Err(_) => std::future::pending().await,
        }
    }

    fn spawn<H: Handler>(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        handler: &Arc<H>,
        settings: &Arc<Settings>,
        slot: OwnedSemaphorePermit,
    ) {
        // Responses are written whole, so there is nothing for the system to wait for. Without the
        // option they are only later.
        let _ = stream.set_nodelay(true);
        let progress = Arc::new(Progress::default());
        let registration = Registration {
            id: self.insert(progress.clone()),
            registry: self.clone(),
            _slot: slot,
        };
        let id = registration.id;
        let (handler, settings) = (handler.clone(), settings.clone());
        let task = tokio::spawn(async move {
            let _registration = registration;
            Connection::new(stream, Some(peer), &*handler, &settings, &progress)
                .run()
                .await;
        });
        // The entry is gone already if the connection was that short.
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.task = Some(task.abort_handle());
        }
    }

    fn insert(&self, progress: Arc<Progress>) -> u64 {
        let mut open = self.lock();
        let id = open.next_id;
        open.next_id += 1;
        open.past.connections_accepted += 1;
        open.entries.insert(
            id,
            Entry {
                progress,
                task: None,
            },
        );
        id
    }

    /// Closes the connection that has been idle longest, if any is.
    fn evict(&self) {
        let mut open = self.lock();
        let longest = open
            .entries
            .values()
            .filter_map(|entry| Some((entry.progress.idle_since()?, entry)))
            .min_by_key(|(since, _)| *since);
        if longest.is_some_and(|(_, entry)| entry.close_if_idle()) {
            open.past.connections_evicted += 1;
        }
    }

    fn close_idle(&self) {
        let mut open = self.lock();
        let closed = open
            .entries
            .values()
            .filter(|entry| entry.close_if_idle())
            .count();
        open.past.connections_evicted += closed as u64;
    }

    fn abort_all(&self) {
        let mut open = self.lock();
        for task in open
            .entries
            .values()
            .filter_map(|entry| entry.task.as_ref())
        {
            task.abort();
        }
        open.past.connections_aborted += open.entries.len() as u64;
    }

    /// Waits until every connection is closed, and cuts off those left at the deadline.
    async fn drain(
        &self,
        slots: &Semaphore,
        slot_count: u32,
        mut stop: watch::Receiver<Option<Instant>>,
    ) {
        loop {
            let deadline = stop.borrow_and_update().unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                _ = slots.acquire_many(slot_count) => return,
                () = tokio::time::sleep_until(deadline) => break,
                Ok(()) = stop.changed() => {}
            }
        }
        self.abort_all();
        // Aborted tasks end at their next turn. A handler that blocks its thread is not waited for
        // for ever.
        let _ = tokio::time::timeout(Duration::from_secs(1), slots.acquire_many(slot_count)).await;
    }

    fn stats(&self) -> ServerStats {
        let open = self.lock();
        let mut stats = open.past;
        for entry in open.entries.values() {
            stats.connections_open += 1;
            stats.connections_idle += u64::from(entry.progress.idle_since().is_some());
            stats.requests += entry.progress.requests();
            stats.requests_rejected += entry.progress.rejected();
        }
        stats
    }
}

impl Entry {
    fn close_if_idle(&self) -> bool {
        // Without a handle the task is just being spawned; it sees `CLOSED` when bytes arrive, and
        // a shutdown before it waits for any.
        let Some(task) = &self.task else { return false };
        let closes = self.progress.close_if_idle();
        if closes {
            task.abort();
        }
        closes
    }
}

/// Keeps a connection in the registry, and its slot taken, until dropped.
struct Registration {
    registry: Arc<Registry>,
    id: u64,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = self.registry.lock();
        if let Some(entry) = open.entries.remove(&self.id) {
            open.past.requests += entry.progress.requests();
            open.past.requests_rejected += entry.progress.rejected();
        }
    }
}

struct AbortOnDrop<'a>(&'a Registry);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        let open = self.0.lock();
        for task in open
            .entries
            .values()
            .filter_map(|entry| entry.task.as_ref())
        {
            task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    Handle::try_current().map_err(io::Error::other)?;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // On Windows this option would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_error(address: SocketAddr, error: io::Error) -> Error {
    let unavailable = |message| Error::new(ErrorKind::AddressUnavailable, message);
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::new(
            ErrorKind::AddressInUse,
            format!(
                "address {address} is in use: stop the program that listens there, or choose \
                 another port"
            ),
        ),
        io::ErrorKind::PermissionDenied => unavailable(format!(
            "address {address} needs privileges that this process does not have: choose a port \
             above 1023"
        )),
        io::ErrorKind::AddrNotAvailable => {
            unavailable(format!("address {address} does not belong to this machine"))
        }
        _ => unavailable(format!("address {address} cannot be listened on")).with_source(error),
    }
}
