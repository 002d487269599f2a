//! What it costs to make memory of the program known to the device, and when that pays beside a copy.

#![allow(unsafe_code)]

use std::time::Instant;

use super::driver::address_of;
use super::{MIB, Suite, failed, private, size};
use crate::error::{Error, ErrorKind, Result};
use crate::report::Better;

const SIZES: [usize; 3] = [MIB, 16 * MIB, 256 * MIB];

/// The memory that a call gave back before, to be used by the next.
fn again(slot: &mut Option<Vec<u8>>) -> Result<Vec<u8>> {
    let gone = || Error::new(ErrorKind::Environment, "a registration kept its memory");
    slot.take().ok_or_else(gone)
}

impl Suite<'_> {
    /// Registration and release of touched pageable memory, beside the driver's functions alone and beside a staged
    /// copy of the same bytes.
    pub(super) fn registrations(&mut self) -> Result<()> {
        for bytes in SIZES {
            let case = format!("registration, {}", size(bytes));
            if !self.options.wants(&case) {
                continue;
            }
            let mut memory = Some(vec![1_u8; bytes]);
            let [register, release] = self.time_parts(|| {
                let bytes = again(&mut memory)?;
                let start = Instant::now();
                let registered = self.allocator.register(bytes);
                let register = start.elapsed();
                let registered = registered.map_err(|refused| failed(refused.error))?;
                let start = Instant::now();
                let bytes = registered.into_inner();
                let release = start.elapsed();
                memory = Some(bytes.map_err(|refused| failed(refused.error))?);
                Ok([register, release])
            })?;
            let read_in_place = self.time(|| {
                let registered = self.allocator.register(again(&mut memory)?);
                let registered = registered.map_err(|refused| failed(refused.error))?;
                let at = registered.binding().device_address.unwrap_or(0);
                // SAFETY: the memory is registered, of so many bytes, and the kernel is waited for.
                unsafe { self.driver.read(at, bytes) }?;
                let bytes = registered.into_inner();
                memory = Some(bytes.map_err(|refused| failed(refused.error))?);
                Ok(())
            })?;
            let mut host = again(&mut memory)?;
            self.driver.make_current()?;
            let [alone, alone_release] = self.time_parts(|| {
                let start = Instant::now();
                // SAFETY: the vector stays where it is until it is unregistered below.
                unsafe { self.driver.register(&mut host) }?;
                let register = start.elapsed();
                let start = Instant::now();
                // SAFETY: nothing was submitted that uses it.
                unsafe { self.driver.unregister(&mut host) }?;
                Ok([register, start.elapsed()])
            })?;
            let mut there = private(&self.allocator, bytes)?;
            let copy = self.time(|| {
                let copied = self.copier.copy(&host, &mut there);
                copied.map(drop).map_err(failed)
            })?;
            let at = there.binding().device_address.unwrap_or(0);
            let copy_and_read = self.time(|| {
                self.copier.copy(&host, &mut there).map_err(failed)?;
                // SAFETY: the buffer is of so many bytes, and the kernel is waited for.
                unsafe { self.driver.read(at, bytes) }
            })?;
            // What a copy of the driver's takes from memory that is registered already.
            let registered = self.allocator.register(host);
            let registered = registered.map_err(|refused| failed(refused.error))?;
            let from = registered.read::<u8>().map(|bytes| address_of(&bytes));
            let from = from.map_err(failed)?;
            self.driver.make_current()?;
            let from_registered = self.time(|| {
                // SAFETY: both are of so many bytes, and used by nobody else.
                unsafe { self.driver.copy(at, from, bytes) }
            })?;
            drop(registered);

            let (lower, both) = (Better::Lower, register + release);
            self.row(
                &case,
                "ns",
                lower,
                register,
                &[("cuMemHostRegister", alone)],
            );
            let peers = [("cuMemHostUnregister", alone_release)];
            self.row(&format!("{case}: release"), "ns", lower, release, &peers);
            let peers = [("staged copy", copy)];
            self.row(&format!("{case}: with release"), "ns", lower, both, &peers);
            let name = format!("{case}: with release, and one read by the device");
            let peers = [("staged copy and read", copy_and_read)];
            self.row(&name, "ns", lower, read_in_place, &peers);
            let name = format!("{case}: staged copies that cost as much");
            self.row(&name, "copies", lower, both / copy, &[]);
            // Each later copy saves this much; where it saves nothing, registering for copies never pays.
            let saved = copy - from_registered;
            if saved > 0.0 {
                let name = format!("{case}: copies from then on until it has paid");
                self.row(&name, "copies", lower, both / saved, &[]);
            } else {
                self.report.missing.push(format!(
                    "{case}: registering for copies never pays: a staged one takes {copy:.0} ns, one of registered \
                     memory {from_registered:.0} ns"
                ));
            }
        }
        Ok(())
    }
}
