//! NEON, which every 64-bit ARM processor of a phone, tablet or server has, and its dot product of bytes (ARMv8.2's
//! FEAT_DotProd: phones since about 2018), asked for at run time.
//!
//! Products with quantized weights are whole numbers within a group, and their sum over the groups takes the very steps
//! of `scalar`: four outputs lie side by side in a vector, each with a sum of its own. Both families give its bits there.
//!
//! # Safety
//! Every `unsafe` function here needs NEON, which this file is compiled for alone, and those of `WITH_DOT_PRODUCT` what
//! `has_dot_product` asks for besides; that table is handed out behind the question alone. Pointers come from slices
//! whose lengths the callers have checked with the arithmetic beside them.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{scalar, Kernels, Rounded, Weights, GROUP};
use crate::gguf::Encoding;

/// The family of every processor.
pub static KERNELS: Kernels = table::<Widened>("neon");

/// The family of processors that have `has_dot_product`; only there.
pub static WITH_DOT_PRODUCT: Kernels = table::<DotProduct>("dotprod");

const fn table<D: Dot>(name: &'static str) -> Kernels {
    Kernels {
        name,
        arrange: None,
        round: |rows, columns, out| unsafe { round(rows, columns, out) },
        multiply_rounded: |weights, rows, out| unsafe {
            match weights.encoding {
                Encoding::Q8_0 => multiply_blocks::<Q8, D>(weights, rows, out),
                _ => multiply_blocks::<Q4, D>(weights, rows, out),
            }
        },
        multiply: |weights, rows, out| unsafe {
            match weights.encoding {
                Encoding::F32 => multiply_numbers::<F32>(weights, rows, out),
                _ => multiply_numbers::<F16>(weights, rows, out),
            }
        },
        scores: |queries, keys, rows, seen, out| unsafe { scores(queries, keys, rows, seen, out) },
        add_weighted: |weights, values, rows, seen, sums| unsafe { add_weighted(weights, values, rows, seen, sums) },
        softmax: |scores, scale| unsafe { softmax(scores, scale) },
        gate: |first, up| unsafe { gate(first, up) },
        norm: |row, gain, epsilon, out| unsafe { norm(row, gain, epsilon, out) },
    }
}

/// Whether this processor has the dot product of bytes; without `std`, whether the target promises it.
pub fn has_dot_product() -> bool {
    #[cfg(feature = "std")]
    return std::arch::is_aarch64_feature_detected!("dotprod");
    #[cfg(not(feature = "std"))]
    return cfg!(target_feature = "dotprod");
}

#[target_feature(enable = "neon")]
unsafe fn round(rows: &[f32], columns: usize, out: &mut Rounded) {
    debug_assert_eq!(columns % GROUP, 0);
    let groups = rows.len() / GROUP;
    out.values.clear();
    out.values.resize(groups * GROUP, 0);
    out.steps.clear();
    out.steps.resize(groups, 0.0);
    for g in 0..groups {
        // SAFETY: g < groups, so 32 numbers and 32 bytes lie there.
        unsafe {
            let (from, to) = (rows.as_ptr().add(g * GROUP), out.values.as_mut_ptr().add(g * GROUP));
            let x = [0, 4, 8, 12, 16, 20, 24, 28].map(|i| vld1q_f32(from.add(i)));
            let largest = vmaxnmvq_f32(x.iter().fold(vdupq_n_f32(0.0), |most, x| vmaxnmq_f32(most, vabsq_f32(*x))));
            let step = largest / 127.0;
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            *out.steps.get_unchecked_mut(g) = step;
            let x = x.map(|x| vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x, inverse))));
            for i in 0..4 {
                vst1_s8(to.add(8 * i), vqmovn_s16(vcombine_s16(x[2 * i], x[2 * i + 1])));
            }
        }
    }
}

