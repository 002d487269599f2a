//! The devices of this machine.

use crate::device::Device;
#[cfg(all(target_os = "linux", feature = "cuda"))]
use crate::device::cuda::CudaDevice;
use crate::device::fake::{FakeApple, FakeDiscrete};
use crate::device::host::HostDevice;
#[cfg(target_os = "macos")]
use crate::device::metal;
use crate::env::{self, Environment};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;
use crate::transfer::{Copied, Copier, Destination, Source};

/// Lists the devices of this machine, and copies between their memories.
#[derive(Debug)]
pub struct Runtime {
    devices: Vec<Arc<dyn Device>>,
    absent: Vec<Absent>,
    copier: Copier,
}

/// A kind of device, or one of a kind, that cannot be used here.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Absent {
    /// The name by which it would be opened.
    pub name: String,
    /// Why it cannot.
    pub error: Error,
}

impl Runtime {
    /// Kinds of device that [`open_device`](Self::open_device) knows.
    pub const DEVICE_NAMES: [&'static str; 5] =
        ["host", "metal", "cuda", "fake:discrete", "fake:apple"];

    /// Those of them that are made of software.
    pub const SOFTWARE_DEVICE_NAMES: [&'static str; 2] = ["fake:discrete", "fake:apple"];

    /// Opens every real device there is; the host comes first, then GPUs through Metal, then NVIDIA's. What cannot be
    /// opened is no error, but among the [`absent`](Self::absent).
    ///
    /// # Errors
    ///
    /// What opening the host says; see [`HostDevice::new`].
    pub fn open() -> Result<Self> {
        let mut runtime = Self {
            devices: vec![Arc::new(HostDevice::new()?)],
            absent: Vec::new(),
            copier: Copier::new()?,
        };
        runtime.open_all("metal", metal_count(), open_metal);
        runtime.open_all("cuda", cuda_count(), open_cuda);
        Ok(runtime)
    }

    /// Opens the devices of a kind that its driver shows.
    fn open_all(
        &mut self,
        kind: &str,
        count: Result<u32>,
        open: impl Fn(u32) -> Result<Arc<dyn Device>>,
    ) {
        let count = count.and_then(|count| match count {
            0 => Err(Error::new(
                ErrorKind::Unsupported,
                "the driver shows no device",
            )),
            count => Ok(count),
        });
        match count {
            Ok(count) => {
                for ordinal in 0..count {
                    match open(ordinal) {
                        Ok(device) => self.devices.push(device),
                        Err(error) => self.note_absent(format!("{kind}:{ordinal}"), error),
                    }
                }
            }
            Err(error) => self.note_absent(kind.into(), error),
        }
    }

    fn note_absent(&mut self, name: String, error: Error) {
        self.absent.push(Absent { name, error });
    }

    /// Opens one device by name, with its number behind a further colon if it is not the first of its
    /// kind: `host`, `metal`, `cuda`, `cuda:1`, `fake:discrete`, `fake:apple`. Of those made of software there
    /// are as many as there are numbers, 65,536.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for a name that there is not, saying which there
    /// are; otherwise what opening the device says.
    pub fn open_device(name: &str) -> Result<Arc<dyn Device>> {
        let unknown = || {
            // What is echoed has an end, since it came from outside.
            let given: String = name.chars().take(64).collect();
            Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "there is no device {given:?}; there are {}, each with an optional :NUMBER",
                    Self::DEVICE_NAMES.join(", ")
                ),
            )
        };
        let (kind, ordinal) = Self::parse(name).ok_or_else(unknown)?;
        match (kind, ordinal) {
            ("host", _) => Ok(Arc::new(HostDevice::new()?)),
            ("metal", _) => open_metal(ordinal.into()),
            ("cuda", _) => open_cuda(ordinal.into()),
            ("fake:discrete", _) => Ok(Arc::new(FakeDiscrete::builder().ordinal(ordinal).build()?)),
            ("fake:apple", _) => Ok(Arc::new(FakeApple::builder().ordinal(ordinal).build()?)),
            _ => Err(unknown()),
        }
    }

    /// The kind and number that a name stands for.
    fn parse(name: &str) -> Option<(&'static str, u16)> {
        Self::DEVICE_NAMES.iter().find_map(|&kind| {
            let rest = name.strip_prefix(kind)?;
            let ordinal = match rest.strip_prefix(':') {
                None if rest.is_empty() => 0,
                None => return None,
                // `parse` would take a sign too.
                Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    digits.parse::<u16>().ok()?
                }
                Some(_) => return None,
            };
            // There is one host.
            (kind != "host" || ordinal == 0).then_some((kind, ordinal))
        })
    }

    /// Opens the device that the variable `METAL_DEVICE_ID` names: by its position among
    /// [`devices`](Self::devices), or by name as [`open_device`](Self::open_device) does. Without it, the
    /// first device.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the variable when there is no such device;
    /// otherwise what opening the device says.
    pub fn default_device() -> Result<Arc<dyn Device>> {
        Self::device_of(Environment::read()?.device.as_deref())
    }

    fn device_of(id: Option<&str>) -> Result<Arc<dyn Device>> {
        let number = match id {
            None => Some("0"),
            Some(id) => Some(id).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())),
        };
        match (number, id) {
            // The host comes first, and opening it opens nothing else.
            (Some("0"), _) => Ok(Arc::new(HostDevice::new()?)),
            (Some(number), _) => {
                let devices = Self::open()?.devices;
                let count = devices.len();
                let position = number.parse::<usize>().ok();
                let device = position.and_then(|position| devices.into_iter().nth(position));
                device.ok_or_else(|| {
                    let known = format!("below {count}, the number of devices, or a device's name");
                    env::wrong(env::DEVICE_ID, number, &known)
                })
            }
            (None, id) => {
                let id = id.unwrap_or_default();
                if Self::parse(id).is_none() {
                    let known = format!("a number, or one of {}", Self::DEVICE_NAMES.join(", "));
                    return Err(env::wrong(env::DEVICE_ID, id, &known));
                }
                Self::open_device(id).map_err(|error| {
                    let error = error.within(format_args!("{} is {id:?}", env::DEVICE_ID));
                    match error.kind() {
                        ErrorKind::InvalidRequest => {
                            Error::with_message(ErrorKind::InvalidConfig, error.to_string())
                        }
                        _ => error,
                    }
                })
            }
        }
    }

    /// The devices, the host first.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    /// Copies all of the source to the start of the destination, whatever devices they are of, and returns when it
    /// is there. For copies with offsets, in rows, or not waited for, and for statistics: [`copier`](Self::copier).
    ///
    /// # Errors
    ///
    /// As for [`Copier::copy_with`].
    pub fn copy<'a>(
        &self,
        source: impl Into<Source<'a>>,
        destination: impl Into<Destination<'a>>,
    ) -> Result<Copied> {
        self.copier.copy(source, destination)
    }

    /// What copies.
    #[must_use]
    pub fn copier(&self) -> &Copier {
        &self.copier
    }

    /// What there might be and is not, and why.
    #[must_use]
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }
}

