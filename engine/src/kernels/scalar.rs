//! Every kernel as plainly as it can be said: the definition, the slow twin, and what runs where nothing faster does.

use super::{Kernels, Rounded, Row, Weights, GROUP};
use crate::cache::PAGE;
use crate::gguf::Encoding;
use crate::math::{exp, f16_to_f32, sqrt};

/// The family.
pub static KERNELS: Kernels = Kernels {
    name: "scalar",
    arrange: None,
    round,
    multiply_rounded,
    multiply,
    scores,
    add_weighted,
    softmax,
    gate,
    norm,
};

/// Round rows (T, I) in groups of 32: the largest number of a group becomes 127 or -127.
pub fn round(rows: &[f32], columns: usize, out: &mut Rounded) {
    debug_assert_eq!(columns % GROUP, 0);
    out.values.clear();
    out.steps.clear();
    for group in rows.chunks_exact(GROUP) {
        let largest = group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let step = largest / 127.0;
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        out.steps.push(step);
        out.values.extend(group.iter().map(|x| to_nearest(x * inverse)));
    }
}

/// The nearest whole number, halves to even, as processors round.
pub fn to_nearest(x: f32) -> i8 {
    // Adding 1.5 * 2^23 leaves no room for a fraction: the sum is rounded to a whole number by the processor.
    const MAGIC: f32 = 12_582_912.0;
    ((x + MAGIC) - MAGIC) as i8
}

/// Products (T, O) with weights in Q8_0 or Q4_0: whole numbers within a group, steps outside.
pub fn multiply_rounded(weights: Weights<'_>, rows: &Rounded, out: &mut [f32]) {
    let (columns, num_rows) = (weights.columns, weights.rows());
    let groups = columns / GROUP;
    let (_, block_bytes) = weights.encoding.block();
    for (o, row) in weights.bytes.chunks_exact(weights.row_bytes()).enumerate() {
        for (t, values) in rows.values.chunks_exact(columns).enumerate() {
            let steps = &rows.steps[t * groups..(t + 1) * groups];
            let mut sum = 0.0;
            for (g, block) in row.chunks_exact(block_bytes).enumerate() {
                let (step, integers) = unpack(weights.encoding, block);
                let pairs = integers.iter().zip(&values[g * GROUP..]);
                let dot: i32 = pairs.map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
                sum += dot as f32 * (step * steps[g]);
            }
            out[t * num_rows + o] = sum;
        }
    }
}

/// Step and integers of a block of Q8_0 or Q4_0.
pub fn unpack(encoding: Encoding, block: &[u8]) -> (f32, [i8; GROUP]) {
    let mut integers = [0; GROUP];
    for (i, slot) in integers.iter_mut().enumerate() {
        *slot = match encoding {
            Encoding::Q8_0 => block[2 + i] as i8,
            _ if i < 16 => (block[2 + i] & 15) as i8 - 8,
            _ => (block[2 + i - 16] >> 4) as i8 - 8,
        };
    }
    (f16_to_f32(u16::from_le_bytes([block[0], block[1]])), integers)
}

/// Products (T, O) with weights in F32 or F16.
pub fn multiply(weights: Weights<'_>, rows: &[f32], out: &mut [f32]) {
    let num_rows = weights.rows();
    for (o, row) in weights.bytes.chunks_exact(weights.row_bytes()).enumerate() {
        for (t, x) in rows.chunks_exact(weights.columns).enumerate() {
            out[t * num_rows + o] = x.iter().enumerate().map(|(i, x)| number(weights.encoding, row, i) * x).sum();
        }
    }
}

/// Number i of a row in F32 or F16.
fn number(encoding: Encoding, row: &[u8], i: usize) -> f32 {
    match encoding {
        Encoding::F32 => f32::from_le_bytes([row[4 * i], row[4 * i + 1], row[4 * i + 2], row[4 * i + 3]]),
        _ => f16_to_f32(u16::from_le_bytes([row[2 * i], row[2 * i + 1]])),
    }
}

/// One row of a matrix as numbers (I,), of any encoding.
pub fn widen(weights: Weights<'_>, row: usize, out: &mut [f32]) {
    let bytes = weights.row_bytes();
    let row = &weights.bytes[row * bytes..(row + 1) * bytes];
    match weights.encoding {
        Encoding::F32 | Encoding::F16 => {
            for (i, slot) in out.iter_mut().enumerate() {
                *slot = number(weights.encoding, row, i);
            }
        }
        encoding => {
            for (block, slots) in row.chunks_exact(encoding.block().1).zip(out.chunks_exact_mut(GROUP)) {
                let (step, integers) = unpack(encoding, block);
                for (slot, integer) in slots.iter_mut().zip(integers) {
                    *slot = f32::from(integer) * step;
                }
            }
        }
    }
}

/// Products of the query of every row with the first `seen` keys of a page (hd, PAGE), dimension by dimension.
pub fn scores(queries: &[f32], keys: &[f32], rows: &[Row], seen: usize, weights: &mut [f32]) {
    let width = keys.len() / PAGE;
    for row in rows {
        let out = &mut weights[row.weights..row.weights + seen];
        out.fill(0.0);
        for (q, keys) in queries[row.numbers..row.numbers + width].iter().zip(keys.chunks_exact(PAGE)) {
            for (slot, k) in out.iter_mut().zip(keys) {
                *slot += q * k;
            }
        }
    }
}

/// Add `seen` values (seen, hd), each by its weight, to the sum of every row.
pub fn add_weighted(weights: &[f32], values: &[f32], rows: &[Row], seen: usize, sums: &mut [f32]) {
    let width = values.len() / seen;
    for row in rows {
        let sum = &mut sums[row.numbers..row.numbers + width];
        for (weight, value) in weights[row.weights..row.weights + seen].iter().zip(values.chunks_exact(width)) {
            for (slot, v) in sum.iter_mut().zip(value) {
                *slot += weight * v;
            }
        }
    }
}

/// Softmax of scores times a scale, in place.
pub fn softmax(scores: &mut [f32], scale: f32) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = exp((*score - largest) * scale);
        sum += *score;
    }
    let inverse = 1.0 / sum;
    for score in scores {
        *score *= inverse;
    }
}

/// SiLU of the gate times the other half, in place.
pub fn gate(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// Root-mean-square norm of a row times a gain.
pub fn norm(row: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let squares: f32 = row.iter().map(|x| x * x).sum();
    let inverse = 1.0 / sqrt(squares / row.len() as f32 + epsilon);
    for ((slot, x), g) in out.iter_mut().zip(row).zip(gain) {
        *slot = x * inverse * g;
    }
}
