//! A sample's place in 0..1, from its content alone.

use exeunt_stats::Digest;

/// What a place is used for; each purpose shuffles anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Splitting into statistics, calibration and evaluation.
    Part,
    /// Picking samples to find scales.
    Range,
    /// Dealing out to simulated nodes.
    Share,
}

impl Purpose {
    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Part => b"exeunt part",
            Self::Range => b"exeunt range",
            Self::Share => b"exeunt share",
        }
    }
}

/// Where in `[0, 1)` a sample with this content hash lies: 53 bits of the BLAKE3 of purpose, seed and hash.
pub fn place(hash: Digest, seed: u64, purpose: Purpose) -> f64 {
    let mut bytes = purpose.tag().to_vec();
    bytes.extend_from_slice(&seed.to_le_bytes());
    bytes.extend_from_slice(hash.as_bytes());
    let digest = Digest::of(&bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_spread_evenly_and_differ_by_seed_and_purpose() {
        let hashes: Vec<Digest> = (0..10_000_u32).map(|i| Digest::of(&i.to_le_bytes())).collect();
        let below = |seed, purpose| hashes.iter().filter(|h| place(**h, seed, purpose) < 0.3).count();
        assert!((2850..3150).contains(&below(0, Purpose::Part)));
        assert!((2850..3150).contains(&below(1, Purpose::Share)));
        let a = place(hashes[0], 0, Purpose::Part);
        assert!(a != place(hashes[0], 1, Purpose::Part) && a != place(hashes[0], 0, Purpose::Range));
        assert!(hashes.iter().all(|h| (0.0..1.0).contains(&place(*h, 7, Purpose::Range))));
    }
}
