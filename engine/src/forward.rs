//! The forward pass of new positions against a cache.
//!
//! Source of the architecture: Touvron et al. 2023, arXiv:2302.13971 (norm before each block, rotary positions, SwiGLU);
//! grouped queries as in Ainslie et al. 2023, arXiv:2305.13245; norms of queries and keys as in Qwen3.
//!
//! Every position is computed by itself but for the keys and values it reads, and those always in the order of
//! positions: whole prompts and chunks give the same bits.

use alloc::vec;
use alloc::vec::Vec;

use crate::cache::{Cache, Half, PAGE};
use crate::kernels::Rounded;
use crate::model::{Linear, Matrix, Model};

/// Positions that go through the layers together: enough to read every weight once for many, few enough for the cache.
const CHUNK: usize = 64;

/// Positions whose queries read a page of keys together, while it is in the nearest cache.
const TILE: usize = 8;

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

/// Run positions (T, D) through all layers, in place; their keys and values go into the cache behind `past`.
pub fn forward(model: &Model, cache: &mut Cache, past: usize, x: &mut [f32], room: &mut Room) {
    let count = x.len() / model.config.width;
    cache.reserve(past, past + count);
    for (i, chunk) in x.chunks_mut(CHUNK * model.config.width).enumerate() {
        for layer in 0..model.config.layers {
            block(model, cache, layer, past + i * CHUNK, chunk, room);
        }
    }
}

/// Logits of a final state (D,): of all V tokens, or of those that are asked for.
pub fn logits(model: &Model, state: &[f32], rows: Option<&[u32]>, room: &mut Room, out: &mut [f32]) {
    norm_rows(model, state, &model.final_norm, model.config.width, &mut room.normed);
    room.rounded.is_current = false;
    let Some(rows) = rows else {
        return multiply(model, &model.head, &room.normed, &mut room.rounded, out);
    };
    for (row, slot) in rows.iter().zip(out) {
        let (block, index) = model.head.around(*row as usize);
        room.added.resize(block.rows, 0.0);
        multiply(model, &block, &room.normed, &mut room.rounded, &mut room.added);
        *slot = room.added[index];
    }
}

fn block(model: &Model, cache: &mut Cache, index: usize, past: usize, x: &mut [f32], room: &mut Room) {
    let (config, layer) = (&model.config, &model.layers[index]);
    let count = x.len() / config.width;

    // (1) Queries, keys and values of the normed stream; one rounding serves all three.
    norm_rows(model, x, &layer.attention_norm, config.width, &mut room.normed);
    let Room { normed, rounded, query, key, value, .. } = room;
    rounded.is_current = false;
    linear(model, &layer.query, normed, rounded, query);
    linear(model, &layer.key, normed, rounded, key);
    linear(model, &layer.value, normed, rounded, value);
    if let Some((query_gain, key_gain)) = &layer.head_norms {
        norm_in_place(model, query, query_gain);
        norm_in_place(model, key, key_gain);
    }
    for t in 0..count {
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        turn(model, past + t, &mut query[t * queries..(t + 1) * queries]);
        turn(model, past + t, &mut key[t * keys..(t + 1) * keys]);
        cache.write(index, Half::Keys, past + t, &key[t * keys..(t + 1) * keys]);
        cache.write(index, Half::Values, past + t, &value[t * keys..(t + 1) * keys]);
    }

    // (2) Attention, and what it adds.
    attend(model, cache, index, past, room);
    let Room { mixed, rounded, added, .. } = room;
    rounded.is_current = false;
    linear(model, &layer.output, mixed, rounded, added);
    add(x, added);

    // (3) The gated MLP, and what it adds.
    norm_rows(model, x, &layer.mlp_norm, config.width, &mut room.normed);
    let Room { normed, rounded, gate, up, added, .. } = room;
    rounded.is_current = false;
    linear(model, &layer.gate, normed, rounded, gate);
    linear(model, &layer.up, normed, rounded, up);
    (model.kernels.gate)(gate, up);
    rounded.is_current = false;
    linear(model, &layer.down, gate, rounded, added);
    add(x, added);
}

