use super::*;

const FENCE: Object = 1;
const EVENT: Object = 2;
const QUEUE: QueueNumber = 1;
const OTHER: QueueNumber = 2;

fn pass(fenced: bool, bytes: Range<u64>, writes: bool) -> Pass {
    let fences = || if fenced { vec![FENCE] } else { Vec::new() };
    Pass {
        waits: fences(),
        updates: fences(),
        touches: vec![Touch { bytes, writes }],
    }
}

/// Commits one pass in a command buffer of its own; whether it is in order.
fn commit(order: &mut Order, pass: Pass) -> (Number, bool) {
    let (number, violation) = order.commit(QUEUE, pass, &mut Read::default());
    (number, violation.is_none())
}

/// Commits a pass and a signal behind it.
fn signalled(order: &mut Order, pass: Pass, value: u64) -> Signal {
    let mut read = Read::default();
    let (number, violation) = order.commit(QUEUE, pass, &mut read);
    assert_eq!(violation, None);
    order.through(number);
    order.signal(EVENT, value, &read)
}

#[test]
fn passes_that_no_fence_orders_must_not_touch_what_one_writes() {
    let mut order = Order::default();
    assert!(commit(&mut order, pass(false, 0..10, false)).1);
    assert!(commit(&mut order, pass(false, 5..15, false)).1, "both read");
    assert!(commit(&mut order, pass(false, 15..20, true)).1, "elsewhere");
    assert!(!commit(&mut order, pass(false, 9..12, true)).1);
    // A fence that the others did not update does not help.
    assert!(!commit(&mut order, pass(true, 0..2, true)).1);
}

#[test]
fn fences_order_what_waits_behind_what_updates() {
    let mut order = Order::default();
    for _ in 0..5 {
        assert!(commit(&mut order, pass(true, 0..10, true)).1);
    }
    let mut beside = pass(true, 0..10, true);
    beside.waits.clear();
    assert!(!commit(&mut order, beside).1);
}

#[test]
fn what_has_run_is_in_the_way_until_somebody_saw_that() {
    let mut order = Order::default();
    let (first, _) = commit(&mut order, pass(false, 0..10, true));
    order.through(first);
    assert!(!commit(&mut order, pass(false, 0..10, true)).1);
    let signal = signalled(&mut order, pass(false, 20..30, true), 1);
    order.see(EVENT, 1);
    assert!(
        !commit(&mut order, pass(false, 20..22, true)).1,
        "it was not raised"
    );
    order.raise(EVENT, signal);
    order.see(EVENT, 1);
    assert!(!commit(&mut order, pass(false, 20..22, true)).1, "known");
    let signal = signalled(&mut order, pass(false, 40..50, true), 2);
    order.raise(EVENT, signal);
    order.see(EVENT, 2);
    assert!(commit(&mut order, pass(false, 40..50, true)).1);
}

#[test]
fn a_signal_of_the_host_proves_nothing() {
    let mut order = Order::default();
    signalled(&mut order, pass(false, 0..10, true), 1);
    order.raise_by_host(EVENT, 1);
    order.see(EVENT, 1);
    assert!(!commit(&mut order, pass(false, 0..10, true)).1);
}

#[test]
fn what_was_seen_of_one_pass_stands_for_all_before_it() {
    let mut order = Order::default();
    for value in 1..=3 {
        let signal = signalled(
            &mut order,
            pass(true, value * 10..value * 10 + 10, true),
            value,
        );
        order.raise(EVENT, signal);
    }
    order.see(EVENT, 2);
    assert!(commit(&mut order, pass(false, 10..30, true)).1);
    assert!(!commit(&mut order, pass(false, 39..40, true)).1);
}

#[test]
fn a_lost_queue_does_nothing_once_it_is_through() {
    let mut order = Order::default();
    let (begun, _) = commit(&mut order, pass(false, 0..10, true));
    let (waiting, _) = commit(&mut order, pass(false, 10..20, true));
    order.commit(OTHER, pass(false, 20..30, true), &mut Read::default());
    order.begin(begun);
    order.through(waiting);
    order.lose(QUEUE);
    let (number, _) = order.commit(OTHER, pass(false, 30..40, true), &mut Read::default());
    assert!(
        order.touched.has(&(10..11), |_| false),
        "until it is through"
    );
    order.through(number);
    order.through(begun);
    assert!(commit(&mut order, pass(false, 0..20, true)).1);
    assert!(
        !commit(&mut order, pass(false, 20..30, true)).1,
        "another queue's"
    );
}

#[test]
fn memory_that_is_given_out_again_was_touched_by_nobody() {
    let mut order = Order::default();
    commit(&mut order, pass(false, 0..20, true));
    order.forget_memory(5..10);
    assert!(commit(&mut order, pass(false, 5..10, true)).1);
    assert!(!commit(&mut order, pass(false, 4..5, true)).1);
}

#[test]
fn events_order_command_buffers_and_signals_stand_for_their_own_alone() {
    let mut order = Order::default();
    let mut one = Read::default();
    order.commit(QUEUE, pass(false, 0..10, true), &mut one);
    order.signal(EVENT, 3, &one);
    let mut other = Read::default();
    order.wait(EVENT, 2, &mut other);
    let (_, violation) = order.commit(OTHER, pass(false, 0..10, true), &mut other);
    assert_eq!(violation, None, "it waited for what signals 3");
    // A signal in a command buffer that comes later says nothing of the passes before it.
    order.signal(EVENT, 4, &Read::default());
    let mut late = Read::default();
    order.wait(EVENT, 4, &mut late);
    let (_, violation) = order.commit(OTHER, pass(false, 0..10, true), &mut late);
    assert_eq!(violation.map(|broken| broken.rule), Some(Rule::Ordered));
}