/// Sums of products of bytes.
trait Dot {
    /// Number i of the sum, plus the four products of bytes 4i .. 4i + 4.
    unsafe fn add(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;
}

struct DotProduct;
struct Widened;

impl Dot for DotProduct {
    #[inline(always)]
    unsafe fn add(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: the processor has the instruction, see above. As text, because the compiler's own `vdotq_s32` is not
        // stable; the directive makes its assembler take it in a function for all processors.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                sum = inout(vreg) sum,
                a = in(vreg) a,
                b = in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
}

impl Dot for Widened {
    #[inline(always)]
    unsafe fn add(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: NEON alone. 127 * 128 * 2 fits 16 bits; activations are never -128.
        unsafe {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(a, b)))
        }
    }
}

/// A block of 32 quantized weights.
trait Block {
    const BYTES: usize;
    /// Integers of the block at a pointer to `BYTES` readable bytes, behind the two of the step.
    unsafe fn load(at: *const u8) -> [int8x16_t; 2];
}

struct Q8;
struct Q4;

impl Block for Q8 {
    const BYTES: usize = 34;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [int8x16_t; 2] {
        // SAFETY: 34 bytes lie there.
        unsafe { [vld1q_s8(at.add(2).cast()), vld1q_s8(at.add(18).cast())] }
    }
}

impl Block for Q4 {
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [int8x16_t; 2] {
        // SAFETY: 18 bytes lie there.
        unsafe {
            let pairs = vld1q_u8(at.add(2));
            let both = [vandq_u8(pairs, vdupq_n_u8(15)), vshrq_n_u8(pairs, 4)];
            both.map(|steps| vsubq_s8(vreinterpretq_s8_u8(steps), vdupq_n_s8(8)))
        }
    }
}

/// Four numbers of half precision, widened; as text, because the compiler's own types for them are not stable.
#[inline(always)]
unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: NEON alone.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Tiles of 4 rows of weights by up to 4 rows of activations; the last tile covers rows of the one before again where
/// their number is no multiple of 4.
#[target_feature(enable = "neon")]
unsafe fn multiply_blocks<B: Block, D: Dot>(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    let (columns, groups, rows) = (weights.columns, weights.columns / GROUP, weights.rows());
    if rows < 4 {
        return scalar::multiply_rounded(weights, x, out);
    }
    let count = x.values.len() / columns;
    assert!(out.len() >= count * rows && x.steps.len() >= count * groups && weights.row_bytes() == groups * B::BYTES);
    for o in (0..rows).step_by(4) {
        let o = o.min(rows - 4);
        let mut t = 0;
        while t < count {
            let wide = (count - t).min(4);
            // SAFETY: rows o .. o + 4 of the weights and t .. t + wide of the activations exist: see the assertion.
            unsafe {
                let w = weights.bytes.as_ptr().add(o * groups * B::BYTES);
                let (values, steps) = (x.values.as_ptr().add(t * columns), x.steps.as_ptr().add(t * groups));
                let to = out.as_mut_ptr().add(t * rows + o);
                match wide {
                    4 => tile::<B, D, 4>(w, values, steps, groups, to, rows),
                    3 => tile::<B, D, 3>(w, values, steps, groups, to, rows),
                    2 => tile::<B, D, 2>(w, values, steps, groups, to, rows),
                    _ => tile::<B, D, 1>(w, values, steps, groups, to, rows),
                }
            }
            t += wide;
        }
    }
}

/// Products of 4 rows of weights, one a lane, with T rows of activations.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<B: Block, D: Dot, const T: usize>(
    weights: *const u8,
    values: *const i8,
    steps: *const f32,
    groups: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut sums = [vdupq_n_f32(0.0); T];
    // SAFETY: the caller has 4 rows of `groups` blocks, T rows of activations, and room for 4 x T products.
    unsafe {
        for g in 0..groups {
            let at = [0, 1, 2, 3].map(|r| weights.add((r * groups + g) * B::BYTES));
            let w = at.map(|at| B::load(at));
            let halves = at.map(|at| at.cast::<u16>().read_unaligned());
            let step = widen(vld1_u16(halves.as_ptr()));
            for (t, sum) in sums.iter_mut().enumerate() {
                let x = values.add((t * groups + g) * GROUP);
                let (first, second) = (vld1q_s8(x), vld1q_s8(x.add(16)));
                let [a, b, c, d] = w.map(|w| D::add(D::add(vdupq_n_s32(0), w[0], first), w[1], second));
                let dots = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
                let scale = vmulq_n_f32(step, *steps.add(t * groups + g));
                // Not fused: `scalar` rounds the product too.
                *sum = vaddq_f32(*sum, vmulq_f32(vcvtq_f32_s32(dots), scale));
            }
        }
        for (t, sum) in sums.iter().enumerate() {
            vst1q_f32(out.add(t * stride), *sum);
        }
    }
}

