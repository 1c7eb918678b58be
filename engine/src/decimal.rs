//! Doubles as decimal text and back, without loss: the shortest digits that name a number, and the nearest number to any
//! digits.
//!
//! The standard library does the same faster, with tables and four algorithms that make up a tenth of a WebAssembly
//! module; it is the twin in the tests. Source: Steele and White, How to Print Floating-Point Numbers Accurately (1990),
//! with whole numbers of any size.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// Digits that decide between two doubles; what follows only says whether there is more.
const MOST_DIGITS: usize = 800;

/// A whole number of any size; digits of 32 bits, the lowest first, the last one not 0.
#[derive(Clone)]
struct Whole(Vec<u32>);

impl Whole {
    fn of(number: u64) -> Self {
        let mut whole = Self(vec![number as u32, (number >> 32) as u32]);
        whole.trim();
        whole
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn bits(&self) -> i64 {
        self.0.last().map_or(0, |top| self.0.len() as i64 * 32 - i64::from(top.leading_zeros()))
    }

    /// Times a factor and plus what is carried.
    fn times(&mut self, factor: u32, plus: u32) {
        let mut carry = u64::from(plus);
        for digit in &mut self.0 {
            carry += u64::from(*digit) * u64::from(factor);
            *digit = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    fn times_ten_to(&mut self, power: i64) {
        for _ in 0..power / 9 {
            self.times(1_000_000_000, 0);
        }
        for _ in 0..power % 9 {
            self.times(10, 0);
        }
    }

    /// Times 2^bits.
    fn shift(&mut self, bits: i64) {
        self.times(1 << (bits % 32), 0);
        self.0.splice(0..0, core::iter::repeat_n(0, (bits / 32) as usize));
    }

    fn plus(&self, other: &Self) -> Self {
        let mut sum = Self(Vec::with_capacity(self.0.len().max(other.0.len()) + 1));
        let mut carry = 0;
        for i in 0..self.0.len().max(other.0.len()) {
            carry += u64::from(self.digit(i)) + u64::from(other.digit(i));
            sum.0.push(carry as u32);
            carry >>= 32;
        }
        if carry > 0 {
            sum.0.push(carry as u32);
        }
        sum
    }

    /// Take away what is not larger.
    fn minus(&mut self, other: &Self) {
        let mut borrow = 0;
        for i in 0..self.0.len() {
            let rest = i64::from(self.0[i]) - i64::from(other.digit(i)) + borrow;
            self.0[i] = rest as u32;
            borrow = rest >> 32;
        }
        self.trim();
    }

    fn digit(&self, at: usize) -> u32 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Take away as often as it is there.
    fn take(&mut self, other: &Self) -> u8 {
        let mut times = 0;
        while self.compare(other) != Ordering::Less {
            self.minus(other);
            times += 1;
        }
        times
    }
}

/// Append a finite number: `-0.5`, `12`, `1.5e-9`. Powers of ten from 10^21 on and below 10^-7 have an exponent.
pub fn write(number: f64, out: &mut String) {
    if number.is_sign_negative() {
        out.push('-');
    }
    let size = f64::from_bits(number.to_bits() & !(1 << 63));
    if size == 0.0 {
        return out.push('0');
    }
    let (digits, point) = shortest(size);
    let is_plain = (1e-7..1e21).contains(&size);
    let zeros = |count: i64, out: &mut String| (0..count).for_each(|_| out.push('0'));
    // Digits before the point; where there are none, one zero.
    let before = if is_plain { point } else { 1 };
    if before <= 0 {
        out.push_str("0.");
        zeros(-before, out);
    }
    for (i, digit) in digits.iter().enumerate() {
        if before > 0 && i as i64 == before {
            out.push('.');
        }
        out.push(char::from(b'0' + digit));
    }
    zeros(before - digits.len() as i64, out);
    if !is_plain {
        out.push_str(&alloc::format!("e{}", point - 1));
    }
}

/// A number for a message, `NaN` and infinities too.
pub fn shown(number: f64) -> String {
    let mut out = String::new();
    match number.is_finite() {
        true => write(number, &mut out),
        false => out.push_str(if number.is_nan() { "NaN" } else { "infinity" }),
    }
    out
}

/// Numbers for a message: `[0.5, 2, NaN]`.
pub fn list(numbers: &[f32]) -> String {
    alloc::format!("[{}]", numbers.iter().map(|number| shown(f64::from(*number))).collect::<Vec<_>>().join(", "))
}

/// The fewest digits that are nearer to a positive number than to any other, and how many of them lie before the point.
fn shortest(number: f64) -> (Vec<u8>, i64) {
    let (fraction, exponent) = (number.to_bits() & ((1 << 52) - 1), (number.to_bits() >> 52) as i64);
    let (whole, power) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    // Halves to even: an odd number's neighbours keep the points half way.
    let is_even = whole % 2 == 0;
    // Below a power of two numbers lie twice as close.
    let is_edge = i64::from(fraction == 0 && exponent > 1);
    // number = rest / unit; it may move up by `up / unit` and down by `down / unit`.
    let (mut rest, mut unit, mut up, mut down) = (Whole::of(whole), Whole::of(1), Whole::of(1), Whole::of(1));
    rest.shift(power.max(0) + 1 + is_edge);
    unit.shift((-power).max(0) + 1 + is_edge);
    up.shift(power.max(0) + is_edge);
    down.shift(power.max(0));
    let is_past = |rest: &Whole, up: &Whole, unit: &Whole| match rest.plus(up).compare(unit) {
        Ordering::Greater => true,
        Ordering::Equal => is_even,
        Ordering::Less => false,
    };
    // log10 2 is a bit more than 1233 / 4096, so that the estimate is right or one too low.
    let mut point = ((rest.bits() - unit.bits()) * 1233) >> 12;
    unit.times_ten_to(point.max(0));
    for part in [&mut rest, &mut up, &mut down] {
        part.times_ten_to((-point).max(0));
    }
    while is_past(&rest, &up, &unit) {
        unit.times(10, 0);
        point += 1;
    }
    let mut digits = Vec::with_capacity(17);
    loop {
        for part in [&mut rest, &mut up, &mut down] {
            part.times(10, 0);
        }
        let digit = rest.take(&unit);
        let may_stay = match rest.compare(&down) {
            Ordering::Less => true,
            Ordering::Equal => is_even,
            Ordering::Greater => false,
        };
        let may_rise = is_past(&rest, &up, &unit);
        if !may_stay && !may_rise {
            digits.push(digit);
            continue;
        }
        let rises = may_rise && (!may_stay || rest.plus(&rest).compare(&unit) != Ordering::Less);
        digits.push(digit + u8::from(rises));
        return (digits, point);
    }
}

/// The nearest double to a number as JSON writes it, halves to even; infinite where it is beyond the range.
pub fn parse(text: &[u8]) -> f64 {
    let (mut whole, mut digits, mut power, mut has_more) = (Whole(Vec::new()), 0, 0_i64, false);
    let mut at = usize::from(text.first() == Some(&b'-'));
    let mut is_fraction = false;
    while let Some(byte) = text.get(at).filter(|byte| !matches!(byte, b'e' | b'E')) {
        at += 1;
        if *byte == b'.' {
            is_fraction = true;
            continue;
        }
        power -= i64::from(is_fraction);
        if digits < MOST_DIGITS {
            digits += usize::from(digits > 0 || *byte > b'0');
            whole.times(10, u32::from(*byte - b'0'));
        } else {
            power += 1;
            has_more |= *byte > b'0';
        }
    }
    let is_negative_power = text.get(at + 1) == Some(&b'-');
    let written = text.get(at + 1..).unwrap_or(&[]).iter().filter(|byte| byte.is_ascii_digit());
    let written = written.fold(0_i64, |sum, byte| (sum * 10 + i64::from(*byte - b'0')).min(1 << 40));
    power += if is_negative_power { -written } else { written };
    let size = nearest(whole, digits as i64, power, has_more);
    if text.first() == Some(&b'-') {
        -size
    } else {
        size
    }
}

/// whole * 10^power, and a bit more where `has_more`.
fn nearest(mut whole: Whole, digits: i64, power: i64, has_more: bool) -> f64 {
    if digits == 0 || digits + power < -330 {
        return 0.0;
    }
    if digits + power > 310 {
        return f64::INFINITY;
    }
    if whole.bits() <= 53 && power.abs() <= 22 {
        // Both are exact, so that one operation rounds once.
        let number = (u64::from(whole.digit(1)) << 32 | u64::from(whole.digit(0))) as f64;
        let ten_to = (0..power.abs()).fold(1.0, |product, _| product * 10.0);
        return if power < 0 { number / ten_to } else { number * ten_to };
    }
    let mut unit = Whole::of(1);
    whole.times_ten_to(power.max(0));
    unit.times_ten_to((-power).max(0));
    // whole / unit = quotient / 2^shift, the quotient with 64 or 65 bits.
    let shift = 64 + unit.bits() - whole.bits();
    whole.shift(shift.max(0));
    unit.shift((-shift).max(0) + 65);
    let mut quotient = 0_u128;
    for _ in 0..=65 {
        quotient = quotient << 1 | u128::from(whole.take(&unit));
        whole.times(2, 0);
    }
    let has_more = has_more || !whole.0.is_empty();
    let bits = 128 - i64::from(quotient.leading_zeros());
    // A double has 53 bits, and fewer where it would lie below 2^-1022.
    let kept = (bits - shift + 1074).min(53);
    if kept < 0 {
        return 0.0;
    }
    let cut = bits - kept;
    let (high, low, half) = (quotient >> cut, quotient & ((1 << cut) - 1), 1 << (cut - 1));
    let rises = low > half || (low == half && (has_more || high & 1 == 1));
    let number = (high as u64 + u64::from(rises)) as f64;
    // Exact in two steps, where one factor may be too small or too large to be a double.
    let power = cut - shift;
    number * two_to(power / 2) * two_to(power - power / 2)
}

fn two_to(power: i64) -> f64 {
    f64::from_bits(((power + 1023) as u64) << 52)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::format;

    fn text(number: f64) -> String {
        let mut out = String::new();
        write(number, &mut out);
        out
    }

    /// Doubles of all sizes, the same in every run.
    fn doubles() -> impl Iterator<Item = f64> {
        let mut state = 88_172_645_463_325_252_u64;
        let random = (0..200_000).map(move |i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match i % 4 {
                0 => f64::from_bits(state),
                1 => (state >> 11) as f64 / (1_u64 << 53) as f64,
                2 => f64::from_bits(state & !((1 << 52) - 1)), // powers of two
                _ => (state % 100_000) as f64 / 1000.0,
            }
        });
        let edges = [0.0, -0.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, 2.0_f64.powi(53), 1e21, 1e-7, 9.5, 1e23, 0.3];
        edges.into_iter().chain(random).filter(|number| number.is_finite())
    }

    #[test]
    fn digits_are_those_of_the_standard_library() {
        for number in doubles() {
            let is_plain = number == 0.0 || (1e-7..1e21).contains(&number.abs());
            let expected = if is_plain { format!("{number}") } else { format!("{number:e}") };
            assert_eq!(text(number), expected);
        }
    }

    #[test]
    fn numbers_are_those_of_the_standard_library() {
        let check = |text: &str| {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(parse(text.as_bytes()).to_bits(), expected.to_bits(), "{text}");
        };
        for number in doubles() {
            check(&text(number));
            check(&format!("{number:.20e}"));
            check(&format!("{number:.3}"));
        }
        for text in [
            "0",
            "-0",
            "1e999",
            "-1e999",
            "1e-999",
            "0e99999999999999999999",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "2.4703282292062327208e-324",
            "2.4703282292062327209e-324",
            "4.9e-324",
            "2.2250738585072011e-308",
            "1.7976931348623158e308",
            "1.7976931348623159e308",
            "9007199254740993",
            "9007199254740993.00000000000000000000001",
            "1E+22",
            "123456789012345678901234567890",
            "000.5",
        ] {
            check(text);
        }
        // Half way between two doubles, and a digit behind what is kept that decides.
        let half = format!("9007199254740993.{}", "0".repeat(1000));
        check(&half);
        check(&(half + "1"));
        check(&format!("0.{}1", "0".repeat(300)));
        check(&format!("{}e-900", "7".repeat(1000)));
    }
}
