//! Loaded models: what they say about themselves, and running them.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use ort_sys as sys;

use crate::onnxruntime::Few;

use super::{Api, Metadata, Result, RunOptions, Session, TypeInfo, Value, c_string, handle, text};

/// Inputs that a run needs or may leave out, or outputs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::onnxruntime) enum Side {
    Input,
    /// Inputs for which the model has values of its own.
    OptionalInput,
    Output,
}

impl Session {
    /// How many inputs or outputs there are.
    pub(in crate::onnxruntime) fn count(&self, side: Side) -> Result<usize> {
        let get = match side {
            Side::Input => self.handle.api.table.SessionGetInputCount,
            Side::OptionalInput => self.handle.api.table.SessionGetOverridableInitializerCount,
            Side::Output => self.handle.api.table.SessionGetOutputCount,
        };
        let mut count = 0;
        // SAFETY: the session is alive and `count` valid for writing.
        let status = unsafe { get(self.handle.as_ptr(), &raw mut count) };
        self.handle.api.check(status)?;
        Ok(count)
    }

    /// The name of an input or output. The library refuses an index that is out of range.
    pub(in crate::onnxruntime) fn name(&self, side: Side, index: usize) -> Result<String> {
        let allocator = self.handle.api.default_allocator()?;
        let get = match side {
            Side::Input => self.handle.api.table.SessionGetInputName,
            Side::OptionalInput => self.handle.api.table.SessionGetOverridableInitializerName,
            Side::Output => self.handle.api.table.SessionGetOutputName,
        };
        let mut name = ptr::null_mut();
        // SAFETY: session and allocator are alive, `name` is valid for writing.
        let status = unsafe {
            get(
                self.handle.as_ptr(),
                index,
                allocator.as_ptr(),
                &raw mut name,
            )
        };
        self.handle.api.check(status)?;
        self.handle.api.take_text(name)
    }

    /// The type of an input or output. The library refuses an index that is out of range.
    pub(in crate::onnxruntime) fn type_info(&self, side: Side, index: usize) -> Result<TypeInfo> {
        let get = match side {
            Side::Input => self.handle.api.table.SessionGetInputTypeInfo,
            Side::OptionalInput => {
                self.handle
                    .api
                    .table
                    .SessionGetOverridableInitializerTypeInfo
            }
            Side::Output => self.handle.api.table.SessionGetOutputTypeInfo,
        };
        let mut info = ptr::null_mut();
        // SAFETY: the session is alive and `info` valid for writing.
        let status = unsafe { get(self.handle.as_ptr(), index, &raw mut info) };
        self.handle.api.check(status)?;
        Ok(TypeInfo {
            api: self.handle.api,
            handle: handle(info)?,
        })
    }

    /// What the model says about itself.
    pub(in crate::onnxruntime) fn metadata(&self) -> Result<Metadata> {
        let mut metadata = ptr::null_mut();
        // SAFETY: the session is alive and `metadata` valid for writing.
        let status = unsafe {
            (self.handle.api.table.SessionGetModelMetadata)(self.handle.as_ptr(), &raw mut metadata)
        };
        self.handle.api.check(status)?;
        Ok(Metadata {
            api: self.handle.api,
            handle: handle(metadata)?,
        })
    }

