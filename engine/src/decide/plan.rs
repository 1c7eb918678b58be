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
use crate::table::in_order;
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
    /// Nothing branches below it: the branches since the last such one lie on its path, and are read at once.
    pub is_deepest: bool,
}

/// How one field is read.
#[derive(Debug, Clone)]
pub struct FieldPlan {
    /// Each before those that lie deeper; all choices come by the first.
    branches: Vec<Branch>,
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
        if let Some(own) = field.choices.iter().map(own).collect::<Option<Vec<_>>>() {
            return Self::trie(&field.name, &field.choices, &own, None);
        }
        let spelled = field.choices.iter().map(|choice| tokenizer.encode(choice, Special::Text));
        Self::trie(&field.name, &field.choices, &spelled.collect::<Result<Vec<_>>>()?, end_mark(tokenizer))
    }

    fn trie(field: &str, choices: &[String], spelled: &[Vec<u32>], end: Option<u32>) -> Result<Self> {
        // Sorted, choices that begin alike are neighbours, and the one that ends first is the first of them.
        let order = in_order(spelled.len(), &|a, b| spelled[a].cmp(&spelled[b]).then(a.cmp(&b)))?;
        let mut branches: Vec<Branch> = Vec::new();
        let mut below = vec![(0, 0, order.len())]; // depth, and the part of the order that begins alike so far
        while let Some((depth, start, stop)) = below.pop() {
            let (one, other) = (order[start] as usize, order[start + 1] as usize);
            if spelled[one].len() == depth && (end.is_none() || spelled[other].len() == depth) {
                let (one, other) = (&choices[one], &choices[other]);
                fail!(
                    Malformed,
                    "field {field}: {one:?} is spelled as {other:?} is or begins, and has no mark by which it could end"
                );
            }
            let next = |place: usize| spelled[order[place] as usize].get(depth).copied().or(end);
            let (mut tokens, mut follows, mut from, waiting) = (Vec::new(), Vec::new(), start, below.len());
            while let Some(token) = (from < stop).then(|| next(from)).flatten() {
                let to = (from..stop).find(|place| next(*place) != Some(token)).unwrap_or(stop);
                follows.extend((from..to).map(|place| (order[place] as usize, tokens.len())));
                tokens.push(token);
                if to - from > 1 {
                    below.push((depth + 1, from, to));
                }
                from = to;
            }
            if tokens.len() == 1 {
                continue;
            }
            if branches.len() == MOST_BRANCHES {
                let count = choices.len();
                fail!(Malformed, "field {field}: its {count} choices part at more than {MOST_BRANCHES} places");
            }
            let (path, is_deepest) = (spelled[one][..depth].to_vec(), below.len() == waiting);
            branches.push(Branch { path, tokens, follows, is_deepest });
        }
        if let [only] = branches.as_mut_slice() {
            // Logits are handed on as they are, so in the order of the choices.
            let mut tokens = only.tokens.clone();
            for (choice, place) in &mut only.follows {
                tokens[*choice] = only.tokens[*place];
                *place = *choice;
            }
            only.tokens = tokens;
        }
        Ok(Self { branches })
    }

    /// Where one token decides: tokens that all choices begin with, and (K) those whose logits behind them decide.
    pub fn one_token(&self) -> Option<(&[u32], &[u32])> {
        match self.branches.as_slice() {
            [only] => Some((&only.path, &only.tokens)),
            _ => None,
        }
    }

    /// Where one token decides and none is forced before it: (K) those whose logits behind the question decide.
    pub fn direct(&self) -> Option<&[u32]> {
        self.one_token().filter(|(forced, _)| forced.is_empty()).map(|(_, deciding)| deciding)
    }

    /// Places where choices part.
    pub fn num_branches(&self) -> usize {
        self.branches.len()
    }

    /// Most tokens that are read behind the question.
    pub fn longest(&self) -> usize {
        self.branches.iter().map(|branch| branch.path.len()).max().unwrap_or(0)
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
        let mut sums = memory::filled(0.0_f64, self.branches[0].follows.len())?;
        for along in self.branches.split_inclusive(|branch| branch.is_deepest) {
            let at: Vec<i64> = memory::collected(along.iter().map(|branch| branch.path.len() as i64 - 1))?;
            let mut asked = memory::room(along.iter().map(|branch| branch.tokens.len()).sum())?;
            for branch in along {
                asked.extend_from_slice(&branch.tokens);
            }
            let scores = score(&along[along.len() - 1].path, &at, &asked)?;
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
        let spelled: Vec<Vec<u32>> = choices.iter().map(|choice| choice.bytes().map(u32::from).collect()).collect();
        FieldPlan::trie("level", &named, &spelled, end)
    }

    fn branch(path: &str, tokens: &[u32], follows: &[(usize, usize)], is_deepest: bool) -> Branch {
        let path = path.bytes().map(u32::from).collect();
        Branch { path, tokens: tokens.to_vec(), follows: follows.to_vec(), is_deepest }
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
        let first = branch("", &[97, 98], &[(0, 0), (1, 0), (2, 1)], false);
        assert_eq!(found.branches, [first, branch("a", &[98, 99], &[(0, 0), (1, 1)], true)]);
        assert_eq!((found.one_token(), found.num_branches(), found.longest()), (None, 2, 1));
        let found = plan(&["low", "higher", "high"], Some(END)).unwrap();
        assert_eq!(found.branches[1], branch("high", &[END, 101], &[(2, 0), (1, 1)], true));
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
            assert_eq!(passes, plan.branches.iter().filter(|branch| branch.is_deepest).count());
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
            let spelled: Vec<Vec<u32>> = spelled.iter().map(|ids| ids.to_vec()).collect();
            FieldPlan::trie("level", &names, &spelled, end).unwrap_err().message
        };
        let said = "is or begins, and has no mark by which it could end";
        let begun = message(&[&[1, 2, 3], &[1, 2]], None);
        assert_eq!(begun, alloc::format!("field level: \"1\" is spelled as \"0\" {said}"));
        for end in [None, Some(9)] {
            let alike = message(&[&[1], &[3], &[1]], end);
            assert_eq!(alike, alloc::format!("field level: \"0\" is spelled as \"2\" {said}"));
        }
    }

    #[test]
    fn choices_part_at_so_many_places_and_no_more() {
        let choices: Vec<String> = (0..MOST_BRANCHES + 2).map(|i| alloc::format!("{i:013b}")).collect();
        let names: Vec<&str> = choices.iter().map(String::as_str).collect();
        assert_eq!(plan(&names[1..], None).unwrap().num_branches(), MOST_BRANCHES);
        let message = plan(&names, None).unwrap_err().message;
        assert!(message.contains("its 4098 choices part at more than 4096 places"), "{message}");
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
