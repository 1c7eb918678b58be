//! WebAssembly's 128-bit vectors, built in where the target has them (`-C target-feature=+simd128`).
//!
//! Quantized weights are brought into panels of 8 rows when a model is loaded, one row a lane of two vectors: products of
//! two columns, 16 bits each, are summed in their lane and become a number once a group, with the very steps of `scalar`.
//!
//! With `+relaxed-simd` beside it a product and its sum are rounded once where the host can. Its products of bytes are not
//! used: without AVX-VNNI, V8 makes more instructions of them than of the products of 16-bit numbers below.
//!
//! Written out where a loop over lanes or rows would be shorter: modules are compiled for size, and then such loops keep
//! their sums in memory.
//!
//! # Safety
//! A module with these instructions does not load where they are missing, so nothing is asked at run time. Pointers come
//! from slices whose lengths the callers have checked with the arithmetic beside them.

use core::arch::wasm32::*;

use super::{arrange_panels, scalar, Arrange, Kernels, Rounded, Row, Weights, GROUP};
use crate::cache::PAGE;
use crate::gguf::Encoding;

/// The family.
pub static KERNELS: Kernels = Kernels {
    name: if cfg!(target_feature = "relaxed-simd") { "relaxed-simd" } else { "simd128" },
    arrange: Some(Arrange { rows: PANEL, fill: |weights, out| arrange_panels(weights, PANEL, 2, out) }),
    round,
    multiply_rounded,
    multiply,
    scores,
    add_weighted,
    softmax,
    gate,
    norm,
};

/// a * b + c, rounded once or twice.
#[inline(always)]
fn multiply_add(a: v128, b: v128, c: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_madd(a, b, c);
    #[cfg(not(target_feature = "relaxed-simd"))]
    f32x4_add(f32x4_mul(a, b), c)
}

fn round(rows: &[f32], columns: usize, out: &mut Rounded) {
    debug_assert_eq!(columns % GROUP, 0);
    let groups = rows.len() / GROUP;
    out.values.resize(groups * GROUP, 0);
    out.steps.resize(groups, 0.0);
    out.words.resize(groups * GROUP, 0);
    // Adding 1.5 * 2^23 leaves the nearest whole number, halves to even, in the lowest bits.
    let magic = f32x4_splat(12_582_912.0);
    for g in 0..groups {
        // SAFETY: g < groups, so 32 numbers and 32 bytes lie there.
        unsafe {
            let from = rows.as_ptr().add(g * GROUP);
            let mut most = f32x4_splat(0.0);
            for i in (0..GROUP).step_by(4) {
                most = f32x4_pmax(most, f32x4_abs(v128_load(from.add(i).cast())));
            }
            let step = largest(most) / 127.0;
            let inverse = f32x4_splat(if step > 0.0 { 1.0 / step } else { 0.0 });
            *out.steps.as_mut_ptr().add(g) = step;
            let to = out.values.as_mut_ptr().add(g * GROUP);
            let to_words = out.words.as_mut_ptr().add(g * GROUP);
            for i in (0..GROUP).step_by(8) {
                let (low, high) = (v128_load(from.add(i).cast()), v128_load(from.add(i + 4).cast()));
                let low = i32x4_sub(f32x4_add(f32x4_mul(low, inverse), magic), magic);
                let high = i32x4_sub(f32x4_add(f32x4_mul(high, inverse), magic), magic);
                let words = i16x8_narrow_i32x4(low, high);
                let bytes = i8x16_narrow_i16x8(words, words);
                v128_store64_lane::<0>(bytes, to.add(i).cast());
                v128_store(to_words.add(i).cast(), i16x8_extend_low_i8x16(bytes));
            }
        }
    }
}

fn multiply_rounded(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    match weights.encoding {
        Encoding::Q8_0 => multiply_panels::<Q8>(weights, x, out),
        _ => multiply_panels::<Q4>(weights, x, out),
    }
}

/// Rows of a panel: lanes of two vectors of 32-bit numbers.
const PANEL: usize = 8;

/// A group of a panel: 8 rows by 32 quantized weights.
trait Block {
    const BYTES: usize;
    /// Integers of two columns, 2i and 2i + 1, of rows 0 to 3 and of rows 4 to 7; `at` has PANEL * BYTES readable bytes.
    unsafe fn integers(at: *const u8, i: usize) -> [v128; 2];
}

struct Q8;
struct Q4;

impl Block for Q8 {
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn integers(at: *const u8, i: usize) -> [v128; 2] {
        // SAFETY: i < 16, and sixteen vectors lie there.
        unsafe { [i16x8_load_extend_i8x8(at.add(16 * i).cast()), i16x8_load_extend_i8x8(at.add(16 * i + 8).cast())] }
    }
}

