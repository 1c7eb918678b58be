//! The forward pass of new positions against a cache.
//!
//! Source of the architecture: Touvron et al. 2023, arXiv:2302.13971 (norm before each block, rotary positions, SwiGLU);
//! grouped queries as in Ainslie et al. 2023, arXiv:2305.13245; norms of queries and keys as in Qwen3.
//!
//! Every position is computed by itself but for the keys and values it reads, and those always in the order of
//! positions: whole prompts and chunks give the same bits.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::cache::{Cache, Half, PAGE};
use crate::error::Result;
use crate::kernels::{Rounded, Row, GROUP};
use crate::memory;
use crate::model::{turn_of, Config, Linear, Matrix, Model};

/// Positions that go through the layers together: enough to read every weight once for many, few enough for the cache.
const CHUNK: usize = 128;

/// Positions of a prompt that are worth a thread of their own.
const LEAST: usize = 8;

/// Positions whose queries read a page of keys together, while it is in the nearest cache.
const TILE: usize = 8;

/// Bytes of weights, keys or values that are worth the help of another thread.
const WORTH_BYTES: usize = 1 << 17;

/// Parts of a matrix begin at multiples of this many rows, so at a block of every family's.
const PART_ROWS: usize = 64;

/// Room for one chunk, kept between calls.
#[derive(Default)]
pub struct Room {
    normed: Vec<f32>,
    rounded: Rounded,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mixed: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    added: Vec<f32>,
    weights: Vec<f32>,
}

impl Room {
    /// Make room for so many positions, the last of which sees `seen`: nothing below asks for much more.
    fn reserve(&mut self, config: &Config, count: usize, seen: usize) -> Result<()> {
        let count = count.min(CHUNK);
        let (queries, keys) = (count * config.heads * config.head_dim, count * config.kv_heads * config.head_dim);
        let (width, mlp) = (count * config.width, count * config.mlp);
        let widest = width.max(queries).max(mlp);
        let weights = TILE.saturating_mul(config.heads).saturating_mul(seen.next_multiple_of(PAGE));
        for (part, len) in [
            (&mut self.normed, width),
            (&mut self.query, queries),
            (&mut self.key, keys),
            (&mut self.value, keys),
            (&mut self.mixed, queries),
            (&mut self.gate, mlp),
            (&mut self.up, mlp),
            (&mut self.added, width),
            (&mut self.weights, weights),
            (&mut self.rounded.steps, widest / GROUP),
        ] {
            memory::fit(part, len)?;
        }
        #[cfg(target_arch = "wasm32")]
        memory::fit(&mut self.rounded.words, widest)?;
        memory::fit(&mut self.rounded.values, widest)
    }
}

/// Positions that one thread takes through a layer.
struct Piece<'a> {
    past: usize,
    x: &'a mut [f32],
    room: &'a mut Room,
    /// How many of the first positions nobody reads: the last layer computes nothing but their keys and values.
    unread: usize,
}

/// Run positions (T, D) through all layers, in place; their keys and values go into the cache behind `past`. `rooms` are
/// made as they are needed. Of the first `unread` positions no final state is computed: what is left there means nothing.
///
/// Threads take a long prompt's positions by pieces, and one position's matrices and heads by parts.
///
/// # Errors
/// `Memory`: the system has not so much; nothing was computed.
pub fn forward(
    model: &Model,
    cache: &mut Cache,
    past: usize,
    x: &mut [f32],
    unread: usize,
    rooms: &mut Vec<Room>,
) -> Result<()> {
    let (width, team) = (model.config.width, model.team());
    let count = x.len() / width;
    cache.reserve(past, past + count)?;
    let size = match team.size() {
        threads @ 2.. if count >= 2 * LEAST => count.div_ceil(threads).next_multiple_of(LEAST).min(CHUNK),
        _ => CHUNK,
    };
    rooms.resize_with(rooms.len().max(team.size()), Room::default);
    for room in rooms.iter_mut().take(count.div_ceil(size)) {
        room.reserve(&model.config, count.min(size), past + count)?;
    }
    for (i, chunk) in x.chunks_mut(size * team.size() * width).enumerate() {
        let first = i * size * team.size();
        let pieces = chunk.chunks_mut(size * width).zip(rooms.iter_mut()).enumerate();
        let piece = |(i, (x, room))| Piece { past: past + first + i * size, x, room, unread: 0 };
        let mut pieces: Vec<_> = pieces.map(piece).collect();
        for layer in 0..model.config.layers {
            if layer + 1 == model.config.layers {
                for piece in &mut pieces {
                    piece.unread = (past + unread).saturating_sub(piece.past).min(piece.x.len() / width);
                }
            }
            team.each(&mut pieces, |piece| before_attention(model, layer, piece));
            for piece in &pieces {
                cache.write(layer, Half::Keys, piece.past, &piece.room.key);
                cache.write(layer, Half::Values, piece.past, &piece.room.value);
            }
            team.each(&mut pieces, |piece| attention_and_after(model, cache, layer, piece));
        }
    }
    Ok(())
}

