//! Byte-level BPE: from text to ids as the library `tokenizers` does it, and from ids back to bytes.
//!
//! Read in this order: `alphabet` (bytes as characters), `pre` (text into words), `merge` (words into tokens).

mod alphabet;
mod merge;
pub(crate) mod pre;
mod unicode;

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Result;
use crate::gguf::Gguf;
use crate::memory;
use crate::table::in_order;
use merge::{Merges, Scratch};
pub use pre::PreTokenizer;

/// Type of a control token in a weight file.
const CONTROL: i64 = 3;

/// What a text that spells a control token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Special {
    /// Its letters: no text from outside turns into a control token.
    #[default]
    Text,
    /// The control token: only for texts that the program itself has written.
    Parse,
}

/// A vocabulary and its merges.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// By id; all but control tokens in the byte-level alphabet.
    names: Vec<String>,
    is_control: Vec<bool>,
    /// Ids in order of their names.
    sorted: Vec<u32>,
    byte_ids: [u32; 256],
    merges: Merges,
    pre: PreTokenizer,
    /// Different lengths of control tokens in bytes, falling.
    control_lengths: Vec<usize>,
    /// Whether a control token begins with this byte.
    begins_control: [bool; 256],
}

impl Tokenizer {
    /// A tokenizer of what a GGUF file holds.
    ///
    /// # Arguments
    /// `tokens`: (V) names in order of id (`tokenizer.ggml.tokens`); `merges`: pairs "a b" in order of rank
    /// (`tokenizer.ggml.merges`); `control`: (V) true where `tokenizer.ggml.token_type` is 3. A token of type 4 (user
    /// defined), which other programs find in every text, counts as plain here and is found in none.
    ///
    /// # Errors
    /// `Malformed`: counts that differ, a token that is there twice, a byte without token, a merge that is no pair, that
    /// is there twice, or whose parts or result are no tokens or are control tokens.
    pub fn new(tokens: Vec<String>, merges: &[String], control: &[bool], pre: PreTokenizer) -> Result<Self> {
        if control.len() != tokens.len() {
            fail!(Malformed, "tokenizer: {} tokens, and {} marks of control tokens", tokens.len(), control.len());
        }
        let sorted = in_order(tokens.len(), &|a, b| tokens[a].cmp(&tokens[b]).then(a.cmp(&b)))?;
        let name = |id: u32| &tokens[id as usize];
        if let Some(same) = sorted.windows(2).find(|two| name(two[0]) == name(two[1])) {
            fail!(Malformed, "tokenizer: token {:?} is there twice, as {} and {}", name(same[0]), same[0], same[1]);
        }
        let (mut control_lengths, mut begins_control) = (Vec::new(), [false; 256]);
        for (name, _) in tokens.iter().zip(control).filter(|(_, &is_control)| is_control) {
            if let Some(&first) = name.as_bytes().first() {
                begins_control[usize::from(first)] = true;
                let at = control_lengths.partition_point(|length| *length > name.len());
                if control_lengths.get(at) != Some(&name.len()) {
                    memory::reserve(&mut control_lengths, 1)?;
                    control_lengths.insert(at, name.len());
                }
            }
        }
        let mut made = Self {
            names: tokens,
            is_control: memory::copied(control)?,
            sorted,
            byte_ids: [0; 256],
            merges: Merges::default(),
            pre,
            control_lengths,
            begins_control,
        };
        for byte in 0..=255 {
            match made.plain_id_of(alphabet::char_of(byte).encode_utf8(&mut [0; 4])) {
                Some(id) => made.byte_ids[usize::from(byte)] = id,
                None => fail!(Malformed, "tokenizer: byte {byte:#04x} ({:?}) has no token", alphabet::char_of(byte)),
            }
        }
        made.merges = made.resolve(merges)?;
        Ok(made)
    }

    /// The tokenizer of a weight file.
    ///
    /// # Errors
    /// `Unsupported`: not byte-level BPE, which llama.cpp calls `gpt2`, or another pre-tokenizer. `Malformed`: see `new`.
    pub fn of_gguf(file: &Gguf) -> Result<Self> {
        let kind = file.text("tokenizer.ggml.model");
        if kind != Some("gpt2") {
            fail!(Unsupported, "tokenizer.ggml.model: expected gpt2 (byte-level BPE), got {kind:?}");
        }
        let pre = PreTokenizer::of(file.text("tokenizer.ggml.pre").unwrap_or("gpt-2"))?;
        let names = file.texts("tokenizer.ggml.tokens").unwrap_or(&[]);
        let mut tokens = memory::room(names.len())?;
        for name in names {
            tokens.push(memory::text(name)?);
        }
        // The kinds are optional in the format, and the first bundles had none.
        let control: Vec<bool> = match file.integers("tokenizer.ggml.token_type") {
            Some(types) => memory::collected(types.iter().map(|kind| *kind == CONTROL))?,
            None => memory::filled(false, tokens.len())?,
        };
        Self::new(tokens, file.texts("tokenizer.ggml.merges").unwrap_or(&[]), &control, pre)
    }

