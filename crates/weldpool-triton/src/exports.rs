//! The functions that Triton calls, each behind a guard against panics.
//!
//! # Safety
//! Who calls them is Triton, with pointers to its own objects that live during the call, in the
//! order of a backend's life: initialised, described, models with instances in between, finalised.
//! It runs one execution at a time on an instance, and finalises nothing that runs.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use weldpool_triton_sys as sys;

use crate::error::{Error, Result};
use crate::handles::{Attributes, Backend, Instance, Model, Request, Stateful as _, into_raw};
use crate::{backend, execute, instance, model};

/// Turns an error or a panic into an error of Triton's.
fn guard(what: &str, call: impl FnOnce() -> Result<()>) -> *mut sys::Error {
    let result = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        Err(Error::internal(format!(
            "metal_mps panicked in {what}: {}",
            panic_text(payload.as_ref())
        )))
    });
    match result {
        Ok(()) => ptr::null_mut(),
        Err(error) => into_raw(&error),
    }
}

/// What a panic said.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Called once, before everything else.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_Initialize(raw: *mut sys::BackendHandle) -> *mut sys::Error {
    guard("TRITONBACKEND_Initialize", || {
        // SAFETY: the caller's promise.
        backend::initialise(unsafe { Backend::of(raw) }?)
    })
}

/// Called once, after everything else.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_Finalize(raw: *mut sys::BackendHandle) -> *mut sys::Error {
    guard("TRITONBACKEND_Finalize", || {
        // SAFETY: the caller's promise.
        let backend = unsafe { Backend::of(raw) }?;
        // SAFETY: all models were finalised before, so nobody uses the state.
        drop(unsafe { backend.take_state() }?);
        Ok(())
    })
}

/// Asks what the backend prefers.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_GetBackendAttribute(
    _backend: *mut sys::BackendHandle,
    attributes: *mut sys::Attributes,
) -> *mut sys::Error {
    guard("TRITONBACKEND_GetBackendAttribute", || {
        // SAFETY: the caller's promise.
        backend::describe(unsafe { Attributes::of(attributes) }?)
    })
}

/// Loads a version of a model.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInitialize(raw: *mut sys::Model) -> *mut sys::Error {
    guard("TRITONBACKEND_ModelInitialize", || {
        // SAFETY: the caller's promise.
        model::initialise(unsafe { Model::of(raw) }?)
    })
}

/// Unloads a version of a model, also one that could not be loaded.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelFinalize(raw: *mut sys::Model) -> *mut sys::Error {
    guard("TRITONBACKEND_ModelFinalize", || {
        // SAFETY: the caller's promise.
        let model = unsafe { Model::of(raw) }?;
        // SAFETY: its instances were finalised before, so nobody uses the state.
        drop(unsafe { model.take_state() }?);
        Ok(())
    })
}

/// Makes an instance of a model.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceInitialize(
    raw: *mut sys::ModelInstance,
) -> *mut sys::Error {
    guard("TRITONBACKEND_ModelInstanceInitialize", || {
        // SAFETY: the caller's promise.
        instance::initialise(unsafe { Instance::of(raw) }?)
    })
}

/// Ends an instance of a model, also one that could not be made.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceFinalize(
    raw: *mut sys::ModelInstance,
) -> *mut sys::Error {
    guard("TRITONBACKEND_ModelInstanceFinalize", || {
        // SAFETY: the caller's promise.
        let instance = unsafe { Instance::of(raw) }?;
        // SAFETY: nothing runs on an instance that is finalised.
        drop(unsafe { instance.take_state() }?);
        Ok(())
    })
}

/// Asks whether an instance can run; Triton of December 2025 and later does.
///
/// # Safety
/// As for the module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceReady(
    raw: *mut sys::ModelInstance,
) -> *mut sys::Error {
    guard("TRITONBACKEND_ModelInstanceReady", || {
        // SAFETY: the caller's promise.
        let instance = unsafe { Instance::of(raw) }?;
        instance::check_ready(&instance)
    })
}

/// Runs requests. If it fails they are Triton's still; else every one was answered and given back.
///
/// # Safety
/// As for the module; `requests` are `count` requests that the backend takes over.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TRITONBACKEND_ModelInstanceExecute(
    raw: *mut sys::ModelInstance,
    requests: *mut *mut sys::Request,
    count: u32,
) -> *mut sys::Error {
    guard("TRITONBACKEND_ModelInstanceExecute", || {
        // SAFETY: the caller's promise.
        let instance = unsafe { Instance::of(raw) }?;
        let state = instance.state()?;
        let model = instance.model()?;
        let model = model.state()?;
        // SAFETY: the caller's promise.
        let requests = unsafe { Request::take_all(requests, count) }?;
        // The requests are the backend's from here on, so Triton must not be told of a failure: it
        // would answer and release them once more. A panic answers them on its way here.
        let run = || execute::execute(&instance, state, model, requests);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
            tracing::error!(
                "an execution of model '{}' panicked: {}",
                model.name,
                panic_text(payload.as_ref())
            );
        }
        Ok(())
    })
}
