//! The addresses of a fake device: which are reserved, what is mapped there, and who may touch it.

use std::collections::BTreeMap;

use super::store::{State, Store};
use super::violation::{Rule, Violation, broken};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Range, Space};
use crate::sync::{Arc, Mutex};

/// Address space of one device, in bytes. CUDA's unified addresses have 47 bits on x86-64, as the host's.
pub(super) const ADDRESS_BYTES_MAX: usize = if usize::BITS == 64 { 1 << 47 } else { 1 << 30 };

/// Device addresses start beyond the 47 bits that the host's programs have, so that one can never be
/// taken for the other.
const ADDRESS_MIN: u64 = 1 << 48;

/// The addresses of one device.
#[derive(Debug)]
pub(super) struct AddressSpace {
    base: u64,
    guard_bytes: usize,
    state: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    free: Space<()>,
    extents: BTreeMap<u64, Extent>,
}

/// A store that is mapped, whole, at an address.
#[derive(Debug)]
struct Extent {
    store: Arc<Store>,
    accessible: bool,
    /// For other devices too.
    peers: bool,
}

/// Part of a store under a range of addresses.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) store: Arc<Store>,
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

impl AddressSpace {
    /// The addresses of the device of this number: none is another device's too. Behind each reserved
    /// range `guard_bytes` addresses stay free, so that work beyond its end meets nothing.
    pub(super) fn new(ordinal: u32, guard_bytes: usize) -> Self {
        let mut state = Addresses::default();
        state.free.add(Range {
            start: 0,
            bytes: ADDRESS_BYTES_MAX,
        });
        Self {
            base: ADDRESS_MIN + u64::from(ordinal) * ADDRESS_BYTES_MAX as u64,
            guard_bytes,
            state: Mutex::new(state),
        }
    }

    /// Reserves addresses; `alignment` is a power of two.
    pub(super) fn reserve(&self, bytes: usize, alignment: usize) -> Result<u64> {
        let guarded = bytes.checked_add(self.guard_bytes);
        guarded
            .and_then(|bytes| {
                let mut state = self.state.lock();
                let (free, start) = state.free.find_clean(bytes, alignment)?;
                state.free.cut(free.start, Range { start, bytes });
                Some(self.base + start as u64)
            })
            .ok_or_else(|| {
                Error::with_message(
                    ErrorKind::OutOfMemory,
                    format!("the fake device has no {bytes} bytes of address space left"),
                )
            })
    }

    /// Removes what is still mapped in a reserved range and gives the addresses back; the lengths of
    /// the mappings that were there.
    pub(super) fn give_back(&self, address: u64, bytes: usize) -> Vec<usize> {
        let mut state = self.state.lock();
        let mapped: Vec<u64> = state
            .extents
            .range(address..address + bytes as u64)
            .map(|(&start, _)| start)
            .collect();
        let removed = mapped
            .iter()
            .filter_map(|start| state.extents.remove(start))
            .collect::<Vec<_>>();
        if let Ok(start) = usize::try_from(address - self.base) {
            let bytes = bytes + self.guard_bytes;
            state.free.add(Range { start, bytes });
        }
        drop(state);
        removed.iter().map(|extent| extent.store.bytes()).collect()
    }

    /// Maps a store at an address where nothing is.
    pub(super) fn map(
        &self,
        address: u64,
        store: &Arc<Store>,
        accessible: bool,
    ) -> std::result::Result<(), Violation> {
        self.insert(
            address,
            Extent {
                store: Arc::clone(store),
                accessible,
                peers: false,
            },
        )
    }

    /// Maps a store for the device's queues and, with `peers`, for those of its peers.
    pub(super) fn map_exposed(
        &self,
        address: u64,
        store: &Arc<Store>,
        peers: bool,
    ) -> std::result::Result<(), Violation> {
        self.insert(
            address,
            Extent {
                store: Arc::clone(store),
                accessible: true,
                peers,
            },
        )
    }

    fn insert(&self, address: u64, extent: Extent) -> std::result::Result<(), Violation> {
        let store = &extent.store;
        let end = address + store.bytes() as u64;
        let mut state = self.state.lock();
        // Extents do not overlap, so only the last that starts before the end can reach in.
        if let Some((&start, last)) = state.extents.range(..end).next_back() {
            let bytes = last.store.bytes();
            if start + bytes as u64 > address {
                return broken(
                    Rule::FreeAddresses,
                    format!(
                        "{} bytes mapped at {address:#x} over the {bytes} mapped at {start:#x}",
                        store.bytes()
                    ),
                );
            }
        }
        state.extents.insert(address, extent);
        Ok(())
    }

    /// Removes the mapping at an address; none if there is none.
    pub(super) fn remove(&self, address: u64) -> Option<Arc<Store>> {
        let removed = self.state.lock().extents.remove(&address);
        removed.map(|extent| extent.store)
    }

