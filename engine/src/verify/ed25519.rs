//! Signatures of ed25519, verified and never made.
//!
//! Source: RFC 8032, section 5.1. The equation is the one without cofactor, on the bytes of R, as OpenSSL computes it;
//! points of small order are keys like others, as they are there. A key's encoding must be the canonical one (5.1.3),
//! which OpenSSL does not ask for. Nothing here is secret, so time may depend on values.

use super::sha2::Sha512;

/// Whether `signature` is one of `message` by the key of these 32 bytes.
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = <&[u8; 64]>::try_from(signature) else { return false };
    let (commitment, response) = signature.split_at(32);
    let response: Scalar = from_little_endian(response);
    let (Some(key_point), Some(base)) = (Point::decode(key), Point::decode(&BASE)) else { return false };
    if response >= ORDER {
        return false;
    }
    let mut hash = Sha512::default();
    hash.update(commitment);
    hash.update(key);
    hash.update(message);
    let challenge = modulo_order(&hash.finish());
    base.times_and(response, &key_point.negated(), challenge).encode() == commitment
}

/// A number of 256 bits, the highest 64 first, so that comparing arrays compares numbers.
type Scalar = [u64; 4];

/// Order of the base point: 2^252 + 27742317777372353535851937790883648493.
const ORDER: Scalar = [0x1000_0000_0000_0000, 0, 0x14de_f9de_a2f7_9cd6, 0x5812_631a_5cf5_d3ed];

/// The base point, whose y is 4/5 and whose x is even.
const BASE: [u8; 32] = {
    let mut bytes = [0x66; 32];
    bytes[0] = 0x58;
    bytes
};

fn from_little_endian<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().rev().zip(bytes.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    words
}

/// Remainder of a number of 512 bits, little endian: bit by bit, which costs little beside the points.
fn modulo_order(bytes: &[u8; 64]) -> Scalar {
    let words: [u64; 8] = from_little_endian(bytes);
    let mut rest = [0; 4];
    for at in 0..512 {
        let mut carry = words[at / 64] >> (63 - at % 64) & 1;
        for word in rest.iter_mut().rev() {
            (*word, carry) = (*word << 1 | carry, *word >> 63);
        }
        if rest >= ORDER {
            let mut borrow = false;
            for (word, less) in rest.iter_mut().zip(ORDER).rev() {
                let (difference, below) = word.overflowing_sub(less);
                let (difference, below_again) = difference.overflowing_sub(u64::from(borrow));
                (*word, borrow) = (difference, below || below_again);
            }
        }
    }
    rest
}

/// A point of the curve in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z.
#[derive(Clone, Copy)]
struct Point {
    x: Element,
    y: Element,
    z: Element,
    t: Element,
}

impl Point {
    const ZERO: Self = Self { x: Element::ZERO, y: Element::ONE, z: Element::ONE, t: Element::ZERO };

    /// Section 5.1.3.
    fn decode(bytes: &[u8; 32]) -> Option<Self> {
        let is_odd = bytes[31] >> 7 == 1;
        let y = Element::decode(bytes)?;
        let y2 = y * y;
        let (u, v) = (y2 - Element::ONE, D * y2 + Element::ONE);
        // (1) The candidate (u/v)^((p+3)/8) without a division.
        let v3 = v * v * v;
        let mut x = u * v3 * (u * v3 * v3 * v).power(252, 3);
        // (2) It is the root, or the root of the negative, or there is none.
        let vx2 = v * x * x;
        if vx2 != u {
            if vx2 + u != Element::ZERO {
                return None;
            }
            x = x * Element([2, 0, 0, 0, 0]).power(253, 5); // a root of -1: 2^((p-1)/4)
        }
        // (3) Of the two roots the one that the highest bit names; 0 has one only.
        if x.is_odd() != is_odd {
            if x == Element::ZERO {
                return None;
            }
            x = Element::ZERO - x;
        }
        Some(Self { x, y, z: Element::ONE, t: x * y })
    }

