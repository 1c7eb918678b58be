//! One sequence: append what is known, score what might be, fork and rewind.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::cache::Cache;
use crate::error::Result;
use crate::forward::{forward, logits, Room};
use crate::memory;
use crate::model::Model;

/// Positions that enter a sequence.
#[derive(Clone, Copy)]
pub enum Inputs<'a> {
    /// Token ids (T,).
    Tokens(&'a [u32]),
    /// Embeddings (T, D).
    Embeddings(&'a [f32]),
}

impl Inputs<'_> {
    /// T, in a model of this width.
    fn count(&self, width: usize) -> usize {
        match self {
            Inputs::Tokens(ids) => ids.len(),
            Inputs::Embeddings(rows) => rows.len() / width,
        }
    }
}

/// A causal sequence and its cache.
pub struct Session {
    model: Arc<Model>,
    cache: Cache,
    length: usize,
    /// Final state (D,) of the last position appended; unknown at the start and after a rewind.
    last: Option<Vec<f32>>,
    rooms: Vec<Room>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.model.rooms.put(core::mem::take(&mut self.rooms));
    }
}

/// Where a sequence stood.
pub struct Mark {
    length: usize,
    last: Option<Vec<f32>>,
}

impl Session {
    /// An empty sequence.
    pub fn new(model: Arc<Model>) -> Self {
        let cache = Cache::new(&model.config, model.pages());
        let rooms = model.rooms.take().unwrap_or_default();
        Self { model, cache, length: 0, last: None, rooms }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions appended so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of the cache, pages that forks share included.
    pub fn kv_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Add positions for good.
    ///
    /// # Errors
    /// `Capacity`: the context would be exceeded. `Shape`: an id outside the vocabulary, or embeddings that are not
    /// whole rows of finite numbers. `Memory`: the system has not so much. The session is unchanged.
    pub fn append(&mut self, inputs: Inputs<'_>) -> Result<()> {
        let width = self.model.config.width;
        let states = self.run(inputs, inputs.count(width).saturating_sub(1))?;
        if let Some(last) = states.chunks_exact(width).last() {
            self.last = Some(memory::copied(last)?);
            self.length += states.len() / width;
        }
        Ok(())
    }

    /// Logits (K, R) of the next token at chosen positions of inputs that are tried and forgotten.
    ///
    /// `at` holds indices into the inputs; -1 is the last position appended, known directly after an append. `rows` are
    /// the token ids asked for, no others are computed; `None` asks for all V.
    ///
    /// # Errors
    /// As `append`; `Shape` too for an index or a row outside. The session is unchanged.
    pub fn score(&mut self, inputs: Inputs<'_>, at: &[i64], rows: Option<&[u32]>) -> Result<Vec<f32>> {
        let (width, vocab) = (self.model.config.width, self.model.config.vocab);
        let count = inputs.count(width);
        for index in at {
            if *index < -1 || *index >= count as i64 {
                fail!(Shape, "at: expected indices from -1 to {}, got {index}", count as i64 - 1);
            }
            if *index == -1 && self.last.is_none() {
                fail!(Shape, "at: -1 is known only directly after an append, not at the start or after a rewind");
            }
        }
        if let Some(row) = rows.unwrap_or(&[]).iter().find(|row| **row as usize >= vocab) {
            fail!(Shape, "rows: expected ids below {vocab}, got {row}");
        }
        // What is tried lies in the cache behind `length`, where the next append overwrites it.
        let first = at.iter().filter(|index| **index >= 0).min();
        let states = first.map_or(Ok(Vec::new()), |first| self.run(inputs, *first as usize))?;
        let asked = rows.map_or(vocab, <[u32]>::len);
        let mut out = memory::filled(0.0, at.len().saturating_mul(asked))?;
        self.rooms.resize_with(self.rooms.len().max(1), Room::default);
        for (index, slot) in at.iter().zip(out.chunks_exact_mut(asked.max(1))) {
            let state = match (*index, &self.last) {
                (-1, Some(last)) => last,
                (index, _) => &states[index as usize * width..(index as usize + 1) * width],
            };
            logits(&self.model, state, rows, &mut self.rooms[0], slot)?;
        }
        Ok(out)
    }

    /// An independent copy; pages are shared until one of the two writes.
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            cache: self.cache.clone(),
            length: self.length,
            last: self.last.clone(),
            rooms: self.model.rooms.take().unwrap_or_default(),
        }
    }

    /// Forget all positions from `length` on.
    ///
    /// # Errors
    /// `Shape`: more than there are.
    pub fn rewind(&mut self, length: usize) -> Result<()> {
        if length > self.length {
            fail!(Shape, "rewind: expected a length from 0 to {}, got {length}", self.length);
        }
        if length < self.length {
            self.length = length;
            self.last = None;
            self.cache.truncate(length);
        }
        Ok(())
    }

    /// Where the sequence stands, to go back to.
    ///
    /// # Errors
    /// `Memory`: the system has not so much.
    pub fn mark(&self) -> Result<Mark> {
        let last = self.last.as_deref().map(memory::copied).transpose()?;
        Ok(Mark { length: self.length, last })
    }

    /// Forget what was appended since a mark of this very session, which was not rewound meanwhile.
    pub fn back_to(&mut self, mark: Mark) {
        self.length = mark.length;
        self.last = mark.last;
        self.cache.truncate(mark.length);
    }

    /// Final states (T, D) of new positions; those of the first `unread` mean nothing.
    fn run(&mut self, inputs: Inputs<'_>, unread: usize) -> Result<Vec<f32>> {
        let config = &self.model.config;
        let count = inputs.count(config.width);
        if count > config.context - self.length {
            fail!(
                Capacity,
                "context is full: {} positions and {count} more exceed the context length {}",
                self.length,
                config.context
            );
        }
        let mut x = match inputs {
            Inputs::Tokens(ids) => {
                if let Some(id) = ids.iter().find(|id| **id as usize >= config.vocab) {
                    fail!(Shape, "tokens: expected ids below {}, got {id}", config.vocab);
                }
                memory::filled(0.0, ids.len().saturating_mul(config.width))?
            }
            Inputs::Embeddings(rows) => {
                if rows.len() % config.width != 0 {
                    fail!(Shape, "embeddings: {} numbers are not whole rows of {}", rows.len(), config.width);
                }
                if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
                    let (row, column) = (at / config.width, at % config.width);
                    let got = if rows[at].is_nan() { "NaN" } else { "an infinity" };
                    fail!(Shape, "embeddings: expected finite numbers, got {got} at ({row}, {column})");
                }
                memory::copied(rows)?
            }
        };
        if let Inputs::Tokens(ids) = inputs {
            for (id, row) in ids.iter().zip(x.chunks_exact_mut(config.width)) {
                self.model.embed(*id, row);
            }
        }
        forward(&self.model, &mut self.cache, self.length, &mut x, unread, &mut self.rooms)?;
        Ok(x)
    }
}
