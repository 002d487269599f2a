//! Memory that devices of one peer group show each other.
//!
//! A device reads a peer's memory through a remote view of the buffer, which has to be of private storage; the view is a
//! source of blits and nothing else (documentation of `newRemoteBufferViewForDevice:` and "Transferring data between
//! connected GPUs").

#![forbid(unsafe_code)]

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;

use super::blit::Part;
use super::known::key;
use super::raw::{BLIT_ALIGNMENT, Buffer, Metal, Object as _};
use crate::binding::Resource;
use crate::device::Location;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Bytes that go at once where a view's bytes have to pass through memory of the reader's.
pub(super) const PASSAGE_BYTES: usize = 4 << 20;

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
    let group = M::pooled(|| metal.peer_group_id());
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
            made.set_label("weldpool peer view");
            let mut shown = SHOWN.lock();
            if let Some(one) = shown.get_mut(&key(resource)) {
                one.views.insert(device, Box::new(made.clone()));
            }
            made
        }
    };
    Ok(Some((view, offset)))
}

/// A part of a copy from a view that a kernel does, in memory of the reader's into which it is blitted before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    /// Where the blit begins in the view, and its length: what the kernel needs, and what lies around it.
    pub(super) from: usize,
    pub(super) around: usize,
    /// Where the bytes are behind the blit, and where they go to.
    pub(super) part: Part,
}

/// What a kernel is to do of a copy from a view, in legs: a view is read by blits alone, which want multiples of four.
pub(super) fn legs(part: &Part) -> impl Iterator<Item = Leg> + use<> {
    let Part { from, to, bytes } = *part;
    pieces(0..bytes).map(move |range| {
        let start = from + range.start;
        let skip = start % BLIT_ALIGNMENT;
        Leg {
            from: start - skip,
            around: (skip + range.len()).next_multiple_of(BLIT_ALIGNMENT),
            part: Part {
                from: skip,
                to: to + range.start,
                bytes: range.len(),
            },
        }
    })
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
    fn legs_are_the_whole_and_what_blits_move() {
        for (from, bytes) in [(0, 3), (5, 1), (6, 11), (3, 2 * PASSAGE_BYTES + 10)] {
            let part = Part { from, to: 9, bytes };
            let mut done = 0;
            for leg in legs(&part) {
                assert_eq!(leg.from + leg.part.from, from + done);
                assert_eq!(leg.part.to, 9 + done);
                assert!(leg.from.is_multiple_of(BLIT_ALIGNMENT));
                assert!(leg.around.is_multiple_of(BLIT_ALIGNMENT));
                assert!(leg.around <= PASSAGE_BYTES);
                assert!(leg.part.from + leg.part.bytes <= leg.around);
                done += leg.part.bytes;
            }
            assert_eq!(done, bytes);
        }
    }
}
