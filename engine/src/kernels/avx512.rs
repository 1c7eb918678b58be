//! AVX-512 with VNNI: x86 servers since 2019 (Intel) and 2022 (AMD), many laptops and desktops of the same years.
//!
//! Quantized weights are brought into panels of 16 rows when a model is loaded: one row a lane, so that one instruction
//! multiplies four columns of 16 rows with four activations, and everything a product reads lies in one stream. Integers
//! of a group are summed exactly, and groups are added in order with the very steps of `scalar`: the bits are the twin's.
//!
//! # Safety
//! Every `unsafe` function here needs what `is_available` asks for; the table is handed out behind that question alone.
//! Pointers come from slices whose lengths the callers have checked with the arithmetic beside them.

use core::arch::x86_64::*;

use super::{avx2, Arrange, Kernels, Rounded, Weights, GROUP};
use crate::gguf::Encoding;

/// The family; only for processors where `is_available`.
pub static KERNELS: Kernels = Kernels {
    name: "avx512vnni",
    arrange: Some(Arrange {
        rows: PANEL,
        fill: |weights, out| unsafe {
            match weights.encoding {
                Encoding::Q8_0 => arrange::<Q8>(weights, out),
                _ => arrange::<Q4>(weights, out),
            }
        },
    }),
    round: |rows, columns, out| unsafe { round(rows, columns, out) },
    multiply_rounded: |weights, rows, out| unsafe {
        match weights.encoding {
            Encoding::Q8_0 => multiply_panels::<Q8>(weights, rows, out),
            _ => multiply_panels::<Q4>(weights, rows, out),
        }
    },
    scores: |queries, keys, rows, seen, out| unsafe { scores(queries, keys, rows, seen, out) },
    add_weighted: |weights, values, rows, seen, sums| unsafe { add_weighted(weights, values, rows, seen, sums) },
    softmax: |scores, scale| unsafe { softmax(scores, scale) },
    gate: |first, up| unsafe { gate(first, up) },
    ..avx2::KERNELS
};

/// Whether this processor has what the family needs.
#[cfg(feature = "std")]
pub fn is_available() -> bool {
    avx2::is_available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Rows of a panel: lanes of a vector of 32-bit numbers.
const PANEL: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn round(rows: &[f32], columns: usize, out: &mut Rounded) {
    debug_assert_eq!(columns % GROUP, 0);
    let groups = rows.len() / GROUP;
    out.values.clear();
    out.values.resize(groups * GROUP, 0);
    out.steps.clear();
    out.steps.resize(groups, 0.0);
    out.sums.clear();
    out.sums.resize(groups, 0);
    for g in 0..groups {
        // SAFETY: g < groups, so 32 numbers and 32 bytes lie there.
        unsafe {
            let from = rows.as_ptr().add(g * GROUP);
            let (a, b) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
            let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
            let step = largest / 127.0;
            let inverse = _mm512_set1_ps(if step > 0.0 { 1.0 / step } else { 0.0 });
            *out.steps.get_unchecked_mut(g) = step;
            // What is no number becomes 0 and what is infinite, as beside the least of steps, a byte's limit, as in the
            // slow twin: and not the least integer, which sums overflow with.
            let [a, b] = [a, b].map(|x| {
                let scaled = _mm512_mul_ps(x, inverse);
                let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(scaled, scaled);
                let within = _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(-128.0)), _mm512_set1_ps(127.0));
                _mm512_maskz_cvtps_epi32(is_number, within)
            });
            *out.sums.get_unchecked_mut(g) = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
            let to = out.values.as_mut_ptr().add(g * GROUP);
            _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(a));
            _mm_storeu_si128(to.add(16).cast(), _mm512_cvtsepi32_epi8(b));
        }
    }
}

/// How 32 weights lie in the file's blocks and in a panel. A panel holds, group by group, the integers of its rows and
/// then their 16 steps; integers lie there as vectors of four columns of every row, and without signs: `OFFSET` more than
/// they are. What that adds, `OFFSET` times the sum of the activations, is taken off again.
trait Block {
    const BYTES: usize;
    const OFFSET: i32;
    /// Blocks whose integers fill a vector.
    const WIDE: usize;

    /// Integers of up to WIDE blocks side by side; the masks say which eights of bytes to take.
    unsafe fn load(at: *const u8, masks: [__mmask8; 4]) -> __m512i;

