//! Random numbers that come from a seed alone.

/// A small generator of random numbers (xorshift64*, Vigna 2016,
/// <https://arxiv.org/abs/1402.6246>).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Makes the generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(drop_api::names::stable_hash(&seed.to_le_bytes()) | 1)
    }

    /// Returns a number from zero to just below `bound`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).checked_rem(bound).unwrap_or(0)
    }

    /// Returns an index into a sequence of this length.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// Returns true in this percentage of calls.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns one of several; `None` if there is none.
    pub fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.index(of.len()))
    }

    /// Returns one of at least one.
    pub fn pick<T: Clone, const N: usize>(&mut self, of: &[T; N]) -> T {
        const { assert!(N > 0, "there is something to pick from") };
        let [first, ..] = of.as_slice() else { unreachable!("the length was checked") };
        self.choose(of).unwrap_or(first).clone()
    }

    /// Puts items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.index(end + 1);
            items.swap(end, other);
        }
    }
}
