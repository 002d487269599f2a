//! The adaptive strategy against the default configuration on the recorded traces, on the host. A replay on one
//! thread is deterministic but for which allocations are samples.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weldpool::device::host::HostDevice;
use weldpool::strategy::Adaptive;
use weldpool::trace::{Reader, Replay, ReplayOptions, ReplayReport, Target, read_all};
use weldpool::{Allocator, Config, ErrorKind};

use crate::trace::RECORDED;

fn replay(trace: &str, config: &Config) -> ReplayReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces");
    let reader = Reader::open(path.join(format!("{trace}.csv.gz"))).unwrap();
    let (events, _) = read_all(reader).unwrap();
    let make = || {
        let device = Arc::new(HostDevice::new()?);
        let allocator = Allocator::builder(device).config(config.clone()).build()?;
        Ok(Target::new(allocator))
    };
    let once = ReplayOptions {
        mean_pass: false,
        ..ReplayOptions::default()
    };
    Replay::new(once).run(&events, make).unwrap()
}

#[test]
fn it_is_tighter_than_the_default_or_calls_less_on_each_trace_and_is_clearly_better_on_three() {
    // One for all: each allocator learns for itself.
    let adaptive = Config {
        strategy: Some(Arc::new(Adaptive::default())),
        ..Config::default()
    };
    let mut clearly = Vec::new();
    for trace in RECORDED {
        let (ours, default) = (replay(trace, &adaptive), replay(trace, &Config::default()));
        let (calls, ratio) = (ours.driver_calls, ours.reserved_over_live);
        let words = format!(
            "{trace}: {ratio} and {calls} calls; default {} and {}",
            default.reserved_over_live, default.driver_calls
        );
        assert_eq!(ours.failures, 0, "{words}");
        // Half the slack may cost some calls, and more where hardly any are made.
        let tighter = ratio + 0.004 <= default.reserved_over_live;
        let few = 4 * calls <= 5 * default.driver_calls || 300 * calls <= ours.events;
        assert!(calls <= default.driver_calls || tighter && few, "{words}");
        assert!(ratio <= default.reserved_over_live + 0.0002, "{words}");
        // 5/1024 of slack, and half a megabyte.
        assert!(ratio <= 1.0055, "{words}");
        let fewer_calls = 10 * calls <= 9 * default.driver_calls;
        if fewer_calls || ratio + 0.005 <= default.reserved_over_live {
            clearly.push(words);
        }
    }
    assert!(clearly.len() >= 3, "{clearly:?}");
}

#[test]
fn the_ratio_that_it_may_reach_can_be_chosen() {
    let with = |ratio_max| Config {
        strategy: Some(Arc::new(
            Adaptive::new(ratio_max, Duration::from_millis(2)).unwrap(),
        )),
        ..Config::default()
    };
    let tight = replay("resnet_train", &with(1.0));
    let usual = replay("resnet_train", &with(1.005));
    assert!(tight.reserved_over_live <= 1.001, "{tight:?}");
    assert!(
        tight.driver_calls > usual.driver_calls,
        "{tight:?} {usual:?}"
    );
    let error = Adaptive::new(0.5, Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}