    /// Length of the mapping that starts at an address.
    pub(super) fn mapped_bytes(&self, address: u64) -> Option<usize> {
        let state = self.state.lock();
        state
            .extents
            .get(&address)
            .map(|extent| extent.store.bytes())
    }

    /// Makes the mappings in a range accessible; returns their lengths.
    pub(super) fn allow(
        &self,
        address: u64,
        bytes: usize,
    ) -> std::result::Result<Vec<usize>, Violation> {
        let mut state = self.state.lock();
        let starts = state.whole(address, bytes)?;
        let mut lengths = Vec::with_capacity(starts.len());
        for start in starts {
            if let Some(extent) = state.extents.get_mut(&start) {
                extent.accessible = true;
                lengths.push(extent.store.bytes());
            }
        }
        Ok(lengths)
    }

    /// Removes the mappings in a range; returns their lengths.
    pub(super) fn unmap(
        &self,
        address: u64,
        bytes: usize,
    ) -> std::result::Result<Vec<usize>, Violation> {
        let mut state = self.state.lock();
        let starts = state.whole(address, bytes)?;
        let removed: Vec<_> = starts
            .iter()
            .filter_map(|start| state.extents.remove(start))
            .collect();
        drop(state);
        Ok(removed.iter().map(|extent| extent.store.bytes()).collect())
    }

    /// Whether an address is of this device.
    pub(super) fn contains(&self, address: u64) -> bool {
        let inside = address.checked_sub(self.base);
        inside.is_some_and(|inside| inside < ADDRESS_BYTES_MAX as u64)
    }

    /// The memory under a range of addresses, if work of the device may touch all of it.
    pub(super) fn reach(
        &self,
        address: u64,
        bytes: usize,
    ) -> std::result::Result<Vec<Reach>, Violation> {
        self.reach_from(false, address, bytes)
    }

    /// The same for work of the device itself, or of a peer.
    pub(super) fn reach_from(
        &self,
        peer: bool,
        address: u64,
        bytes: usize,
    ) -> std::result::Result<Vec<Reach>, Violation> {
        let state = self.state.lock();
        let mut reached = Vec::with_capacity(1);
        let (mut at, mut left) = (address, bytes);
        while left > 0 {
            let under = state.extents.range(..=at).next_back();
            let Some((start, extent)) =
                under.filter(|&(&start, extent)| at - start < extent.store.bytes() as u64)
            else {
                return broken(
                    Rule::Mapped,
                    format!(
                        "work on {bytes} bytes at {address:#x} touches {at:#x}, where nothing is mapped"
                    ),
                );
            };
            if !extent.accessible {
                return broken(
                    Rule::Accessible,
                    format!(
                        "work on {bytes} bytes at {address:#x} touches {at:#x}, to which access was not allowed"
                    ),
                );
            }
            if peer && !extent.peers {
                return broken(
                    Rule::PeerAccess,
                    format!(
                        "work of a peer on {bytes} bytes at {address:#x} touches {at:#x}, which it may not"
                    ),
                );
            }
            match extent.store.state() {
                State::Usable => {}
                State::Released => {
                    return broken(
                        Rule::NotReleased,
                        format!(
                            "work on {bytes} bytes at {address:#x} touches {at:#x}, whose memory was released"
                        ),
                    );
                }
                State::Volatile => {
                    return broken(
                        Rule::NotVolatile,
                        format!(
                            "work on {bytes} bytes at {address:#x} touches {at:#x}, whose heap is volatile or empty"
                        ),
                    );
                }
            }
            let offset = usize::try_from(at - start).unwrap_or(usize::MAX);
            let length = left.min(extent.store.bytes() - offset);
            reached.push(Reach {
                store: Arc::clone(&extent.store),
                offset,
                bytes: length,
            });
            at += length as u64;
            left -= length;
        }
        Ok(reached)
    }
}

impl Addresses {
    /// The starts of the mappings in a range, which contains at least one and each of them whole.
    fn whole(&self, address: u64, bytes: usize) -> std::result::Result<Vec<u64>, Violation> {
        let end = address + bytes as u64;
        let cut = |start: u64, length: usize| {
            broken(
                Rule::WholeMapping,
                format!(
                    "{bytes} bytes at {address:#x} cut through the mapping of {length} bytes at {start:#x}"
                ),
            )
        };
        if let Some((&start, extent)) = self.extents.range(..address).next_back() {
            let length = extent.store.bytes();
            if start + length as u64 > address {
                return cut(start, length);
            }
        }
        let mut starts = Vec::new();
        for (&start, extent) in self.extents.range(address..end) {
            let length = extent.store.bytes();
            if start + length as u64 > end {
                return cut(start, length);
            }
            starts.push(start);
        }
        if starts.is_empty() {
            return broken(
                Rule::WholeMapping,
                format!("nothing is mapped in {bytes} bytes at {address:#x}"),
            );
        }
        Ok(starts)
    }
}