    fn encode(&self) -> [u8; 32] {
        let inverse = self.z.power(255, 21);
        let mut bytes = (self.y * inverse).encode();
        bytes[31] |= u8::from((self.x * inverse).is_odd()) << 7;
        bytes
    }

    fn negated(&self) -> Self {
        Self { x: Element::ZERO - self.x, t: Element::ZERO - self.t, ..*self }
    }

    /// Section 5.1.4; the formula is complete, so it doubles too.
    fn plus(&self, other: &Self) -> Self {
        let a = (self.y - self.x) * (other.y - other.x);
        let b = (self.y + self.x) * (other.y + other.x);
        let c = self.t * (D + D) * other.t;
        let d = self.z * (other.z + other.z);
        let (e, f, g, h) = (b - a, d - c, d + c, b + a);
        Self { x: e * f, y: g * h, z: f * g, t: e * h }
    }

    /// `mine` times this point and `others` times the other, in one pass over the bits.
    fn times_and(&self, mine: Scalar, other: &Self, others: Scalar) -> Self {
        let both = self.plus(other);
        let mut sum = Self::ZERO;
        for at in 0..256 {
            let bit = |scalar: Scalar| scalar[at / 64] >> (63 - at % 64) & 1 == 1;
            sum = sum.plus(&sum);
            match (bit(mine), bit(others)) {
                (true, true) => sum = sum.plus(&both),
                (true, false) => sum = sum.plus(self),
                (false, true) => sum = sum.plus(other),
                (false, false) => {}
            }
        }
        sum
    }
}

/// A number modulo p = 2^255 - 19 in digits of 51 bits, the lowest first.
///
/// Between operations each digit is below 2^51 + 2^18, the number below 2p.
#[derive(Clone, Copy)]
struct Element([u64; 5]);

const DIGIT: u64 = (1 << 51) - 1;

/// The curve's d = -121665/121666.
const D: Element =
    Element([0x3_4dca_1359_78a3, 0x1_a828_3b15_6ebd, 0x5_e7a2_6001_c029, 0x7_39c6_63a0_3cbb, 0x5_2036_cee2_b6ff]);

impl Element {
    const ZERO: Self = Self([0; 5]);
    const ONE: Self = Self([1, 0, 0, 0, 0]);

    /// The lower 255 bits, where they are below p.
    fn decode(bytes: &[u8; 32]) -> Option<Self> {
        let [d, c, b, a]: [u64; 4] = from_little_endian(bytes);
        let digits = [a, a >> 51 | b << 13, b >> 38 | c << 26, c >> 25 | d << 39, d >> 12];
        let element = Self(digits.map(|digit| digit & DIGIT));
        let mut canonical = element.encode();
        canonical[31] |= bytes[31] & 0x80;
        (canonical == *bytes).then_some(element)
    }