    /// Runs the model. Outputs that come with a value are written into it; the others are made, and
    /// returned in their places. What is made lives in memory that the session keeps, or, where the
    /// model hands an input through, in the input's, and therefore no longer than both.
    pub(in crate::onnxruntime) fn run<'a>(
        &'a self,
        options: &RunOptions,
        inputs: &[(&CStr, &Value<'a>)],
        outputs: &[(&CStr, Option<Value<'_>>)],
    ) -> Result<Few<Option<Value<'a>>>> {
        let input_names: Few<_> = inputs.iter().map(|(name, _)| name.as_ptr()).collect();
        let input_values: Few<_> = inputs
            .iter()
            .map(|(_, value)| value.handle.as_ptr().cast_const())
            .collect();
        let output_names: Few<_> = outputs.iter().map(|(name, _)| name.as_ptr()).collect();
        let mut output_values: Few<_> = outputs
            .iter()
            .map(|(_, value)| {
                value
                    .as_ref()
                    .map_or(ptr::null_mut(), |value| value.handle.as_ptr())
            })
            .collect();
        // SAFETY: session, options, names and values are alive during the call; each array has the
        // length given. Values over borrowed memory hold that borrow, exclusively for outputs.
        // Several runs of one session at once are allowed.
        let status = unsafe {
            (self.handle.api.table.Run)(
                self.handle.as_ptr(),
                options.handle.as_ptr(),
                input_names.as_ptr(),
                input_values.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                outputs.len(),
                output_values.as_mut_ptr(),
            )
        };
        self.handle.api.check(status)?;
        let made = outputs.iter().zip(output_values).map(|((_, given), made)| {
            let made = NonNull::new(made).filter(|_| given.is_none())?;
            Some(Value {
                api: self.handle.api,
                handle: made,
                data: PhantomData,
            })
        });
        Ok(made.collect())
    }
}

impl Metadata {
    fn take(
        &self,
        get: unsafe extern "system" fn(
            *const sys::OrtModelMetadata,
            *mut sys::OrtAllocator,
            *mut *mut c_char,
        ) -> sys::OrtStatusPtr,
    ) -> Result<String> {
        let allocator = self.api.default_allocator()?;
        let mut value = ptr::null_mut();
        // SAFETY: metadata and allocator are alive, `value` is valid for writing.
        let status = unsafe { get(self.handle.as_ptr(), allocator.as_ptr(), &raw mut value) };
        self.api.check(status)?;
        self.api.take_text(value)
    }

    pub(in crate::onnxruntime) fn producer(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetProducerName)
    }

    pub(in crate::onnxruntime) fn graph(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetGraphName)
    }

    pub(in crate::onnxruntime) fn domain(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetDomain)
    }

    pub(in crate::onnxruntime) fn description(&self) -> Result<String> {
        self.take(self.api.table.ModelMetadataGetDescription)
    }

    pub(in crate::onnxruntime) fn version(&self) -> Result<i64> {
        let mut version = 0;
        // SAFETY: the metadata is alive and `version` valid for writing.
        let status = unsafe {
            (self.api.table.ModelMetadataGetVersion)(self.handle.as_ptr(), &raw mut version)
        };
        self.api.check(status)?;
        Ok(version)
    }

    /// The names of the entries that the model adds.
    pub(in crate::onnxruntime) fn keys(&self) -> Result<Vec<String>> {
        let allocator = self.api.default_allocator()?;
        let (mut keys, mut count) = (ptr::null_mut::<*mut c_char>(), 0_i64);
        // SAFETY: metadata and allocator are alive, both results are valid for writing.
        let status = unsafe {
            (self.api.table.ModelMetadataGetCustomMetadataMapKeys)(
                self.handle.as_ptr(),
                allocator.as_ptr(),
                &raw mut keys,
                &raw mut count,
            )
        };
        self.api.check(status)?;
        let Some(array) = NonNull::new(keys) else {
            return Ok(Vec::new());
        };
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: the library says that the array has `count` strings, and it is ours.
        let strings = unsafe { std::slice::from_raw_parts(array.as_ptr(), count) };
        let taken = strings.iter().map(|key| self.api.take_text(*key)).collect();
        // SAFETY: the array came from this allocator and is not used after this.
        let status = unsafe {
            (self.api.table.AllocatorFree)(allocator.as_ptr(), array.as_ptr().cast::<c_void>())
        };
        self.api.check(status)?;
        taken
    }

    /// One of the entries that the model adds.
    pub(in crate::onnxruntime) fn entry(&self, key: &str) -> Result<String> {
        let allocator = self.api.default_allocator()?;
        let key = c_string(key)?;
        let mut value = ptr::null_mut();
        // SAFETY: metadata and allocator are alive, the key ends with a zero byte, and `value` is
        // valid for writing.
        let status = unsafe {
            (self.api.table.ModelMetadataLookupCustomMetadataMap)(
                self.handle.as_ptr(),
                allocator.as_ptr(),
                key.as_ptr(),
                &raw mut value,
            )
        };
        self.api.check(status)?;
        self.api.take_text(value)
    }
}