    /// What `load` takes for `count` blocks.
    fn masks(count: usize) -> [__mmask8; 4];

    /// Integers of one group of a panel: vector i with columns 4i .. 4i + 4.
    unsafe fn integers(at: *const u8) -> [__m512i; 8];
}

struct Q8;
struct Q4;

impl Block for Q8 {
    const BYTES: usize = 34;
    const OFFSET: i32 = 128;
    const WIDE: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(at: *const u8, masks: [__mmask8; 4]) -> __m512i {
        // SAFETY: block i lies 34 i bytes on, its integers 2 further; they land 32 i bytes into the vector.
        unsafe {
            let first = _mm512_maskz_loadu_epi64(masks[0], at.add(2).cast());
            let both = _mm512_mask_loadu_epi64(first, masks[1], at.add(4).cast());
            _mm512_xor_si512(both, _mm512_set1_epi8(-128))
        }
    }

    fn masks(count: usize) -> [__mmask8; 4] {
        [0x0f, if count > 1 { 0xf0 } else { 0 }, 0, 0]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn integers(at: *const u8) -> [__m512i; 8] {
        let mut found = [_mm512_setzero_si512(); 8];
        for (i, slot) in found.iter_mut().enumerate() {
            // SAFETY: eight vectors lie there.
            *slot = unsafe { _mm512_loadu_si512(at.add(64 * i).cast()) };
        }
        found
    }
}

impl Block for Q4 {
    const BYTES: usize = 18;
    const OFFSET: i32 = 8;
    const WIDE: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn load(at: *const u8, masks: [__mmask8; 4]) -> __m512i {
        // SAFETY: block i lies 18 i bytes on, its integers 2 further; they land 16 i bytes into the vector.
        unsafe {
            let mut found = _mm512_setzero_si512();
            for (i, mask) in masks.into_iter().enumerate() {
                found = _mm512_mask_loadu_epi64(found, mask, at.add(2 + 2 * i).cast());
            }
            found
        }
    }

