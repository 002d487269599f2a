//! What holds in every interleaving.

#![allow(unsafe_code)]

use crate::address_map::{AddressMap, SpareNodes, Writer};
use crate::block::{Block, ListId, Node, Record};
use crate::class_pool::ClassPools;
use crate::counter::AtomicCounter;
use crate::guard::Borrow;
use crate::high_water::{Headroom, HighWater};
use crate::in_flight::{Access, InFlight, Use};
use crate::model::{check, check_all, thread};
use crate::queue::{Fence, QueueId};
use crate::reserve::Reserve;
use crate::schedule::Schedule;
use crate::size_class::{SizeClass, SizeClasses};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering};
use crate::thread_cache::TallySum;
use crate::thread_cache::bin::Bin;
use crate::thread_cache::lending::Lending;

const LIST: ListId = ListId(0);

/// A thread's lent bin, and who may come to it.
#[derive(Default)]
struct Lent {
    lending: Lending,
    bin: Bin,
}

impl Default for Lending {
    fn default() -> Self {
        Self::new()
    }
}

impl Lent {
    fn open() -> Arc<Self> {
        let lent = Arc::new(Self::default());
        // SAFETY: this thread is the owner.
        unsafe { lent.bin.open(256, 4, true) };
        lent
    }

    /// What the owner does when it frees; where others have the right, it has to look elsewhere.
    fn push(&self, block: Block) -> Result<(), Block> {
        let Some(_inside) = self.lending.enter() else {
            return Err(block);
        };
        // SAFETY: the owner is inside.
        unsafe { self.bin.push_lent(block) }
    }

    /// What the owner does when it allocates.
    fn pop(&self) -> Option<Block> {
        let _inside = self.lending.enter()?;
        let last = self.bin.last_lent()?;
        // SAFETY: the owner is inside, and the slot the last.
        Some(unsafe { self.bin.take_lent(last) })
    }

    /// What the owner does past the warm path.
    fn put(&self, block: Block) {
        let _held = self.lending.hold();
        // SAFETY: the owner has the right.
        unsafe { self.bin.push(block) }.unwrap();
    }

    /// What somebody does who is short of memory.
    fn drain(&self) -> Vec<Block> {
        let mut drained = Vec::new();
        if let Some(_closed) = self.lending.close() {
            // SAFETY: the right is ours.
            unsafe { self.bin.drain(&mut drained) };
        }
        drained
    }
}

#[test]
fn a_lent_bin_gives_each_block_to_one_taker() {
    check(|| {
        let lent = Lent::open();
        lent.put(Block(1));
        let other = Arc::clone(&lent);
        let thief = thread::spawn(move || other.drain());
        // The thread itself: frees one, allocates one.
        let mut all = Vec::new();
        all.extend(lent.push(Block(2)).err());
        all.extend(lent.pop());
        all.extend(thief.join().unwrap());
        all.extend(lent.drain());
        all.sort();
        assert_eq!(all, [Block(1), Block(2)]);
    });
}

#[test]
fn without_fences_the_lock_gives_each_block_to_one_taker() {
    check(|| {
        let lent = Arc::new(Lent {
            lending: Lending::with_fences(false),
            bin: Bin::default(),
        });
        // SAFETY: this thread is the owner.
        unsafe { lent.bin.open(256, 4, true) };
        lent.put(Block(1));
        let other = Arc::clone(&lent);
        let thief = thread::spawn(move || other.drain());
        assert_eq!(
            lent.push(Block(2)),
            Err(Block(2)),
            "the warm path is closed"
        );
        lent.put(Block(2));
        let mut all = thief.join().unwrap();
        all.extend(lent.drain());
        all.sort();
        assert_eq!(all, [Block(1), Block(2)]);
    });
}

#[cfg(loom)]
#[test]
fn where_the_fence_is_refused_nobody_else_gets_a_block_until_the_owner_was_there() {
    check(|| {
        crate::sync::fences::REFUSED.set(true);
        let lent = Lent::open();
        lent.put(Block(1));
        let other = Arc::clone(&lent);
        let thief = thread::spawn(move || other.drain());
        let mut all: Vec<Block> = lent.pop().into_iter().collect();
        assert_eq!(thief.join().unwrap(), []);
        assert!(lent.pop().is_none(), "the warm path is closed");
        lent.put(Block(2));
        all.extend(lent.drain());
        all.sort();
        assert_eq!(all, [Block(1), Block(2)]);
        crate::sync::fences::REFUSED.set(false);
    });
}