/// Eight weights as numbers.
trait Numbers {
    const BYTES: usize;
    /// Eight numbers at a pointer to `8 * BYTES` readable bytes.
    unsafe fn load(at: *const u8) -> [float32x4_t; 2];
}

struct F32;
struct F16;

impl Numbers for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: 32 bytes lie there.
        unsafe { [vreinterpretq_f32_u8(vld1q_u8(at)), vreinterpretq_f32_u8(vld1q_u8(at.add(16)))] }
    }
}

impl Numbers for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: 16 bytes lie there.
        unsafe { [widen(vreinterpret_u16_u8(vld1_u8(at))), widen(vreinterpret_u16_u8(vld1_u8(at.add(8))))] }
    }
}

#[target_feature(enable = "neon")]
unsafe fn multiply_numbers<N: Numbers>(weights: Weights<'_>, x: &[f32], out: &mut [f32]) {
    let (columns, rows) = (weights.columns, weights.rows());
    if columns % 8 != 0 {
        return scalar::multiply(weights, x, out);
    }
    let count = x.len() / columns;
    assert!(out.len() >= count * rows && weights.row_bytes() == columns * N::BYTES);
    for o in 0..rows {
        let mut t = 0;
        while t < count {
            let wide = (count - t).min(4);
            // SAFETY: row o of the weights and rows t .. t + wide of x exist: see the assertion.
            unsafe {
                let w = weights.bytes.as_ptr().add(o * columns * N::BYTES);
                let (from, to) = (x.as_ptr().add(t * columns), out.as_mut_ptr().add(t * rows + o));
                match wide {
                    4 => row_by::<N, 4>(w, from, columns, to, rows),
                    3 => row_by::<N, 3>(w, from, columns, to, rows),
                    2 => row_by::<N, 2>(w, from, columns, to, rows),
                    _ => row_by::<N, 1>(w, from, columns, to, rows),
                }
            }
            t += wide;
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn row_by<N: Numbers, const T: usize>(
    weights: *const u8,
    x: *const f32,
    columns: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut sums = [[vdupq_n_f32(0.0); 2]; T];
    // SAFETY: the caller has one row of weights, T rows of x, and room for T products.
    unsafe {
        for i in (0..columns).step_by(8) {
            let w = N::load(weights.add(i * N::BYTES));
            for (t, [low, high]) in sums.iter_mut().enumerate() {
                let from = x.add(t * columns + i);
                *low = vfmaq_f32(*low, w[0], vld1q_f32(from));
                *high = vfmaq_f32(*high, w[1], vld1q_f32(from.add(4)));
            }
        }
        for (t, [low, high]) in sums.iter().enumerate() {
            *out.add(t * stride) = vaddvq_f32(vaddq_f32(*low, *high));
        }
    }
}

/// a * b + c.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    vfmaq_f32(c, a, b)
}

super::attention::attention! {
    #[target_feature(enable = "neon")]
    lanes: 4,
    load: vld1q_f32,
    store: vst1q_f32,
    spread: vdupq_n_f32,
    multiply_add: multiply_add,
    narrow: super::scalar::add_weighted,
}

#[target_feature(enable = "neon")]
unsafe fn softmax(scores: &mut [f32], scale: f32) {
    let whole = scores.len() / 4 * 4;
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = vdupq_n_f32(0.0);
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 <= len.
        unsafe {
            let x = vsubq_f32(vld1q_f32(scores.as_ptr().add(i)), vdupq_n_f32(largest));
            let e = exp(vmulq_n_f32(x, scale));
            vst1q_f32(scores.as_mut_ptr().add(i), e);
            sums = vaddq_f32(sums, e);
        }
    }
    let mut sum = vaddvq_f32(sums);
    for score in &mut scores[whole..] {
        *score = crate::math::exp((*score - largest) * scale);
        sum += *score;
    }
    let inverse = 1.0 / sum;
    for score in scores {
        *score *= inverse;
    }
}

#[target_feature(enable = "neon")]
unsafe fn gate(first: &mut [f32], up: &[f32]) {
    let whole = first.len().min(up.len()) / 4 * 4;
    for i in (0..whole).step_by(4) {
        // SAFETY: i + 4 is within both.
        unsafe {
            let g = vld1q_f32(first.as_ptr().add(i));
            let silu = vdivq_f32(g, vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(g))));
            vst1q_f32(first.as_mut_ptr().add(i), vmulq_f32(silu, vld1q_f32(up.as_ptr().add(i))));
        }
    }
    scalar::gate(&mut first[whole..], &up[whole..]);
}