/// The GPU may give the later one first, unless it is behind the other.
#[test]
fn who_waits_for_a_value_may_be_let_go_by_a_later_signal() {
    for behind in [true, false] {
        let mut order = Order::default();
        signalled(&mut order, pass(behind, 0..10, true), 1);
        signalled(&mut order, pass(behind, 10..20, true), 2);
        let mut read = Read::default();
        order.wait(EVENT, 1, &mut read);
        let (_, violation) = order.commit(OTHER, pass(false, 0..10, true), &mut read);
        assert_eq!(violation.is_none(), behind);
    }
}

#[test]
fn a_pass_knows_of_the_mapping_updates_that_it_waited_for() {
    let mut order = Order::default();
    let (mut queue, mut read) = (Read::default(), Read::default());
    let first = order.update(0..10, &mut queue).0;
    order.signal(EVENT, 1, &queue);
    let second = order.update(0..10, &mut queue).0;
    order.signal(EVENT, 2, &queue);
    order.commit(QUEUE, pass(true, 0..10, true), &mut read);
    assert_eq!(read.mapped(), 0);
    order.wait(EVENT, 1, &mut read);
    order.commit(QUEUE, pass(true, 0..10, true), &mut read);
    assert_eq!(read.mapped(), first);
    // Behind it by the fence alone.
    let mut later = Read::default();
    order.commit(QUEUE, pass(true, 0..10, true), &mut later);
    assert_eq!(later.mapped(), first);
    order.wait(EVENT, 2, &mut later);
    order.commit(QUEUE, pass(true, 0..10, true), &mut later);
    assert_eq!(later.mapped(), second);
    order.commit(QUEUE, pass(false, 20..30, true), &mut read);
    assert_eq!(read.mapped(), first, "waited for in this command buffer");
}

#[test]
fn mappings_are_changed_under_nobody() {
    let mut order = Order::default();
    let signal = signalled(&mut order, pass(false, 0..10, false), 1);
    let mut queue = Read::default();
    assert_eq!(order.update(10..20, &mut queue).1, None);
    let (_, violation) = order.update(5..20, &mut queue);
    assert_eq!(violation.map(|broken| broken.rule), Some(Rule::Ordered));
    order.raise(EVENT, signal);
    order.see(EVENT, 1);
    assert_eq!(order.update(5..20, &mut queue).1, None);
}

/// That the host has seen it is no order on the GPU's timeline.
#[test]
fn a_mapping_update_that_the_host_has_seen_was_not_waited_for() {
    let mut order = Order::default();
    let mut queue = Read::default();
    let (update, _) = order.update(0..10, &mut queue);
    let signal = order.signal(EVENT, 1, &queue);
    order.raise(EVENT, signal);
    let mut read = Read::default();
    order.see(EVENT, 1);
    order.commit(QUEUE, pass(true, 0..10, true), &mut read);
    assert_eq!(read.mapped(), 0);
    order.wait(EVENT, 1, &mut read);
    order.commit(QUEUE, pass(true, 0..10, true), &mut read);
    assert_eq!(read.mapped(), update);
}

#[test]
fn passes_of_one_command_buffer_run_beside_each_other_too() {
    let mut order = Order::default();
    let mut read = Read::default();
    order.commit(QUEUE, pass(false, 0..10, true), &mut read);
    let (_, violation) = order.commit(QUEUE, pass(false, 0..10, true), &mut read);
    assert!(violation.is_some());
}

/// Commits so many passes, of two queues in turn or without a fence, each with a signal that nobody looks at.
fn many(order: &mut Order, count: u64, with: impl Fn(u64) -> (QueueNumber, Pass)) {
    for number in 0..count {
        let (queue, pass) = with(number);
        let mut read = Read::default();
        let (pass, violation) = order.commit(queue, pass, &mut read);
        assert_eq!(violation, None, "{number}");
        order.through(pass);
        let event = usize::try_from(queue).unwrap() + 10;
        let signal = order.signal(event, number + 1, &read);
        order.raise(event, signal);
    }
}

#[test]
fn little_is_kept_of_queues_that_never_wait_for_each_other() {
    let mut order = Order::default();
    commit(&mut order, pass(false, 100..110, true));
    many(&mut order, 1000, |number| {
        let queue = number % 2 + 1;
        let mut fenced = pass(false, queue * 10..queue * 10 + 10, true);
        fenced.waits.push(usize::try_from(queue).unwrap());
        fenced.updates = fenced.waits.clone();
        (queue, fenced)
    });
    assert_eq!(order.chains.len(), 3);
    assert_eq!(order.fences[&FENCE].iter().count(), 1);
    assert!(
        !commit(&mut order, pass(true, 100..110, true)).1,
        "nobody saw its end"
    );
}

#[test]
fn little_is_kept_of_what_nobody_looks_at() {
    /// Several times what is remembered.
    const MANY: u64 = 4 * OPEN_MAX as u64;
    let mut order = Order::default();
    let (hung, _) = commit(&mut order, pass(false, 0..8, true));
    // In order; then each by itself, as readers of one range, and elsewhere.
    many(&mut order, MANY, |_| (QUEUE, pass(true, 8..16, true)));
    many(&mut order, MANY, |_| (QUEUE, pass(false, 16..24, false)));
    many(&mut order, MANY, |number| {
        (QUEUE, pass(false, 100 + number * 8..108 + number * 8, true))
    });
    assert!(order.touched.len() + order.chains.len() <= 2 * OPEN_MAX);
    assert!(
        !commit(&mut order, pass(false, 0..8, true)).1,
        "it hangs still"
    );
    order.through(hung);
    // The last are known as exactly as ever.
    let last = 100 + (MANY - 1) * 8;
    assert!(!commit(&mut order, pass(false, last..last + 1, true)).1);
}
