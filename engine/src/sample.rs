//! Free text, token by token: greedy, or drawn by a seed.
//!
//! Sources: top-k as in Fan et al. 2018, arXiv:1805.04833, section 5.1; top-p as in Holtzman et al. 2020,
//! arXiv:1904.09751, section 3.1; the generator is SplitMix64, Steele et al. 2014, doi:10.1145/2660193.2660195.

use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::Result;
use crate::math::exp;
use crate::session::{Inputs, Session};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token always.
    pub temperature: f32,
    /// Choose among so many of the most probable tokens; 0: among all.
    pub top_k: u32,
    /// Choose among the fewest of the most probable tokens that together are as probable as this; 1: among all.
    pub top_p: f32,
    /// The same seed draws the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Chooses tokens one after the other.
pub struct Sampler {
    how: Sampling,
    state: u64,
}

impl Sampler {
    /// # Errors
    /// `Shape`: a temperature that is negative or not finite, or a `top_p` outside (0, 1].
    pub fn new(how: Sampling) -> Result<Self> {
        if !(how.temperature >= 0.0 && how.temperature.is_finite()) {
            fail!(Shape, "temperature: expected a finite number from 0 on, got {}", how.temperature);
        }
        if !(how.top_p > 0.0 && how.top_p <= 1.0) {
            fail!(Shape, "top_p: expected a number above 0 and at most 1, got {}", how.top_p);
        }
        Ok(Self { how, state: how.seed })
    }

    /// The next token, by logits (V,) of which one at least is a number. Of equal ones the first comes first.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        let numbers = || logits.iter().zip(0..).filter(|(x, _)| !x.is_nan()).map(|(x, id)| (*x, id));
        let best = numbers().fold((f32::NEG_INFINITY, 0), |best, x| if x.0 > best.0 { x } else { best });
        if self.how.temperature == 0.0 {
            return best.1;
        }
        // (1) Weights e^((logit - largest) / temperature); a weight and its token as one number keep their order.
        let Sampling { temperature, top_k, top_p, .. } = self.how;
        let keys = numbers().map(|(x, id)| u64::from(exp((x - best.0) / temperature).to_bits()) << 32 | u64::from(!id));
        let mut all: Vec<u64> = keys.collect();
        let weight = |key: &u64| f32::from_bits((key >> 32) as u32);
        // (2) The most probable ones, as many as top_k says, and as few of them as reach top_p.
        if top_k > 0 || top_p < 1.0 {
            let mut heap = BinaryHeap::from(all);
            let mut whole = heap.iter().map(weight).sum::<f32>();
            all = Vec::new();
            if top_k > 0 {
                all.extend((0..top_k).map_while(|_| heap.pop()));
                whole = all.iter().map(weight).sum();
                heap.clear();
            }
            let (mut sum, mut count) = (0.0, 0);
            while count == 0 || sum < top_p * whole {
                if count == all.len() {
                    let Some(key) = heap.pop() else { break };
                    all.push(key);
                }
                sum += weight(&all[count]);
                count += 1;
            }
            all.truncate(count);
        }
        // (3) One of these, by its share.
        let mut left = self.draw() * all.iter().map(weight).sum::<f32>();
        let chosen = all.iter().find(|key| {
            left -= weight(key);
            left < 0.0
        });
        chosen.or(all.last()).map_or(best.1, |key| !(*key as u32))
    }

    /// A number in [0, 1).
    fn draw(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
    }
}

impl Session {
    /// Go on with at most `most` tokens, which are appended; one in `stop` ends the text and is not part of it.
    ///
    /// # Errors
    /// `Shape`: nothing was appended just before, and see `Sampler::new`. `Capacity`: the context has no room for so
    /// many. The session is unchanged.
    pub fn generate(&mut self, most: usize, how: Sampling, stop: &[u32]) -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(how)?;
        if most > self.model().config.context - self.length() {
            let (length, context) = (self.length(), self.model().config.context);
            fail!(Capacity, "context: {length} positions and {most} more exceed the context length {context}");
        }
        let mut text = vec![];
        let mut logits = self.score(Inputs::Tokens(&[]), &[-1], None)?;
        while text.len() < most {
            let token = sampler.next(&logits);
            if stop.contains(&token) {
                break;
            }
            text.push(token);
            self.append(Inputs::Tokens(&[token]))?;
            if text.len() < most {
                logits = self.score(Inputs::Tokens(&[]), &[-1], None)?;
            }
        }
        Ok(text)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    fn shares(how: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(how).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.next(logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn assert_near(found: &[f64], expected: &[f64]) {
        for (a, b) in found.iter().zip(expected) {
            // Four standard deviations of a share of one half among 20,000.
            assert!((a - b).abs() < 0.0142 && (*b > 0.0 || *a == 0.0), "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits = [0.5_f32, 0.1, 0.3, 0.1].map(f32::ln);
        let how = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        assert_near(&shares(how, &logits), &[0.5, 0.1, 0.3, 0.1]);
        assert_near(&shares(Sampling { top_k: 2, ..how }, &logits), &[0.625, 0.0, 0.375, 0.0]);
        assert_near(&shares(Sampling { top_k: 3, ..how }, &logits), &[5.0 / 9.0, 1.0 / 9.0, 3.0 / 9.0, 0.0]);
        assert_near(&shares(Sampling { top_p: 0.5, ..how }, &logits), &[1.0, 0.0, 0.0, 0.0]);
        assert_near(&shares(Sampling { top_p: 0.6, ..how }, &logits), &[0.625, 0.0, 0.375, 0.0]);
        let squares = [25.0 / 36.0, 1.0 / 36.0, 9.0 / 36.0, 1.0 / 36.0];
        assert_near(&shares(Sampling { temperature: 0.5, ..how }, &logits), &squares);
        assert_eq!(shares(Sampling { temperature: 0.0, ..how }, &[0.0, 2.0, 2.0])[1].round(), 1.0);
    }

    #[test]
    fn a_seed_says_it_all_and_bad_settings_are_refused() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::default() }).unwrap();
            (0..50).map(|_| sampler.next(&[0.0; 100])).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for (temperature, top_p) in [(-1.0, 1.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0), (1.0, 0.0), (1.0, f32::NAN)] {
            assert!(Sampler::new(Sampling { temperature, top_p, ..Sampling::default() }).is_err());
        }
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..Sampling::default() }).unwrap();
        assert_eq!(sampler.next(&[f32::NAN, 0.0, f32::NEG_INFINITY]), 1);
    }
}
