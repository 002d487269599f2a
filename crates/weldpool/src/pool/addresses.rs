//! Buffers by their addresses: found by one inside, and left to whoever has the first.

#![forbid(unsafe_code)]

use super::Pool;
use crate::address::BlockInfo;
use crate::arena::Arena;
use crate::block::{Block, Record};
use crate::buffer::Buffer;

impl Pool {
    /// The live buffer that contains an address.
    pub(crate) fn find(&self, address: usize) -> Option<BlockInfo> {
        let mut found = self.records_around(address);
        found.find_map(|record| {
            let sight = record.sight(self.key)?;
            let inside = address.checked_sub(sight.address)? < sight.requested;
            let node = self.arenas.number_of(sight.storage, sight.node);
            inside.then(|| BlockInfo::of(sight, node))
        })
    }

    /// The buffer that was [left](crate::block::Block::detach) at an address.
    pub(crate) fn attach(&self, address: usize) -> Option<Buffer> {
        let mut found = self.records_around(address);
        let block = found.find_map(|record| record.attach(self.key, address))?;
        Some(Buffer::new(block))
    }

    /// The arena whose segments a block lies in.
    pub(crate) fn segments_of(&self, block: &Block) -> &Arena {
        &self.arenas.of(block).0
    }

    /// The records among which is that of the block that contains an address.
    fn records_around(&self, address: usize) -> impl Iterator<Item = &'static Record> {
        let find =
            move |(arena, small): &super::arenas::Pair| [small.find(address), arena.find(address)];
        let exposed = self.exposed.find(address);
        self.arenas.iter().flat_map(find).flatten().chain(exposed)
    }
}
