//! Limits on what one request may hold.

use weldpool_engine::RANK_MAX;

/// Limits that hold while a request is decoded, before anything is allocated for it.
///
/// A request beyond a limit is answered with an error that names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the JSON part of a request, after decompression. A request whose tensors are all
    /// JSON is such a part as a whole. 64 MiB by default.
    pub json_bytes_max: usize,
    /// How deep JSON arrays and objects may nest. 64 by default.
    pub json_depth_max: usize,
    /// Inputs in one request. 1024 by default.
    pub inputs_max: usize,
    /// Requested outputs in one request. 1024 by default.
    pub outputs_max: usize,
    /// Parameters of one request, one input or one output. 256 by default.
    pub parameters_max: usize,
    /// Bytes of a request's id. 4096 by default.
    pub id_bytes_max: usize,
    /// Bytes of a tensor's or parameter's name. 1024 by default.
    pub name_bytes_max: usize,
    /// Dimensions of a tensor. 32 by default, which is also the highest value of use.
    pub rank_max: usize,
    /// Elements of a tensor. 2^31 by default.
    pub elements_max: usize,
    /// Bytes of all blobs of one request together, and of any one JSON tensor. 2 GiB by default.
    pub tensor_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            json_bytes_max: 64 << 20,
            json_depth_max: 64,
            inputs_max: 1024,
            outputs_max: 1024,
            parameters_max: 256,
            id_bytes_max: 4096,
            name_bytes_max: 1024,
            rank_max: RANK_MAX,
            elements_max: 1 << 31,
            tensor_bytes_max: 2 << 30,
        }
    }
}