#[test]
fn two_that_are_short_of_memory_share_what_a_thread_has() {
    check(|| {
        let lent = Lent::open();
        lent.put(Block(1));
        let thieves = [(); 2].map(|()| {
            let other = Arc::clone(&lent);
            thread::spawn(move || other.drain())
        });
        let mut all = Vec::new();
        all.extend(lent.pop());
        all.extend(thieves.into_iter().flat_map(|thief| thief.join().unwrap()));
        assert_eq!(all, [Block(1)]);
        // The warm path is open again.
        lent.push(Block(2)).unwrap();
        assert_eq!(lent.pop(), Some(Block(2)));
    });
}

#[test]
fn what_one_thread_frees_another_takes_from_the_class() {
    check(|| {
        // Remote return: the consumer's full cache passes blocks on, the producer's empty one is refilled.
        let (producer, consumer) = (Lent::open(), Lent::open());
        let class = SizeClass {
            bytes: 256,
            initial: 0,
            cached_max: 2,
            kept: 0,
            thread_max: 1,
        };
        let pools = Arc::new(ClassPools::new(SizeClasses([class]), false, 1));
        let other = Arc::clone(&pools);
        let consuming = thread::spawn(move || {
            consumer.put(Block(1));
            consumer.put(Block(2));
            other.put(LIST, consumer.drain())
        });
        for block in pools.take(LIST, Node::FIRST, 2) {
            producer.put(block);
        }
        let mut all = consuming.join().unwrap();
        all.extend(producer.drain());
        pools.drain(|_| true, &mut all);
        all.sort();
        assert_eq!(all, [Block(1), Block(2)]);
    });
}

#[test]
fn class_pools_exchange_batches_without_loss() {
    check(|| {
        let class = SizeClass {
            bytes: 256,
            initial: 0,
            cached_max: 2,
            kept: 0,
            thread_max: 1,
        };
        let pools = Arc::new(ClassPools::new(SizeClasses([class]), false, 1));
        let other = Arc::clone(&pools);
        let putter = thread::spawn(move || other.put(LIST, vec![Block(1), Block(2)]));
        let mut all = pools.put(LIST, vec![Block(3)]);
        all.extend(pools.take(LIST, Node::FIRST, 2));
        all.extend(putter.join().unwrap());
        let mut kept = Vec::new();
        pools.drain(|_| true, &mut kept);
        assert!(kept.len() <= 2, "the limit of the class");
        all.extend(kept);
        all.sort();
        assert_eq!(all, [Block(1), Block(2), Block(3)]);
    });
}

#[test]
fn sums_are_right_while_a_thread_ends() {
    check(|| {
        let water = Arc::new(HighWater::default());
        let [mine, theirs] = [(); 2].map(|()| Arc::new(Headroom::default()));
        water.take(&mine, 100);
        theirs.put(30);
        // As `Pool::live_bytes` and `Pool::take_back_from_thread` do.
        let threads = Arc::new(Mutex::new(vec![mine, Arc::clone(&theirs)]));
        let sum = || {
            let threads = threads.lock();
            water.sum(threads.iter().map(|thread| thread.bytes()).sum())
        };
        let (water, threads) = (Arc::clone(&water), Arc::clone(&threads));
        let ending = thread::spawn(move || {
            let mut threads = threads.lock();
            threads.retain(|one| !Arc::ptr_eq(one, &theirs));
            water.settle(&theirs, 0);
        });
        assert_eq!(sum(), 70);
        ending.join().unwrap();
        assert_eq!(sum(), 70);
    });
}

#[test]
fn a_peak_is_never_below_the_sum() {
    check(|| {
        let water = Arc::new(HighWater::default());
        let [mine, theirs] = [(); 2].map(|()| Arc::new(Headroom::default()));
        let (other, own) = (Arc::clone(&water), Arc::clone(&theirs));
        let thread = thread::spawn(move || {
            other.take(&own, 10);
            own.put(10);
            other.settle(&own, 0);
            other.take(&own, 5);
        });
        water.take(&mine, 10);
        mine.put(10);
        water.settle(&mine, 0);
        thread.join().unwrap();
        assert_eq!(water.sum(mine.bytes() + theirs.bytes()), 5);
        assert!((10..=20).contains(&water.peak()), "{}", water.peak());
    });
}

