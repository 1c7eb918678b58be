//! Merging the bytes of a word: always the pair of lowest rank, the leftmost of equals.
//!
//! Source: Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units, arXiv:1508.07909.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::error::{Error, Kind, Result};
use crate::memory;
use crate::table::in_order;

/// Longest word, in bytes, whose pairs are searched one by one; beyond it a heap is faster.
const SHORT: usize = 48;
const NO_PAIR: Pair = Pair { rank: u32::MAX, result: 0 };
const NOWHERE: usize = usize::MAX;

/// Two neighbours that merge: how early, and into what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    rank: u32,
    result: u32,
}

/// Which tokens merge, found by left and then by right token.
#[derive(Debug, Clone, Default)]
pub(super) struct Merges {
    /// Where the pairs of each left token begin; one more than there are tokens.
    starts: Vec<u32>,
    rights: Vec<u32>,
    pairs: Vec<Pair>,
}

impl Merges {
    /// A table of `(left, right, result)` in order of rank; every id lies below `num_tokens`.
    ///
    /// # Errors
    /// `Memory`: the system has not so much. And inside, the ranks of two merges of the same pair.
    pub(super) fn new(num_tokens: usize, merges: &[(u32, u32, u32)]) -> Result<core::result::Result<Self, (u32, u32)>> {
        let pair = |rank: usize| (merges[rank].0, merges[rank].1);
        let ranks = in_order(merges.len(), &|a, b| pair(a).cmp(&pair(b)).then(a.cmp(&b)))?;
        if let Some(same) = ranks.windows(2).find(|two| pair(two[0] as usize) == pair(two[1] as usize)) {
            return Ok(Err((same[0], same[1])));
        }
        let mut starts = memory::filled(0_u32, num_tokens + 1)?;
        for &(left, _, _) in merges {
            starts[left as usize + 1] += 1;
        }
        for left in 0..num_tokens {
            starts[left + 1] += starts[left];
        }
        let rights = memory::collected(ranks.iter().map(|&rank| merges[rank as usize].1))?;
        let pairs = ranks.iter().map(|&rank| Pair { rank, result: merges[rank as usize].2 });
        Ok(Ok(Self { starts, rights, pairs: memory::collected(pairs)? }))
    }

    /// Merge the symbols from `start` to the end in place.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub(super) fn merge(&self, symbols: &mut Vec<u32>, start: usize, scratch: &mut Scratch) -> Result<()> {
        let length = symbols.len() - start;
        if length <= SHORT {
            self.merge_short(symbols, start, scratch);
        } else {
            scratch.reserve(length)?;
            self.merge_long(symbols, start, scratch);
        }
        Ok(())
    }

    fn find(&self, left: u32, right: u32) -> Pair {
        let start = self.starts[left as usize] as usize;
        let end = self.starts[left as usize + 1] as usize;
        self.rights[start..end].binary_search(&right).map_or(NO_PAIR, |found| self.pairs[start + found])
    }

    /// Square time, without any overhead.
    fn merge_short(&self, symbols: &mut Vec<u32>, start: usize, scratch: &mut Scratch) {
        let pairs = &mut scratch.pairs;
        pairs.clear();
        pairs.extend(symbols[start..].windows(2).map(|two| self.find(two[0], two[1])));
        while let Some((at, pair)) = pairs.iter().copied().enumerate().min_by_key(|(_, pair)| pair.rank) {
            if pair == NO_PAIR {
                return;
            }
            symbols[start + at] = pair.result;
            symbols.remove(start + at + 1);
            pairs.remove(at);
            if at > 0 {
                pairs[at - 1] = self.find(symbols[start + at - 1], pair.result);
            }
            if at < pairs.len() {
                pairs[at] = self.find(pair.result, symbols[start + at + 1]);
            }
        }
    }

    /// O(n log n): symbols linked to their neighbours, and their pairs in a heap.
    fn merge_long(&self, symbols: &mut Vec<u32>, start: usize, scratch: &mut Scratch) {
        let (links, heap) = (&mut scratch.links, &mut scratch.heap);
        links.clear();
        heap.clear();
        let count = symbols.len() - start;
        links.extend(symbols[start..].iter().enumerate().map(|(at, &symbol)| Link {
            symbol,
            pair: NO_PAIR,
            previous: at.checked_sub(1).unwrap_or(NOWHERE),
            next: if at + 1 < count { at + 1 } else { NOWHERE },
        }));
        for at in 0..count {
            self.pair_up(links, heap, at);
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            // A symbol only grows, so an entry of this rank is out of date exactly where the symbol's pair has another.
            if links[at].pair.rank != rank {
                continue;
            }
            let gone = links[at].next;
            let next = links[gone].next;
            links[gone].pair = NO_PAIR;
            links[at].symbol = links[at].pair.result;
            links[at].next = next;
            if next != NOWHERE {
                links[next].previous = at;
            }
            self.pair_up(links, heap, at);
            let previous = links[at].previous;
            if previous != NOWHERE {
                self.pair_up(links, heap, previous);
            }
        }
        symbols.truncate(start);
        let mut at = 0;
        while at != NOWHERE {
            symbols.push(links[at].symbol);
            at = links[at].next;
        }
    }

    fn pair_up(&self, links: &mut [Link], heap: &mut BinaryHeap<Reverse<(u32, usize)>>, at: usize) {
        let next = links[at].next;
        links[at].pair = if next == NOWHERE { NO_PAIR } else { self.find(links[at].symbol, links[next].symbol) };
        if links[at].pair != NO_PAIR {
            heap.push(Reverse((links[at].pair.rank, at)));
        }
    }
}

