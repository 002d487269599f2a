//! One request of the endurance test and what must come of it.

use serde_json::Value;

use super::{malformed, valid};
use crate::model::{Element, OneNode};
use crate::random::Random;

/// The models that the server under test serves.
pub const MODELS: [(&str, OneNode); 4] = [
    (
        IDENTITY,
        OneNode {
            operator: "Identity",
            element: Element::Fp32,
            inputs: 1,
        },
    ),
    (
        RELU,
        OneNode {
            operator: "Relu",
            element: Element::Fp32,
            inputs: 1,
        },
    ),
    (
        SUM,
        OneNode {
            operator: "Add",
            element: Element::Int64,
            inputs: 2,
        },
    ),
    (
        STRINGS,
        OneNode {
            operator: "Identity",
            element: Element::Bytes,
            inputs: 1,
        },
    ),
];

pub(super) const IDENTITY: &str = "identity";
pub(super) const RELU: &str = "relu";
pub(super) const SUM: &str = "sum";
pub(super) const STRINGS: &str = "strings";

/// A request and what must come of it.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What is sent.
    pub(super) wire: Vec<u8>,
    /// What happens to the connection then.
    pub(super) then: Then,
    pub(super) expect: Expect,
}

/// What happens to the connection after the bytes of a case are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// It stays open for the next request if the server lets it.
    Keep,
    /// The client sends no more, but reads the answer.
    Finish,
    /// The client goes away.
    Leave,
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expect {
    /// 200.
    Success,
    /// 200 with this binary tensor.
    Binary(Vec<u8>),
    /// 200 with this `data` in its first output.
    Data(Value),
    /// 400 to 499 with `{"error": ".."}`.
    Refusal,
    /// A refusal, or an end of the connection: the bytes leave the server unable to tell where a request ends.
    RefusalOrEnd,
    /// Nothing: nobody is left to answer.
    Nothing,
}

impl Case {
    pub(super) fn is_malformed(&self) -> bool {
        matches!(
            self.expect,
            Expect::Refusal | Expect::RefusalOrEnd | Expect::Nothing
        )
    }
}

/// An endless mix of cases: as many valid as malformed ones, each kind as likely as the next.
#[derive(Debug)]
pub(super) struct Cases(Random);

impl Cases {
    pub(super) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    /// Every kind of valid request in every size, for a server to meet once before its memory is watched.
    pub(super) fn warm_up(&mut self) -> Vec<Case> {
        let kinds = 0..valid::KINDS.len();
        kinds
            .flat_map(|kind| valid::SIZES.map(|elements| self.valid(kind, elements)))
            .collect()
    }

    fn valid(&mut self, kind: usize, elements: usize) -> Case {
        let (name, make) = valid::KINDS[kind];
        let (wire, expect) = make(&mut self.0, elements);
        Case {
            name,
            wire,
            then: Then::Keep,
            expect,
        }
    }

    /// The next request.
    pub(super) fn pick(&mut self) -> Case {
        let random = &mut self.0;
        if random.below(2) == 0 {
            let (kind, elements) = (random.below(valid::KINDS.len()), random.of(&valid::SIZES));
            return self.valid(kind, elements);
        }
        let (name, make) = random.of(malformed::KINDS);
        let malformed::Malformed { wire, then, expect } = make(random);
        Case {
            name,
            wire,
            then,
            expect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_is_picked() {
        let mut cases = Cases::new(3);
        let picked: Vec<Case> = (0..1200).map(|_| cases.pick()).collect();
        let names: BTreeSet<_> = picked.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), valid::KINDS.len() + malformed::KINDS.len());
        let malformed = picked.iter().filter(|case| case.is_malformed()).count();
        assert!((500..700).contains(&malformed), "{malformed}");
    }
}
