//! `libtriton_outputs.so`: a backend whose requests say what it does with its outputs.
//!
//! The input `COMMAND` is a list of 64-bit integers: responses to send, outputs of each (`OUTPUT0` and so on), bytes of
//! each, what else to do (flags below), and the type and number of the memory to ask for. Byte `i` of output `o` of
//! response `r` is `7 r + 3 o + i`, cut to eight bits.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;

use weldpool_triton_sys as sys;
use weldpool_triton_sys::{DataType, ErrorCode, Number};

/// Ask for a second buffer of each output, which Triton has to refuse.
const TWICE: i64 = 1;
/// Ask beforehand which memory an output gets, and compare.
const QUERY: i64 = 2;
/// Send an error with each response after its outputs have their buffers.
const FAIL: i64 = 4;

const RESPONSES_MAX: i64 = 1000;
const OUTPUTS_MAX: i64 = 8;

type QueryFn = unsafe extern "C" fn(
    request: *mut sys::Request,
    name: *const c_char,
    byte_size: *mut usize,
    memory_type: *mut Number,
    memory_type_id: *mut i64,
) -> *mut sys::Error;

struct Api {
    core: sys::Core,
    backend: sys::Backend,
    query: QueryFn,
}

fn api() -> Option<&'static Api> {
    static API: OnceLock<Option<Api>> = OnceLock::new();
    API.get_or_init(|| {
        let library = sys::Library::of_process();
        let query = library.symbol(c"TRITONBACKEND_RequestOutputBufferProperties")?;
        Some(Api {
            core: sys::Core::find(library).ok()?,
            backend: sys::Backend::find(library).ok()?,
            // SAFETY: Triton's function of this name has this signature.
            query: unsafe { std::mem::transmute::<ptr::NonNull<c_void>, QueryFn>(query) },
        })
    })
    .as_ref()
}

/// An error of Triton's, ours until it is deleted.
struct Failure<'a>(&'a Api, *mut sys::Error);

impl<'a> Failure<'a> {
    fn new(api: &'a Api, code: ErrorCode, message: &str) -> Failure<'a> {
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: Triton copies the text, which ends with a zero.
        Failure(api, unsafe {
            (api.core.error_new)(code.number(), message.as_ptr())
        })
    }

    fn code(&self) -> Option<ErrorCode> {
        // SAFETY: the error is ours.
        ErrorCode::of(unsafe { (self.0.core.error_code)(self.1) })
    }
}

impl Drop for Failure<'_> {
    fn drop(&mut self) {
        // SAFETY: the error is ours and not used again.
        unsafe { (self.0.core.error_delete)(self.1) }
    }
}

fn check(api: &Api, error: *mut sys::Error) -> Result<(), Failure<'_>> {
    if error.is_null() {
        Ok(())
    } else {
        Err(Failure(api, error))
    }
}

struct Command {
    responses: i64,
    outputs: i64,
    bytes: u64,
    flags: i64,
    memory_type: Number,
    memory_type_id: i64,
}

fn command<'a>(api: &'a Api, request: *mut sys::Request) -> Result<Command, Failure<'a>> {
    let mut input = ptr::null_mut();
    // SAFETY: the request is live.
    check(api, unsafe {
        (api.backend.request_input_by_index)(request, 0, &mut input)
    })?;
    let mut data = ptr::null();
    let (mut bytes, mut memory_type, mut id) = (0, 0, 0);
    // SAFETY: the input lives as long as its request.
    check(api, unsafe {
        (api.backend.input_buffer)(input, 0, &mut data, &mut bytes, &mut memory_type, &mut id)
    })?;
    let wrong = || {
        Failure::new(
            api,
            ErrorCode::InvalidArgument,
            "COMMAND is six integers in the host's memory",
        )
    };
    if bytes != 48 || memory_type != 0 || data.is_null() {
        return Err(wrong());
    }
    // SAFETY: 48 bytes of the host's memory, of any alignment.
    let words = unsafe { data.cast::<[i64; 6]>().read_unaligned() };
    let [
        responses,
        outputs,
        bytes,
        flags,
        memory_type,
        memory_type_id,
    ] = words;
    if !(1..=RESPONSES_MAX).contains(&responses) || !(0..=OUTPUTS_MAX).contains(&outputs) {
        return Err(wrong());
    }
    Ok(Command {
        responses,
        outputs,
        bytes: u64::try_from(bytes).map_err(|_| wrong())?,
        flags,
        memory_type: Number::try_from(memory_type).map_err(|_| wrong())?,
        memory_type_id,
    })
}