    fn masks(count: usize) -> [__mmask8; 4] {
        [0, 1, 2, 3].map(|i| if i < count { 3 << (2 * i) } else { 0 })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn integers(at: *const u8) -> [__m512i; 8] {
        let low = _mm512_set1_epi8(15);
        let mut found = [_mm512_setzero_si512(); 8];
        for i in 0..4 {
            // SAFETY: four vectors lie there; columns 16 on stand in the upper halves of the bytes.
            let pair = unsafe { _mm512_loadu_si512(at.add(64 * i).cast()) };
            found[i] = _mm512_and_si512(pair, low);
            found[4 + i] = _mm512_and_si512(_mm512_srli_epi16(pair, 4), low);
        }
        found
    }
}

/// Bring a matrix into panels; rows that the last one lacks are those of the row before.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn arrange<B: Block>(weights: Weights<'_>, out: &mut [u8]) {
    let (stride, groups, rows) = (weights.row_bytes(), weights.columns / GROUP, weights.rows());
    let panel_bytes = PANEL * stride;
    assert!(weights.bytes.len() >= rows * stride && out.len() >= rows.div_ceil(PANEL) * panel_bytes);
    let vectors = (B::BYTES - 2) / 4;
    for (p, panel) in out.chunks_exact_mut(panel_bytes).take(rows.div_ceil(PANEL)).enumerate() {
        // SAFETY: row `r` of the panel, and in it block `g`, exist; the panel has room for each group's integers and steps.
        unsafe {
            let row = |r: usize| weights.bytes.as_ptr().add((p * PANEL + r).min(rows - 1) * stride);
            let to = panel.as_mut_ptr();
            for g in (0..groups).step_by(B::WIDE) {
                let count = (groups - g).min(B::WIDE);
                let masks = B::masks(count);
                let mut integers = [_mm512_setzero_si512(); PANEL];
                for (r, slot) in integers.iter_mut().enumerate() {
                    *slot = B::load(row(r).add(g * B::BYTES), masks);
                }
                turn(&mut integers);
                for (group, columns) in integers.chunks_exact(vectors).enumerate().take(count) {
                    for (i, column) in columns.iter().enumerate() {
                        let at = (g + group) * PANEL * B::BYTES + 64 * i;
                        _mm512_storeu_si512(to.add(at).cast(), *column);
                    }
                }
            }
            for r in 0..PANEL {
                for g in 0..groups {
                    let step = row(r).add(g * B::BYTES).cast::<u16>().read_unaligned();
                    to.add(g * PANEL * B::BYTES + 64 * vectors + 2 * r).cast::<u16>().write_unaligned(step);
                }
            }
        }
    }
}

/// Turn 16 rows of 16 numbers in place.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn turn(x: &mut [__m512i; 16]) {
    // (1) Fours of rows: number i of every lane of four rows side by side.
    for x in x.chunks_exact_mut(4) {
        let (ab, ab2) = (_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
        let (cd, cd2) = (_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
        x[0] = _mm512_unpacklo_epi64(ab, cd);
        x[1] = _mm512_unpackhi_epi64(ab, cd);
        x[2] = _mm512_unpacklo_epi64(ab2, cd2);
        x[3] = _mm512_unpackhi_epi64(ab2, cd2);
    }
    // (2) Lanes of the four fours: lane l of number i is column 4 l + i.
    let fours = *x;
    for (i, four) in fours[..4].iter().enumerate() {
        // SAFETY: the features are those of this function.
        let lanes = unsafe { turn_lanes([*four, fours[4 + i], fours[8 + i], fours[12 + i]]) };
        for (lane, column) in lanes.into_iter().enumerate() {
            x[4 * lane + i] = column;
        }
    }
}

/// Four lanes of 128 bits in four vectors, turned: vector i of the result holds lane i of each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn turn_lanes(x: [__m512i; 4]) -> [__m512i; 4] {
    let (a, b) = (_mm512_shuffle_i32x4(x[0], x[1], 0x88), _mm512_shuffle_i32x4(x[2], x[3], 0x88));
    let (c, d) = (_mm512_shuffle_i32x4(x[0], x[1], 0xdd), _mm512_shuffle_i32x4(x[2], x[3], 0xdd));
    [
        _mm512_shuffle_i32x4(a, b, 0x88),
        _mm512_shuffle_i32x4(c, d, 0x88),
        _mm512_shuffle_i32x4(a, b, 0xdd),
        _mm512_shuffle_i32x4(c, d, 0xdd),
    ]
}

/// Products of all rows of weights with all rows of activations, panel by panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_panels<B: Block>(weights: Weights<'_>, x: &Rounded, out: &mut [f32]) {
    let (columns, groups, rows) = (weights.columns, weights.columns / GROUP, weights.rows());
    let (panel_bytes, count) = (PANEL * groups * B::BYTES, x.values.len() / columns);
    assert!(out.len() >= count * rows && x.steps.len() >= count * groups && x.sums.len() >= count * groups);
    assert!(weights.bytes.len() >= rows.div_ceil(PANEL) * panel_bytes);
    for o in (0..rows).step_by(PANEL) {
        let (lanes, start) = ((rows - o).min(PANEL), o / PANEL * panel_bytes);
        let mut t = 0;
        while t < count {
            if count >= 8 {
                // The next panel is fetched bit by bit while this one is in use; one row alone reads as it comes.
                let ahead = |t: usize| start + panel_bytes + panel_bytes * t / count / 64 * 64;
                for at in (ahead(t)..ahead(count.min(t + 8))).step_by(64) {
                    _mm_prefetch(weights.bytes.as_ptr().wrapping_add(at).cast(), _MM_HINT_T1);
                }
            }
            // SAFETY: the panel exists, so do rows t .. t + T of the activations, and room for `lanes` products of each.
            unsafe {
                let tile = Tile {
                    panel: weights.bytes.as_ptr().add(start),
                    groups,
                    values: x.values.as_ptr().add(t * columns),
                    steps: x.steps.as_ptr().add(t * groups),
                    sums: x.sums.as_ptr().add(t * groups),
                    out: out.as_mut_ptr().add(t * rows + o),
                    stride: rows,
                    lanes: (0xffff_u32 >> (PANEL - lanes)) as __mmask16,
                };
                t += match count - t {
                    8.. => tile.fill::<B, 8>(),
                    4.. => tile.fill::<B, 4>(),
                    2.. => tile.fill::<B, 2>(),
                    _ => tile.fill::<B, 1>(),
                };
            }
        }
    }
}

/// Products of one panel with some rows of activations.
struct Tile {
    panel: *const u8,
    groups: usize,
    values: *const i8,
    steps: *const f32,
    sums: *const i32,
    out: *mut f32,
    stride: usize,
    lanes: __mmask16,
}