/// A thread that allocates, warm as long as it may, while another claims its headroom, as `Pool::count_live` and
/// `Shard::claim_headroom` do: the peak is what was live.
#[test]
fn a_peak_is_exact_though_headroom_is_claimed() {
    check(|| {
        let water = Arc::new(HighWater::default());
        let [mine, theirs] = [(); 2].map(|()| Arc::new(Headroom::default()));
        let shared = Arc::new((AtomicU64::new(1), Lending::new(), Mutex::new(())));
        water.take(&theirs, 10);
        theirs.put(10);
        let (other, own, there) = (Arc::clone(&water), Arc::clone(&theirs), Arc::clone(&shared));
        let owner = thread::spawn(move || {
            let (gate, lending, shards) = &*there;
            let warm = || {
                (gate.load(Ordering::Relaxed) == 1).then_some(())?;
                let _inside = lending.enter()?;
                own.leave(own.after(5)?);
                Some(())
            };
            if warm().is_some() {
                return;
            }
            loop {
                {
                    let _held = lending.hold();
                    if !own.is_claimed() {
                        return other.take(&own, 5);
                    }
                }
                let _alone = shards.lock();
                let held = lending.hold();
                other.return_claim(&own);
                lending.unbar(&held);
                gate.store(1, Ordering::Relaxed);
            }
        });
        if !water.try_take(&mine, 10) {
            let (gate, lending, shards) = &*shared;
            {
                let _alone = shards.lock();
                gate.store(0, Ordering::Relaxed);
                if let Some(closed) = lending.close() {
                    closed.bar();
                    water.claim(&theirs);
                }
            }
            water.take(&mine, 10);
        }
        owner.join().unwrap();
        let left = mine.bytes().wrapping_add(theirs.bytes());
        assert_eq!((water.sum(left), water.peak()), (15, 15));
    });
}

#[test]
fn counting_has_one_writer_and_any_readers() {
    check(|| {
        let bin = Arc::new(Bin::default());
        let other = Arc::clone(&bin);
        let owner = thread::spawn(move || {
            other.tally.count_allocation(10);
            other.tally.count_allocation(10);
            other.tally.count_free(10);
        });
        let read = || {
            let mut sum = TallySum::default();
            sum.add(&bin.tally, bin.len());
            sum
        };
        assert!([0, 1, 2].contains(&read().live));
        owner.join().unwrap();
        let sum = read();
        assert_eq!((sum.allocations, sum.live, sum.live_bytes), (2, 1, 10));
    });
}

#[test]
fn what_is_counted_stands_while_somebody_empties_a_lent_bin() {
    check(|| {
        let lent = Lent::open();
        lent.put(Block(1));
        let other = Arc::clone(&lent);
        let thief = thread::spawn(move || other.drain());
        // As `Shard::count_allocation` does.
        {
            let _held = lent.lending.hold();
            lent.bin.tally.count_allocation(10);
        }
        let drained = thief.join().unwrap();
        assert_eq!(drained, [Block(1)]);
        let mut sum = TallySum::default();
        sum.add(&lent.bin.tally, lent.bin.len());
        assert_eq!((sum.allocations, sum.live), (1, 1));
    });
}

#[test]
fn nobody_sees_half_of_what_is_drawn_for_the_next_sample() {
    check(|| {
        let bin = Arc::new(Bin::default());
        let other = Arc::clone(&bin);
        let owner = thread::spawn(move || {
            other.tally.charge(|| 1);
            other.tally.count_allocation(10);
            // On the warm path, until the sample is due.
            while let Some(left) = other.tally.left_after_one() {
                other.tally.leave(left);
            }
        });
        let read = || {
            let mut sum = TallySum::default();
            sum.add(&bin.tally, bin.len());
            sum.allocations
        };
        let (first, second) = (read(), read());
        assert!(first <= second && second <= 2, "{first}, {second}");
        owner.join().unwrap();
    });
}

#[test]
fn a_shared_counter_is_exact_at_rest_and_below_its_peak() {
    check(|| {
        let counter = Arc::new(AtomicCounter::default());
        let other = Arc::clone(&counter);
        let thread = thread::spawn(move || {
            other.add(30);
            other.subtract(30);
        });
        counter.add(10);
        let now = counter.read();
        assert!([10, 40].contains(&now.value), "{now:?}");
        assert!(now.peak >= now.value, "{now:?}");
        thread.join().unwrap();
        let end = counter.read();
        assert_eq!((end.value, end.total), (10, 40));
        assert!([30, 40].contains(&end.peak), "{end:?}");
    });
}

