//! AVX2 with FMA and F16C: x86 processors since 2013 (Intel) and 2015 (AMD).
//!
//! Quantized weights are brought into panels of 8 rows when a model is loaded, one row a lane: integers of a group are
//! summed across its columns without leaving the lane, exactly, and turned into a number once a group. Groups are added in
//! order with the very steps of `scalar`: the bits are the twin's.
//!
//! # Safety
//! Every `unsafe` function here needs what `is_available` asks for; the table is handed out behind that question alone.
//! Pointers come from slices whose lengths the callers have checked with the arithmetic beside them.

use core::arch::x86_64::*;

use super::{arrange_panels, scalar, Arrange, Kernels, Rounded, Weights, GROUP};
use crate::gguf::Encoding;

/// The family; only for processors where `is_available`.
pub static KERNELS: Kernels = Kernels {
    name: "avx2",
    arrange: Some(Arrange { rows: PANEL, fill: |weights, out| arrange_panels(weights, PANEL, 4, out) }),
    round: |rows, columns, out| unsafe { round(rows, columns, out) },
    multiply_rounded: |weights, rows, out| unsafe {
        match weights.encoding {
            Encoding::Q8_0 => multiply_panels::<Q8>(weights, rows, out),
            _ => multiply_panels::<Q4>(weights, rows, out),
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
};

/// Whether this processor has what the family needs.
#[cfg(feature = "std")]
pub fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn round(rows: &[f32], columns: usize, out: &mut Rounded) {
    debug_assert_eq!(columns % GROUP, 0);
    let groups = rows.len() / GROUP;
    out.values.clear();
    out.values.resize(groups * GROUP, 0);
    out.steps.clear();
    out.steps.resize(groups, 0.0);
    out.sums.clear();
    out.sums.resize(groups, 0);
    let ones = _mm256_set1_epi8(1);
    let sign = _mm256_set1_ps(-0.0);
    // The four packs below leave the eight quarters of a group out of order; this puts them back.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for g in 0..groups {
        // SAFETY: g < groups, so 32 numbers and 32 bytes lie there.
        unsafe {
            let from = rows.as_ptr().add(g * GROUP);
            let x = [0, 8, 16, 24].map(|i| _mm256_loadu_ps(from.add(i)));
            let [a, b, c, d] = x.map(|x| _mm256_andnot_ps(sign, x));
            let largest = largest(_mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)));
            let step = largest / 127.0;
            let inverse = _mm256_set1_ps(if step > 0.0 { 1.0 / step } else { 0.0 });
            *out.steps.get_unchecked_mut(g) = step;
            let [a, b, c, d] = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
            let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            let ordered = _mm256_permutevar8x32_epi32(packed, order);
            _mm256_storeu_si256(out.values.as_mut_ptr().add(g * GROUP).cast(), ordered);
            *out.sums.get_unchecked_mut(g) = integer_total(_mm256_maddubs_epi16(ones, ordered));
        }
    }
}

/// Rows of a panel: lanes of a vector of 32-bit numbers.
const PANEL: usize = 8;

/// A group of a panel: 8 rows by 32 quantized weights, one row a lane.
trait Block {
    const BYTES: usize;
    /// Its products with one group of T rows of activations of `groups` groups: `values` and `sums` are the integers of
    /// that group of the first row, and their sum.
    unsafe fn dots<const T: usize>(at: *const u8, values: *const i8, sums: *const i32, groups: usize) -> [__m256i; T];
}

struct Q8;
struct Q4;

impl Block for Q8 {
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dots<const T: usize>(at: *const u8, values: *const i8, _: *const i32, groups: usize) -> [__m256i; T] {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [_mm256_setzero_si256(); T];
        for i in 0..GROUP / 4 {
            // SAFETY: i < 8, and eight vectors lie there.
            let w = unsafe { _mm256_loadu_si256(at.add(32 * i).cast()) };
            let size = _mm256_abs_epi8(w);
            for (t, dot) in dots.iter_mut().enumerate() {
                // SAFETY: four of the 32 integers of row t.
                let x = unsafe { spread(values.add(t * groups * GROUP + 4 * i)) };
                // Bytes times bytes need one side without signs: |w| times x with the sign of w. 127 * 127 * 2 fits 16
                // bits; -128 does not occur in either.
                let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));
                *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
            }
        }
        dots
    }
}