    /// The one form below p.
    fn encode(&self) -> [u8; 32] {
        // Adding 19 carries into bit 255 exactly where the number is p or more.
        let over = self.0.iter().fold(19, |carry, digit| (digit + carry) >> 51);
        let mut carry = 19 * over;
        let [a, b, c, d, e] = self.0.map(|digit| {
            let sum = digit + carry;
            carry = sum >> 51;
            sum & DIGIT
        });
        let words = [a | b << 51, b >> 13 | c << 38, c >> 26 | d << 25, d >> 39 | e << 12];
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn is_odd(&self) -> bool {
        self.encode()[0] & 1 == 1
    }

    /// This to the power 2^`bits` - `less`, where `less` is below 2^8: every exponent that is needed here.
    fn power(self, bits: u32, less: u8) -> Self {
        let low = 0u8.wrapping_sub(less);
        (0..bits).rev().fold(Self::ONE, |power, bit| {
            let square = power * power;
            if bit >= 8 || low >> bit & 1 == 1 {
                square * self
            } else {
                square
            }
        })
    }

    /// Digits that may be large, made small; what goes over the top comes back 19-fold, as 2^255 = 19.
    fn carried(digits: [u128; 5]) -> Self {
        let mut carry = 0;
        let mut small = digits.map(|digit| {
            let sum = digit + carry;
            carry = sum >> 51;
            sum as u64 & DIGIT
        });
        let lowest = u128::from(small[0]) + 19 * carry;
        small[0] = lowest as u64 & DIGIT;
        small[1] += (lowest >> 51) as u64;
        Self(small)
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl core::ops::Add for Element {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::carried(core::array::from_fn(|i| u128::from(self.0[i] + other.0[i])))
    }
}

impl core::ops::Sub for Element {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        // 4p in these digits, so that none is negative.
        let four = |i| if i == 0 { 4 * (DIGIT - 18) } else { 4 * DIGIT };
        Self::carried(core::array::from_fn(|i| u128::from(self.0[i] + four(i) - other.0[i])))
    }
}

impl core::ops::Mul for Element {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let mut digits = [0; 5];
        for (i, &a) in self.0.iter().enumerate() {
            for (j, &b) in other.0.iter().enumerate() {
                let folded = if i + j < 5 { b } else { 19 * b };
                digits[(i + j) % 5] += u128::from(a) * u128::from(folded);
            }
        }
        Self::carried(digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// Key, message and signature of RFC 8032, section 7.1: tests 1, 2, 3 and SHA(abc).
    const KNOWN: [[&str; 3]; 4] = [
        [
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
             5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ],
        [
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ],
        [
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ],
        [
            "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589\
             09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
        ],
    ];

    #[test]
    fn the_curve_is_the_one_of_the_standard() {
        let small = |n: u64| Element([n, 0, 0, 0, 0]);
        assert!(D * small(121_666) + small(121_665) == Element::ZERO);
        let base = Point::decode(&BASE).unwrap();
        assert!(base.y * small(5) == small(4) && !base.x.is_odd());
        assert!(base.times_and(ORDER, &Point::ZERO, [0; 4]).encode() == Point::ZERO.encode());
        assert!(Element::decode(&small(0).encode()).is_some_and(|zero| zero == Element::ZERO));
    }

    #[test]
    fn signatures_of_the_standard_hold_and_no_changed_bit_does() {
        for known in KNOWN {
            let [key, message, signature] = known.map(bytes);
            let key: [u8; 32] = key.try_into().unwrap();
            assert!(verify(&key, &message, &signature));
            for bit in (0..8 * 64).step_by(5) {
                let mut changed = signature.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(!verify(&key, &message, &changed));
                let mut changed = key;
                changed[bit / 16] ^= 1 << (bit % 8);
                assert!(!verify(&changed, &message, &signature));
            }
            assert!(!verify(&key, &[&message[..], b"x"].concat(), &signature));
            assert!(!verify(&key, &message, &signature[..63]));
            assert!(!verify(&key, &message, &[&signature[..], b"\0"].concat()));
        }
    }

    #[test]
    fn only_the_canonical_encoding_of_a_key_counts() {
        // The neutral element, order 1, signs everything with R = itself and S = 0; y = p + 1 and -0 are it as well.
        let neutral = Point::ZERO.encode();
        let signature = [neutral, [0; 32]].concat();
        assert!(verify(&neutral, b"any", &signature));
        let mut above = [0xff; 32];
        (above[0], above[31]) = (0xee, 0x7f);
        let mut minus = neutral;
        minus[31] = 0x80;
        for key in [above, minus] {
            assert!(Point::decode(&key).is_none());
            assert!(!verify(&key, b"any", &signature));
            assert!(!verify(&neutral, b"any", &[key, [0; 32]].concat()));
        }
    }

    #[test]
    fn a_response_is_below_the_order() {
        let [key, message, signature] = KNOWN[0].map(bytes);
        let mut carry = 0;
        let order = ORDER.iter().rev().flat_map(|word| word.to_le_bytes());
        let larger: Vec<u8> = signature[32..]
            .iter()
            .zip(order)
            .map(|(&byte, more)| {
                let sum = u16::from(byte) + u16::from(more) + carry;
                carry = sum >> 8;
                sum as u8
            })
            .collect();
        assert!(!verify(&key.try_into().unwrap(), &message, &[&signature[..32], &larger].concat()));
    }
}