/// Memory that one call keeps from word to word.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pairs: Vec<Pair>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}

impl Scratch {
    /// Make room for a long word: every symbol enters the heap once, and each merge, of which there are fewer than
    /// symbols, puts in two pairs at most.
    fn reserve(&mut self, length: usize) -> Result<()> {
        memory::fit(&mut self.links, length)?;
        let more = (3 * length).saturating_sub(self.heap.len());
        self.heap.try_reserve(more).map_err(|_| Error::new(Kind::Memory, "no memory left for the words of a text"))
    }
}

#[derive(Debug)]
struct Link {
    symbol: u32,
    /// With the next symbol.
    pair: Pair,
    previous: usize,
    next: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges rank by rank, each from left to right: the definition.
    fn merge_slowly(merges: &[(u32, u32, u32)], mut symbols: Vec<u32>) -> Vec<u32> {
        while let Some(&(left, right, result)) =
            merges.iter().find(|&&(left, right, _)| symbols.windows(2).any(|two| two == [left, right]))
        {
            let at = symbols.windows(2).position(|two| two == [left, right]).unwrap();
            symbols.splice(at..at + 2, [result]);
        }
        symbols
    }

    #[test]
    fn both_ways_do_what_the_definition_says() {
        let mut state = 7_u32;
        let mut random = move |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..200 {
            let mut merges: Vec<(u32, u32, u32)> = Vec::new();
            for result in 3..3 + random(12) {
                let (left, right) = (random(result), random(result));
                if !merges.iter().any(|&(l, r, _)| (l, r) == (left, right)) {
                    merges.push((left, right, result));
                }
            }
            let table = Merges::new(16, &merges).unwrap().unwrap();
            for length in [0, 1, 2, 3, 10, 60, 300] {
                let word: Vec<u32> = (0..length).map(|_| random(3)).collect();
                let expected = merge_slowly(&merges, word.clone());
                let mut scratch = Scratch::default();
                for way in [Merges::merge_short, Merges::merge_long] {
                    let mut found = alloc::vec![99];
                    found.extend(&word);
                    if length > 0 {
                        way(&table, &mut found, 1, &mut scratch);
                    }
                    assert_eq!(found[1..], expected, "{merges:?} on {word:?}");
                }
            }
        }
    }

    #[test]
    fn a_pair_that_merges_twice_is_named() {
        assert_eq!(Merges::new(5, &[(0, 1, 3), (1, 1, 4), (0, 1, 4)]).unwrap().unwrap_err(), (0, 2));
    }
}
