//! Several threads on one allocator.

use weldpool::Buffer;

use super::{MakeDevice, allocator};

pub fn threads_share_one_pool(make: MakeDevice) {
    let allocator = allocator(make);
    std::thread::scope(|scope| {
        let run = |thread: u64| {
            let allocator = &allocator;
            scope.spawn(move || {
                let mut random = thread.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                let mut live: Vec<(u64, Buffer)> = Vec::new();
                for step in 0..2_000_u64 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    if live.len() > 20 || (random & 3 == 0 && !live.is_empty()) {
                        let (mark, buffer) = live.swap_remove(random as usize % live.len());
                        let contents = buffer.read::<u8>().unwrap();
                        let length = contents.len();
                        assert!(
                            [0, length / 2, length - 1].map(|at| contents[at]) == [mark as u8; 3]
                        );
                    } else {
                        let bytes = 1 + random as usize % (1 << (4 + random % 18));
                        let mut buffer = allocator.allocate(bytes).unwrap();
                        let mark = step ^ thread;
                        let mut contents = buffer.write::<u8>().unwrap();
                        for at in [0, bytes / 2, bytes - 1] {
                            contents[at] = mark as u8;
                        }
                        drop(contents);
                        live.push((mark, buffer));
                    }
                }
            })
        };
        // Joining, unlike the end of the scope, waits until a thread has given back its cache.
        let threads: Vec<_> = (0..4).map(run).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.block_bytes), (0, 0), "{stats}");
    assert_eq!(stats.allocations, stats.frees);
    assert_eq!(stats.cached_bytes, stats.reserved.value);
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().reserved.value, 0);
}
