//! How a field is read: its choices, spelled by the tokenizer, as a trie (Fredkin 1960, doi:10.1145/367390.367400).
//!
//! Where all choices below a node go on alike, the token is forced; where they part, the logits of what may follow are
//! read once. Where choices part at one place, the logits there decide as they are. Where they part at several, a
//! choice's logit is its log-probability among the choices: the sum, over the places on its path, of the log-softmax over
//! what may follow. Python's twin is `smallhold.decide.plan`.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::field::Field;
use super::Trunk;
use crate::error::Result;
use crate::math::{exp_f64, ln_f64};
use crate::memory;
use crate::session::{Inputs, Session};
use crate::tokenizer::{Special, Tokenizer};

/// Places where the choices of a field may part: each may take a pass of the trunk at every decision.
pub const MOST_BRANCHES: usize = 4096;

/// Control tokens that end a text or a turn: ours, and those of widespread vocabularies. The first one that is there
/// ends a choice that is the beginning of another.
const END_MARKS: [&str; 9] = [
    "<eos>",
    "</s>",
    "\n</s>\n",
    "<|endoftext|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
];

/// A place where choices part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Tokens from the first of a choice to here, the same in all choices that come by; may be empty.
    pub path: Vec<u32>,
    /// (M) what may follow, two and more, all different.
    pub tokens: Vec<u32>,
    /// (N) of each choice that comes by, its place among the field's and that in `tokens` of what it goes on with.
    pub follows: Vec<(usize, usize)>,
}

/// How one field is read.
#[derive(Debug, Clone)]
pub struct FieldPlan {
    /// What is read at once: branches on one path, each before those that lie deeper. All choices come by the first
    /// branch of the first pass.
    passes: Vec<Vec<Branch>>,
    num_choices: usize,
}

impl FieldPlan {
    /// Plan a field: by one control token a choice, `<task:choice>`, or else by spelling the choices out.
    ///
    /// # Errors
    /// `Malformed`: two choices are spelled alike, one is the beginning of another and there is no end mark, or they part
    /// at more than `MOST_BRANCHES` places.
    pub fn of(field: &Field, task: &str, trunk: &Trunk) -> Result<Self> {
        let tokenizer = &trunk.tokenizer;
        let own = |choice: &String| Some(vec![tokenizer.id_of(&alloc::format!("<{task}:{choice}>"))?]);
        if let Some(own) = field.choices.iter().map(own).collect() {
            return Self::trie(&field.name, &field.choices, own, None);
        }
        let spelled = field.choices.iter().map(|choice| tokenizer.encode(choice, Special::Text));
        Self::trie(&field.name, &field.choices, spelled.collect::<Result<Vec<_>>>()?, end_mark(tokenizer))
    }

    fn trie(field: &str, choices: &[String], mut spelled: Vec<Vec<u32>>, end: Option<u32>) -> Result<Self> {
        tell_apart(field, choices, &mut spelled, end)?;
        let (mut passes, mut along, mut branches) = (Vec::new(), Vec::new(), 0);
        // Depth, and the choices that begin alike so far, rising.
        let mut below = vec![(0, memory::collected(0..spelled.len())?)];
        while let Some((depth, group)) = below.pop() {
            let mut going: Vec<(u32, usize)> = memory::collected(group.iter().map(|k| (spelled[*k][depth], *k)))?;
            going.sort_unstable();
            let mut ways: Vec<&[(u32, usize)]> = going.chunk_by(|a, b| a.0 == b.0).collect();
            ways.sort_unstable_by_key(|way| way[0].1); // in order of the choices
            let is_last = ways.iter().all(|way| way.len() == 1);
            for way in ways.iter().rev().filter(|way| way.len() > 1) {
                memory::push(&mut below, (depth + 1, memory::collected(way.iter().map(|(_, k)| *k))?))?;
            }
            if ways.len() == 1 {
                continue;
            }
            branches += 1;
            if branches > MOST_BRANCHES {
                fail!(
                    Malformed,
                    "field {field}: expected choices that part at {MOST_BRANCHES} places at most, got more in {} choices",
                    choices.len()
                );
            }
            let mut follows = memory::room(group.len())?;
            for (place, way) in ways.iter().enumerate() {
                follows.extend(way.iter().map(|(_, k)| (*k, place)));
            }
            follows.sort_unstable();
            let path = memory::copied(&spelled[group[0]][..depth])?;
            memory::push(
                &mut along,
                Branch { path, tokens: memory::collected(ways.iter().map(|way| way[0].0))?, follows },
            )?;
            if is_last {
                memory::push(&mut passes, core::mem::take(&mut along))?; // otherwise the next branch is on the same path
            }
        }
        Ok(Self { passes, num_choices: choices.len() })
    }