    /// Ids of a text, none put before or after it; with `Special::Text` none of them is a control token's.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let (mut ids, mut scratch, mut rest) = (memory::room(text.len())?, Scratch::default(), text);
        if special == Special::Parse {
            while let Some((start, end, id)) = self.find_control(rest) {
                self.encode_plain(&rest[..start], &mut ids, &mut scratch)?;
                ids.push(id);
                rest = &rest[end..];
            }
        }
        self.encode_plain(rest, &mut ids, &mut scratch)?;
        Ok(ids)
    }

    /// The bytes that ids stand for, without control tokens; ids that are no tokens stand for nothing.
    ///
    /// A text may end or begin within a character: whoever shows it replaces what is not UTF-8.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &id in ids {
            if self.is_control.get(id as usize) == Some(&false) {
                self.spell(id, &mut bytes);
            }
        }
        bytes
    }

    /// As `decode`, with the names of control tokens in their places.
    pub fn decode_with_control(&self, ids: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &id in ids.iter().filter(|&&id| (id as usize) < self.len()) {
            self.spell(id, &mut bytes);
        }
        bytes
    }

    /// Id of a token under its name in the vocabulary: in the byte-level alphabet, or the name of a control token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.id_of_bytes(token.as_bytes())
    }

    /// Whether an id is that of a control token.
    pub fn is_control(&self, id: u32) -> bool {
        self.is_control.get(id as usize).copied().unwrap_or(false)
    }

    /// Tokens of the vocabulary (V).
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the vocabulary is empty: never, as it has every byte.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn id_of_bytes(&self, name: &[u8]) -> Option<u32> {
        let found = self.sorted.binary_search_by(|&id| self.names[id as usize].as_bytes().cmp(name));
        found.ok().map(|at| self.sorted[at])
    }

    /// Bytes, merges and words go through here alone, so plain text has no way to a control token.
    fn plain_id_of(&self, name: &str) -> Option<u32> {
        self.id_of(name).filter(|&id| !self.is_control(id))
    }

    fn resolve(&self, merges: &[String]) -> Result<Merges> {
        let mut found = memory::room(merges.len())?;
        let mut joined = String::new();
        for merge in merges {
            let Some((left, right)) = merge.split_once(' ') else {
                fail!(Malformed, "tokenizer: merge {merge:?} is not two tokens with a space between them")
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let ids = [left, right, &joined].map(|name| (name, self.plain_id_of(name)));
            match ids {
                [(_, Some(left)), (_, Some(right)), (_, Some(result))] => found.push((left, right, result)),
                _ => {
                    let missing = ids.iter().find(|(_, id)| id.is_none()).map_or("", |(name, _)| name);
                    fail!(Malformed, "tokenizer: merge {merge:?}: {missing:?} is no token, or a control token")
                }
            }
        }
        match Merges::new(self.len(), &found)? {
            Ok(merges) => Ok(merges),
            Err((first, again)) => fail!(
                Malformed,
                "tokenizer: merge {:?} is there twice, with the ranks {first} and {again}",
                merges[first as usize]
            ),
        }
    }

    /// Start, end and id of the first control token in a text; the longest of those that start there.
    fn find_control(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        let mut starts = (0..bytes.len()).filter(|&start| self.begins_control[usize::from(bytes[start])]);
        starts.find_map(|start| {
            self.control_lengths.iter().find_map(|length| {
                let end = start + length;
                let id = self.id_of_bytes(bytes.get(start..end)?)?;
                self.is_control(id).then_some((start, end, id))
            })
        })
    }

    fn encode_plain(&self, mut text: &str, ids: &mut Vec<u32>, scratch: &mut Scratch) -> Result<()> {
        while !text.is_empty() {
            let (word, rest) = text.split_at(self.pre.first_word(text));
            text = rest;
            let whole = if self.pre == PreTokenizer::Llama3 { self.id_of_word(word) } else { None };
            if let Some(id) = whole {
                ids.push(id);
                continue;
            }
            let start = ids.len();
            ids.extend(word.bytes().map(|byte| self.byte_ids[usize::from(byte)]));
            self.merges.merge(ids, start, scratch)?;
        }
        Ok(())
    }

    fn id_of_word(&self, word: &str) -> Option<u32> {
        self.plain_id_of(&word.bytes().map(alphabet::char_of).collect::<String>())
    }

    fn spell(&self, id: u32, bytes: &mut Vec<u8>) {
        let name = &self.names[id as usize];
        if self.is_control(id) || name.chars().any(|character| alphabet::byte_of(character).is_none()) {
            bytes.extend(name.bytes());
        } else {
            bytes.extend(name.chars().filter_map(alphabet::byte_of));
        }
    }
}
