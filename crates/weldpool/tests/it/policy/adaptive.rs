//! The adaptive strategy against the default configuration on recorded traces.

use std::path::Path;
use std::sync::Arc;

use weldpool::device::host::HostDevice;
use weldpool::strategy::Adaptive;
use weldpool::trace::{Reader, Replay, ReplayOptions, ReplayReport, Target, read_all};
use weldpool::{Allocator, Config};

fn replay(trace: &str, config: &Config) -> ReplayReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces");
    let reader = Reader::open(path.join(format!("{trace}.csv.gz"))).unwrap();
    let (events, _) = read_all(reader).unwrap();
    let make = || {
        let device = Arc::new(HostDevice::new()?);
        let allocator = Allocator::builder(device).config(config.clone()).build()?;
        Ok(Target::new(allocator))
    };
    let replay = Replay::new(ReplayOptions::default());
    replay.run(&events, make).unwrap()
}

#[test]
fn it_stays_near_the_default_on_recorded_traces() {
    let adaptive = Config {
        strategy: Some(Arc::new(Adaptive::default())),
        ..Config::default()
    };
    for trace in ["gnn_train", "maskrcnn_train", "resnet_train"] {
        let ours = replay(trace, &adaptive);
        let default = replay(trace, &Config::default());
        let words = format!("{trace}: {ours:?} {default:?}");
        assert_eq!(ours.failures, 0, "{words}");
        assert!(ours.driver_calls * 4 <= default.driver_calls * 5, "{words}");
        assert!(
            ours.reserved_over_live <= default.reserved_over_live + 0.004,
            "{words}"
        );
    }
}
