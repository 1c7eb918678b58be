//! WebAssembly's 128-bit vectors, built in where the target has them (`-C target-feature=+simd128`).
//!
//! # Safety
//! A module with these instructions does not load where they are missing, so nothing is asked at run time. Pointers come
//! from slices whose lengths the callers have checked with the arithmetic beside them.

use core::arch::wasm32::*;

use super::{scalar, Kernels, Rounded, Weights, GROUP};
use crate::gguf::Encoding;
use crate::math::f16_to_f32;

/// The family.
pub static KERNELS: Kernels = Kernels {
    name: "simd128",
    arrange: None,
    round: scalar::round,
    multiply_rounded,
    multiply,
    scores,
    add_weighted,
    softmax,
    gate,
    norm: scalar::norm,
};

fn multiply_rounded(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    match weights.encoding {
        Encoding::Q8_0 => multiply_blocks::<Q8>(weights, x, out),
        _ => multiply_blocks::<Q4>(weights, x, out),
    }
}

/// A block of 32 quantized weights as two halves of 16.
trait Block {
    const BYTES: usize;
    /// Step and integers of the block at a pointer to `BYTES` readable bytes.
    unsafe fn load(at: *const u8) -> (f32, v128, v128);
}

struct Q8;
struct Q4;

impl Block for Q8 {
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> (f32, v128, v128) {
        // SAFETY: 34 bytes lie there.
        unsafe { (step(at), v128_load(at.add(2).cast()), v128_load(at.add(18).cast())) }
    }
}

impl Block for Q4 {
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> (f32, v128, v128) {
        // SAFETY: 18 bytes lie there.
        let pairs = unsafe { v128_load(at.add(2).cast()) };
        let eight = i8x16_splat(8);
        let low = i8x16_sub(v128_and(pairs, i8x16_splat(15)), eight);
        let high = i8x16_sub(u8x16_shr(pairs, 4), eight);
        // SAFETY: as above.
        (unsafe { step(at) }, low, high)
    }
}

#[inline(always)]
unsafe fn step(at: *const u8) -> f32 {
    // SAFETY: two bytes lie there.
    f16_to_f32(unsafe { at.cast::<u16>().read_unaligned() })
}

fn multiply_blocks<B: Block>(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    let (columns, groups, rows) = (weights.columns, weights.columns / GROUP, weights.rows());
    let count = x.values.len() / columns;
    assert!(out.len() >= count * rows && x.steps.len() >= count * groups && weights.row_bytes() == groups * B::BYTES);
    for o in 0..rows {
        let mut t = 0;
        while t < count {
            let wide = (count - t).min(4);
            // SAFETY: row o of the weights and rows t .. t + wide of the activations exist: see the assertion.
            unsafe {
                let w = weights.bytes.as_ptr().add(o * groups * B::BYTES);
                let (values, steps) = (x.values.as_ptr().add(t * columns), x.steps.as_ptr().add(t * groups));
                let to = out.as_mut_ptr().add(t * rows + o);
                match wide {
                    4 => tile::<B, 4>(w, values, steps, groups, to, rows),
                    3 => tile::<B, 3>(w, values, steps, groups, to, rows),
                    2 => tile::<B, 2>(w, values, steps, groups, to, rows),
                    _ => tile::<B, 1>(w, values, steps, groups, to, rows),
                }
            }
            t += wide;
        }
    }
}

/// Products of one row of weights with T rows of activations, every sum in the same order whatever T is.
#[inline]
unsafe fn tile<B: Block, const T: usize>(
    weights: *const u8,
    values: *const i8,
    steps: *const f32,
    groups: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut sums = [f32x4_splat(0.0); T];
    // SAFETY: the caller has a row of `groups` blocks, T rows of activations, and room for T products.
    unsafe {
        for g in 0..groups {
            let (step, low, high) = B::load(weights.add(g * B::BYTES));
            let w = [
                i16x8_extend_low_i8x16(low),
                i16x8_extend_high_i8x16(low),
                i16x8_extend_low_i8x16(high),
                i16x8_extend_high_i8x16(high),
            ];
            for (t, sum) in sums.iter_mut().enumerate() {
                let at = values.add((t * groups + g) * GROUP);
                let (a, b) = (v128_load(at.cast()), v128_load(at.add(16).cast()));
                let first = i32x4_add(
                    i32x4_dot_i16x8(w[0], i16x8_extend_low_i8x16(a)),
                    i32x4_dot_i16x8(w[1], i16x8_extend_high_i8x16(a)),
                );
                let second = i32x4_add(
                    i32x4_dot_i16x8(w[2], i16x8_extend_low_i8x16(b)),
                    i32x4_dot_i16x8(w[3], i16x8_extend_high_i8x16(b)),
                );
                let quads = f32x4_convert_i32x4(i32x4_add(first, second));
                let scale = f32x4_splat(step * *steps.add(t * groups + g));
                *sum = f32x4_add(*sum, f32x4_mul(quads, scale));
            }
        }
        for (t, sum) in sums.iter().enumerate() {
            *out.add(t * stride) = total(*sum);
        }
    }
}

