//! Memory that devices of one peer group show each other.
//!
//! A device reads a peer's memory through a remote view of the buffer, which has to be of private storage; the view is a
//! source of blits and nothing else (documentation of `newRemoteBufferViewForDevice:` and "Transferring data between
//! connected GPUs").

#![forbid(unsafe_code)]

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;

use super::blit::{By, copy_parts};
use super::kernels::Kernels;
use super::known::key;
use super::raw::{BLIT_ALIGNMENT, BlitEncoder, Buffer, CommandBuffer, Metal};
use crate::binding::Resource;
use crate::device::{Location, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Bytes that go at once where a view's bytes have to pass through memory of the reader's.
const PASSAGE_BYTES: usize = 4 << 20;

/// The buffers that are shown, by the addresses of their objects.
static SHOWN: Mutex<BTreeMap<usize, Shown>> = Mutex::new(BTreeMap::new());

/// An object of whichever layer the devices have.
type Object = Box<dyn Any + Send + Sync>;

struct Shown {
    /// `peerGroupID` of its device.
    group: u64,
    buffer: Object,
    /// Views of it, by the numbers of the devices that they are for.
    views: BTreeMap<u64, Object>,
}

/// The numbers of the devices in the group of one of them; `groups` are those of all devices, in order.
pub(in crate::device) fn peers_of(groups: &[u64], ordinal: usize) -> Vec<u32> {
    let Some(&own) = groups.get(ordinal).filter(|&&own| own != 0) else {
        return Vec::new();
    };
    let same = groups.iter().zip(0_u32..);
    same.filter(|&(&group, other)| group == own && other as usize != ordinal)
        .map(|(_, other)| other)
        .collect()
}

/// A number for a device that was opened.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Shows a buffer to the peers of its device.
pub(super) fn show<M: Metal>(metal: &M, buffer: &M::Buffer) {
    let shown = Shown {
        group: metal.peer_group_id(),
        buffer: Box::new(buffer.clone()),
        views: BTreeMap::new(),
    };
    SHOWN.lock().insert(key(buffer.resource()), shown);
}

/// Shows a buffer no longer.
pub(super) fn hide(resource: Resource) {
    let shown = SHOWN.lock().remove(&key(resource));
    // Its release, and that of its views, are calls, made with the lock free.
    drop(shown);
}

/// Gives up the views that are for a device.
pub(super) fn forget(device: u64) {
    let views: Vec<_> = {
        let mut shown = SHOWN.lock();
        let views = shown
            .values_mut()
            .filter_map(|one| one.views.remove(&device));
        views.collect()
    };
    drop(views);
}

/// Whether a location is of a buffer that is shown to a device.
pub(in crate::device) fn is_shown_to<M: Metal>(metal: &M, location: &Location) -> bool {
    let Some((resource, _)) = location.resource else {
        return false;
    };
    let group = metal.peer_group_id();
    let shown = SHOWN.lock();
    let shown = shown.get(&key(resource));
    shown.is_some_and(|one| group != 0 && one.group == group)
}

/// A view of a peer's buffer for a device, and the offset in it, if the location is of one that is shown to it.
///
/// # Errors
///
/// [`InvalidRequest`](ErrorKind::InvalidRequest) for bytes beyond its end, or what Metal says of the view.
pub(super) fn view<M: Metal>(
    metal: &M,
    device: u64,
    location: &Location,
    bytes: usize,
) -> Result<Option<(M::Buffer, usize)>> {
    let Some((resource, offset)) = location.resource else {
        return Ok(None);
    };
    let group = metal.peer_group_id();
    let (buffer, view) = {
        let shown = SHOWN.lock();
        let Some(one) = shown
            .get(&key(resource))
            .filter(|one| group != 0 && one.group == group)
        else {
            return Ok(None);
        };
        let Some(buffer) = one.buffer.downcast_ref::<M::Buffer>() else {
            return Ok(None);
        };
        let view = one.views.get(&device);
        let view = view.and_then(|view| view.downcast_ref::<M::Buffer>());
        (buffer.clone(), view.cloned())
    };
    if offset
        .checked_add(bytes)
        .is_none_or(|end| end > buffer.length())
    {
        return Err(Error::with_message(
            ErrorKind::InvalidRequest,
            format!(
                "work on {bytes} bytes at {offset} of a peer's buffer of {} bytes",
                buffer.length()
            ),
        ));
    }
    let view = match view {
        Some(view) => view,
        None => {
            let made = metal.new_remote_view(&buffer)?;
            let mut shown = SHOWN.lock();
            if let Some(one) = shown.get_mut(&key(resource)) {
                one.views.insert(device, Box::new(made.clone()));
            }
            made
        }
    };
    Ok(Some((view, offset)))
}

/// What copies from a view have to pass through: memory of the reader's, and an event that orders the passes.
#[derive(Debug)]
pub(super) struct Passage<M: Metal> {
    buffer: M::Buffer,
    event: M::Event,
    passes: u64,
}

impl<M: Metal> Passage<M> {
    fn new(metal: &M) -> Result<Self> {
        Ok(Self {
            buffer: metal.new_buffer(PASSAGE_BYTES, StorageMode::Private)?,
            event: metal.new_shared_event()?,
            passes: 0,
        })
    }

    /// What is encoded from here on begins when all before has ended: hazards are not tracked.
    fn order(&mut self, commands: &M::Commands) {
        self.passes += 1;
        commands.signal(&self.event, self.passes);
        commands.wait_for(&self.event, self.passes);
    }
}

/// Encodes a copy from a view. What a blit cannot move, bytes that are not at a multiple of four, is blitted with what lies
/// around it, and moved on by a kernel. `passage` is made where it is needed.
pub(super) fn encode_copy<M: Metal>(
    (metal, kernels): (&M, &Kernels<M>),
    commands: &M::Commands,
    (from, from_at): (&M::Buffer, usize),
    (to, to_at): (&M::Buffer, usize),
    bytes: usize,
    passage: &mut Option<Passage<M>>,
) -> Result<()> {
    for (by, range) in copy_parts(from_at, to_at, bytes) {
        if by == By::Blit {
            let blit = commands.blit_encoder()?;
            let (from, to) = ((from, from_at + range.start), (to, to_at + range.start));
            blit.copy(from, to, range.len());
            blit.end();
            continue;
        }
        let passage = match passage {
            Some(passage) => passage,
            None => passage.insert(Passage::new(metal)?),
        };
        for range in pieces(range) {
            let start = from_at + range.start;
            let skip = start % BLIT_ALIGNMENT;
            let around = (skip + range.len()).next_multiple_of(BLIT_ALIGNMENT);
            passage.order(commands);
            let blit = commands.blit_encoder()?;
            blit.copy((from, start - skip), (&passage.buffer, 0), around);
            blit.end();
            passage.order(commands);
            let (through, to) = ((&passage.buffer, skip), (to, to_at + range.start));
            kernels.copy(metal, commands, through, to, range.len())?;
        }
    }
    Ok(())
}

/// A range in pieces that fit the passage with what lies around them.
fn pieces(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let most = PASSAGE_BYTES - 2 * BLIT_ALIGNMENT;
    let end = range.end;
    range
        .step_by(most)
        .map(move |start| start..(start + most).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_the_others_of_a_group_that_is_one() {
        let groups = [0, 7, 0, 7, 9, 7];
        assert_eq!(peers_of(&groups, 1), [3, 5]);
        assert_eq!(peers_of(&groups, 5), [1, 3]);
        assert!(peers_of(&groups, 0).is_empty(), "no group");
        assert!(peers_of(&groups, 4).is_empty(), "alone in its group");
        assert!(peers_of(&groups, 6).is_empty(), "no such device");
    }

    #[test]
    fn pieces_are_the_whole() {
        let range = 3..2 * PASSAGE_BYTES + 10;
        let mut at = range.start;
        for piece in pieces(range.clone()) {
            assert_eq!(piece.start, at);
            assert!(piece.len() + 2 * BLIT_ALIGNMENT <= PASSAGE_BYTES);
            at = piece.end;
        }
        assert_eq!(at, range.end);
    }
}