/// Logits of a final state (D,): of all V tokens, or of those that are asked for.
///
/// # Errors
/// See `forward`.
pub fn logits(model: &Model, state: &[f32], rows: Option<&[u32]>, room: &mut Room, out: &mut [f32]) -> Result<()> {
    room.reserve(&model.config, 1, 0)?;
    let Room { normed, rounded, added, .. } = room;
    norm_rows(model, state, &model.final_norm, model.config.width, normed);
    rounded.is_current = false;
    let Some(rows) = rows else {
        multiply(model, normed, rounded, &mut [(&model.head, out)]);
        return Ok(());
    };
    for (row, slot) in rows.iter().zip(out) {
        let (block, index) = model.head.around(*row as usize);
        added.resize(block.rows, 0.0);
        multiply(model, normed, rounded, &mut [(&block, added)]);
        *slot = added[index];
    }
    Ok(())
}

/// Queries, keys and values of the normed stream; one rounding serves all three where all are read.
fn before_attention(model: &Model, index: usize, piece: &mut Piece) {
    let (config, layer) = (&model.config, &model.layers[index]);
    let Room { normed, rounded, query, key, value, .. } = &mut *piece.room;
    norm_rows(model, piece.x, &layer.attention_norm, config.width, normed);
    rounded.is_current = false;
    linear(model, normed, rounded, [(&layer.key, key), (&layer.value, value)]);
    rounded.is_current &= piece.unread == 0;
    linear(model, &normed[piece.unread * config.width..], rounded, [(&layer.query, query)]);
    if let Some((query_gain, key_gain)) = &layer.head_norms {
        norm_in_place(model, query, query_gain);
        norm_in_place(model, key, key_gain);
    }
    let past = piece.past;
    for (heads, len, past) in [(query, config.heads, past + piece.unread), (key, config.kv_heads, past)] {
        for (t, heads) in heads.chunks_exact_mut(len * config.head_dim).enumerate() {
            turn(model, past + t, heads);
        }
    }
}

fn attention_and_after(model: &Model, cache: &Cache, index: usize, piece: &mut Piece) {
    let (config, layer) = (&model.config, &model.layers[index]);
    let x = &mut piece.x[piece.unread * config.width..];
    if x.is_empty() {
        return;
    }

    // (1) Attention, and what it adds.
    attend(model, cache, index, piece.past + piece.unread, piece.room);
    let Room { normed, rounded, mixed, gate, up, added, .. } = &mut *piece.room;
    rounded.is_current = false;
    linear(model, mixed, rounded, [(&layer.output, added)]);
    add(x, added);

    // (2) The gated MLP, and what it adds.
    norm_rows(model, x, &layer.mlp_norm, config.width, normed);
    rounded.is_current = false;
    linear(model, normed, rounded, [(&layer.gate, gate), (&layer.up, up)]);
    // Row by row: what is left beside whole vectors is computed otherwise, and must not depend on the rows before.
    for (gate, up) in gate.chunks_exact_mut(config.mlp).zip(up.chunks_exact(config.mlp)) {
        (model.kernels.gate)(gate, up);
    }
    rounded.is_current = false;
    linear(model, gate, rounded, [(&layer.down, added)]);
    add(x, added);
}