#[test]
fn what_threads_commit_together_stays_within_the_limit() {
    check(|| {
        let reserve = Arc::new(Reserve::new(Some(100), 10, 1000, (1, 1)));
        let claim = |reserve: &Reserve| {
            let claimed = reserve.commit(60).is_ok();
            assert!(reserve.committed() <= 100);
            claimed
        };
        let other = Arc::clone(&reserve);
        let thread = thread::spawn(move || {
            let claimed = claim(&other);
            if claimed {
                other.uncommit(60);
            }
            claimed
        });
        let mine = claim(&reserve);
        let theirs = thread.join().unwrap();
        assert!(mine || theirs, "one of them fits");
        assert_eq!(reserve.committed(), if mine { 60 } else { 0 });
    });
}

fn used(queue: u64, value: u64) -> Use {
    let queue = QueueId(queue);
    let fence = Fence { queue, value };
    let access = Access::Write;
    Use { fence, access }
}

#[test]
fn an_earlier_use_never_takes_the_place_of_a_later_one() {
    check(|| {
        let in_flight = Arc::new(InFlight::default());
        let other = Arc::clone(&in_flight);
        let late = thread::spawn(move || other.add(used(1, 5)));
        in_flight.add(used(1, 9));
        late.join().unwrap();
        let fences = in_flight.conflicts(Access::Read);
        let values: Vec<u64> = fences.iter().map(Fence::value).collect();
        assert_eq!(values, [9]);
    });
}

#[test]
fn whoever_sees_that_a_point_became_a_use_sees_the_use() {
    check(|| {
        // As `Buffer::settle` does, through the orderings of `Block::point` and `Block::set_point`.
        let shared = Arc::new((InFlight::default(), AtomicU64::new(5)));
        let settle = |shared: &(InFlight, AtomicU64)| {
            let point = shared.1.load(Ordering::Acquire);
            if point != 0 {
                shared.0.add(used(1, point));
                shared.1.store(0, Ordering::Release);
            }
            assert!(shared.0.check(Access::Read).is_err(), "work still writes");
        };
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || settle(&other));
        settle(&shared);
        thread.join().unwrap();
    });
}

#[test]
fn uses_added_while_others_are_looked_at_are_kept() {
    check(|| {
        let in_flight = Arc::new(InFlight::default());
        in_flight.add(used(1, 0));
        let other = Arc::clone(&in_flight);
        // Finds that all uses are over, and says so, while one is added.
        let looking = thread::spawn(move || drop(other.check(Access::Write)));
        in_flight.add(used(2, 7));
        looking.join().unwrap();
        assert!(in_flight.check(Access::Read).is_err());
        assert!(!in_flight.is_unused());
    });
}

#[test]
fn a_writer_is_alone() {
    check(|| {
        let shared = Arc::new((Borrow::default(), AtomicU64::new(0), AtomicU64::new(0)));
        let other = Arc::clone(&shared);
        let writer = thread::spawn(move || {
            let (borrow, one, two) = &*other;
            if let Ok(_token) = borrow.exclusive() {
                one.store(1, Ordering::Relaxed);
                two.store(1, Ordering::Relaxed);
            }
        });
        let (borrow, one, two) = &*shared;
        for _ in 0..2 {
            if let Ok(_token) = borrow.shared() {
                let (one, two) = (one.load(Ordering::Relaxed), two.load(Ordering::Relaxed));
                assert_eq!(one, two, "a torn write");
            }
        }
        writer.join().unwrap();
    });
}

