//! Which shapes a model's outputs will have, as far as earlier runs and the model itself tell.
//!
//! A prediction lets an output be written straight into memory that is there before the run. It is
//! only ever a guess: a run that it spoils is repeated without, by the engine or the caller, and
//! the output is not guessed again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::TensorSpec;

/// How many combinations of input shapes are remembered per model.
const ENTRIES_MAX: usize = 64;

/// The shapes of a model's inputs, in the model's order; none where a run left one out.
type Key = Vec<Option<Vec<usize>>>;

/// The shapes of a run's inputs, each with its position in the model; every input is there once, but
/// for those that were left out.
pub(super) trait Shapes<'s>: Iterator<Item = (usize, &'s [usize])> + Clone {}

impl<'s, I: Iterator<Item = (usize, &'s [usize])> + Clone> Shapes<'s> for I {}

/// What is known of the outputs of one model.
#[derive(Debug)]
pub(super) struct Predicted {
    /// Whether runs can tell anything that the model does not.
    learns: bool,
    inputs: usize,
    state: Mutex<State>,
}

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
    /// Knows what the signature says.
    pub(super) fn new(inputs: usize, outputs: &[TensorSpec]) -> Predicted {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|spec| spec.fixed_shape().map_or(Output::Follows, Output::Fixed))
            .collect();
        Predicted {
            learns: outputs.contains(&Output::Follows),
            inputs,
            state: Mutex::new(State {
                outputs,
                runs: VecDeque::new(),
            }),
        }
    }

    /// The shape the model fixes for an output, unless runs have shown otherwise.
    pub(super) fn fixed(&self, output: usize) -> Option<Vec<usize>> {
        match self.state().outputs.get(output) {
            Some(Output::Fixed(shape)) => Some(shape.clone()),
            _ => None,
        }
    }

    /// The shape an output had when the inputs last had these shapes.
    pub(super) fn seen<'s>(&self, inputs: impl Shapes<'s>, output: usize) -> Option<Vec<usize>> {
        self.state().find(inputs)?.get(output)?.clone()
    }

    /// What is known of every output, in the model's order. Without the shapes of all inputs that
    /// is what the model fixes.
    pub(super) fn expected<'s>(&self, inputs: Option<impl Shapes<'s>>) -> Vec<Option<Vec<usize>>> {
        let mut state = self.state();
        let seen = inputs
            .filter(|_| self.learns)
            .and_then(|inputs| state.find(inputs));
        let mut expected = match seen {
            Some(shapes) => shapes.clone(),
            None => vec![None; state.outputs.len()],
        };
        for (expected, output) in expected.iter_mut().zip(&state.outputs) {
            if let Output::Fixed(shape) = output {
                *expected = Some(shape.clone());
            }
        }
        expected
    }

    /// Remembers the shapes that a run made. An output that had another one before, with inputs of
    /// the same shapes, is not predicted any more.
    pub(super) fn learn<'s, 'm>(
        &self,
        inputs: impl Shapes<'s>,
        made: impl Iterator<Item = (usize, &'m [usize])>,
    ) {
        if !self.learns {
            return;
        }
        let mut state = self.state();
        for (output, shape) in made {
            if state.outputs.get(output) != Some(&Output::Follows) {
                continue;
            }
            let known = &mut state.find_or_add(inputs.clone(), self.inputs)[output];
            match known {
                Some(known) if known == shape => {}
                Some(_) => state.give_up(output),
                None => *known = Some(shape.to_vec()),
            }
        }
    }

    /// Stops guessing an output, whose shape was guessed wrongly.
    pub(super) fn give_up(&self, output: usize) {
        self.state().give_up(output);
    }

    /// Stops guessing an output if this wrong shape is what would be guessed.
    pub(super) fn refute<'s>(&self, inputs: impl Shapes<'s>, output: usize, wrong: &[usize]) {
        let mut state = self.state();
        let guess = match state.outputs.get(output) {
            Some(Output::Fixed(shape)) => Some(shape),
            Some(Output::Follows) => state
                .find(inputs)
                .and_then(|shapes| shapes[output].as_ref()),
            _ => None,
        };
        if guess.is_some_and(|guess| guess == wrong) {
            state.give_up(output);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every field is whole between statements, and a wrong guess does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The outputs' shapes that belong to these shapes of inputs, which become the last forgotten.
    fn find<'s>(&mut self, inputs: impl Shapes<'s>) -> Option<&mut Vec<Option<Vec<usize>>>> {
        let is = |key: &Key| {
            let mut given = 0;
            let fits = inputs.clone().all(|(input, shape)| {
                given += 1;
                let seen = key.get(input).and_then(Option::as_deref);
                seen == Some(shape)
            });
            fits && key.iter().flatten().count() == given
        };
        let position = self.runs.iter().position(|(key, _)| is(key))?;
        if position > 0 {
            let entry = self.runs.remove(position)?;
            self.runs.push_front(entry);
        }
        self.runs.front_mut().map(|(_, shapes)| shapes)
    }

    fn find_or_add<'s>(
        &mut self,
        inputs: impl Shapes<'s>,
        count: usize,
    ) -> &mut Vec<Option<Vec<usize>>> {
        if self.find(inputs.clone()).is_none() {
            let mut key = vec![None; count];
            for (input, shape) in inputs {
                key[input] = Some(shape.to_vec());
            }
            self.runs.truncate(ENTRIES_MAX - 1);
            self.runs.push_front((key, vec![None; self.outputs.len()]));
        }
        &mut self.runs[0].1
    }

    fn give_up(&mut self, output: usize) {
        self.outputs[output] = Output::Unpredictable;
        for (_, shapes) in &mut self.runs {
            shapes[output] = None;
        }
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

    /// The shapes of two inputs, the second always alike.
    fn inputs(size: &usize) -> impl Shapes<'_> {
        [(1, &[3, 4][..]), (0, std::slice::from_ref(size))].into_iter()
    }

    fn learn(predicted: &Predicted, size: usize, output: usize, shape: &[usize]) {
        predicted.learn(inputs(&size), [(output, shape)].into_iter());
    }

    fn seen(predicted: &Predicted, size: usize, output: usize) -> Option<Vec<usize>> {
        predicted.seen(inputs(&size), output)
    }

    fn three_outputs() -> Predicted {
        let open = || vec![Dim::Symbolic(None)];
        let outputs = [spec(vec![Dim::Known(2)]), spec(open()), spec(Vec::new())];
        Predicted::new(2, &outputs)
    }

    #[test]
    fn remembers_until_proven_wrong() {
        let predicted = three_outputs();
        assert_eq!(predicted.fixed(0), Some(vec![2]));
        assert_eq!(predicted.fixed(1), None);
        assert_eq!(predicted.fixed(2), None);

        assert_eq!(seen(&predicted, 1, 1), None);
        learn(&predicted, 1, 1, &[5]);
        learn(&predicted, 2, 1, &[6]);
        assert_eq!(seen(&predicted, 1, 1), Some(vec![5]));
        assert_eq!(seen(&predicted, 2, 1), Some(vec![6]));
        assert_eq!(seen(&predicted, 1, 2), None);
        let expected = predicted.expected(Some(inputs(&2)));
        assert_eq!(expected, [Some(vec![2]), Some(vec![6]), None]);
        let expected = predicted.expected(Some(inputs(&3)));
        assert_eq!(expected, [Some(vec![2]), None, None]);

        predicted.give_up(1);
        learn(&predicted, 1, 1, &[5]);
        assert_eq!(seen(&predicted, 1, 1), None);
        predicted.give_up(0);
        assert_eq!(predicted.fixed(0), None);
    }

    #[test]
    fn another_shape_of_the_same_inputs_proves_it_wrong() {
        let predicted = three_outputs();
        learn(&predicted, 1, 1, &[5]);
        learn(&predicted, 1, 2, &[]);
        learn(&predicted, 1, 1, &[6]);
        assert_eq!(seen(&predicted, 1, 1), None);
        assert_eq!(seen(&predicted, 1, 2), Some(vec![]));
        learn(&predicted, 2, 1, &[6]);
        assert_eq!(seen(&predicted, 2, 1), None);
    }

    #[test]
    fn only_a_guess_can_be_refuted() {
        let predicted = three_outputs();
        learn(&predicted, 1, 1, &[5]);
        for (output, wrong) in [(0, 3), (1, 6), (2, 1)] {
            predicted.refute(inputs(&1), output, &[wrong]);
        }
        let expected = predicted.expected(Some(inputs(&1)));
        assert_eq!(expected, [Some(vec![2]), Some(vec![5]), None]);
        for (output, wrong) in [(0, 2), (1, 5)] {
            predicted.refute(inputs(&1), output, &[wrong]);
        }
        assert_eq!(predicted.expected(Some(inputs(&1))), [None, None, None]);
    }

    #[test]
    fn forgets_the_least_recently_used() {
        let predicted = Predicted::new(2, &[spec(vec![Dim::Symbolic(None)])]);
        for size in 0..ENTRIES_MAX {
            learn(&predicted, size, 0, &[size]);
        }
        assert_eq!(seen(&predicted, 0, 0), Some(vec![0]));
        learn(&predicted, ENTRIES_MAX, 0, &[1]);
        assert_eq!(seen(&predicted, 0, 0), Some(vec![0]));
        assert_eq!(seen(&predicted, 1, 0), None);
    }
}
