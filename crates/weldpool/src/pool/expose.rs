//! Memory that others reach too: obtained, imported, exported and returned segment by segment.

#![forbid(unsafe_code)]

use super::Pool;
use super::allocate::hand_out;
use super::close::close_late;
use super::place::Place;
use super::recovery::is_shortage;
use crate::arena::Source;
use crate::block::Block;
use crate::buffer::Buffer;
use crate::device::{Exposure, StorageMode, Vouched};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Exported;
use crate::exposed::Wanted;
use crate::in_flight::{Access, Use};
use crate::name::Name;
use crate::request::ALIGNMENT_MAX;
use crate::sync::{Arc, Ordering};
use crate::thread_cache;

impl Pool {
    pub(super) fn check_offered(&self, exposure: Exposure, storage: StorageMode) -> Result<()> {
        if self.device().offers(exposure, storage) {
            return Ok(());
        }
        let who = match exposure.export {
            Some(export) => format!("other processes could reach by a {export}"),
            None => "peers of the device could reach".to_owned(),
        };
        let both = if exposure.export.is_some() && exposure.peers {
            ", and peers of the device besides"
        } else {
            ""
        };
        Err(Error::with_message(
            ErrorKind::Unsupported,
            format!("the device has no {storage} memory that {who}{both}; see weldpool::Export"),
        ))
    }

    /// A block in a segment of its own.
    pub(super) fn obtain_exposed(
        &self,
        place: Place,
        exposure: Exposure,
    ) -> Result<(Block, Source)> {
        // What was freed before and work used goes back now, since no other request looks for it.
        self.collect(true);
        let block = self.near(place, |place| {
            self.exposed.create(&Wanted {
                bytes: place.bytes,
                alignment: place.alignment,
                storage: place.storage,
                node: place.node,
                exposure,
            })
        })?;
        Ok((block, Source::Driver))
    }

    /// A buffer over what another process, or another owner in this one, exported.
    pub(crate) fn import(self: &Arc<Self>, vouched: Vouched<'_>, name: Name) -> Result<Buffer> {
        let exported = vouched.exported();
        close_late();
        self.collect(true);
        let import = || self.exposed.import(vouched, |storage| self.here(storage));
        let mut imported = import();
        if imported.as_ref().err().is_some_and(is_shortage) && self.clear() > 0 {
            imported = import();
        }
        let block = imported.map_err(|error| self.refusal(error, exported.len(), name))?;
        thread_cache::ensure(self, self.key);
        self.misses.fetch_add(1, Ordering::Relaxed);
        let what = (exported.len(), name);
        self.count_allocation(&block, self.key, what, None, None);
        let start = block.as_record().start();
        let alignment = 1 << start.trailing_zeros().min(ALIGNMENT_MAX.ilog2());
        Ok(hand_out(block, what, alignment))
    }

    /// Whether queues of the device's peers reach a block.
    pub(crate) fn is_visible_to_peers(&self, block: &Block) -> bool {
        self.exposed.is_visible_to_peers(block)
    }

    /// What stands for a buffer in another process.
    pub(crate) fn export(&self, block: &Block) -> Result<Exported> {
        self.exposed.export(block, block.requested())
    }

    /// Returns the segment of a block, once no work uses it any more.
    pub(super) fn release_exposed(&self, block: Block) {
        if let Some(point) = self.orders.pending_point(&block)
            && let Some(queue) = self.orders.get(point.queue)
        {
            self.orders.cover(point);
            let fence = queue.fence_at(point.value);
            let access = Access::Write;
            block.set_point(None);
            self.deferred.put(block, vec![Use { fence, access }]);
            return;
        }
        self.exposed.release(block);
    }
}