/// An empty map, the right to change it, and records of blocks that start at some granules.
fn map<const RECORDS: usize>(
    granules: [usize; RECORDS],
) -> (Writer, Arc<AddressMap>, [&'static Record; RECORDS]) {
    let writer = Writer::new(SpareNodes::default());
    let map = Arc::clone(writer.map());
    let records = granules.map(|granule| &*Box::leak(Box::new(Record::new(granule * 256))));
    (writer, map, records)
}

fn insert(writer: &mut Writer, record: &'static Record) {
    writer.insert(record.start(), record);
}

fn remove(writer: &mut Writer, record: &'static Record) {
    writer.remove(record.start());
}

/// The granule at which the block starts that is found inside another.
fn found(map: &AddressMap, granule: usize) -> Option<usize> {
    map.find(granule * 256 + 7)
        .map(|record| record.start() / 256)
}

/// Blocks come and go on both sides of one that stays, while others look that one up.
#[test]
fn what_stays_in_a_map_is_found() {
    check(|| {
        // From granule 5, in one leaf, to granule 9, in the next.
        let (mut writer, map, [before, stays, after]) = map([4, 5, 10]);
        insert(&mut writer, stays);
        let writing = thread::spawn(move || {
            for other in [before, after] {
                insert(&mut writer, other);
                remove(&mut writer, other);
            }
        });
        assert_eq!(found(&map, 9), Some(5));
        assert_eq!(found(&map, 5), Some(5));
        writing.join().unwrap();
        assert_eq!(found(&map, 9), Some(5));
        assert_eq!(found(&map, 10), Some(5), "the last before it");
    });
}

/// A look-up that is in a leaf while that comes to be used elsewhere goes on to what it looks for.
#[test]
fn a_node_of_a_map_that_is_used_again_hides_nothing() {
    check(|| {
        let (mut writer, map, [stays, after, elsewhere]) = map([5, 10, 16]);
        insert(&mut writer, stays);
        insert(&mut writer, after);
        let writing = thread::spawn(move || {
            remove(&mut writer, after);
            insert(&mut writer, elsewhere);
        });
        assert_eq!(found(&map, 9), Some(5));
        writing.join().unwrap();
    });
}

/// Likewise where the record that is in the leaf comes to describe other blocks, one of them before the one
/// that stays.
#[test]
fn a_record_in_a_map_that_is_used_again_hides_nothing() {
    check(|| {
        let (mut writer, map, [stays, again]) = map([5, 10]);
        insert(&mut writer, stays);
        insert(&mut writer, again);
        let writing = thread::spawn(move || {
            for granule in [16, 4] {
                remove(&mut writer, again);
                again.describe(granule * 256);
                insert(&mut writer, again);
            }
        });
        assert_eq!(found(&map, 9), Some(5));
        writing.join().unwrap();
    });
}

/// Likewise where an inner node on the way comes to be one of another level.
#[test]
fn an_inner_node_of_a_map_that_is_used_again_hides_nothing() {
    check(|| {
        // From granule 5 to granule 20, beside one for which there is an inner node of its own.
        let (mut writer, map, [stays, again]) = map([5, 21]);
        insert(&mut writer, stays);
        insert(&mut writer, again);
        let writing = thread::spawn(move || {
            for granule in [64, 4] {
                remove(&mut writer, again);
                again.describe(granule * 256);
                insert(&mut writer, again);
            }
        });
        assert_eq!(found(&map, 20), Some(5));
        writing.join().unwrap();
    });
}

/// A look-up that is in a node which is used again elsewhere does not take what it finds there for its own.
#[test]
fn what_comes_to_a_map_is_found_by_its_own_addresses_alone() {
    check(|| {
        let (mut writer, map, [first, second]) = map([4, 17]);
        insert(&mut writer, first);
        let writing = thread::spawn(move || {
            remove(&mut writer, first);
            // In the node that was the first one's.
            insert(&mut writer, second);
        });
        let start = found(&map, 5);
        assert!(start.is_none_or(|start| start == 4), "{start:?}");
        writing.join().unwrap();
        assert_eq!(found(&map, 5), None);
        assert_eq!(found(&map, 17), Some(17));
    });
}

/// A copy that two threads work on while a third cancels it, and who began it waits.
fn copy(schedule: &Schedule, copied: &[AtomicUsize]) {
    if !schedule.enter() {
        return;
    }
    while let Some(chunk) = schedule.claim() {
        copied[chunk].fetch_add(1, Ordering::Relaxed);
        schedule.complete(1);
    }
    if schedule.leave() {
        schedule.end();
    }
}

#[test]
fn a_copy_ends_once_with_a_prefix_of_its_chunks() {
    check(|| {
        let schedule = Arc::new(Schedule::new(2));
        let copied = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let helping = {
            let (schedule, copied) = (Arc::clone(&schedule), Arc::clone(&copied));
            thread::spawn(move || copy(&schedule, copied.as_slice()))
        };
        let cancelling = {
            let schedule = Arc::clone(&schedule);
            thread::spawn(move || schedule.cancel())
        };
        copy(&schedule, copied.as_slice());
        // Nobody touches the memory from here on.
        schedule.wait();
        let counts = [0, 1].map(|chunk| copied[chunk].load(Ordering::Relaxed));
        assert_eq!(counts[0] + counts[1], schedule.done_bytes());
        assert!(counts[0] <= 1 && counts[1] <= counts[0], "{counts:?}");
        assert!(counts[1] == 1 || schedule.failure().is_some());
        cancelling.join().unwrap();
        helping.join().unwrap();
        assert!(!schedule.enter());
    });
}
