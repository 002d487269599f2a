//! PyTorch's memory snapshot, as `torch.cuda.memory._dump_snapshot` writes it: a pickled
//! dictionary with `segments`, the state at the end, and `device_traces`, what happened before.

#![forbid(unsafe_code)]

mod layout;
mod reader;
mod writer;

pub(super) use reader::Decoder;
pub(super) use writer::Encoder;
