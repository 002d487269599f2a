//! Which shapes a model's outputs will have, as far as earlier runs and the model itself tell.
//!
//! A prediction lets an output be written straight into memory that is there before the run. What
//! the engine guesses for itself is what the model fixes or an earlier run made: a run that such a
//! guess spoils is repeated without. Callers cannot repeat runs, so they are told only what both
//! the model's file and an earlier run say. An output that was predicted wrongly once is not
//! predicted again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Dim, TensorSpec};

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
    inputs: usize,
    /// What the file says of each output; none where it does not say all.
    declared: Vec<Option<Vec<Size>>>,
    state: Mutex<State>,
}

/// The size of a dimension of an output, as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Known(usize),
    /// That of a dimension of an input, which has the same name.
    Of {
        input: usize,
        dimension: usize,
    },
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
    pub(super) fn new(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Predicted {
        let fixed = |spec: &TensorSpec| spec.fixed_shape().map_or(Output::Follows, Output::Fixed);
        Predicted {
            inputs: inputs.len(),
            declared: outputs.iter().map(|spec| declared(inputs, spec)).collect(),
            state: Mutex::new(State {
                outputs: outputs.iter().map(fixed).collect(),
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

    /// The shapes of which the file and the last run with inputs of these shapes say the same, in
    /// the model's order.
    pub(super) fn expected<'s>(&self, inputs: impl Shapes<'s>) -> Vec<Option<Vec<usize>>> {
        let mut state = self.state();
        let Some(seen) = state.find(inputs.clone()) else {
            return vec![None; self.declared.len()];
        };
        let is_declared = |sizes: &[Size], shape: &[usize]| {
            let is = |(size, made): (&Size, &usize)| match *size {
                Size::Known(known) => known == *made,
                Size::Of { input, dimension } => inputs
                    .clone()
                    .find(|(position, _)| *position == input)
                    .and_then(|(_, shape)| shape.get(dimension))
                    .is_some_and(|given| given == made),
            };
            sizes.len() == shape.len() && sizes.iter().zip(shape).all(is)
        };
        let both = |(seen, declared): (&Option<Vec<usize>>, &Option<Vec<Size>>)| {
            let declared = declared.as_deref()?;
            seen.clone().filter(|shape| is_declared(declared, shape))
        };
        seen.iter().zip(&self.declared).map(both).collect()
    }

    /// Remembers the shapes that a run made. An output that had another one before, with inputs of
    /// the same shapes, is not predicted any more.
    pub(super) fn learn<'s, 'm>(
        &self,
        inputs: impl Shapes<'s>,
        made: impl Iterator<Item = (usize, &'m [usize])>,
    ) {
        let mut state = self.state();
        for (output, shape) in made {
            if matches!(
                state.outputs.get(output),
                None | Some(Output::Unpredictable)
            ) {
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
        let fixed =
            matches!(state.outputs.get(output), Some(Output::Fixed(shape)) if shape == wrong);
        let seen = state
            .find(inputs)
            .and_then(|shapes| shapes[output].as_ref());
        if fixed || seen.is_some_and(|seen| seen == wrong) {
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

/// What the file says of an output: nothing sure of one without dimensions, which may be a scalar or
/// an output whose shape the file leaves out.
fn declared(inputs: &[TensorSpec], output: &TensorSpec) -> Option<Vec<Size>> {
    let size = |dim: &Dim| match dim {
        Dim::Known(size) => Some(Size::Known(*size)),
        Dim::Symbolic(None) => None,
        Dim::Symbolic(Some(_)) => inputs.iter().enumerate().find_map(|(input, spec)| {
            let dimension = spec.dims.iter().position(|given| given == dim)?;
            Some(Size::Of { input, dimension })
        }),
    };
    let sizes: Option<Vec<Size>> = output.dims.iter().map(size).collect();
    sizes.filter(|sizes| !sizes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataType;

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

    /// The first is fixed, the second as long as the first input, the third unknown.
    fn three_outputs() -> Predicted {
        let named = || Dim::Symbolic(Some("n".into()));
        let inputs = [
            spec(vec![named()]),
            spec(vec![Dim::Known(3), Dim::Symbolic(None)]),
        ];
        let outputs = [
            spec(vec![Dim::Known(2)]),
            spec(vec![named(), Dim::Known(1)]),
            spec(vec![Dim::Symbolic(None)]),
        ];
        Predicted::new(&inputs, &outputs)
    }

    fn expected(predicted: &Predicted, size: usize) -> Vec<Option<Vec<usize>>> {
        predicted.expected(inputs(&size))
    }

    #[test]
    fn remembers_until_proven_wrong() {
        let predicted = three_outputs();
        assert_eq!(predicted.fixed(0), Some(vec![2]));
        assert_eq!(predicted.fixed(1), None);
        assert_eq!(predicted.fixed(2), None);

        assert_eq!(seen(&predicted, 1, 1), None);
        learn(&predicted, 1, 1, &[5, 1]);
        learn(&predicted, 2, 1, &[6, 1]);
        assert_eq!(seen(&predicted, 1, 1), Some(vec![5, 1]));
        assert_eq!(seen(&predicted, 2, 1), Some(vec![6, 1]));
        assert_eq!(seen(&predicted, 1, 2), None);

        predicted.give_up(1);
        learn(&predicted, 1, 1, &[5, 1]);
        assert_eq!(seen(&predicted, 1, 1), None);
        predicted.give_up(0);
        assert_eq!(predicted.fixed(0), None);
    }

    #[test]
    fn callers_are_told_what_the_file_and_a_run_say() {
        let predicted = three_outputs();
        assert_eq!(expected(&predicted, 4), [None, None, None]);
        learn(&predicted, 4, 0, &[2]);
        learn(&predicted, 4, 1, &[4, 1]);
        learn(&predicted, 4, 2, &[7]);
        let both = [Some(vec![2]), Some(vec![4, 1]), None];
        assert_eq!(expected(&predicted, 4), both);
        assert_eq!(expected(&predicted, 5), [None, None, None]);
        // What runs make is not what the file says.
        learn(&predicted, 5, 0, &[3]);
        learn(&predicted, 5, 1, &[4, 1]);
        assert_eq!(expected(&predicted, 5), [None, None, None]);
        learn(&predicted, 6, 1, &[6]);
        assert_eq!(expected(&predicted, 6), [None, None, None]);

        predicted.give_up(1);
        assert_eq!(expected(&predicted, 4), [Some(vec![2]), None, None]);
    }

    #[test]
    fn an_input_that_is_left_out_tells_nothing() {
        let predicted = three_outputs();
        let one = || [(1, &[3, 4][..])].into_iter();
        predicted.learn(one(), [(0, &[2][..]), (1, &[4, 1][..])].into_iter());
        assert_eq!(predicted.expected(one()), [Some(vec![2]), None, None]);
    }

    #[test]
    fn another_shape_of_the_same_inputs_proves_it_wrong() {
        let predicted = three_outputs();
        learn(&predicted, 1, 1, &[1, 1]);
        learn(&predicted, 1, 2, &[]);
        learn(&predicted, 1, 1, &[6, 1]);
        assert_eq!(seen(&predicted, 1, 1), None);
        assert_eq!(seen(&predicted, 1, 2), Some(vec![]));
        learn(&predicted, 2, 1, &[2, 1]);
        assert_eq!(expected(&predicted, 2), [None, None, None]);
    }

    #[test]
    fn only_a_guess_can_be_refuted() {
        let predicted = three_outputs();
        learn(&predicted, 1, 1, &[1, 1]);
        for (output, wrong) in [(0, 3), (1, 6), (2, 1)] {
            predicted.refute(inputs(&1), output, &[wrong]);
        }
        assert_eq!(predicted.fixed(0), Some(vec![2]));
        assert_eq!(seen(&predicted, 1, 1), Some(vec![1, 1]));
        predicted.refute(inputs(&1), 0, &[2]);
        predicted.refute(inputs(&1), 1, &[1, 1]);
        assert_eq!(predicted.fixed(0), None);
        assert_eq!(seen(&predicted, 1, 1), None);
    }

    #[test]
    fn forgets_the_least_recently_used() {
        let predicted = three_outputs();
        for size in 0..ENTRIES_MAX {
            learn(&predicted, size, 2, &[size]);
        }
        assert_eq!(seen(&predicted, 0, 2), Some(vec![0]));
        learn(&predicted, ENTRIES_MAX, 2, &[1]);
        assert_eq!(seen(&predicted, 0, 2), Some(vec![0]));
        assert_eq!(seen(&predicted, 1, 2), None);
    }
}
