//! The memory of a discrete fake: what segments, handles and queues share.

use super::exposed::Opened;
use super::{GRANULARITY, Link, Violation};
use crate::device::fake::address_space::{AddressSpace, Reach};
use crate::device::fake::capacity::Capacity;
use crate::device::fake::control::Ledger;
use crate::device::fake::costs::Costs;
use crate::device::fake::queue::{self, Side};
use crate::device::fake::store::{Fresh, Store};
use crate::device::fake::violation::{Rule, broken};
use crate::device::mapping::Mapper;
#[cfg(target_os = "linux")]
use crate::device::mapping::SealedMapping;
use crate::device::raw::Address;
use crate::device::{HostRange, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// Memory, addresses and costs of one device.
#[derive(Debug)]
pub(super) struct Memory {
    ordinal: u32,
    link: Option<Link>,
    opened: Opened,
    ledger: Arc<Ledger>,
    mapper: Arc<Mapper>,
    costs: Costs,
    private: Arc<Capacity>,
    /// By node, where it is kept apart by nodes.
    pinned: Vec<Arc<Capacity>>,
    space: AddressSpace,
    poison: bool,
}

impl Memory {
    pub(super) fn new(
        ordinal: u32,
        ledger: Arc<Ledger>,
        mapper: Arc<Mapper>,
        costs: Costs,
        private: Arc<Capacity>,
        pinned: Vec<Arc<Capacity>>,
        poison: bool,
    ) -> Self {
        Self {
            ordinal,
            link: None,
            opened: Opened::default(),
            ledger,
            mapper,
            costs,
            private,
            pinned,
            space: AddressSpace::new(ordinal, GRANULARITY),
            poison,
        }
    }

    /// Joined with peers.
    pub(super) fn linked(self, link: Option<Link>) -> Self {
        Self { link, ..self }
    }

    /// Legacy handles of others that are open here.
    pub(super) fn opened(&self) -> &Opened {
        &self.opened
    }

    pub(super) fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// How many devices may reach memory of this one, besides itself.
    pub(super) fn peers(&self) -> u64 {
        let count = self.link.as_ref().map_or(1, Link::count);
        u64::from(count.saturating_sub(1))
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn costs(&self) -> &Costs {
        &self.costs
    }

    pub(super) fn space(&self) -> &AddressSpace {
        &self.space
    }

    pub(super) fn private(&self) -> &Capacity {
        &self.private
    }

    /// Bytes of pinned host memory of each node.
    pub(super) fn pinned_bytes(&self) -> impl Iterator<Item = u64> {
        self.pinned.iter().map(|capacity| capacity.used())
    }

    pub(super) fn poison(&self) -> bool {
        self.poison
    }

    /// Device memory that is not mapped anywhere.
    pub(super) fn new_private(&self, bytes: usize) -> Result<Arc<Store>> {
        let claim = Capacity::claim(&self.private, bytes)?;
        let fresh = Fresh::Poison { large: self.poison };
        Ok(Arc::new(Store::new(
            &self.mapper,
            bytes,
            rustix::param::page_size(),
            fresh,
            claim,
        )))
    }

    /// Device memory in a file that others may map too.
    #[cfg(target_os = "linux")]
    pub(super) fn new_private_over(&self, mapping: SealedMapping) -> Result<Arc<Store>> {
        let claim = Capacity::claim(&self.private, mapping.bytes())?;
        let fresh = Fresh::Poison { large: self.poison };
        Ok(Arc::new(Store::over(mapping, Some(fresh), claim)))
    }

    /// Pinned host memory of a node.
    pub(super) fn new_pinned(&self, bytes: usize, node: usize) -> Result<Arc<Store>> {
        let capacity = self.pinned.get(node).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidRequest,
                "the fake device has no such node",
            )
        })?;
        let claim = Capacity::claim(capacity, bytes)?;
        Ok(Arc::new(Store::new(
            &self.mapper,
            bytes,
            GRANULARITY,
            Fresh::Zero,
            claim,
        )))
    }

    /// Memory that others obtained, whose pages are locked now.
    pub(super) fn registered(&self, range: HostRange) -> Result<Arc<Store>> {
        let capacity = self.pinned.first().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the fake device has no pinned memory",
            )
        })?;
        let claim = Capacity::claim(capacity, range.bytes)?;
        Ok(Arc::new(Store::of_others(range, &self.mapper, claim)))
    }

    /// Charges for locking pages, or for giving them free.
    pub(super) fn charge_pinning(&self, bytes: usize) {
        self.ledger.charge(self.costs.malloc_host.ns(bytes as u64));
    }

    /// Sizes that a driver call takes are multiples of the granularity and not zero.
    pub(super) fn check_granularity(&self, sizes: &[usize], what: &str) -> Result<()> {
        for &bytes in sizes {
            if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
                return Err(self.ledger.record(Violation {
                    rule: Rule::Granularity,
                    text: format!("{what} of {bytes} bytes; granularity is {GRANULARITY}"),
                }));
            }
        }
        Ok(())
    }
}

impl queue::Memory for Memory {
    fn identify(&self, location: &Location, _bytes: usize) -> std::result::Result<Side, Violation> {
        match (location.device, location.host) {
            (Some(address), _) => Ok(Side::Device(address)),
            (None, Some(address)) => Ok(Side::Host(Address(address))),
            (None, None) => broken(Rule::OwnMemory, "a location without any address"),
        }
    }

    fn reach(&self, address: u64, bytes: usize) -> std::result::Result<Vec<Reach>, Violation> {
        let peer = match &self.link {
            Some(link) if !self.space.contains(address) => link.owner_of(address),
            _ => None,
        };
        match peer {
            Some(peer) => peer.space.reach_from(true, address, bytes),
            None => self.space.reach(address, bytes),
        }
    }
}
