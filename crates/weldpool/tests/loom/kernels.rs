//! What holds in every interleaving.

#![allow(unsafe_code)]

use crate::block::{Block, ListId};
use crate::class_pool::ClassPools;
use crate::counter::AtomicCounter;
use crate::guard::Borrow;
use crate::in_flight::{Access, InFlight, Use};
use crate::model::{check, check_all, thread};
use crate::queue::{Fence, QueueId};
use crate::reserve::Reserve;
use crate::signals::Signals;
use crate::size_class::{SizeClass, SizeClasses};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::thread_cache::bin::Bin;
use crate::thread_cache::shard::{ThreadTotals, Totals};

const LIST: ListId = ListId(0);

#[test]
fn a_shared_bin_gives_each_block_to_one_taker() {
    check_all(|| {
        let bin = Arc::new(Bin::default());
        // SAFETY: this thread is the owner.
        unsafe { bin.open(true) };
        bin.push_shared(Block(1), 4).unwrap();
        let other = Arc::clone(&bin);
        // Somebody who is short of memory.
        let thief = thread::spawn(move || {
            let mut drained = Vec::new();
            // SAFETY: it does not claim to be the owner.
            unsafe { other.drain(false, &mut drained) };
            drained
        });
        // The thread itself: frees one, allocates one.
        bin.push_shared(Block(2), 4).unwrap();
        let popped = bin.pop_shared();
        let mut all = thief.join().unwrap();
        all.extend(popped);
        // SAFETY: as above.
        unsafe { bin.drain(false, &mut all) };
        all.sort();
        assert_eq!(all, [Block(1), Block(2)]);
    });
}

#[test]
fn a_bin_is_seen_whole_or_closed() {
    check_all(|| {
        let bin = Arc::new(Bin::default());
        let other = Arc::clone(&bin);
        let thief = thread::spawn(move || {
            let mut drained = Vec::new();
            // SAFETY: it does not claim to be the owner.
            unsafe { other.drain(false, &mut drained) };
            drained
        });
        // SAFETY: this thread is the owner.
        unsafe { bin.open(true) };
        bin.push_shared(Block(1), 4).unwrap();
        let mut all = thief.join().unwrap();
        all.extend(bin.pop_shared());
        assert_eq!(all, [Block(1)]);
    });
}

#[test]
fn class_pools_exchange_batches_without_loss() {
    check(|| {
        let class = SizeClass {
            bytes: 256,
            initial: 0,
            cached_max: 2,
            thread_max: 1,
        };
        let pools = Arc::new(ClassPools::new(SizeClasses([class]), false));
        let other = Arc::clone(&pools);
        let putter = thread::spawn(move || other.put(LIST, vec![Block(1), Block(2)]));
        let mut all = pools.put(LIST, vec![Block(3)]);
        all.extend(pools.take(LIST, 2));
        all.extend(putter.join().unwrap());
        let mut kept = Vec::new();
        pools.drain(&mut kept);
        assert!(kept.len() <= 2, "the limit of the class");
        all.extend(kept);
        all.sort();
        assert_eq!(all, [Block(1), Block(2), Block(3)]);
    });
}

#[test]
fn sums_are_right_while_a_thread_ends() {
    check(|| {
        let [ended, mine, theirs] = [(); 3].map(|()| Arc::new(ThreadTotals::default()));
        mine.count_allocation(100, 256);
        theirs.count_free(30, 0);
        // As `Pool::totals` and `Pool::take_back_from_thread` do.
        let threads = Mutex::new(vec![Arc::clone(&mine), Arc::clone(&theirs)]);
        let pool = Arc::new((threads, ended));
        let sum = |pool: &(Mutex<Vec<Arc<ThreadTotals>>>, Arc<ThreadTotals>)| {
            let mut totals = Totals::default();
            let threads = pool.0.lock();
            for thread in threads.iter() {
                thread.add_to(&mut totals);
            }
            pool.1.add_to(&mut totals);
            totals.live
        };
        let other = Arc::clone(&pool);
        let ending = thread::spawn(move || {
            let mut threads = other.0.lock();
            threads.retain(|one| !Arc::ptr_eq(one, &theirs));
            other.1.absorb(&theirs);
        });
        assert_eq!(sum(&pool), 70);
        ending.join().unwrap();
        assert_eq!(sum(&pool), 70);
    });
}

#[test]
fn counting_has_one_writer_and_any_readers() {
    check(|| {
        let totals = Arc::new(ThreadTotals::default());
        let other = Arc::clone(&totals);
        let owner = thread::spawn(move || {
            other.count_allocation(10, 256);
            other.count_allocation(10, 256);
            other.count_free(10, 256);
        });
        let read = || {
            let mut sum = Totals::default();
            totals.add_to(&mut sum);
            sum
        };
        assert!([0, 10, 20].contains(&read().live));
        owner.join().unwrap();
        let sum = read();
        assert_eq!((sum.live, sum.live_peak, sum.block_bytes), (10, 20, 256));
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

/// A stream to which others submit as well: how much was submitted, and how much each signal covers.
#[derive(Debug, Default)]
struct Stream {
    state: Mutex<(u64, Vec<u64>)>,
}

impl Stream {
    fn submit(&self) -> u64 {
        let mut state = self.state.lock();
        state.0 += 1;
        state.0
    }

    fn signal(&self) -> Result<u64, ()> {
        let mut state = self.state.lock();
        let submitted = state.0;
        state.1.push(submitted);
        Ok(state.1.len() as u64)
    }

    /// What is over for certain when the timeline has reached `value`.
    fn covered(&self, value: u64) -> u64 {
        self.state.lock().1[value as usize - 1]
    }
}

#[test]
fn memory_freed_on_a_queue_is_not_passed_by_an_earlier_signal() {
    check(|| {
        let queue = Arc::new((Stream::default(), Signals::default()));
        let other = Arc::clone(&queue);
        let marking = thread::spawn(move || {
            let (stream, signals) = &*other;
            signals.mark(&mut signals.lock(), || stream.signal())
        });
        let (stream, signals) = &*queue;
        // Work that the allocator does not see, and a free in its order.
        let work = stream.submit();
        let point = signals.next();
        marking.join().unwrap().unwrap();
        while signals.last() < point {
            signals
                .mark(&mut signals.lock(), || stream.signal())
                .unwrap();
        }
        assert!(stream.covered(point) >= work, "passed before its work");
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
