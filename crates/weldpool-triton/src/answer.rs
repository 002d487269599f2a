//! The outputs of a run, brought into the answers of the requests that ran together.

use weldpool_engine::Tensor;

use crate::batch::Ports;
use crate::error::{Error, Result};
use crate::execute::Member;
use crate::few::{Dims, Few};
use crate::gather::{Rows, rows};

/// What a run made.
#[derive(Debug)]
pub(crate) struct Made<'m> {
    ports: &'m Ports,
    /// By the model's order; none where nobody wants one or where it is in the answer already.
    outputs: Few<Option<Output>>,
}

#[derive(Debug)]
struct Output {
    tensor: Tensor,
    /// Where the items of the batch lie; none for a model that knows no batches.
    rows: Option<Rows>,
}

impl<'m> Made<'m> {
    /// The outputs of a run for a batch of so many.
    ///
    /// # Errors
    /// `Internal` for an output that does not begin with the batch.
    pub(crate) fn new(
        ports: &'m Ports,
        tensors: Few<Option<Tensor>>,
        batch_size: usize,
    ) -> Result<Made<'m>> {
        let located = |tensor: &Tensor| {
            let bytes = tensor.bytes()?;
            rows(tensor.data_type(), tensor.shape(), &bytes, batch_size)
        };
        let batched = ports.max_batch_size > 0;
        let output = |port: usize, tensor: Tensor| {
            let rows = batched.then(|| located(&tensor)).transpose();
            let rows = rows.map_err(|error| about(ports, port, error))?;
            Ok(Output { tensor, rows })
        };
        let outputs = tensors
            .into_iter()
            .enumerate()
            .map(|(port, tensor)| tensor.map(|tensor| output(port, tensor)).transpose())
            .collect::<Result<Few<_>>>()?;
        Ok(Made { ports, outputs })
    }

    /// Adds items `start` to `end` to an answer, without the outputs that are in it already.
    pub(crate) fn add_to(&self, member: &Member<'_>, start: usize, end: usize) -> Result<()> {
        for port in &member.asked.outputs {
            if let Some(output) = self.outputs.get(*port).and_then(Option::as_ref) {
                self.add(member, *port, output, start, end)
                    .map_err(|error| about(self.ports, *port, error))?;
            }
        }
        Ok(())
    }

    fn add(
        &self,
        member: &Member<'_>,
        port: usize,
        output: &Output,
        start: usize,
        end: usize,
    ) -> Result<()> {
        let bytes = output.tensor.bytes()?;
        let mut shape = Dims::from_slice(output.tensor.shape());
        let bytes = match &output.rows {
            None => &bytes[..],
            Some(rows) => {
                if let Some(items) = shape.first_mut() {
                    *items = end - start;
                }
                &bytes[rows.range(start, end)?]
            }
        };
        let response = member.responder.response()?;
        let memory = self.ports.outputs[port].add_to(response, &shape, bytes.len())?;
        memory.write(bytes);
        Ok(())
    }
}

fn about(ports: &Ports, port: usize, error: Error) -> Error {
    error.context(format!("output '{}'", ports.outputs[port].name))
}