impl Block for Q4 {
    const BYTES: usize = 18;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dots<const T: usize>(at: *const u8, values: *const i8, sums: *const i32, groups: usize) -> [__m256i; T] {
        let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut dots = [_mm256_setzero_si256(); T];
        for i in 0..GROUP / 4 {
            // SAFETY: i % 4 < 4, and four vectors lie there; columns 16 on stand in the upper halves of the bytes.
            let both = unsafe { _mm256_loadu_si256(at.add(32 * (i % 4)).cast()) };
            let w = _mm256_and_si256(if i < 4 { both } else { _mm256_srli_epi16(both, 4) }, low);
            for (t, dot) in dots.iter_mut().enumerate() {
                // SAFETY: four of the 32 integers of row t.
                let x = unsafe { spread(values.add(t * groups * GROUP + 4 * i)) };
                // Without signs, 8 more than they are: 15 * 128 * 16 fits 16 bits, so a whole group is summed in them.
                *dot = _mm256_add_epi16(*dot, _mm256_maddubs_epi16(w, x));
            }
        }
        for (t, dot) in dots.iter_mut().enumerate() {
            // SAFETY: row t has a sum of this group.
            let offset = unsafe { _mm256_set1_epi32(8 * *sums.add(t * groups)) };
            *dot = _mm256_sub_epi32(_mm256_madd_epi16(*dot, ones), offset);
        }
        dots
    }
}

/// Four bytes in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn spread(at: *const i8) -> __m256i {
    // SAFETY: the caller has four bytes there.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// Products of all rows of weights with all rows of activations, panel by panel.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_panels<B: Block>(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    let (columns, groups, rows) = (weights.columns, weights.columns / GROUP, weights.rows());
    let (panel_bytes, count) = (PANEL * groups * B::BYTES, x.values.len() / columns);
    assert!(out.len() >= count * rows && x.steps.len() >= count * groups && x.sums.len() >= count * groups);
    assert!(weights.bytes.len() >= rows.div_ceil(PANEL) * panel_bytes);
    for o in (0..rows).step_by(PANEL) {
        let lanes = (rows - o).min(PANEL);
        let mut t = 0;
        while t < count {
            // SAFETY: the panel exists, so do rows t .. t + T of the activations, and room for `lanes` products of each.
            unsafe {
                let panel = weights.bytes.as_ptr().add(o / PANEL * panel_bytes);
                let values = x.values.as_ptr().add(t * columns);
                let of_groups = (x.steps.as_ptr().add(t * groups), x.sums.as_ptr().add(t * groups));
                let to = out.as_mut_ptr().add(t * rows + o);
                // The first of several rows asks for the panel that comes next: a core waits less for it then.
                let is_ahead = t == 0 && count > 1;
                t += match count - t {
                    4.. => tile::<B, 4>(panel, values, of_groups, groups, to, rows, lanes, is_ahead),
                    2.. => tile::<B, 2>(panel, values, of_groups, groups, to, rows, lanes, is_ahead),
                    _ => tile::<B, 1>(panel, values, of_groups, groups, to, rows, lanes, is_ahead),
                }
            }
        }
    }
}

/// Products of a panel with T rows of activations, of which the first `lanes` are written; gives T.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::too_many_arguments)] // of a loop's body
unsafe fn tile<B: Block, const T: usize>(
    panel: *const u8,
    values: *const i8,
    (steps, sums): (*const f32, *const i32),
    groups: usize,
    out: *mut f32,
    stride: usize,
    lanes: usize,
    asks_for_next: bool,
) -> usize {
    let mut totals = [_mm256_setzero_ps(); T];
    // SAFETY: the caller has `groups` groups of a panel, T rows of activations, and room for T x lanes products.
    unsafe {
        for g in 0..groups {
            let at = panel.add(g * PANEL * B::BYTES);
            if asks_for_next {
                // Wherever it points: asking for memory ahead of time never faults.
                let next = at.wrapping_add(groups * PANEL * B::BYTES);
                for line in 0..(PANEL * B::BYTES).div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(64 * line).cast());
                }
            }
            let dots = B::dots::<T>(at, values.add(g * GROUP), sums.add(g), groups);
            let w_steps = _mm256_cvtph_ps(_mm_loadu_si128(at.add(PANEL * (B::BYTES - 2)).cast()));
            for (t, total) in totals.iter_mut().enumerate() {
                let step = _mm256_mul_ps(w_steps, _mm256_set1_ps(*steps.add(t * groups + g)));
                *total = _mm256_add_ps(*total, _mm256_mul_ps(_mm256_cvtepi32_ps(dots[t]), step));
            }
        }
        for (t, total) in totals.iter().enumerate() {
            let to = out.add(t * stride);
            if lanes == PANEL {
                _mm256_storeu_ps(to, *total);
            } else {
                let mut all = [0.0; PANEL];
                _mm256_storeu_ps(all.as_mut_ptr(), *total);
                core::ptr::copy_nonoverlapping(all.as_ptr(), to, lanes);
            }
        }
    }
    T
}

/// Eight weights as numbers.
trait Numbers {
    const BYTES: usize;
    /// Eight numbers at a pointer to `8 * BYTES` readable bytes.
    unsafe fn load(at: *const u8) -> __m256;
}

struct F32;
struct F16;