/// What a model says of one of its tensors.
pub(in crate::onnxruntime) struct TensorInfo {
    /// The library's number for the element type.
    pub(in crate::onnxruntime) element_type: i32,
    /// Dimensions; negative where runs decide.
    pub(in crate::onnxruntime) dims: Vec<i64>,
    /// A name per dimension; empty where it has none.
    pub(in crate::onnxruntime) symbols: Vec<String>,
}

impl TypeInfo {
    /// Which of the `ONNXType`s it is, as its number.
    pub(in crate::onnxruntime) fn onnx_type(&self) -> Result<i32> {
        let mut onnx_type = 0_i32;
        // SAFETY: the info is alive. The enumeration is a C `int`, and a number is valid for
        // writing any of its values, newer ones included.
        let status = unsafe {
            (self.api.table.GetOnnxTypeFromTypeInfo)(
                self.handle.as_ptr(),
                (&raw mut onnx_type).cast::<sys::ONNXType>(),
            )
        };
        self.api.check(status)?;
        Ok(onnx_type)
    }

    /// The tensor's type; `None` if this is not a tensor.
    pub(in crate::onnxruntime) fn tensor(&self) -> Result<Option<TensorInfo>> {
        let mut info = ptr::null();
        // SAFETY: the info is alive and `info` valid for writing; the result belongs to it.
        let status = unsafe {
            (self.api.table.CastTypeInfoToTensorInfo)(self.handle.as_ptr(), &raw mut info)
        };
        self.api.check(status)?;
        let Some(info) = NonNull::new(info.cast_mut()) else {
            return Ok(None);
        };
        let dims = self.api.dimensions(info)?;
        let mut names = vec![ptr::null::<c_char>(); dims.len()];
        // SAFETY: the array has as many places as the shape has dimensions, which is its length.
        let status = unsafe {
            (self.api.table.GetSymbolicDimensions)(info.as_ptr(), names.as_mut_ptr(), names.len())
        };
        self.api.check(status)?;
        let names = names
            .into_iter()
            .map(|name| {
                // SAFETY: the strings live as long as the info and end with a zero byte.
                unsafe { text(name) }
            })
            .collect();
        Ok(Some(TensorInfo {
            element_type: self.api.element_type(info)?,
            dims,
            symbols: names,
        }))
    }
}

impl Api {
    pub(super) fn element_type(
        &self,
        info: NonNull<sys::OrtTensorTypeAndShapeInfo>,
    ) -> Result<i32> {
        let mut element_type = 0_i32;
        // SAFETY: callers pass an info that is alive; the enumeration is a C `int`, as above.
        let status = unsafe {
            (self.table.GetTensorElementType)(
                info.as_ptr(),
                (&raw mut element_type).cast::<sys::ONNXTensorElementDataType>(),
            )
        };
        self.check(status)?;
        Ok(element_type)
    }

    pub(super) fn dimensions(
        &self,
        info: NonNull<sys::OrtTensorTypeAndShapeInfo>,
    ) -> Result<Vec<i64>> {
        let mut rank = 0;
        // SAFETY: callers pass an info that is alive; `rank` is valid for writing.
        let status = unsafe { (self.table.GetDimensionsCount)(info.as_ptr(), &raw mut rank) };
        self.check(status)?;
        let mut dims = vec![0_i64; rank];
        // SAFETY: as above, and the array has the length given.
        let status =
            unsafe { (self.table.GetDimensions)(info.as_ptr(), dims.as_mut_ptr(), dims.len()) };
        self.check(status)?;
        Ok(dims)
    }
}
