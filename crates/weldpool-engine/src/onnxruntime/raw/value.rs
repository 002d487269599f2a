//! Tensors of the library.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use ort_sys as sys;

use super::{Api, MemoryInfo, Result, ShapeInfo, Status, handle};
use crate::DataType;

/// A tensor of the library: over memory borrowed for `'d`, or over memory of its own.
#[derive(Debug)]
pub(in crate::onnxruntime) struct Value<'d> {
    pub(super) api: Api,
    pub(super) handle: NonNull<sys::OrtValue>,
    pub(super) data: PhantomData<&'d mut [u8]>,
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from the library and is released here only.
        unsafe { (self.api.table.ReleaseValue)(self.handle.as_ptr()) };
    }
}

impl<'d> Value<'d> {
    /// A tensor over memory that a run only reads.
    pub(in crate::onnxruntime) fn reading(
        info: &MemoryInfo,
        data_type: DataType,
        shape: &[i64],
        bytes: &'d [u8],
    ) -> Result<Value<'d>> {
        // The library reads inputs only; its signature says otherwise for want of a const variant.
        Self::over(
            info,
            data_type,
            shape,
            bytes.as_ptr().cast_mut(),
            bytes.len(),
        )
    }

    /// A tensor over memory that a run writes.
    pub(in crate::onnxruntime) fn writing(
        info: &MemoryInfo,
        data_type: DataType,
        shape: &[i64],
        bytes: &'d mut [u8],
    ) -> Result<Value<'d>> {
        Self::over(info, data_type, shape, bytes.as_mut_ptr(), bytes.len())
    }

    fn over(
        info: &MemoryInfo,
        data_type: DataType,
        shape: &[i64],
        data: *mut u8,
        len: usize,
    ) -> Result<Value<'d>> {
        if data_type == DataType::Bytes {
            return Err(Status::refused("byte strings have no memory to borrow"));
        }
        let mut value = ptr::null_mut();
        // SAFETY: the description is alive; the memory is valid for the length given and, by the
        // lifetime, for as long as the value; the library checks shape and length against each
        // other; `value` is valid for writing.
        let status = unsafe {
            (info.api.table.CreateTensorWithDataAsOrtValue)(
                info.handle.as_ptr(),
                data.cast::<c_void>(),
                len,
                shape.as_ptr(),
                shape.len(),
                element_type(data_type),
                &raw mut value,
            )
        };
        info.api.check(status)?;
        Ok(Value {
            api: info.api,
            handle: handle(value)?,
            data: PhantomData,
        })
    }

    /// A tensor of byte strings, all empty, in memory of the library's.
    pub(in crate::onnxruntime) fn strings(api: Api, shape: &[i64]) -> Result<Value<'d>> {
        let allocator = api.default_allocator()?;
        let mut value = ptr::null_mut();
        // SAFETY: the allocator is alive as long as the library, the shape has the length given,
        // `value` is valid for writing.
        let status = unsafe {
            (api.table.CreateTensorAsOrtValue)(
                allocator.as_ptr(),
                shape.as_ptr(),
                shape.len(),
                element_type(DataType::Bytes),
                &raw mut value,
            )
        };
        api.check(status)?;
        Ok(Value {
            api,
            handle: handle(value)?,
            data: PhantomData,
        })
    }

    /// Copies a byte string into a tensor of them. The library refuses an index out of range.
    pub(in crate::onnxruntime) fn set_string(&mut self, index: usize, string: &[u8]) -> Result<()> {
        let mut room = ptr::null_mut::<c_char>();
        // SAFETY: the value is alive, borrowed mutably and, as the library checks, of strings;
        // `room` is valid for writing.
        let status = unsafe {
            (self.api.table.GetResizedStringTensorElementBuffer)(
                self.handle.as_ptr(),
                index,
                string.len(),
                &raw mut room,
            )
        };
        self.api.check(status)?;
        let room = handle(room)?;
        // SAFETY: the room has exactly the length asked for and overlaps nothing of ours.
        unsafe {
            ptr::copy_nonoverlapping(string.as_ptr(), room.as_ptr().cast::<u8>(), string.len())
        };
        Ok(())
    }

    /// The length of a byte string. The library refuses an index out of range.
    pub(in crate::onnxruntime) fn string_len(&self, index: usize) -> Result<usize> {
        let mut len = 0;
        // SAFETY: the value is alive and `len` valid for writing.
        let status = unsafe {
            (self.api.table.GetStringTensorElementLength)(self.handle.as_ptr(), index, &raw mut len)
        };
        self.api.check(status)?;
        Ok(len)
    }

    /// Copies a byte string out; `room` has its length.
    pub(in crate::onnxruntime) fn get_string(&self, index: usize, room: &mut [u8]) -> Result<()> {
        // SAFETY: the value is alive; the library writes at most the length given.
        let status = unsafe {
            (self.api.table.GetStringTensorElement)(
                self.handle.as_ptr(),
                room.len(),
                index,
                room.as_mut_ptr().cast::<c_void>(),
            )
        };
        self.api.check(status)
    }

    /// The number of the element type, and the shape. Fails if this is not a tensor.
    pub(in crate::onnxruntime) fn tensor(&self) -> Result<(i32, Vec<i64>)> {
        let mut is_tensor = 0;
        // SAFETY: the value is alive and `is_tensor` valid for writing.
        let status = unsafe { (self.api.table.IsTensor)(self.handle.as_ptr(), &raw mut is_tensor) };
        self.api.check(status)?;
        if is_tensor == 0 {
            return Err(Status::refused("the value is not a tensor"));
        }
        let mut info = ptr::null_mut();
        // SAFETY: the value is alive and `info` valid for writing.
        let status =
            unsafe { (self.api.table.GetTensorTypeAndShape)(self.handle.as_ptr(), &raw mut info) };
        self.api.check(status)?;
        let info = ShapeInfo {
            api: self.api,
            handle: handle(info)?,
        };
        Ok((
            self.api.element_type(info.handle)?,
            self.api.dimensions(info.handle)?,
        ))
    }

    /// Where a tensor of numbers begins; `None` if it has no memory.
    pub(super) fn address(&self) -> Result<Option<NonNull<u8>>> {
        let mut data = ptr::null_mut();
        // SAFETY: the value is alive and `data` valid for writing.
        let status =
            unsafe { (self.api.table.GetTensorMutableData)(self.handle.as_ptr(), &raw mut data) };
        self.api.check(status)?;
        Ok(NonNull::new(data.cast::<u8>()))
    }

    /// The bytes of a tensor of numbers.
    pub(in crate::onnxruntime) fn bytes(&self) -> Result<&[u8]> {
        let (element_type, dims) = self.tensor()?;
        let size = data_type(element_type)
            .and_then(DataType::byte_size)
            .ok_or_else(|| Status::refused("the tensor's elements have no fixed size"))?;
        let len = dims
            .iter()
            .try_fold(size, |len, dim| {
                len.checked_mul(usize::try_from(*dim).ok()?)
            })
            .ok_or_else(|| Status::refused("the tensor's size cannot be counted"))?;
        match self.address()? {
            // SAFETY: a tensor of this type and shape has `len` bytes, initialised by the run that
            // made it; they live as long as the value, which is borrowed.
            Some(data) if len > 0 => Ok(unsafe { std::slice::from_raw_parts(data.as_ptr(), len) }),
            _ => Ok(&[]),
        }
    }
}

/// The library's number for an element type.
fn element_type(data_type: DataType) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as Onnx;
    match data_type {
        DataType::Bool => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Fp32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        DataType::Bf16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    }
}

/// The element type of a number of the library's, if Triton has it.
pub(in crate::onnxruntime) fn data_type(number: i32) -> Option<DataType> {
    DataType::ALL
        .into_iter()
        .find(|data_type| element_type(*data_type) as i32 == number)
}