fn multiply(weights: Weights<'_>, x: &[f32], out: &mut [f32]) {
    let (columns, rows) = (weights.columns, weights.rows());
    if columns % 4 != 0 || weights.encoding != Encoding::F32 {
        return scalar::multiply(weights, x, out);
    }
    let count = x.len() / columns;
    assert!(out.len() >= count * rows && weights.row_bytes() == columns * 4);
    for o in 0..rows {
        for t in 0..count {
            let mut sum = f32x4_splat(0.0);
            // SAFETY: row o of the weights and row t of x exist, and `columns` is a multiple of 4.
            unsafe {
                let (w, from) = (weights.bytes.as_ptr().add(o * columns * 4), x.as_ptr().add(t * columns));
                for i in (0..columns).step_by(4) {
                    let product = f32x4_mul(v128_load(w.add(4 * i).cast()), v128_load(from.add(i).cast()));
                    sum = f32x4_add(sum, product);
                }
            }
            out[t * rows + o] = total(sum);
        }
    }
}

fn scores(query: &[f32], keys: &[f32], out: &mut [f32]) {
    let width = query.len();
    if width % 4 != 0 {
        return scalar::scores(query, keys, out);
    }
    for (key, slot) in keys.chunks_exact(width).zip(out) {
        let mut sum = f32x4_splat(0.0);
        for i in (0..width).step_by(4) {
            // SAFETY: both have `width` numbers, a multiple of 4.
            let product =
                unsafe { f32x4_mul(v128_load(query.as_ptr().add(i).cast()), v128_load(key.as_ptr().add(i).cast())) };
            sum = f32x4_add(sum, product);
        }
        *slot = total(sum);
    }
}

fn add_weighted(weights: &[f32], values: &[f32], sum: &mut [f32]) {
    let width = sum.len();
    if width % 4 != 0 {
        return scalar::add_weighted(weights, values, sum);
    }
    assert!(values.len() >= weights.len() * width);
    for i in (0..width).step_by(4) {
        // SAFETY: every value has `width` numbers, as the sum has.
        unsafe {
            let mut part = v128_load(sum.as_ptr().add(i).cast());
            for (n, weight) in weights.iter().enumerate() {
                let value = v128_load(values.as_ptr().add(n * width + i).cast());
                part = f32x4_add(part, f32x4_mul(f32x4_splat(*weight), value));
            }
            v128_store(sum.as_mut_ptr().add(i).cast(), part);
        }
    }
}

fn softmax(scores: &mut [f32], scale: f32) {
    let whole = scores.len() / 4 * 4;
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (top, factor) = (f32x4_splat(largest), f32x4_splat(scale));
    let mut sums = f32x4_splat(0.0);
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 <= len.
        unsafe {
            let e = exp(f32x4_mul(f32x4_sub(v128_load(scores.as_ptr().add(i).cast()), top), factor));
            v128_store(scores.as_mut_ptr().add(i).cast(), e);
            sums = f32x4_add(sums, e);
        }
    }
    let mut sum = total(sums);
    for score in &mut scores[whole..] {
        *score = crate::math::exp((*score - largest) * scale);
        sum += *score;
    }
    let inverse = 1.0 / sum;
    for score in scores {
        *score *= inverse;
    }
}

fn gate(first: &mut [f32], up: &[f32]) {
    let whole = first.len().min(up.len()) / 4 * 4;
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 is within both.
        unsafe {
            let g = v128_load(first.as_ptr().add(i).cast());
            let silu = f32x4_div(g, f32x4_add(f32x4_splat(1.0), exp(f32x4_neg(g))));
            v128_store(first.as_mut_ptr().add(i).cast(), f32x4_mul(silu, v128_load(up.as_ptr().add(i).cast())));
        }
    }
    scalar::gate(&mut first[whole..], &up[whole..]);
}

/// `math::exp`, four at a time: the same reduction and the same series.
#[inline]
fn exp(x: v128) -> v128 {
    let x = f32x4_pmin(f32x4_splat(88.0), f32x4_pmax(f32x4_splat(-87.0), x));
    let k = f32x4_nearest(f32x4_mul(x, f32x4_splat(core::f32::consts::LOG2_E)));
    let r = f32x4_sub(x, f32x4_mul(k, f32x4_splat(0.693_359_4)));
    let r = f32x4_add(r, f32x4_mul(k, f32x4_splat(2.121_944_4e-4)));
    let mut p = f32x4_splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = f32x4_add(f32x4_mul(p, r), f32x4_splat(c));
    }
    let power = i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(k), i32x4_splat(127)), 23);
    f32x4_mul(p, power)
}

/// Sum of four numbers, always in this order.
#[inline]
fn total(x: v128) -> f32 {
    let two = f32x4_add(x, i32x4_shuffle::<2, 3, 0, 1>(x, x));
    f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
}