/// Each query reads the keys and values up to its own position, a page at a time for several queries.
fn attend(model: &Model, cache: &Cache, layer: usize, past: usize, room: &mut Room) {
    let config = &model.config;
    let (group, width) = (config.heads / config.kv_heads, config.head_dim);
    let Room { query, mixed, weights, .. } = room;
    mixed.clear();
    mixed.resize(query.len(), 0.0);
    let count = query.len() / (config.heads * width);
    let stride = (past + count).next_multiple_of(PAGE);
    let heads = Heads { model, cache, layer, past, query, stride };
    if count > 1 || 2 * (past + 1) * config.kv_heads * width * size_of::<f32>() < WORTH_BYTES {
        weights.resize(TILE * config.heads * stride, 0.0);
        return heads.attend(0..config.kv_heads, weights, mixed);
    }
    weights.resize(config.heads * stride, 0.0);
    let share = config.kv_heads.div_ceil(model.team().size());
    let parts = weights.chunks_mut(share * group * stride).zip(mixed.chunks_mut(share * group * width));
    let mut parts: Vec<_> = parts.enumerate().collect();
    model.team().each(&mut parts, |(i, (weights, mixed))| {
        heads.attend(*i * share..config.kv_heads.min((*i + 1) * share), weights, mixed);
    });
}

/// What attention reads.
struct Heads<'a> {
    model: &'a Model,
    cache: &'a Cache,
    layer: usize,
    past: usize,
    query: &'a [f32],
    stride: usize,
}

impl Heads<'_> {
    /// Mix values for all queries of some key-value heads; `mixed` begins at the first of them. Pages are read as they
    /// lie, head by head.
    fn attend(&self, kv_heads: Range<usize>, weights: &mut [f32], mixed: &mut [f32]) {
        let (config, kernels) = (&self.model.config, self.model.kernels);
        let (group, width, past) = (config.heads / config.kv_heads, config.head_dim, self.past);
        let scale = 1.0 / crate::math::sqrt(width as f32);
        let (per_position, first) = (config.heads * width, kv_heads.start * group);
        let (count, heads) = (self.query.len() / per_position, kv_heads.len() * group);
        let (mut room, mut rows) = (vec![0.0; self.cache.room()], Vec::with_capacity(TILE * group));
        for tile in (0..count).step_by(TILE) {
            let end = count.min(tile + TILE);
            // Queries that read the same keys, of the first key-value head; those of the next lie `group` heads on.
            rows.clear();
            rows.extend((tile..end).flat_map(|t| {
                (0..group).map(move |g| Row {
                    numbers: t * per_position + g * width,
                    weights: ((t - tile) * heads + g) * self.stride,
                })
            }));
            let all = past + end;
            for page in 0..all.div_ceil(PAGE) {
                for (i, kv_head) in kv_heads.clone().enumerate() {
                    let seen = (all - page * PAGE).min(PAGE);
                    let keys = self.cache.read(self.layer, Half::Keys, kv_head, page, seen, &mut room);
                    let (from, to) = ((first + i * group) * width, i * group * self.stride + page * PAGE);
                    (kernels.scores)(&self.query[from..], keys, &rows, seen, &mut weights[to..]);
                }
            }
            // What a position does not see has no weight.
            for (t, weights) in (tile..end).zip(weights.chunks_exact_mut(heads * self.stride)) {
                for weights in weights.chunks_exact_mut(self.stride) {
                    (kernels.softmax)(&mut weights[..past + t + 1], scale);
                    weights[past + t + 1..all].fill(0.0);
                }
            }
            for page in 0..all.div_ceil(PAGE) {
                for (i, kv_head) in kv_heads.clone().enumerate() {
                    let seen = (all - page * PAGE).min(PAGE);
                    let values = self.cache.read(self.layer, Half::Values, kv_head, page, seen, &mut room);
                    let (from, to) = (i * group * self.stride + page * PAGE, i * group * width);
                    (kernels.add_weighted)(&weights[from..], values, &rows, seen, &mut mixed[to..]);
                }
            }
        }
    }
}