#[cfg(target_os = "macos")]
fn metal_count() -> Result<u32> {
    Ok(metal::count())
}

#[cfg(target_os = "macos")]
fn open_metal(ordinal: u32) -> Result<Arc<dyn Device>> {
    metal::open(ordinal, metal::MetalConfig::default())
}

#[cfg(not(target_os = "macos"))]
fn no_metal() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this build has no Metal; it needs macOS",
    )
}

#[cfg(not(target_os = "macos"))]
fn metal_count() -> Result<u32> {
    Err(no_metal())
}

#[cfg(not(target_os = "macos"))]
fn open_metal(_ordinal: u32) -> Result<Arc<dyn Device>> {
    Err(no_metal())
}

#[cfg(all(target_os = "linux", feature = "cuda"))]
fn cuda_count() -> Result<u32> {
    CudaDevice::count()
}

#[cfg(all(target_os = "linux", feature = "cuda"))]
fn open_cuda(ordinal: u32) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(CudaDevice::open(ordinal)?))
}

#[cfg(not(all(target_os = "linux", feature = "cuda")))]
fn no_cuda() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "this build has no CUDA; it needs Linux and the crate's feature \"cuda\"",
    )
}

#[cfg(not(all(target_os = "linux", feature = "cuda")))]
fn cuda_count() -> Result<u32> {
    Err(no_cuda())
}

#[cfg(not(all(target_os = "linux", feature = "cuda")))]
fn open_cuda(_ordinal: u32) -> Result<Arc<dyn Device>> {
    Err(no_cuda())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_open_by_name_and_number() {
        for (name, expected) in [
            ("host", "host:0"),
            ("host:0", "host:0"),
            ("fake:discrete", "fake:discrete:0"),
            ("fake:discrete:3", "fake:discrete:3"),
            ("fake:apple:65535", "fake:apple:65535"),
        ] {
            let device = Runtime::open_device(name).unwrap();
            let properties = device.properties();
            let opened = format!("{}:{}", properties.kind.name(), properties.ordinal);
            assert_eq!(opened, expected);
        }
    }

    #[test]
    fn the_variable_names_a_device_by_position_or_name() {
        for (id, expected) in [
            (None, "host:0"),
            (Some("0"), "host:0"),
            (Some("host"), "host:0"),
            (Some("fake:apple:2"), "fake:apple:2"),
        ] {
            let device = Runtime::device_of(id).unwrap();
            let properties = device.properties();
            let opened = format!("{}:{}", properties.kind.name(), properties.ordinal);
            assert_eq!(opened, expected);
        }
        // What is known and not here names the variable too.
        if let Err(error) = Runtime::device_of(Some("cuda:65535")) {
            let text = error.to_string();
            assert!(
                text.starts_with("METAL_DEVICE_ID is \"cuda:65535\": "),
                "{text}"
            );
        }
        for id in ["999", "99999999999999999999", "-1", "gpu", "host:7"] {
            let error = Runtime::device_of(Some(id)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{id}");
            assert!(error.to_string().starts_with("METAL_DEVICE_ID"), "{error}");
        }
    }

    #[cfg(all(target_os = "linux", feature = "cuda"))]
    #[test]
    fn a_driver_that_cannot_be_loaded_comes_with_the_loaders_words() {
        let runtime = Runtime::open().unwrap();
        for absent in runtime.absent() {
            let text = absent.error.to_string();
            if let Some(said) = text.strip_prefix("no CUDA driver: ") {
                let names = ["libcuda.so.1: ", "libcuda.so: "];
                assert!(names.iter().all(|name| said.contains(name)), "{said}");
            }
        }
    }

    #[test]
    fn wrong_names_are_errors_that_say_what_there_is() {
        let long = "x".repeat(100_000);
        for name in [
            "",
            "hos",
            "hosts",
            "host:",
            "host:1",
            "host:00x",
            "fake",
            "fake:",
            "fake:discrete:",
            "fake:discrete:+1",
            "fake:apple:65536",
            "fake:apple:0:0",
            &long,
        ] {
            let error = Runtime::open_device(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{name:.20}");
            let text = error.to_string();
            assert!(
                text.contains("host, metal, cuda, fake:discrete, fake:apple"),
                "{text}"
            );
            assert!(text.len() < 300);
        }
    }
}
