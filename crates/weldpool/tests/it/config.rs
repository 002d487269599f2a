//! Wrong configurations are errors that name the field.

use std::sync::Arc;

use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Config, ErrorKind};

#[test]
fn wrong_values_are_named() {
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 6] = [
        ("alignment", |config| config.alignment = 128),
        ("alignment", |config| config.alignment = 3000),
        ("segment_bytes_min", |config| config.segment_bytes_min = 0),
        ("segment_bytes_min", |config| {
            config.segment_bytes_min = config.segment_bytes_max + 1
        }),
        ("segment_bytes_max", |config| {
            config.segment_bytes_max = usize::MAX
        }),
        ("reserved_bytes_max", |config| {
            config.reserved_bytes_max = Some(0)
        }),
    ];
    for (field, change) in cases {
        let mut config = Config::default();
        change(&mut config);
        let device = Arc::new(HostDevice::new().unwrap());
        let error = Allocator::builder(device)
            .config(config)
            .build()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains(field),
            "{field} is missing in {error}"
        );
    }
}
