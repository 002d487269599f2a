//! `TRITONSERVER_Message`: JSON over the border.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::mem::ManuallyDrop;
use std::ptr;

use weldpool_triton_sys as sys;

use super::api::{Api, check};
use crate::error::{Error, Result};

/// A message that is ours to delete.
#[derive(Debug)]
pub(super) struct Message {
    api: &'static Api,
    raw: *mut sys::Message,
}

impl Message {
    /// Takes over a message that a function of Triton's made for its caller.
    pub(super) fn take(
        api: &'static Api,
        make: impl FnOnce(*mut *mut sys::Message) -> *mut sys::Error,
    ) -> Result<Message> {
        let mut raw = ptr::null_mut();
        check(make(&raw mut raw))?;
        Ok(Message { api, raw })
    }

    /// A message with this JSON.
    pub(super) fn of_json(api: &'static Api, json: &str) -> Result<Message> {
        Message::take(api, |raw| {
            // SAFETY: the text has the length given, and Triton copies it; `raw` can be written.
            unsafe { (api.core.message_from_json)(raw, json.as_ptr().cast::<c_char>(), json.len()) }
        })
    }

    /// Reads the JSON of a message that stays Triton's.
    pub(super) fn borrowed_json(
        api: &'static Api,
        find: impl FnOnce(*mut *mut sys::Message) -> *mut sys::Error,
    ) -> Result<String> {
        let borrowed = ManuallyDrop::new(Message::take(api, find)?);
        borrowed.json()
    }

    /// The pointer, for functions that read the message.
    pub(super) fn raw(&self) -> *mut sys::Message {
        self.raw
    }

    /// The JSON.
    pub(super) fn json(&self) -> Result<String> {
        let mut base = ptr::null();
        let mut len = 0;
        // SAFETY: the message is alive; both places can be written.
        check(unsafe { (self.api.core.message_to_json)(self.raw, &raw mut base, &raw mut len) })?;
        if base.is_null() || len == 0 {
            return Ok(String::new());
        }
        // SAFETY: Triton keeps a text of this length as long as the message lives.
        let bytes = unsafe { std::slice::from_raw_parts(base.cast::<u8>(), len) };
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Error::internal("Triton gave JSON that is not UTF-8"))
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the message is ours and not used again.
        drop(check(unsafe { (self.api.core.message_delete)(self.raw) }));
    }
}