/// Each query reads the keys and values up to its own position, a page at a time for several queries.
fn attend(model: &Model, cache: &Cache, layer: usize, past: usize, room: &mut Room) {
    let (config, kernels) = (&model.config, model.kernels);
    let (group, width) = (config.heads / config.kv_heads, config.head_dim);
    let scale = 1.0 / crate::math::sqrt(width as f32);
    let Room { query, mixed, weights, .. } = room;
    mixed.clear();
    mixed.resize(query.len(), 0.0);
    let per_position = config.heads * width;
    let count = query.len() / per_position;
    let stride = (past + count).next_multiple_of(PAGE);
    weights.resize(TILE * group * stride, 0.0);
    for kv_head in 0..config.kv_heads {
        for tile in (0..count).step_by(TILE) {
            let positions = tile..count.min(tile + TILE);
            // Queries that read the same keys: their place, the numbers of their weights, and what they see.
            let queries = positions.flat_map(|t| (0..group).map(move |g| (t, g))).enumerate().map(|(i, (t, g))| {
                let here = t * per_position + (kv_head * group + g) * width;
                (here..here + width, i * stride, past + t + 1)
            });
            let most = past + count.min(tile + TILE);
            for (page, keys) in cache.read(layer, Half::Keys, kv_head, most).enumerate() {
                for (here, at, seen) in queries.clone() {
                    let within = seen.saturating_sub(page * PAGE).min(PAGE);
                    let at = at + page * PAGE;
                    (kernels.scores)(&query[here], &keys[..within * width], &mut weights[at..at + within]);
                }
            }
            for (_, at, seen) in queries.clone() {
                (kernels.softmax)(&mut weights[at..at + seen], scale);
            }
            for (page, values) in cache.read(layer, Half::Values, kv_head, most).enumerate() {
                for (here, at, seen) in queries.clone() {
                    let within = seen.saturating_sub(page * PAGE).min(PAGE);
                    let at = at + page * PAGE;
                    (kernels.add_weighted)(&weights[at..at + within], &values[..within * width], &mut mixed[here]);
                }
            }
        }
    }
}

/// Rotary positions, in place, of heads that lie side by side.
fn turn(model: &Model, position: usize, heads: &mut [f32]) {
    let config = &model.config;
    let half = config.rotary_dim / 2;
    let turns = &model.turns[position * half..(position + 1) * half];
    for head in heads.chunks_exact_mut(config.head_dim) {
        for (i, (cos, sin)) in turns.iter().enumerate() {
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

/// Products of rows (T, I) with a layer's matrix, and its bias: (T, O).
fn linear(model: &Model, layer: &Linear, x: &[f32], rounded: &mut Rounded, out: &mut Vec<f32>) {
    let rows = layer.matrix.rows;
    out.resize(x.len() / layer.matrix.columns * rows, 0.0);
    multiply(model, &layer.matrix, x, rounded, out);
    if let Some(bias) = &layer.bias {
        out.chunks_exact_mut(rows).for_each(|row| add(row, bias));
    }
}

fn multiply(model: &Model, matrix: &Matrix, x: &[f32], rounded: &mut Rounded, out: &mut [f32]) {
    let weights = model.weights(matrix);
    if !matrix.is_quantized() {
        return (model.kernels.multiply)(weights, x, out);
    }
    if !rounded.is_current {
        (model.kernels.round)(x, matrix.columns, rounded);
        rounded.is_current = true;
    }
    (model.kernels.multiply_rounded)(weights, rounded, out);
}

fn add(x: &mut [f32], added: &[f32]) {
    for (slot, more) in x.iter_mut().zip(added) {
        *slot += more;
    }
}