/// Rotary positions, in place, of heads that lie side by side.
fn turn(model: &Model, position: usize, heads: &mut [f32]) {
    let config = &model.config;
    let half = config.rotary_dim / 2;
    let known = model.turns.get(position * half..(position + 1) * half);
    for head in heads.chunks_exact_mut(config.head_dim) {
        for i in 0..half {
            let (cos, sin) = known.map_or_else(|| turn_of(position, model.frequencies[i]), |turns| turns[i]);
            let (a, b) = if config.is_paired { (2 * i, 2 * i + 1) } else { (i, i + half) };
            let (first, second) = (head[a], head[b]);
            head[a] = first * cos - second * sin;
            head[b] = second * cos + first * sin;
        }
    }
}

fn norm_rows(model: &Model, x: &[f32], gain: &[f32], width: usize, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    for (row, slot) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        (model.kernels.norm)(row, gain, model.config.epsilon, slot);
    }
}

/// Norms of heads that lie side by side.
fn norm_in_place(model: &Model, heads: &mut [f32], gain: &[f32]) {
    let mut out = vec![0.0; gain.len()];
    for head in heads.chunks_exact_mut(gain.len()) {
        (model.kernels.norm)(head, gain, model.config.epsilon, &mut out);
        head.copy_from_slice(&out);
    }
}

/// Products of rows (T, I) with matrices of one layer that read them, and their biases: (T, O) each.
fn linear<const N: usize>(model: &Model, x: &[f32], rounded: &mut Rounded, layers: [(&Linear, &mut Vec<f32>); N]) {
    let mut layers = layers.map(|(layer, out)| {
        out.resize(x.len() / layer.matrix.columns * layer.matrix.rows, 0.0);
        (layer, out)
    });
    let mut products = layers.each_mut().map(|(layer, out)| (&layer.matrix, &mut out[..]));
    multiply(model, x, rounded, &mut products);
    for (layer, out) in layers {
        if let Some(bias) = &layer.bias {
            out.chunks_exact_mut(layer.matrix.rows).for_each(|row| add(row, bias));
        }
    }
}

/// Products of rows (T, I) with matrices: (T, O) each. Of one row threads compute parts of the products.
fn multiply(model: &Model, x: &[f32], rounded: &mut Rounded, products: &mut [(&Matrix, &mut [f32])]) {
    if let (false, Some((matrix, _))) = (rounded.is_current, products.iter().find(|(matrix, _)| matrix.is_quantized()))
    {
        (model.kernels.round)(x, matrix.columns, rounded);
        rounded.is_current = true;
    }
    let rounded = &*rounded;
    let product = |matrix: &Matrix, out: &mut [f32]| match matrix.is_quantized() {
        true => (model.kernels.multiply_rounded)(model.weights(matrix), rounded, out),
        false => (model.kernels.multiply)(model.weights(matrix), x, out),
    };
    let (team, bytes) = (model.team(), products.iter().map(|(matrix, _)| matrix.bytes()).sum::<usize>());
    let is_shared =
        team.size() > 1 && bytes >= WORTH_BYTES && products.iter().all(|(matrix, out)| out.len() == matrix.rows);
    if !is_shared {
        return products.iter_mut().for_each(|(matrix, out)| product(matrix, out));
    }
    let mut parts = Vec::new();
    for (matrix, out) in products {
        let rows = matrix.rows.div_ceil(2 * team.size()).next_multiple_of(PART_ROWS);
        let starts = (0..matrix.rows).step_by(rows);
        parts.extend(starts.zip(out.chunks_mut(rows)).map(|(row, out)| (matrix.part(row..row + out.len()), out)));
    }
    team.each(&mut parts, |(matrix, out)| product(matrix, out));
}

fn add(x: &mut [f32], added: &[f32]) {
    for (slot, more) in x.iter_mut().zip(added) {
        *slot += more;
    }
}
