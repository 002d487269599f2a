//! What the backend of `examples/triton_outputs.rs` is told.

use weldpool_response_allocator::Place;

use super::{Output, Request};

/// A command; default: one response with one output of 1000 bytes of the host's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) responses: i64,
    pub(crate) outputs: i64,
    pub(crate) bytes: usize,
    pub(crate) place: Place,
    /// Ask for each buffer twice; the second has to be refused.
    pub(crate) twice: bool,
    /// Ask beforehand which memory it will be.
    pub(crate) query: bool,
    /// Send an error in place of each response.
    pub(crate) fail: bool,
}

impl Default for Command {
    fn default() -> Self {
        Command {
            responses: 1,
            outputs: 1,
            bytes: 1000,
            place: Place::CPU,
            twice: false,
            query: false,
            fail: false,
        }
    }
}

impl Command {
    pub(crate) fn request(&self) -> Request {
        let flags = i64::from(self.twice) + 2 * i64::from(self.query) + 4 * i64::from(self.fail);
        let words = [
            self.responses,
            self.outputs,
            i64::try_from(self.bytes).unwrap(),
            flags,
            self.place.memory_type.number().into(),
            self.place.id,
        ];
        Request {
            model: c"outputs",
            input: c"COMMAND",
            data_type: weldpool_triton_sys::DataType::Int64,
            shape: 6,
            data: words.into_iter().flat_map(i64::to_ne_bytes).collect(),
        }
    }

    /// Whether an output is what the command makes it.
    pub(crate) fn check(&self, response: usize, output: &Output<'_>) {
        let index: usize = output.name.strip_prefix("OUTPUT").unwrap().parse().unwrap();
        assert_eq!(output.bytes.len(), self.bytes);
        let first = 7 * response + 3 * index;
        for (at, &byte) in output.bytes.iter().enumerate() {
            assert_eq!(
                usize::from(byte),
                (first + at) % 256,
                "at {at} of {}",
                output.name
            );
        }
    }
}
