//! Requests.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use weldpool_response_allocator::ResponseAllocator;
use weldpool_triton_sys::{self as sys, DataType};

use super::{Response, Server, Told, server};

/// A request has to be answered within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request with one input of one dimension.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) model: &'static CStr,
    pub(crate) input: &'static CStr,
    pub(crate) data_type: DataType,
    pub(crate) shape: i64,
    pub(crate) data: Vec<u8>,
}

/// What a request is given for its outputs.
pub(crate) trait Responses {
    /// The arguments `response_allocator` and `response_allocator_userp`.
    fn pointers(&self) -> (*mut sys::ResponseAllocator, *mut c_void);
}

impl Responses for ResponseAllocator {
    fn pointers(&self) -> (*mut sys::ResponseAllocator, *mut c_void) {
        (self.as_ptr(), self.user_pointer())
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    answers: Receiver<Response>,
    // Both live until the last answer is here.
    _data: Vec<u8>,
    _allocator: PhantomData<&'a ()>,
}

impl Request {
    /// Sends it and waits for all of its answers.
    pub(crate) fn infer(
        self,
        server: &'static Server,
        allocator: &impl Responses,
    ) -> Vec<Response> {
        self.send(server, allocator).unwrap().wait()
    }

    /// Sends it.
    pub(crate) fn send<'a>(
        self,
        server: &'static Server,
        allocator: &'a impl Responses,
    ) -> Told<Pending<'a>> {
        let api = &server.embedding;
        let mut request = ptr::null_mut();
        // SAFETY: a place for the result, a live server, a name that ends with a zero.
        server.check(unsafe {
            (api.request_new)(&mut request, server.server, self.model.as_ptr(), -1)
        })?;
        let shape = [self.shape];
        // SAFETY: the request is ours; Triton copies name and shape.
        server.check(unsafe {
            (api.request_add_input)(
                request,
                self.input.as_ptr(),
                self.data_type.number(),
                shape.as_ptr(),
                1,
            )
        })?;
        // SAFETY: the request is ours; the data lives until its last answer is here.
        server.check(unsafe {
            (api.request_append_input_data)(
                request,
                self.input.as_ptr(),
                self.data.as_ptr().cast(),
                self.data.len(),
                0,
                0,
            )
        })?;
        // SAFETY: the function has this type and needs no pointer.
        server.check(unsafe {
            (api.request_set_release_callback)(request, released, ptr::null_mut())
        })?;
        let (send, answers) = mpsc::channel();
        let userp: *mut Sender<Response> = Box::into_raw(Box::new(send));
        let (response_allocator, response_allocator_userp) = allocator.pointers();
        // SAFETY: the allocator outlives the request, which `Pending` sees to; the sender lives until the last answer.
        server.check(unsafe {
            (api.request_set_response_callback)(
                request,
                response_allocator,
                response_allocator_userp,
                answered,
                userp.cast(),
            )
        })?;
        // SAFETY: the request is complete, and Triton's from here on.
        let told = unsafe { (api.server_infer_async)(server.server, request, ptr::null_mut()) };
        server.check(told)?;
        Ok(Pending {
            answers,
            _data: self.data,
            _allocator: PhantomData,
        })
    }
}

impl Pending<'_> {
    /// Waits for all answers.
    pub(crate) fn wait(self) -> Vec<Response> {
        let mut responses = Vec::new();
        // The channel ends with the last answer.
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(response) => responses.push(response),
                Err(mpsc::RecvTimeoutError::Disconnected) => return responses,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the request is not answered"),
            }
        }
    }
}

/// Triton has no use for a request any more.
unsafe extern "C" fn released(request: *mut sys::InferenceRequest, flags: u32, _: *mut c_void) {
    if flags & sys::REQUEST_RELEASE_ALL != 0
        && let Some(server) = server()
    {
        // SAFETY: the request is given back for good.
        let told = server.check(unsafe { (server.embedding.request_delete)(request) });
        if let Err(error) = told {
            eprintln!("a request was not deleted: {error:?}");
        }
    }
}

/// An answer, which is null with the last flags alone.
unsafe extern "C" fn answered(
    response: *mut sys::InferenceResponse,
    flags: u32,
    userp: *mut c_void,
) {
    let send = userp.cast::<Sender<Response>>();
    if let (false, Some(server)) = (response.is_null(), server()) {
        let response = Response::new(server, response);
        // SAFETY: the sender lives until the last answer. Who waits may have given up.
        let _ = unsafe { &*send }.send(response);
    }
    if flags & sys::RESPONSE_COMPLETE_FINAL != 0 {
        // SAFETY: made by `send`; nothing comes after the last answer.
        drop(unsafe { Box::from_raw(send) });
    }
}