impl Block for Q4 {
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn integers(at: *const u8, i: usize) -> [v128; 2] {
        // SAFETY: i % 8 < 8, and eight vectors lie there; columns 16 on stand in the upper halves of the bytes.
        let both = unsafe { v128_load(at.add(16 * (i % 8)).cast()) };
        let half = if i < 8 { v128_and(both, i8x16_splat(15)) } else { u8x16_shr(both, 4) };
        let w = i8x16_sub(half, i8x16_splat(8));
        [i16x8_extend_low_i8x16(w), i16x8_extend_high_i8x16(w)]
    }
}

/// The steps of four rows, halves, widened without a branch.
#[inline(always)]
unsafe fn steps(at: *const u8) -> v128 {
    // SAFETY: eight bytes lie there.
    let bits = unsafe { i32x4_load_extend_i16x4(at.cast()) };
    // Sign, exponent and fraction in the places of a single's; the factor mends the exponent, of subnormal halves too.
    let exponent = i32x4_splat(0x7c00);
    let is_infinite = i32x4_eq(v128_and(bits, exponent), exponent);
    let factor = v128_bitselect(f32x4_splat(f32::INFINITY), i32x4_splat(0x7780_0000), is_infinite);
    f32x4_mul(v128_and(i32x4_shl(bits, 13), i32x4_splat(0x8fff_e000_u32 as i32)), factor)
}

/// Products of all rows of weights with all rows of activations, panel by panel.
fn multiply_panels<B: Block>(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    let (columns, groups, rows) = (weights.columns, weights.columns / GROUP, weights.rows());
    let (panel_bytes, count) = (PANEL * groups * B::BYTES, x.words.len() / columns);
    assert!(out.len() >= count * rows && x.steps.len() >= count * groups);
    assert!(weights.bytes.len() >= rows.div_ceil(PANEL) * panel_bytes);
    for o in (0..rows).step_by(PANEL) {
        let lanes = (rows - o).min(PANEL);
        for t in (0..count).step_by(2) {
            let mut totals = [f32x4_splat(0.0); 4];
            // SAFETY: the panel exists, and so do the rows of the activations.
            unsafe {
                let panel = weights.bytes.as_ptr().add(o / PANEL * panel_bytes);
                let one = (x.words.as_ptr().add(t * columns), x.steps.as_ptr().add(t * groups));
                if t + 1 < count {
                    by_two::<B>(panel, one, (one.0.add(columns), one.1.add(groups)), groups, &mut totals);
                } else {
                    by_one::<B>(panel, one, groups, &mut totals);
                }
            }
            for (t, totals) in (t..count).zip(totals.chunks_exact(2)) {
                // SAFETY: two vectors are eight numbers, and `out` has room for those of this row.
                unsafe {
                    let to = out.as_mut_ptr().add(t * rows + o);
                    core::ptr::copy_nonoverlapping(totals.as_ptr().cast::<f32>(), to, lanes);
                }
            }
        }
    }
}

/// Integers of a row of activations and their steps.
type Activations = (*const i16, *const f32);

/// Products of a panel with two rows of activations, each sum in the order of `by_one`.
#[inline(always)]
unsafe fn by_two<B: Block>(panel: *const u8, a: Activations, b: Activations, groups: usize, totals: &mut [v128; 4]) {
    let zero = f32x4_splat(0.0);
    let (mut a_low, mut a_high, mut b_low, mut b_high) = (zero, zero, zero, zero);
    for g in 0..groups {
        let none = i32x4_splat(0);
        let (mut al, mut ah, mut bl, mut bh) = (none, none, none, none);
        // SAFETY: the caller has `groups` groups of a panel and of both rows.
        unsafe {
            let at = panel.add(g * PANEL * B::BYTES);
            for i in 0..GROUP / 2 {
                let [low, high] = B::integers(at, i);
                let x = v128_load32_splat(a.0.add(g * GROUP + 2 * i).cast());
                al = i32x4_add(al, i32x4_dot_i16x8(low, x));
                ah = i32x4_add(ah, i32x4_dot_i16x8(high, x));
                let x = v128_load32_splat(b.0.add(g * GROUP + 2 * i).cast());
                bl = i32x4_add(bl, i32x4_dot_i16x8(low, x));
                bh = i32x4_add(bh, i32x4_dot_i16x8(high, x));
            }
            let (low, high) = (steps(at.add(PANEL * (B::BYTES - 2))), steps(at.add(PANEL * (B::BYTES - 2) + 8)));
            let (a_step, b_step) = (v128_load32_splat(a.1.add(g).cast()), v128_load32_splat(b.1.add(g).cast()));
            a_low = multiply_add(f32x4_convert_i32x4(al), f32x4_mul(low, a_step), a_low);
            a_high = multiply_add(f32x4_convert_i32x4(ah), f32x4_mul(high, a_step), a_high);
            b_low = multiply_add(f32x4_convert_i32x4(bl), f32x4_mul(low, b_step), b_low);
            b_high = multiply_add(f32x4_convert_i32x4(bh), f32x4_mul(high, b_step), b_high);
        }
    }
    *totals = [a_low, a_high, b_low, b_high];
}

