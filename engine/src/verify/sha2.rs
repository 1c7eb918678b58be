//! SHA-256 and SHA-512.
//!
//! Source: FIPS 180-4. The two differ in the width of a word, the rounds and the rotations; the constants of SHA-256
//! are the upper halves of those of SHA-512 (sections 4.2.2, 4.2.3, 5.3.3 and 5.3.5).

use alloc::string::String;
use core::fmt::Write;

/// First 64 bits of the fractional parts of the cube roots of the first 80 primes.
#[rustfmt::skip]
const ROUND: [u64; 80] = [
    0x428a_2f98_d728_ae22, 0x7137_4491_23ef_65cd, 0xb5c0_fbcf_ec4d_3b2f, 0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538, 0x59f1_11f1_b605_d019, 0x923f_82a4_af19_4f9b, 0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242, 0x1283_5b01_4570_6fbe, 0x2431_85be_4ee4_b28c, 0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f, 0x80de_b1fe_3b16_96b1, 0x9bdc_06a7_25c7_1235, 0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2, 0xefbe_4786_384f_25e3, 0x0fc1_9dc6_8b8c_d5b5, 0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275, 0x4a74_84aa_6ea6_e483, 0x5cb0_a9dc_bd41_fbd4, 0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab, 0xa831_c66d_2db4_3210, 0xb003_27c8_98fb_213f, 0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2, 0xd5a7_9147_930a_a725, 0x06ca_6351_e003_826f, 0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc, 0x2e1b_2138_5c26_c926, 0x4d2c_6dfc_5ac4_2aed, 0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de, 0x766a_0abb_3c77_b2a8, 0x81c2_c92e_47ed_aee6, 0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364, 0xa81a_664b_bc42_3001, 0xc24b_8b70_d0f8_9791, 0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218, 0xd699_0624_5565_a910, 0xf40e_3585_5771_202a, 0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8, 0x1e37_6c08_5141_ab53, 0x2748_774c_df8e_eb99, 0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63, 0x4ed8_aa4a_e341_8acb, 0x5b9c_ca4f_7763_e373, 0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc, 0x78a5_636f_4317_2f60, 0x84c8_7814_a1f0_ab72, 0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28, 0xa450_6ceb_de82_bde9, 0xbef9_a3f7_b2c6_7915, 0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c, 0xd186_b8c7_21c0_c207, 0xeada_7dd6_cde0_eb1e, 0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba, 0x0a63_7dc5_a2c8_98a6, 0x113f_9804_bef9_0dae, 0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84, 0x32ca_ab7b_40c7_2493, 0x3c9e_be0a_15c9_bebc, 0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6, 0x597f_299c_fc65_7e2a, 0x5fcb_6fab_3ad6_faec, 0x6c44_198c_4a47_5817,
];

/// First 64 bits of the fractional parts of the square roots of the first 8 primes.
#[rustfmt::skip]
const START: [u64; 8] = [
    0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1, 0x9b05_688c_2b3e_6c1f, 0x1f83_d9ab_fb41_bd6b, 0x5be0_cd19_137e_2179,
];