/// One output of a response.
fn fill<'a>(
    api: &'a Api,
    request: *mut sys::Request,
    response: *mut sys::Response,
    command: &Command,
    (number, index): (i64, i64),
) -> Result<(), Failure<'a>> {
    let name = CString::new(format!("OUTPUT{index}")).unwrap_or_default();
    let (mut expected, mut expected_id) = (command.memory_type, command.memory_type_id);
    if command.flags & QUERY != 0 {
        let mut bytes = usize::try_from(command.bytes).unwrap_or(usize::MAX);
        // SAFETY: the request is live; the name ends with a zero.
        check(api, unsafe {
            (api.query)(
                request,
                name.as_ptr(),
                &mut bytes,
                &mut expected,
                &mut expected_id,
            )
        })?;
    }
    let shape = [i64::try_from(command.bytes).unwrap_or(i64::MAX)];
    let mut output = ptr::null_mut();
    let uint8 = DataType::Uint8.number();
    // SAFETY: the response is not sent yet; Triton copies name and shape.
    check(api, unsafe {
        (api.backend.response_output)(
            response,
            &mut output,
            name.as_ptr(),
            uint8,
            shape.as_ptr(),
            1,
        )
    })?;
    let obtain = || {
        let mut buffer = ptr::null_mut();
        let (mut memory_type, mut id) = (command.memory_type, command.memory_type_id);
        // SAFETY: the output belongs to the response, which is not sent yet.
        check(api, unsafe {
            (api.backend.output_buffer)(
                output,
                &mut buffer,
                command.bytes,
                &mut memory_type,
                &mut id,
            )
        })?;
        Ok((buffer, memory_type, id))
    };
    let (buffer, memory_type, id) = obtain()?;
    if command.flags & QUERY != 0 && (memory_type, id) != (expected, expected_id) {
        return Err(Failure::new(
            api,
            ErrorCode::Internal,
            "the memory is other than was said",
        ));
    }
    if command.flags & TWICE != 0 {
        match obtain() {
            Err(failure) if failure.code() == Some(ErrorCode::AlreadyExists) => {}
            Err(failure) => return Err(failure),
            Ok(_) => {
                return Err(Failure::new(
                    api,
                    ErrorCode::Internal,
                    "a second buffer was given",
                ));
            }
        }
    }
    if memory_type == 2 {
        return Err(Failure::new(
            api,
            ErrorCode::Unsupported,
            "this backend writes the host's memory",
        ));
    }
    let first = 7 * number + 3 * index;
    for at in 0..command.bytes {
        let place = buffer.cast::<u8>();
        let value = first.wrapping_add_unsigned(at).to_le_bytes()[0];
        // SAFETY: Triton gave so many bytes of the host's memory.
        unsafe { place.add(at as usize).write(value) };
    }
    Ok(())
}

fn respond<'a>(api: &'a Api, request: *mut sys::Request) -> Result<(), Failure<'a>> {
    let read = command(api, request);
    let responses = read.as_ref().map_or(1, |command| command.responses);
    let mut failure = read.as_ref().err();
    let mut later;
    for number in 0..responses {
        let mut response = ptr::null_mut();
        // SAFETY: the request is live.
        check(api, unsafe {
            (api.backend.response_new)(&mut response, request)
        })?;
        if let Ok(command) = &read {
            later = (0..command.outputs)
                .try_for_each(|index| fill(api, request, response, command, (number, index)))
                .and_then(|()| match command.flags & FAIL {
                    0 => Ok(()),
                    _ => Err(Failure::new(
                        api,
                        ErrorCode::Cancelled,
                        "as the command wants",
                    )),
                })
                .err();
            failure = later.as_ref();
        }
        let error = failure.map_or(ptr::null_mut(), |failure| failure.1);
        let last = number + 1 == responses;
        let flags = if last {
            sys::RESPONSE_COMPLETE_FINAL
        } else {
            0
        };
        // SAFETY: the response goes; the error stays ours.
        check(api, unsafe {
            (api.backend.response_send)(response, flags, error)
        })?;
    }
    Ok(())
}

/// Refuses a server without the functions.
///
/// # Safety
/// Called by the server.
#[unsafe(export_name = "TRITONBACKEND_Initialize")]
pub unsafe extern "C" fn initialize(_backend: *mut sys::BackendHandle) -> *mut sys::Error {
    match (api(), sys::error_new(sys::Library::of_process())) {
        // SAFETY: a text that ends with a zero.
        (None, Some(error_new)) => unsafe { error_new(1, c"this Triton lacks functions".as_ptr()) },
        _ => ptr::null_mut(),
    }
}

/// Does what the requests say.
///
/// # Safety
/// Called by the server with `count` live requests.
#[unsafe(export_name = "TRITONBACKEND_ModelInstanceExecute")]
pub unsafe extern "C" fn execute(
    _instance: *mut sys::ModelInstance,
    requests: *mut *mut sys::Request,
    count: u32,
) -> *mut sys::Error {
    let Some(api) = api() else {
        return ptr::null_mut();
    };
    for index in 0..count as usize {
        // SAFETY: the server passes `count` requests.
        let request = unsafe { requests.add(index).read() };
        // What cannot be sent cannot be told either.
        let _ = respond(api, request);
        // SAFETY: the request is live and not used again.
        let _ = check(api, unsafe {
            (api.backend.request_release)(request, sys::REQUEST_RELEASE_ALL)
        });
    }
    ptr::null_mut()
}