/// Products of a panel with a row of activations.
#[inline(always)]
unsafe fn by_one<B: Block>(panel: *const u8, x: Activations, groups: usize, totals: &mut [v128; 4]) {
    let (mut low_sum, mut high_sum) = (f32x4_splat(0.0), f32x4_splat(0.0));
    for g in 0..groups {
        let (mut l, mut h) = (i32x4_splat(0), i32x4_splat(0));
        // SAFETY: the caller has `groups` groups of a panel and of the row.
        unsafe {
            let at = panel.add(g * PANEL * B::BYTES);
            for i in 0..GROUP / 2 {
                let [low, high] = B::integers(at, i);
                let two = v128_load32_splat(x.0.add(g * GROUP + 2 * i).cast());
                l = i32x4_add(l, i32x4_dot_i16x8(low, two));
                h = i32x4_add(h, i32x4_dot_i16x8(high, two));
            }
            let step = v128_load32_splat(x.1.add(g).cast());
            let (low, high) = (steps(at.add(PANEL * (B::BYTES - 2))), steps(at.add(PANEL * (B::BYTES - 2) + 8)));
            low_sum = multiply_add(f32x4_convert_i32x4(l), f32x4_mul(low, step), low_sum);
            high_sum = multiply_add(f32x4_convert_i32x4(h), f32x4_mul(high, step), high_sum);
        }
    }
    (totals[0], totals[1]) = (low_sum, high_sum);
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
                    sum = multiply_add(v128_load(w.add(4 * i).cast()), v128_load(from.add(i).cast()), sum);
                }
            }
            out[t * rows + o] = total(sum);
        }
    }
}

fn scores(queries: &[f32], keys: &[f32], rows: &[Row], seen: usize, out: &mut [f32]) {
    let width = keys.len() / PAGE;
    assert!(seen <= PAGE);
    for row in rows {
        assert!(row.numbers + width <= queries.len() && row.weights + PAGE <= out.len());
        // Sixteen positions at a time, because a sum waits for the one before it.
        for n in (0..seen).step_by(16) {
            let zero = f32x4_splat(0.0);
            let (mut a, mut b, mut c, mut d) = (zero, zero, zero, zero);
            // SAFETY: a page has places for whole sixteens, the query `width` numbers, and `out` a page for the row.
            unsafe {
                for i in 0..width {
                    let number = f32x4_splat(*queries.as_ptr().add(row.numbers + i));
                    let key: *const v128 = keys.as_ptr().add(i * PAGE + n).cast();
                    a = multiply_add(number, v128_load(key), a);
                    b = multiply_add(number, v128_load(key.add(1)), b);
                    c = multiply_add(number, v128_load(key.add(2)), c);
                    d = multiply_add(number, v128_load(key.add(3)), d);
                }
                let to: *mut v128 = out.as_mut_ptr().add(row.weights + n).cast();
                v128_store(to, a);
                v128_store(to.add(1), b);
                v128_store(to.add(2), c);
                v128_store(to.add(3), d);
            }
        }
    }
}

fn add_weighted(weights: &[f32], values: &[f32], rows: &[Row], seen: usize, sums: &mut [f32]) {
    let width = values.len() / seen;
    if width % 4 != 0 {
        return scalar::add_weighted(weights, values, rows, seen, sums);
    }
    for row in rows {
        add_to_sum(&weights[row.weights..row.weights + seen], values, &mut sums[row.numbers..row.numbers + width]);
    }
}

/// Add values (N, hd), each by its weight (N,), to a sum (hd,) of whole vectors.
fn add_to_sum(weights: &[f32], values: &[f32], sum: &mut [f32]) {
    let width = sum.len();
    assert!(values.len() >= weights.len() * width);
    let mut i = 0;
    // SAFETY: every value has `width` numbers, a multiple of 4, as the sum has.
    unsafe {
        // Sixteen columns at a time, because a sum waits for the one before it.
        while i + 16 <= width {
            let at: *mut v128 = sum.as_mut_ptr().add(i).cast();
            let (mut a, mut b) = (v128_load(at), v128_load(at.add(1)));
            let (mut c, mut d) = (v128_load(at.add(2)), v128_load(at.add(3)));
            for (n, weight) in weights.iter().enumerate() {
                let (weight, value) = (f32x4_splat(*weight), values.as_ptr().add(n * width + i).cast::<v128>());
                a = multiply_add(weight, v128_load(value), a);
                b = multiply_add(weight, v128_load(value.add(1)), b);
                c = multiply_add(weight, v128_load(value.add(2)), c);
                d = multiply_add(weight, v128_load(value.add(3)), d);
            }
            v128_store(at, a);
            v128_store(at.add(1), b);
            v128_store(at.add(2), c);
            v128_store(at.add(3), d);
            i += 16;
        }
        while i < width {
            let mut part = v128_load(sum.as_ptr().add(i).cast());
            for (n, weight) in weights.iter().enumerate() {
                part = multiply_add(f32x4_splat(*weight), v128_load(values.as_ptr().add(n * width + i).cast()), part);
            }
            v128_store(sum.as_mut_ptr().add(i).cast(), part);
            i += 4;
        }
    }
}

