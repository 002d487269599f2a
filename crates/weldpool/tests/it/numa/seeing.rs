//! Nodes in reports and metrics.

use weldpool::prometheus::{self, Pool};
use weldpool::{Config, ReportOptions};

use super::{allocator, devices, nodes, on};

#[test]
fn reports_and_metrics_have_nodes_where_there_are_some() {
    for device in devices(&nodes(2, None)) {
        let allocator = allocator(&device, Config::default());
        let kept = on(1, || allocator.allocate(3 << 20).unwrap());
        let stats = allocator.stats();
        let pool = Pool {
            name: "p",
            stats: &stats,
            samples: None,
            classes: false,
        };
        let text = prometheus::text(&[pool]);
        let value = |metric: &str, node: u32| {
            let start = format!("weldpool_pool_node_{metric}{{pool=\"p\",node=\"{node}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("{start} is missing in {text}"))
                .parse::<u64>()
                .unwrap()
        };
        assert_eq!(value("reserved_bytes", 0), 0);
        assert_eq!(value("reserved_bytes", 1), stats.reserved.value);
        assert_eq!(value("local_allocations_total", 1), 1);
        assert_eq!(value("remote_allocations_total", 1), 0);

        let report = allocator.report();
        let arena = report
            .arenas
            .iter()
            .find(|arena| arena.segments > 0)
            .unwrap();
        assert_eq!(arena.node, Some(1));
        let text = report.text(&ReportOptions::default());
        let heading = text
            .lines()
            .position(|line| line == "Nodes of memory")
            .unwrap();
        let row: Vec<_> = text
            .lines()
            .nth(heading + 3)
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(row[0], "1", "{text}");
        drop(kept);
    }
    let device = devices(&nodes(1, None)).into_iter().next().unwrap();
    let allocator = allocator(&device, Config::default());
    assert!(
        !allocator
            .report()
            .text(&ReportOptions::default())
            .contains("Nodes of memory")
    );
}

#[cfg(feature = "serde")]
#[test]
fn json_has_nodes() {
    let [device, _] = devices(&nodes(2, None));
    let allocator = allocator(&device, Config::default());
    let _kept = on(1, || allocator.allocate(3 << 20).unwrap());
    let json = serde_json::to_value(allocator.stats()).unwrap();
    assert_eq!(json["nodes"][1]["number"], 1);
    assert_eq!(json["nodes"][1]["local_allocations"], 1);
    assert_eq!(
        json["nodes"][1]["reserved"]["value"],
        json["reserved"]["value"]
    );
}
