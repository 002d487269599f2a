//! Which shapes a model's outputs will have, as far as earlier runs and the model itself tell.
//!
//! A prediction lets an output be written straight into a tensor of the pool. It is only ever a
//! guess: a run that it spoils is repeated without, and the output is not guessed again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::TensorSpec;

/// How many combinations of input shapes are remembered per model.
const ENTRIES_MAX: usize = 64;

/// The shapes of a model's inputs, in the model's order.
pub(super) type Key = Vec<Vec<usize>>;

/// What is known of the outputs of one model.
#[derive(Debug)]
pub(super) struct Predicted(Mutex<State>);

#[derive(Debug)]
struct State {
    outputs: Vec<Output>,
    /// Most recently used first.
    runs: VecDeque<(Key, Vec<Option<Vec<usize>>>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Output {
    /// The model fixes the shape.
    Fixed(Vec<usize>),
    /// The shape follows from the shapes of the inputs, for all that is known.
    Follows,
    /// The shape depends on the inputs' values, or is not what the model says.
    Unpredictable,
}

impl Predicted {
    /// Knows what the signature says. A shape without dimensions may be one the model leaves out.
    pub(super) fn new(outputs: &[TensorSpec]) -> Predicted {
        let outputs = outputs
            .iter()
            .map(|spec| match spec.static_shape() {
                Some(shape) if !shape.is_empty() => Output::Fixed(shape),
                _ => Output::Follows,
            })
            .collect();
        Predicted(Mutex::new(State {
            outputs,
            runs: VecDeque::new(),
        }))
    }

    /// The shape the model fixes for an output, unless runs have shown otherwise.
    pub(super) fn fixed(&self, output: usize) -> Option<Vec<usize>> {
        match self.state().outputs.get(output) {
            Some(Output::Fixed(shape)) => Some(shape.clone()),
            _ => None,
        }
    }

    /// The shape an output had when the inputs last had these shapes.
    pub(super) fn seen(&self, key: &Key, output: usize) -> Option<Vec<usize>> {
        let mut state = self.state();
        let position = state.runs.iter().position(|(seen, _)| seen == key)?;
        if position > 0 {
            let entry = state.runs.remove(position)?;
            state.runs.push_front(entry);
        }
        state.runs.front()?.1.get(output)?.clone()
    }

    /// Remembers the shape an output had.
    pub(super) fn learn(&self, key: &Key, output: usize, shape: &[usize]) {
        let mut state = self.state();
        if state.outputs.get(output) != Some(&Output::Follows) {
            return;
        }
        let count = state.outputs.len();
        if !state.runs.iter().any(|(seen, _)| seen == key) {
            state.runs.push_front((key.clone(), vec![None; count]));
            state.runs.truncate(ENTRIES_MAX);
        }
        if let Some((_, shapes)) = state.runs.iter_mut().find(|(seen, _)| seen == key) {
            shapes[output] = Some(shape.to_vec());
        }
    }

    /// Stops guessing an output, whose shape was guessed wrongly.
    pub(super) fn give_up(&self, output: usize) {
        let mut state = self.state();
        state.outputs[output] = Output::Unpredictable;
        for (_, shapes) in &mut state.runs {
            shapes[output] = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every field is whole between statements, and a wrong guess does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataType, Dim};

    fn spec(dims: Vec<Dim>) -> TensorSpec {
        TensorSpec {
            name: "y".into(),
            data_type: DataType::Fp32,
            dims,
        }
    }

    #[test]
    fn remembers_until_proven_wrong() {
        let open = || vec![Dim::Symbolic(None)];
        let predicted =
            Predicted::new(&[spec(vec![Dim::Known(2)]), spec(open()), spec(Vec::new())]);
        assert_eq!(predicted.fixed(0), Some(vec![2]));
        assert_eq!(predicted.fixed(1), None);
        assert_eq!(predicted.fixed(2), None);

        let key = |size| vec![vec![size]];
        assert_eq!(predicted.seen(&key(1), 1), None);
        predicted.learn(&key(1), 1, &[5]);
        predicted.learn(&key(2), 1, &[6]);
        assert_eq!(predicted.seen(&key(1), 1), Some(vec![5]));
        assert_eq!(predicted.seen(&key(2), 1), Some(vec![6]));
        assert_eq!(predicted.seen(&key(1), 2), None);

        predicted.give_up(1);
        predicted.learn(&key(1), 1, &[5]);
        assert_eq!(predicted.seen(&key(1), 1), None);
        predicted.give_up(0);
        assert_eq!(predicted.fixed(0), None);
    }

    #[test]
    fn forgets_the_least_recently_used() {
        let predicted = Predicted::new(&[spec(vec![Dim::Symbolic(None)])]);
        for size in 0..ENTRIES_MAX {
            predicted.learn(&vec![vec![size]], 0, &[size]);
        }
        assert_eq!(predicted.seen(&vec![vec![0]], 0), Some(vec![0]));
        predicted.learn(&vec![vec![ENTRIES_MAX]], 0, &[1]);
        assert_eq!(predicted.seen(&vec![vec![0]], 0), Some(vec![0]));
        assert_eq!(predicted.seen(&vec![vec![1]], 0), None);
    }
}
