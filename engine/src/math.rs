//! Elementary functions that `core` lacks, the same bits on every processor.
//!
//! Sources: range reduction and series as in Muller, Elementary Functions (3rd ed., chapters 3 and 11); the coefficients
//! are those of the Taylor series, long enough for the reduced ranges.

/// Square root of a number that is not negative, to the last bit but one.
pub fn sqrt(x: f32) -> f32 {
    if x <= 0.0 || !x.is_finite() {
        return if x == 0.0 || x == f32::INFINITY { x } else { f32::NAN };
    }
    sqrt_f64(f64::from(x)) as f32
}

/// Square root of a finite number that is not negative, in double precision, to the last bit but one.
pub fn sqrt_f64(x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    // Newton: four steps from a guess with 4 good bits reach 64.
    let mut y = f64::from_bits((x.to_bits() >> 1) + (1023_u64 << 51));
    for _ in 0..4 {
        y = 0.5 * (y + x / y);
    }
    y
}

/// e^x, relative error below 3e-7; 0 below -87, infinity above 88.7.
#[inline]
pub fn exp(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    if x > 88.7 {
        return f32::INFINITY;
    }
    if x.is_nan() {
        return x;
    }
    let scaled = x * core::f32::consts::LOG2_E;
    let whole = (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32;
    let k = whole as f32;
    // ln 2 in two parts, so that k ln 2 is exact in the first.
    let r = (x - k * 0.693_359_4) + k * 2.121_944_4e-4;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    p * f32::from_bits(((whole + 127) as u32) << 23)
}

/// e^x in double precision, for tables.
pub fn exp_f64(x: f64) -> f64 {
    let k = round(x / core::f64::consts::LN_2);
    if !(-1020.0..=1020.0).contains(&k) {
        return if x < 0.0 { 0.0 } else { f64::INFINITY };
    }
    let r = x - k * core::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..20 {
        term *= r / f64::from(n);
        sum += term;
    }
    sum * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// Natural logarithm of a positive number, for tables.
pub fn ln_f64(x: f64) -> f64 {
    if x <= 0.0 || !x.is_finite() {
        return f64::NAN;
    }
    let exponent = ((x.to_bits() >> 52) & 0x7ff) as i64 - 1023;
    let m = f64::from_bits((x.to_bits() & ((1 << 52) - 1)) | (1023 << 52)); // [1, 2)
    let s = (m - 1.0) / (m + 1.0); // ln m = 2 atanh s, s <= 1/3
    let (square, mut term, mut sum) = (s * s, s, 0.0);
    for n in 0..25 {
        sum += term / f64::from(2 * n + 1);
        term *= square;
    }
    2.0 * sum + exponent as f64 * core::f64::consts::LN_2
}

/// (cos x, sin x) of an angle in radians, |x| below about 1e8, for tables.
pub fn cos_sin(x: f64) -> (f64, f64) {
    let k = round(x / core::f64::consts::FRAC_PI_2);
    // pi / 2 in two parts: the first has trailing zeros, so that k times it is exact.
    let r = (x - k * 1.570_796_325_802_803) - k * 9.920_935_739_593_517e-10;
    let square = r * r;
    let (mut cos, mut sin) = (0.0, 0.0);
    let mut term = 1.0;
    for n in 0..12 {
        let even = f64::from(2 * n);
        cos += term;
        sin += term * r / (even + 1.0);
        term *= -square / ((even + 1.0) * (even + 2.0));
    }
    match (k as i64).rem_euclid(4) {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

fn round(x: f64) -> f64 {
    (x + if x < 0.0 { -0.5 } else { 0.5 }) as i64 as f64
}

/// A half-precision number widened; subnormal numbers, infinities and NaN included.
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10) & 0x1f;
    let fraction = u32::from(bits & 0x3ff);
    match (exponent, fraction) {
        (0, _) => {
            let tiny = fraction as f32 * f32::from_bits(0x3380_0000); // 2^-24
            f32::from_bits(tiny.to_bits() | sign)
        }
        (31, 0) => f32::from_bits(sign | 0x7f80_0000),
        (31, _) => f32::from_bits(sign | 0x7fc0_0000),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_the_standard_library() {
        for i in -8600..8600 {
            let x = i as f32 * 0.01;
            assert!((exp(x) / x.exp() - 1.0).abs() < 3e-7, "exp {x}");
        }
        for i in 1..10_000 {
            let x = i as f32 * 0.37;
            assert!((sqrt(x) - x.sqrt()).abs() <= x.sqrt() * f32::EPSILON, "sqrt {x}");
            let x = f64::from(i) * 0.731;
            let (c, s) = cos_sin(x);
            assert!((c - x.cos()).abs() < 1e-9 && (s - x.sin()).abs() < 1e-9, "angle {x}");
            assert!((ln_f64(x) - x.ln()).abs() < 1e-13 * x.ln().abs().max(1.0), "ln {x}");
            let x = f64::from(i) * 0.01 - 50.0;
            assert!((exp_f64(x) / x.exp() - 1.0).abs() < 1e-13, "exp {x}");
        }
        assert_eq!((sqrt(0.0), exp(-1000.0), exp(1000.0)), (0.0, 0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan() && sqrt(-1.0).is_nan());
    }

    #[test]
    fn every_half_is_widened_exactly() {
        // A value of a half is sign * fraction * 2^exponent, written out.
        for bits in 0..=u16::MAX {
            let (e, m) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let size = match e {
                0 => m * 2f64.powi(-24),
                31 if m == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + m / 1024.0) * 2f64.powi(e - 15),
            };
            let expected = if bits >> 15 == 1 { -size } else { size } as f32;
            let found = f16_to_f32(bits);
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{bits:#x}");
        }
    }
}