impl Tile {
    /// Compute the products of T rows of activations, every sum in the same order whatever T is; T again.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn fill<B: Block, const T: usize>(&self) -> usize {
        let mut totals = [_mm512_setzero_ps(); T];
        // SAFETY: the caller has the panel, T rows of activations, and room for their products.
        unsafe {
            for g in 0..self.groups {
                let at = self.panel.add(g * PANEL * B::BYTES);
                let w = B::integers(at);
                let w_step = _mm512_cvtph_ps(_mm256_loadu_si256(at.add(PANEL * (B::BYTES - 2)).cast()));
                for (t, total) in totals.iter_mut().enumerate() {
                    let group = t * self.groups + g;
                    let x: *const i32 = self.values.add(group * GROUP).cast();
                    let mut dot = _mm512_set1_epi32(-B::OFFSET * *self.sums.add(group));
                    for (i, w) in w.iter().enumerate() {
                        dot = _mm512_dpbusd_epi32(dot, *w, _mm512_set1_epi32(x.add(i).read_unaligned()));
                    }
                    let step = _mm512_mul_ps(w_step, _mm512_set1_ps(*self.steps.add(group)));
                    *total = _mm512_add_ps(*total, _mm512_mul_ps(_mm512_cvtepi32_ps(dot), step));
                }
            }
            for (t, total) in totals.iter().enumerate() {
                _mm512_mask_storeu_ps(self.out.add(t * self.stride), self.lanes, *total);
            }
        }
        T
    }
}

super::attention::attention! {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    lanes: 16,
    load: _mm512_loadu_ps,
    store: _mm512_storeu_ps,
    spread: _mm512_set1_ps,
    multiply_add: _mm512_fmadd_ps,
    narrow: (avx2::KERNELS.add_weighted),
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn softmax(scores: &mut [f32], scale: f32) {
    let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
    for (i, lanes) in pieces(scores.len()) {
        // SAFETY: the lanes lie within the scores, here and below.
        most = _mm512_mask_max_ps(most, lanes, most, unsafe { _mm512_maskz_loadu_ps(lanes, scores.as_ptr().add(i)) });
    }
    let (top, factor) = (_mm512_set1_ps(_mm512_reduce_max_ps(most)), _mm512_set1_ps(scale));
    let mut sums = _mm512_setzero_ps();
    for (i, lanes) in pieces(scores.len()) {
        // SAFETY: as above.
        unsafe {
            let x = _mm512_maskz_loadu_ps(lanes, scores.as_ptr().add(i));
            let e = exp(_mm512_mul_ps(_mm512_sub_ps(x, top), factor));
            _mm512_mask_storeu_ps(scores.as_mut_ptr().add(i), lanes, e);
            sums = _mm512_mask_add_ps(sums, lanes, sums, e);
        }
    }
    let inverse = 1.0 / _mm512_reduce_add_ps(sums);
    for score in scores {
        *score *= inverse;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn gate(first: &mut [f32], up: &[f32]) {
    assert!(up.len() >= first.len());
    let one = _mm512_set1_ps(1.0);
    for (i, lanes) in pieces(first.len()) {
        // SAFETY: the lanes lie within both.
        unsafe {
            let g = _mm512_maskz_loadu_ps(lanes, first.as_ptr().add(i));
            let u = _mm512_maskz_loadu_ps(lanes, up.as_ptr().add(i));
            let e = exp(_mm512_sub_ps(_mm512_setzero_ps(), g));
            let silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
            _mm512_mask_storeu_ps(first.as_mut_ptr().add(i), lanes, _mm512_mul_ps(silu, u));
        }
    }
}

/// Where each vector of an array begins, and which of its lanes lie within.
fn pieces(len: usize) -> impl Iterator<Item = (usize, __mmask16)> {
    (0..len).step_by(16).map(move |i| (i, (0xffff_u32 >> (16 - (len - i).min(16))) as __mmask16))
}

/// `math::exp`, sixteen at a time: the same reduction and the same series.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn exp(x: __m512) -> __m512 {
    let x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0)), _mm512_set1_ps(88.0));
    let k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(core::f32::consts::LOG2_E)), 0);
    let r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fmadd_ps(k, _mm512_set1_ps(2.121_944_4e-4), r);
    let mut p = _mm512_set1_ps(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, k)
}
