//! Taking some of a thread's idle blocks out of its caches.

#![forbid(unsafe_code)]

use super::{CACHES, OWN_BLOCK_BYTES_MAX};
use crate::block::Block;
use crate::pool::Pool;
use crate::sync::Arc;

/// Takes the blocks that are `unwanted` out of this thread's caches of a pool. The others keep their order.
pub(crate) fn take_out_blocks(pool: &Pool, unwanted: impl Fn(&Block) -> bool) -> Vec<Block> {
    let mut taken = Vec::new();
    let _ended = CACHES.try_with(|caches| {
        let Ok(caches) = caches.try_borrow() else {
            return;
        };
        let mine = |cache: &&super::ThreadCache| std::ptr::eq(Arc::as_ptr(&cache.pool), pool);
        for cache in caches.iter().flatten().map(AsRef::as_ref).filter(mine) {
            let shard = &cache.shard;
            let mut drained = Vec::new();
            shard.drain_all(&mut drained);
            for block in drained.into_iter().rev() {
                if unwanted(&block) {
                    taken.push(block);
                    continue;
                }
                // What was there has room.
                let bytes = block.bytes();
                let left = match shard.bins.get(block.list().index()) {
                    Some(bin) if bytes <= OWN_BLOCK_BYTES_MAX => shard.put_own(bin, block, bytes),
                    Some(bin) => shard.put_shared(bin, block, bytes),
                    None => Err(block),
                };
                taken.extend(left.err());
            }
        }
    });
    taken
}