#[target_feature(enable = "neon")]
unsafe fn norm(row: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = row.len();
    if width % 4 != 0 {
        return scalar::norm(row, gain, epsilon, out);
    }
    assert!(gain.len() >= width && out.len() >= width);
    let mut squares = vdupq_n_f32(0.0);
    for i in (0..width).step_by(4) {
        // SAFETY: i + 4 <= width.
        let x = unsafe { vld1q_f32(row.as_ptr().add(i)) };
        squares = vfmaq_f32(squares, x, x);
    }
    let inverse = 1.0 / crate::math::sqrt(vaddvq_f32(squares) / width as f32 + epsilon);
    for i in (0..width).step_by(4) {
        // SAFETY: as above.
        unsafe {
            let scaled = vmulq_n_f32(vld1q_f32(row.as_ptr().add(i)), inverse);
            vst1q_f32(out.as_mut_ptr().add(i), vmulq_f32(scaled, vld1q_f32(gain.as_ptr().add(i))));
        }
    }
}

/// `math::exp`, four at a time: the same reduction and the same series.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn exp(x: float32x4_t) -> float32x4_t {
    let x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-87.0)), vdupq_n_f32(88.0));
    let k = vrndnq_f32(vmulq_n_f32(x, core::f32::consts::LOG2_E));
    let r = vfmsq_n_f32(x, k, 0.693_359_4);
    let r = vfmaq_n_f32(r, k, 2.121_944_4e-4);
    let mut p = vdupq_n_f32(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = vfmaq_f32(vdupq_n_f32(c), p, r);
    }
    let power = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(k), vdupq_n_s32(127)));
    vmulq_f32(p, vreinterpretq_f32_s32(power))
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_as_the_slow_twin_does() {
        for bits in 0..=u16::MAX {
            // SAFETY: NEON alone.
            let found = unsafe { vgetq_lane_f32::<0>(widen(vdup_n_u16(bits))) };
            let expected = crate::math::f16_to_f32(bits);
            assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn both_ways_add_the_same_bytes_to_the_same_numbers() {
        for (a, b) in [(127, -128), (-127, 127), (3, -5)] {
            let (mut x, mut y) = ([a; 16], [b; 16]);
            (x[5], y[5]) = (7, 11);
            let sums = |add: unsafe fn(int32x4_t, int8x16_t, int8x16_t) -> int32x4_t| {
                let mut out = [0; 4];
                // SAFETY: 16 bytes and 4 numbers lie there, and the caller has asked for the instruction.
                unsafe { vst1q_s32(out.as_mut_ptr(), add(vdupq_n_s32(9), vld1q_s8(x.as_ptr()), vld1q_s8(y.as_ptr()))) };
                out
            };
            let product = i32::from(a) * i32::from(b);
            let expected = [4 * product, 3 * product + 77, 4 * product, 4 * product].map(|x| x + 9);
            assert_eq!(sums(Widened::add), expected);
            if has_dot_product() {
                assert_eq!(sums(DotProduct::add), expected);
            }
        }
    }
}
