//! Triton's objects. Their insides are Triton's; here they are names behind pointers.

macro_rules! opaque {
    ($($(#[$documentation:meta])* $name:ident;)+) => {
        $(
            $(#[$documentation])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _inside: [u8; 0],
                // Neither Send nor Sync nor Unpin: what threads may do is Triton's to say.
                _marker: std::marker::PhantomData<(*mut u8, std::marker::PhantomPinned)>,
            }
        )+
    };
}

opaque! {
    /// `TRITONSERVER_Error`; none is success.
    Error;
    /// `TRITONSERVER_Message`: JSON.
    Message;
    /// `TRITONSERVER_Parameter`, here the label of a metric.
    Parameter;
    /// `TRITONSERVER_MetricFamily`.
    MetricFamily;
    /// `TRITONSERVER_Metric`.
    Metric;
    /// `TRITONSERVER_BufferAttributes`.
    BufferAttributes;
    /// `TRITONSERVER_ResponseAllocator`.
    ResponseAllocator;
    /// `TRITONSERVER_Server`.
    Server;
    /// `TRITONSERVER_ServerOptions`.
    ServerOptions;
    /// `TRITONSERVER_InferenceRequest`: a request as who sends it sees it.
    InferenceRequest;
    /// `TRITONSERVER_InferenceResponse`: an answer as who receives it sees it.
    InferenceResponse;
    /// `TRITONSERVER_InferenceTrace`.
    InferenceTrace;
    /// `TRITONBACKEND_Backend`.
    BackendHandle;
    /// `TRITONBACKEND_BackendAttribute`.
    Attributes;
    /// `TRITONBACKEND_Model`.
    Model;
    /// `TRITONBACKEND_ModelInstance`.
    ModelInstance;
    /// `TRITONBACKEND_Request`: a request as the backend sees it.
    Request;
    /// `TRITONBACKEND_Input`.
    Input;
    /// `TRITONBACKEND_Response`: an answer as the backend sees it.
    Response;
    /// `TRITONBACKEND_Output`.
    Output;
}
