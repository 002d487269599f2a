//! Threads: Triton's, those that send, and those that release.

use std::sync::mpsc;
use std::thread;

use crate::outputs::{assert_all_released, pooled};
use crate::triton::{Command, Response, server};

#[test]
fn a_response_is_released_on_another_thread() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let command = Command {
        outputs: 4,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    assert_eq!(pool.stats().live.value, 4000);
    thread::spawn(move || drop(responses)).join().unwrap();
    assert_eq!(allocator.stats().releases, 4);
    assert_all_released(&pool, &allocator);
}

#[test]
fn many_threads_send_and_others_release() {
    let Some(server) = server() else { return };
    let (pool, allocator) = pooled(server);
    let (senders, rounds, responses_each) = (4_usize, 60, 3);
    let (send, receive) = mpsc::sync_channel::<(Command, usize, Response)>(32);
    let receive = std::sync::Mutex::new(receive);
    thread::scope(|scope| {
        for sender in 0..senders {
            let (send, allocator) = (send.clone(), &allocator);
            scope.spawn(move || {
                for round in 0..rounds {
                    let command = Command {
                        responses: responses_each,
                        outputs: 2,
                        bytes: 1 + (sender * 7919 + round * 104_729) % 200_000,
                        ..Command::default()
                    };
                    let responses = command.request().infer(server, allocator);
                    for (number, response) in responses.into_iter().enumerate() {
                        send.send((command, number, response)).unwrap();
                    }
                }
            });
        }
        drop(send);
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let next = receive.lock().unwrap().recv();
                    let Ok((command, number, response)) = next else {
                        return;
                    };
                    for output in response.outputs() {
                        command.check(number, &output);
                    }
                }
            });
        }
    });
    let stats = allocator.stats();
    assert_eq!(
        stats.responses,
        (senders * rounds) as u64 * responses_each as u64
    );
    assert_eq!(stats.allocations, 2 * stats.responses);
    assert_eq!(stats.releases, stats.allocations);
    assert_all_released(&pool, &allocator);
}
