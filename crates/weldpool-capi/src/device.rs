//! Devices: opened by name, or all there are.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::fmt;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use memory::device::cuda::CudaDevice;
use memory::device::{DeviceKind, StorageMode};
use memory::{Device, Runtime};

use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Place, given};
use crate::abi::sized::{Filled, Structure};
use crate::abi::text;
use crate::failure::{ErrorObject, Result};
use crate::storage;

/// A device: the host, a GPU, or one made of software. Thread-safe.
pub struct DeviceHandle {
    pub(crate) device: Arc<dyn Device>,
    /// The same, where it is one of CUDA.
    #[cfg(target_os = "linux")]
    pub(crate) cuda: Option<Arc<CudaDevice>>,
    name: CString,
    maker: CString,
}

impl fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceHandle").field(&self.name).finish()
    }
}

impl DeviceHandle {
    /// A device that was opened otherwise.
    pub(crate) fn of(device: Arc<dyn Device>) -> memory::Result<Self> {
        match device.properties().kind {
            // Its streams can be adopted by what is opened as one of CUDA; both are the same hardware.
            DeviceKind::Cuda => Self::open(&format!("cuda:{}", device.properties().ordinal)),
            _ => Ok(Self::new(device)),
        }
    }

    pub(crate) fn new(device: Arc<dyn Device>) -> Self {
        let properties = device.properties();
        let kind = properties.kind.name();
        let name = match properties.kind {
            DeviceKind::Host => kind.to_owned(),
            _ => format!("{kind}:{}", properties.ordinal),
        };
        Self {
            name: text::terminated(name),
            maker: text::terminated(properties.name.as_str()),
            #[cfg(target_os = "linux")]
            cuda: None,
            device,
        }
    }

    fn open(name: &str) -> memory::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(ordinal) = ordinal_of_cuda(name) {
            let cuda = Arc::new(CudaDevice::open(ordinal)?);
            return Ok(Self {
                cuda: Some(Arc::clone(&cuda)),
                ..Self::new(cuda)
            });
        }
        Runtime::open_device(name).map(Self::new)
    }
}

/// The number of a device of CUDA; none for names that are others, or wrong.
#[cfg(target_os = "linux")]
fn ordinal_of_cuda(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("cuda")?;
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest.strip_prefix(':')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse::<u16>().ok())?.map(u32::from)
}

/// What a device is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct DeviceInfo {
    /// sizeof(weldpool_device_info_t), set by the caller.
    pub struct_size: usize,
    /// The name by which it is opened, such as "cuda:0"; lives as long as the handle.
    pub name: *const c_char,
    /// The maker's name for it; lives as long as the handle.
    pub maker_name: *const c_char,
    /// 1 if host and device share one physical memory.
    pub unified: u32,
    /// Bit n is set if the device offers the storage mode n of WELDPOOL_STORAGE_*.
    pub storage_modes: u32,
    /// Physical memory in bytes.
    pub total_bytes: u64,
    /// Memory that the system could give without swapping, in bytes; 0 where it does not tell.
    pub available_bytes: u64,
    /// Largest buffer in bytes.
    pub buffer_bytes_max: u64,
    /// What is obtained from the driver is a multiple of this many bytes.
    pub granularity: u64,
    /// Least alignment of a buffer in bytes.
    pub alignment_min: u64,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for DeviceInfo {
    const NAME: &'static str = "weldpool_device_info_t";
}

/// Opens a device by name: "host", "metal", "cuda", "fake:discrete", "fake:apple", with a number behind a further colon
/// if it is not the first of its kind ("cuda:1"). Devices of one name are the same hardware, but for those made of
/// software, of which each has memory of its own.
///
/// Errors: INVALID_REQUEST for a name that there is not, which lists those there are; else what opening the device
/// says, as UNSUPPORTED where there is no driver. Free with weldpool_device_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_device_open(
    name: *const c_char,
    device: *mut *mut DeviceHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(device, "device")?;
        place.give(DeviceHandle::open(text::given(name, "name")?)?);
        Ok(())
    })
}

/// Opens the device that the environment variable METAL_DEVICE_ID names, by name or by its position among all devices;
/// without it, the host.
///
/// Errors: INVALID_CONFIG naming the variable; else as for weldpool_device_open. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_device_open_default(
    device: *mut *mut DeviceHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(device, "device")?;
        place.give(DeviceHandle::of(Runtime::default_device()?)?);
        Ok(())
    })
}

/// Fills in what a device is; its memory is asked of the system.
///
/// Errors: INVALID_ARGUMENT, or what the system says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_device_info(
    device: Option<&DeviceHandle>,
    info: *mut DeviceInfo,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let handle = given(device, "device")?;
        let filled = Filled::new(info, "info")?;
        filled.put(&info_of(handle)?);
        Ok(())
    })
}

fn info_of(handle: &DeviceHandle) -> Result<DeviceInfo> {
    let properties = handle.device.properties();
    let budget = handle.device.budget()?;
    let bit = |mode: &StorageMode| 1 << storage::number(*mode);
    Ok(DeviceInfo {
        struct_size: size_of::<DeviceInfo>(),
        name: handle.name.as_ptr(),
        maker_name: handle.maker.as_ptr(),
        unified: properties.unified.into(),
        storage_modes: properties
            .storage_modes
            .iter()
            .map(bit)
            .fold(0, |all, bit| all | bit),
        total_bytes: budget.total,
        available_bytes: budget.available.unwrap_or(0),
        buffer_bytes_max: properties.segment_bytes_max as u64,
        granularity: properties.granularity as u64,
        alignment_min: properties.alignment_min as u64,
    })
}

/// Frees a handle; allocators of the device go on. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_device_free(device: Option<Box<DeviceHandle>>) {
    infallible((), || drop(device));
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_cuda_are_taken_for_them() {
        assert_eq!(ordinal_of_cuda("cuda"), Some(0));
        assert_eq!(ordinal_of_cuda("cuda:12"), Some(12));
        for other in ["host", "cuda:", "cuda:+1", "cuda:65536", "cudax"] {
            assert_eq!(ordinal_of_cuda(other), None, "{other}");
        }
    }
}