impl Numbers for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: 32 bytes lie there.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Numbers for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: 16 bytes lie there.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn row_by<N: Numbers, const T: usize>(
    weights: *const u8,
    x: *const f32,
    columns: usize,
    out: *mut f32,
    stride: usize,
) {
    let mut sums = [_mm256_setzero_ps(); T];
    // SAFETY: the caller has one row of weights, T rows of x, and room for T products.
    unsafe {
        for i in (0..columns).step_by(8) {
            let w = N::load(weights.add(i * N::BYTES));
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.add(t * columns + i)), *sum);
            }
        }
        for (t, sum) in sums.iter().enumerate() {
            *out.add(t * stride) = total(*sum);
        }
    }
}

super::attention::attention! {
    #[target_feature(enable = "avx2,fma,f16c")]
    lanes: 8,
    load: _mm256_loadu_ps,
    store: _mm256_storeu_ps,
    spread: _mm256_set1_ps,
    multiply_add: _mm256_fmadd_ps,
    narrow: super::scalar::add_weighted,
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn softmax(scores: &mut [f32], scale: f32) {
    let whole = scores.len() / 8 * 8;
    let mut most = _mm256_set1_ps(f32::NEG_INFINITY);
    for i in (0..whole).step_by(8) {
        // SAFETY: i + 8 <= len.
        most = unsafe { _mm256_max_ps(most, _mm256_loadu_ps(scores.as_ptr().add(i))) };
    }
    let largest = scores[whole..].iter().copied().fold(unsafe { self::largest(most) }, f32::max);
    let (top, factor) = (_mm256_set1_ps(largest), _mm256_set1_ps(scale));
    let mut sums = _mm256_setzero_ps();
    for i in (0..whole).step_by(8) {
        // SAFETY: as above.
        unsafe {
            let x = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(scores.as_ptr().add(i)), top), factor);
            let e = exp(x);
            _mm256_storeu_ps(scores.as_mut_ptr().add(i), e);
            sums = _mm256_add_ps(sums, e);
        }
    }
    let mut sum = unsafe { total(sums) };
    for score in &mut scores[whole..] {
        *score = crate::math::exp((*score - largest) * scale);
        sum += *score;
    }
    let inverse = 1.0 / sum;
    for score in scores {
        *score *= inverse;
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gate(first: &mut [f32], up: &[f32]) {
    let whole = first.len().min(up.len()) / 8 * 8;
    let one = _mm256_set1_ps(1.0);
    for i in (0..whole).step_by(8) {
        // SAFETY: i + 8 is within both.
        unsafe {
            let g = _mm256_loadu_ps(first.as_ptr().add(i));
            let e = exp(_mm256_sub_ps(_mm256_setzero_ps(), g));
            let silu = _mm256_div_ps(g, _mm256_add_ps(one, e));
            _mm256_storeu_ps(first.as_mut_ptr().add(i), _mm256_mul_ps(silu, _mm256_loadu_ps(up.as_ptr().add(i))));
        }
    }
    scalar::gate(&mut first[whole..], &up[whole..]);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn norm(row: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = row.len();
    if !width.is_multiple_of(8) {
        return scalar::norm(row, gain, epsilon, out);
    }
    assert!(gain.len() >= width && out.len() >= width);
    let mut squares = _mm256_setzero_ps();
    for i in (0..width).step_by(8) {
        // SAFETY: i + 8 <= width.
        unsafe {
            let x = _mm256_loadu_ps(row.as_ptr().add(i));
            squares = _mm256_fmadd_ps(x, x, squares);
        }
    }
    let mean = unsafe { total(squares) } / width as f32;
    let inverse = _mm256_set1_ps(1.0 / crate::math::sqrt(mean + epsilon));
    for i in (0..width).step_by(8) {
        // SAFETY: as above.
        unsafe {
            let scaled = _mm256_mul_ps(_mm256_loadu_ps(row.as_ptr().add(i)), inverse);
            _mm256_storeu_ps(out.as_mut_ptr().add(i), _mm256_mul_ps(scaled, _mm256_loadu_ps(gain.as_ptr().add(i))));
        }
    }
}

/// `math::exp`, eight at a time: the same reduction and the same series.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn exp(x: __m256) -> __m256 {
    let x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0)), _mm256_set1_ps(88.0));
    let k = _mm256_round_ps(
        _mm256_mul_ps(x, _mm256_set1_ps(core::f32::consts::LOG2_E)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC,
    );
    let r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0.693_359_4), x);
    let r = _mm256_fmadd_ps(k, _mm256_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm256_set1_ps(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127)), 23);
    _mm256_mul_ps(p, _mm256_castsi256_ps(power))
}

/// Sum of eight numbers, always in this order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn total(x: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)))
}

/// Sum of 16 integers of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn integer_total(x: __m256i) -> i32 {
    let eight = _mm256_madd_epi16(x, _mm256_set1_epi16(1));
    let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn largest(x: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)))
}