fn softmax(scores: &mut [f32], scale: f32) {
    let whole = scores.len() / 4 * 4;
    let mut most = f32x4_splat(f32::NEG_INFINITY);
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 <= len.
        most = f32x4_pmax(most, unsafe { v128_load(scores.as_ptr().add(i).cast()) });
    }
    let most = scores[whole..].iter().copied().fold(largest(most), f32::max);
    let (top, factor) = (f32x4_splat(most), f32x4_splat(scale));
    let mut sums = f32x4_splat(0.0);
    for i in (0..whole).step_by(4) {
        // SAFETY: as above.
        unsafe {
            let e = exp(f32x4_mul(f32x4_sub(v128_load(scores.as_ptr().add(i).cast()), top), factor));
            v128_store(scores.as_mut_ptr().add(i).cast(), e);
            sums = f32x4_add(sums, e);
        }
    }
    let mut sum = total(sums);
    for score in &mut scores[whole..] {
        *score = crate::math::exp((*score - most) * scale);
        sum += *score;
    }
    let inverse = f32x4_splat(1.0 / sum);
    for i in (0..whole).step_by(4) {
        // SAFETY: as above.
        unsafe {
            let at: *mut v128 = scores.as_mut_ptr().add(i).cast();
            v128_store(at, f32x4_mul(v128_load(at), inverse));
        }
    }
    for score in &mut scores[whole..] {
        *score *= f32x4_extract_lane::<0>(inverse);
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

fn norm(row: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = row.len();
    if width % 4 != 0 {
        return scalar::norm(row, gain, epsilon, out);
    }
    assert!(gain.len() >= width && out.len() >= width);
    let mut squares = f32x4_splat(0.0);
    for i in (0..width).step_by(4) {
        // SAFETY: i + 4 <= width.
        let x = unsafe { v128_load(row.as_ptr().add(i).cast()) };
        squares = multiply_add(x, x, squares);
    }
    let inverse = f32x4_splat(1.0 / crate::math::sqrt(total(squares) / width as f32 + epsilon));
    for i in (0..width).step_by(4) {
        // SAFETY: as above.
        unsafe {
            let scaled = f32x4_mul(v128_load(row.as_ptr().add(i).cast()), inverse);
            v128_store(out.as_mut_ptr().add(i).cast(), f32x4_mul(scaled, v128_load(gain.as_ptr().add(i).cast())));
        }
    }
}

/// `math::exp`, four at a time: the same reduction and the same series.
#[inline(always)]
fn exp(x: v128) -> v128 {
    let x = f32x4_pmin(f32x4_splat(88.0), f32x4_pmax(f32x4_splat(-87.0), x));
    let k = f32x4_nearest(f32x4_mul(x, f32x4_splat(core::f32::consts::LOG2_E)));
    let r = multiply_add(k, f32x4_splat(-0.693_359_4), x);
    let r = multiply_add(k, f32x4_splat(2.121_944_4e-4), r);
    let p = multiply_add(f32x4_splat(1.0 / 720.0), r, f32x4_splat(1.0 / 120.0));
    let p = multiply_add(p, r, f32x4_splat(1.0 / 24.0));
    let p = multiply_add(p, r, f32x4_splat(1.0 / 6.0));
    let p = multiply_add(p, r, f32x4_splat(0.5));
    let p = multiply_add(p, r, f32x4_splat(1.0));
    let p = multiply_add(p, r, f32x4_splat(1.0));
    let power = i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(k), i32x4_splat(127)), 23);
    f32x4_mul(p, power)
}

/// Sum of four numbers, always in this order.
#[inline(always)]
fn total(x: v128) -> f32 {
    let two = f32x4_add(x, i32x4_shuffle::<2, 3, 0, 1>(x, x));
    f32x4_extract_lane::<0>(two) + f32x4_extract_lane::<1>(two)
}

/// The largest of four numbers.
#[inline(always)]
fn largest(x: v128) -> f32 {
    let two = f32x4_pmax(x, i32x4_shuffle::<2, 3, 0, 1>(x, x));
    f32x4_extract_lane::<0>(two).max(f32x4_extract_lane::<1>(two))
}