macro_rules! sha2 {
    ($(#[$about:meta])* $name:ident, $word:ty, $rounds:literal,
     $big0:expr, $big1:expr, $small0:expr, $small1:expr) => {
        $(#[$about])*
        #[derive(Debug, Clone)]
        pub struct $name {
            state: [$word; 8],
            block: [u8; Self::BLOCK],
            filled: usize,
            length: u128,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    state: START.map(|word| (word >> (64 - <$word>::BITS)) as $word),
                    block: [0; Self::BLOCK],
                    filled: 0,
                    length: 0,
                }
            }
        }

        impl $name {
            const WORD: usize = <$word>::BITS as usize / 8;
            const BLOCK: usize = 16 * Self::WORD;

            /// Take more of the message.
            pub fn update(&mut self, mut data: &[u8]) {
                self.length += data.len() as u128;
                if self.filled > 0 {
                    let taken = data.len().min(Self::BLOCK - self.filled);
                    self.block[self.filled..self.filled + taken].copy_from_slice(&data[..taken]);
                    self.filled += taken;
                    data = &data[taken..];
                    if self.filled < Self::BLOCK {
                        return;
                    }
                    Self::compress(&mut self.state, &self.block);
                }
                let blocks = data.chunks_exact(Self::BLOCK);
                let rest = blocks.remainder();
                for block in blocks {
                    Self::compress(&mut self.state, block);
                }
                self.block[..rest.len()].copy_from_slice(rest);
                self.filled = rest.len();
            }

            /// The digest of the message.
            pub fn finish(mut self) -> [u8; 8 * Self::WORD] {
                let bits = (8 * self.length).to_be_bytes();
                self.update(&[0x80]);
                let zeros = (2 * Self::BLOCK - 2 * Self::WORD - self.filled) % Self::BLOCK;
                self.update(&[0; Self::BLOCK][..zeros]);
                self.update(&bits[bits.len() - 2 * Self::WORD..]);
                let mut digest = [0; 8 * Self::WORD];
                for (bytes, word) in digest.chunks_exact_mut(Self::WORD).zip(self.state) {
                    bytes.copy_from_slice(&word.to_be_bytes());
                }
                digest
            }

            /// The digest of a message that is at hand.
            pub fn of(message: &[u8]) -> [u8; 8 * Self::WORD] {
                let mut hash = Self::default();
                hash.update(message);
                hash.finish()
            }

            fn compress(state: &mut [$word; 8], block: &[u8]) {
                let turned = |word: $word, by: [u32; 3]| {
                    word.rotate_right(by[0]) ^ word.rotate_right(by[1]) ^ word.rotate_right(by[2])
                };
                let shifted = |word: $word, by: [u32; 3]| {
                    word.rotate_right(by[0]) ^ word.rotate_right(by[1]) ^ (word >> by[2])
                };
                // The message schedule, of which 16 words are needed at a time.
                let mut words = [0; 16];
                for (word, bytes) in words.iter_mut().zip(block.chunks_exact(Self::WORD)) {
                    *word = bytes.iter().fold(0, |word, &byte| word << 8 | <$word>::from(byte));
                }
                let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
                for (t, round) in ROUND[..$rounds].iter().enumerate() {
                    let word = words[t % 16];
                    words[t % 16] = shifted(words[(t + 14) % 16], $small1)
                        .wrapping_add(words[(t + 9) % 16])
                        .wrapping_add(shifted(words[(t + 1) % 16], $small0))
                        .wrapping_add(word);
                    let first = h
                        .wrapping_add(turned(e, $big1))
                        .wrapping_add((e & f) ^ (!e & g))
                        .wrapping_add((round >> (64 - <$word>::BITS)) as $word)
                        .wrapping_add(word);
                    let second = turned(a, $big0).wrapping_add((a & b) ^ (a & c) ^ (b & c));
                    (h, g, f, e) = (g, f, e, d.wrapping_add(first));
                    (d, c, b, a) = (c, b, a, first.wrapping_add(second));
                }
                for (word, more) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                    *word = word.wrapping_add(more);
                }
            }
        }
    };
}

sha2!(
    /// A message on its way to its SHA-256.
    Sha256, u32, 64, [2, 13, 22], [6, 11, 25], [7, 18, 3], [17, 19, 10]
);
sha2!(
    /// A message on its way to its SHA-512.
    Sha512, u64, 80, [28, 34, 39], [14, 18, 41], [1, 8, 7], [19, 61, 6]
);

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Messages and digests of the examples that NIST gives with FIPS 180-4.
    const LONG_256: &[u8] = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    const LONG_512: &[u8] = b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn\
        hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";

    #[test]
    fn known_messages_have_their_known_digests() {
        let million = vec![b'a'; 1_000_000];
        for (message, digest) in [
            (&b""[..], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (LONG_256, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"),
            (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ] {
            assert_eq!(hex(&Sha256::of(message)), digest);
        }
        for (message, digest) in [
            (
                &b""[..],
                "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                 47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            ),
            (
                b"abc",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (
                LONG_512,
                "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018\
                 501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909",
            ),
            (
                &million,
                "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb\
                 de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b",
            ),
        ] {
            assert_eq!(hex(&Sha512::of(message)), digest);
        }
    }

    #[test]
    fn a_message_in_pieces_has_the_digest_of_the_whole() {
        let message: Vec<u8> = (0..700).map(|i| (i * 31 % 251) as u8).collect();
        for length in 0..message.len() {
            let (mut small, mut large) = (Sha256::default(), Sha512::default());
            let mut at = 0;
            for step in [0, 1, 63, 64, 65, 127, 128, 129, 700] {
                let end = (at + step).min(length);
                small.update(&message[at..end]);
                large.update(&message[at..end]);
                at = end;
            }
            assert_eq!(small.finish(), Sha256::of(&message[..length]));
            assert_eq!(large.finish(), Sha512::of(&message[..length]));
        }
    }
}
