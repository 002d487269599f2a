//! Repeatable random choices. The sequence of a seed never changes: recorded results depend on it.

/// The xorshift64* generator: small, repeatable, and good enough to mix test cases.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator whose choices depend on `seed` only.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero; neighbouring seeds must not start alike.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit
    }

    /// One of `choices`, which are not empty.
    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 56) as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_repeat_and_spread() {
        let mut first = Random::new(7);
        let mut second = Random::new(7);
        let mut seen = [false; 8];
        for _ in 0..200 {
            let choice = first.below(8);
            assert_eq!(choice, second.below(8));
            seen[choice] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_ne!(Random::new(1).bytes(16), Random::new(2).bytes(16));
    }
}
