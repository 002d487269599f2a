//! `TRITONSERVER_MetricFamily` and `TRITONSERVER_Metric`: figures beside Triton's own.
#![allow(unsafe_code)]

use std::ptr;

use weldpool_triton_sys as sys;

use super::api::{Api, api, check};
use super::text;
use crate::error::{Error, Result};

/// One figure under a name of its own, with one label. Taken off Triton's list when dropped.
#[derive(Debug)]
pub(crate) struct Metric {
    api: &'static Api,
    family: *mut sys::MetricFamily,
    metric: *mut sys::Metric,
    kind: sys::MetricKind,
    last: f64,
}

// SAFETY: Triton's metrics may be used from any thread; the value itself is used by one at a time.
unsafe impl Send for Metric {}

impl Metric {
    /// Makes a figure known to Triton.
    ///
    /// # Errors
    /// What Triton says, which has metrics switched off or not compiled in.
    pub(crate) fn new(
        kind: sys::MetricKind,
        name: &str,
        help: &str,
        label: (&str, &str),
    ) -> Result<Metric> {
        let api = api()?;
        let (name, help) = (text::c_string(name), text::c_string(help));
        let label = (text::c_string(label.0), text::c_string(label.1));
        let mut metric = Metric {
            api,
            family: ptr::null_mut(),
            metric: ptr::null_mut(),
            kind,
            last: 0.0,
        };
        // SAFETY: both texts end with a zero, and Triton copies them; `family` can be written.
        check(unsafe {
            (api.core.metric_family_new)(
                &raw mut metric.family,
                kind.number(),
                name.as_ptr(),
                help.as_ptr(),
            )
        })?;
        // SAFETY: both texts end with a zero, and Triton copies them.
        let parameter = unsafe {
            (api.core.parameter_new)(
                label.0.as_ptr(),
                sys::ParameterType::String.number(),
                label.1.as_ptr().cast(),
            )
        };
        if parameter.is_null() {
            return Err(Error::internal("Triton made no label for a metric"));
        }
        let mut labels = [parameter.cast_const()];
        // SAFETY: the family is ours, the labels are as many as said, `metric` can be written.
        let made = check(unsafe {
            (api.core.metric_new)(
                &raw mut metric.metric,
                metric.family,
                labels.as_mut_ptr(),
                1,
            )
        });
        // SAFETY: the label is ours; Triton has copied it.
        unsafe { (api.core.parameter_delete)(parameter) };
        made.map(|()| metric)
    }

    /// Sets a gauge, or raises a counter to this total.
    pub(crate) fn update(&mut self, value: f64) -> Result<()> {
        let told = match self.kind {
            // SAFETY: the metric is ours.
            sys::MetricKind::Gauge => unsafe { (self.api.core.metric_set)(self.metric, value) },
            sys::MetricKind::Counter => {
                let more = value - self.last;
                if more <= 0.0 {
                    return Ok(());
                }
                // SAFETY: as above.
                unsafe { (self.api.core.metric_increment)(self.metric, more) }
            }
        };
        check(told)?;
        self.last = value;
        Ok(())
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        if !self.metric.is_null() {
            // SAFETY: the metric is ours and not used again.
            drop(check(unsafe { (self.api.core.metric_delete)(self.metric) }));
        }
        if !self.family.is_null() {
            // SAFETY: as above; its only metric is gone.
            drop(check(unsafe {
                (self.api.core.metric_family_delete)(self.family)
            }));
        }
    }
}
