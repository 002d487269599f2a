//! What a device says of itself.

use super::MakeDevice;

pub fn properties_and_budget_are_sane(make: MakeDevice) {
    let device = make();
    let properties = device.properties();
    assert!(properties.page_bytes.is_power_of_two());
    assert!(properties.granularity.is_multiple_of(properties.page_bytes));
    assert!(properties.alignment_min.is_power_of_two());
    assert!(properties.segment_bytes_max >= 1 << 30);
    assert!(!properties.storage_modes.is_empty());
    assert!(!properties.name.is_empty());
    let budget = device.budget().unwrap();
    assert!(budget.total > 0 && budget.ceiling() <= budget.total);
    assert!(
        budget
            .available
            .is_none_or(|available| available <= budget.total)
    );
}
