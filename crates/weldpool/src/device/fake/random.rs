//! Random numbers that depend on nothing but their place: the same seed, stream and index give the same
//! number, in whatever order threads ask.

/// Mixes three numbers into one whose bits are evenly spread (the finaliser of splitmix64).
pub(super) fn number(seed: u64, stream: u64, index: u64) -> u64 {
    let mix = |mut bits: u64| {
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    };
    let golden = 0x9E37_79B9_7F4A_7C15_u64;
    let stream = mix(seed.wrapping_add(golden.wrapping_mul(stream.wrapping_add(1))));
    mix(stream.wrapping_add(golden.wrapping_mul(index.wrapping_add(1))))
}

/// A number from 0 up to but not including 1.
pub(super) fn fraction(seed: u64, stream: u64, index: u64) -> f64 {
    // 53 bits are what the significand of a double holds.
    (number(seed, stream, index) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_stream_and_index_only() {
        assert_eq!(number(1, 2, 3), number(1, 2, 3));
        let all = [
            number(1, 2, 3),
            number(2, 2, 3),
            number(1, 3, 3),
            number(1, 2, 4),
        ];
        assert!((0..4).all(|one| (0..one).all(|other| all[one] != all[other])));
    }

    #[test]
    fn fractions_are_spread_evenly() {
        let low = (0..10_000)
            .map(|index| fraction(7, 0, index))
            .inspect(|fraction| assert!((0.0..1.0).contains(fraction)))
            .filter(|&fraction| fraction < 0.25)
            .count();
        assert!((2300..2700).contains(&low), "{low}");
    }
}