    /// Where one token decides: tokens that all choices begin with, and (K) those whose logits behind them decide.
    pub fn one_token(&self) -> Option<(&[u32], &[u32])> {
        match self.passes.as_slice() {
            [along] if along.len() == 1 => Some((&along[0].path, &along[0].tokens)),
            _ => None,
        }
    }

    /// Where one token decides and none is forced before it: (K) those whose logits behind the question decide.
    pub fn direct(&self) -> Option<&[u32]> {
        self.one_token().filter(|(forced, _)| forced.is_empty()).map(|(_, deciding)| deciding)
    }

    /// Places where choices part.
    pub fn num_branches(&self) -> usize {
        self.passes.iter().map(Vec::len).sum()
    }

    /// Most tokens that are read behind the question.
    pub fn longest(&self) -> usize {
        self.passes.iter().flatten().map(|branch| branch.path.len()).max().unwrap_or(0)
    }

    /// Deciding logits (K) behind a question that was just appended, in the order of the choices; the sequence stays as it
    /// is. Of one branch the raw logits; of several log-probabilities.
    ///
    /// # Errors
    /// As `Session::score`.
    pub fn logits(&self, session: &mut Session) -> Result<Vec<f32>> {
        self.weigh(|path, at, tokens| session.score(Inputs::Tokens(path), at, Some(tokens)))
    }

    /// As `logits`; `score` gives (len(at), R) logits of R tokens behind positions of a path, -1 being the one before it.
    fn weigh(&self, mut score: impl FnMut(&[u32], &[i64], &[u32]) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
        if let Some((forced, deciding)) = self.one_token() {
            return score(forced, &[forced.len() as i64 - 1], deciding);
        }
        let mut sums = memory::filled(0.0_f64, self.num_choices)?;
        for along in &self.passes {
            let Some(deepest) = along.last() else { continue };
            let at: Vec<i64> = memory::collected(along.iter().map(|branch| branch.path.len() as i64 - 1))?;
            let mut asked = memory::room(along.iter().map(|branch| branch.tokens.len()).sum())?;
            asked.extend(along.iter().flat_map(|branch| &branch.tokens));
            let scores = score(&deepest.path, &at, &asked)?;
            let mut start = 0;
            for (row, branch) in scores.chunks_exact(asked.len()).zip(along) {
                let logits = &row[start..start + branch.tokens.len()];
                start += branch.tokens.len();
                let whole = log_sum_exp(logits);
                for (choice, place) in &branch.follows {
                    sums[*choice] += f64::from(logits[*place]) - whole;
                }
            }
        }
        memory::collected(sums.iter().map(|sum| *sum as f32))
    }
}

/// The control token that ends a text, where there is one.
pub(super) fn end_mark(tokenizer: &Tokenizer) -> Option<u32> {
    END_MARKS.iter().filter_map(|mark| tokenizer.id_of(mark)).find(|id| tokenizer.is_control(*id))
}

/// Put the end mark behind a choice that is the beginning of another, so that none is any longer.
fn tell_apart(field: &str, choices: &[String], spelled: &mut [Vec<u32>], end: Option<u32>) -> Result<()> {
    for (first, second) in beginnings(spelled)? {
        let (one, other) = (&choices[first], &choices[second]);
        if spelled[first] == spelled[second] {
            fail!(Malformed, "field {field}: the tokenizer spells {one:?} and {other:?} alike");
        }
        match end {
            Some(end) => memory::push(&mut spelled[first], end)?,
            None => fail!(
                Malformed,
                "field {field}: the choice {one:?} is the beginning of {other:?}, and the tokenizer has no mark by which it \
                 could end"
            ),
        }
    }
    if let Some((first, second)) = beginnings(spelled)?.first() {
        let (one, other) = (&choices[*first], &choices[*second]);
        fail!(Malformed, "field {field}: {one:?} and {other:?} cannot be told apart: the end mark is part of one");
    }
    Ok(())
}

/// Pairs of which the first is the beginning of the second. Sorted, what begins another begins its next neighbour:
/// whatever stands between them begins so too.
fn beginnings(spelled: &[Vec<u32>]) -> Result<Vec<(usize, usize)>> {
    let mut order: Vec<usize> = memory::collected(0..spelled.len())?;
    order.sort_unstable_by_key(|k| (&spelled[*k], *k));
    let mut found = Vec::new();
    for pair in order.windows(2).filter(|pair| spelled[pair[1]].starts_with(&spelled[pair[0]])) {
        memory::push(&mut found, (pair[0], pair[1]))?;
    }
    Ok(found)
}

/// ln of the sum of e^x; no number where one of them is none, so that the answer is refused.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    if logits.iter().any(|x| !x.is_finite()) {
        return f64::NAN;
    }
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + ln_f64(logits.iter().map(|x| exp_f64(f64::from(*x) - most)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    const END: u32 = 256;

    fn plan(choices: &[&str], end: Option<u32>) -> Result<FieldPlan> {
        let named: Vec<String> = choices.iter().map(|choice| (*choice).to_owned()).collect();
        let spelled = choices.iter().map(|choice| choice.bytes().map(u32::from).collect()).collect();
        FieldPlan::trie("level", &named, spelled, end)
    }

    fn branch(path: &str, tokens: &[u32], follows: &[(usize, usize)]) -> Branch {
        Branch { path: path.bytes().map(u32::from).collect(), tokens: tokens.to_vec(), follows: follows.to_vec() }
    }

    /// A number for a token behind others, as from a model.
    fn guess(before: &[u32], token: u32) -> f32 {
        let mixed = before.iter().chain([&token]).fold(7_u32, |hash, id| (hash ^ id).wrapping_mul(0x0100_0193));
        (mixed >> 8) as f32 / (1 << 22) as f32
    }

    fn guesses(path: &[u32], at: &[i64], tokens: &[u32]) -> Result<Vec<f32>> {
        let row =
            |index: &i64| tokens.iter().map(|token| guess(&path[..(index + 1) as usize], *token)).collect::<Vec<_>>();
        Ok(at.iter().flat_map(row).collect())
    }

    /// Each choice on its own, token by token, among the tokens by which any choice goes on.
    fn one_by_one(told: &[Vec<u32>]) -> Vec<f64> {
        let mut found = Vec::new();
        for ids in told {
            let step = |depth: usize| {
                let before = &ids[..depth];
                let mut allowed: Vec<u32> = told
                    .iter()
                    .filter(|other| other.len() > depth && other.starts_with(before))
                    .map(|o| o[depth])
                    .collect();
                allowed.sort_unstable();
                allowed.dedup();
                let sum: f64 = allowed.iter().map(|token| f64::from(guess(before, *token)).exp()).sum();
                f64::from(guess(before, ids[depth])) - sum.ln()
            };
            found.push((0..ids.len()).map(step).sum());
        }
        found
    }

    #[test]
    fn of_one_branch_the_raw_logits_are_handed_on() {
        for (choices, forced) in [(["no", "yes"], ""), (["risk no", "risk yes"], "risk ")] {
            let plan = plan(&choices, None).unwrap();
            let forced: Vec<u32> = forced.bytes().map(u32::from).collect();
            let deciding = [u32::from(b'n'), u32::from(b'y')];
            assert_eq!(plan.one_token(), Some((forced.as_slice(), deciding.as_slice())));
            assert_eq!(plan.direct().is_some(), forced.is_empty());
            assert_eq!((plan.num_branches(), plan.longest()), (1, forced.len()));
            let expected: Vec<f32> = deciding.iter().map(|token| guess(&forced, *token)).collect();
            assert_eq!(plan.weigh(guesses).unwrap(), expected);
        }
    }

    #[test]
    fn choices_part_where_they_differ_and_end_by_the_mark() {
        let found = plan(&["ab", "ac", "ba"], None).unwrap();
        let first = branch("", &[97, 98], &[(0, 0), (1, 0), (2, 1)]);
        assert_eq!(found.passes, [[first, branch("a", &[98, 99], &[(0, 0), (1, 1)])]]);
        assert_eq!((found.one_token(), found.num_branches(), found.longest()), (None, 2, 1));
        let found = plan(&["low", "higher", "high"], Some(END)).unwrap();
        assert_eq!(found.passes[0][1], branch("high", &[101, END], &[(1, 0), (2, 1)]));
    }

    #[test]
    fn choices_are_weighed_as_one_by_one() {
        let alphabet = ["a", "b", "c"];
        let mut seed = 1_u32;
        for count in 2..40 {
            let mut choices: Vec<String> = Vec::new();
            while choices.len() < count {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let choice: String =
                    (0..(seed >> 8) % 6).map(|i| alphabet[(seed >> (10 + 3 * i)) as usize % 3]).collect();
                if !choices.contains(&choice) {
                    choices.push(choice);
                }
            }
            let names: Vec<&str> = choices.iter().map(String::as_str).collect();
            let plan = plan(&names, Some(END)).unwrap();
            let mut passes = 0;
            let logits = plan.weigh(|path, at, tokens| {
                passes += 1;
                guesses(path, at, tokens)
            });
            assert_eq!(passes, plan.passes.len());
            assert!(passes <= plan.num_branches() && plan.num_branches() < count);
            let logits: Vec<f64> = logits.unwrap().into_iter().map(f64::from).collect();
            let begins = |name: &&str| names.iter().any(|other| other != name && other.starts_with(name));
            let told: Vec<Vec<u32>> = names
                .iter()
                .map(|name| name.bytes().map(u32::from).chain(begins(name).then_some(END)).collect())
                .collect();
            let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|x| (x - most).exp()).sum();
            let expected = one_by_one(&told);
            assert!((expected.iter().map(|x| x.exp()).sum::<f64>() - 1.0).abs() < 1e-9);
            for (logit, expected) in logits.iter().zip(expected) {
                assert!((logit - most - sum.ln() - expected).abs() < 1e-5, "{names:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let message = |spelled: &[&[u32]], end| {
            let names: Vec<String> = (0..spelled.len()).map(|i| alloc::format!("{i}")).collect();
            FieldPlan::trie("level", &names, spelled.iter().map(|ids| ids.to_vec()).collect(), end).unwrap_err().message
        };
        assert_eq!(
            message(&[&[1, 2, 3], &[1, 2]], None),
            "field level: the choice \"1\" is the beginning of \"0\", and the tokenizer has no mark by which it could end"
        );
        assert_eq!(message(&[&[1], &[3], &[1]], Some(9)), "field level: the tokenizer spells \"0\" and \"2\" alike");
        for spelled in [[&[1][..], &[1, 9, 3]], [&[1], &[1, 9]]] {
            assert!(message(&spelled, Some(9)).ends_with("cannot be told apart: the end mark is part of one"));
        }
    }

    #[test]
    fn choices_part_at_so_many_places_and_no_more() {
        let choices: Vec<String> = (0..MOST_BRANCHES + 2).map(|i| alloc::format!("{i:013b}")).collect();
        let names: Vec<&str> = choices.iter().map(String::as_str).collect();
        assert_eq!(plan(&names[1..], None).unwrap().num_branches(), MOST_BRANCHES);
        let message = plan(&names, None).unwrap_err().message;
        assert!(message.contains("part at 4096 places at most, got more in 4098 choices"), "{message}");
    }

    #[test]
    fn damaged_weights_give_no_answer() {
        let found = plan(&["ab", "ac", "ba"], None).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let logits = found.weigh(|_, at, tokens| Ok(vec![bad; at.len() * tokens.len()])).unwrap();
            assert!(logits.iter().all(|x| x.is_nan()));
        }
    }
}
