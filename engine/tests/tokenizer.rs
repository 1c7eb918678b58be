//! The tokenizer on vocabularies small enough to check by hand.

use smallhold_engine::error::{Error, Kind};
use smallhold_engine::tokenizer::{PreTokenizer, Special, Tokenizer};

/// Ids of the control tokens of `vocabulary`; byte b has the id 2 + b, and merges count from 258.
const BOS: u32 = 0;
const BOS_X: u32 = 1;

/// The byte-level alphabet: what Latin-1 prints, then U+0100, U+0101, ... for the rest.
fn letter(byte: u8) -> char {
    let is_printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if is_printable(&byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|other| !is_printable(other)).count();
    char::from_u32(256 + rank as u32).unwrap()
}

fn vocabulary(merges: &[&str]) -> (Vec<String>, Vec<String>, Vec<bool>) {
    let mut tokens = vec!["<bos>".to_owned(), "<bos>x".to_owned()];
    tokens.extend((0..=255).map(|byte| letter(byte).to_string()));
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let control = (0..tokens.len()).map(|id| id < 2).collect();
    (tokens, merges.iter().map(|&merge| merge.to_owned()).collect(), control)
}

fn tokenizer(merges: &[&str], pre: PreTokenizer) -> Tokenizer {
    let (tokens, merges, control) = vocabulary(merges);
    Tokenizer::new(tokens, &merges, &control, pre).unwrap()
}

fn encode(merges: &[&str], text: &str) -> Vec<u32> {
    tokenizer(merges, PreTokenizer::Gpt2).encode(text, Special::Text).unwrap()
}

fn byte(byte: u8) -> u32 {
    2 + u32::from(byte)
}

#[test]
fn the_merge_of_lowest_rank_goes_first_and_the_leftmost_of_equals() {
    assert_eq!(encode(&["b c", "a b"], "abc"), [byte(b'a'), 258]);
    assert_eq!(encode(&["a b", "b c"], "abc"), [258, byte(b'c')]);
    assert_eq!(encode(&["a a"], "aaaaa"), [258, 258, byte(b'a')]);
    assert_eq!(encode(&["a b", "ab c", "Ġ abc"], "abc abc"), [259, 260]);
    assert_eq!(encode(&["Ð ¶"], "жж"), [258, 258]);
}

#[test]
fn nothing_is_merged_across_words() {
    assert_eq!(encode(&["a 1", "a Ġ"], "a1a "), [b'a', b'1', b'a', b' '].map(byte));
}

#[test]
fn empty_text_has_no_ids_and_no_ids_have_no_bytes() {
    let made = tokenizer(&[], PreTokenizer::Gpt2);
    assert!(made.encode("", Special::Text).unwrap().is_empty() && made.encode("", Special::Parse).unwrap().is_empty());
    assert!(made.decode(&[]).is_empty());
    assert_eq!((made.len(), made.is_empty()), (258, false));
}

#[test]
fn a_text_that_spells_a_control_token_stays_a_text_unless_it_is_parsed() {
    // The merges come as near to the control token as merges may.
    let merges = ["< b", "<b o", "<bo s"];
    for pre in [PreTokenizer::Gpt2, PreTokenizer::SmolLm, PreTokenizer::Llama3, PreTokenizer::Qwen2] {
        let made = tokenizer(&merges, pre);
        for text in ["<bos>", "a<bos>x<bos", "<bos><bos>", "<bos>x"] {
            let ids = made.encode(text, Special::Text).unwrap();
            assert!(!ids.iter().any(|&id| made.is_control(id)), "{text}");
            assert_eq!(made.decode(&ids), text.as_bytes());
        }
    }
    let made = tokenizer(&[], PreTokenizer::Gpt2);
    assert_eq!(made.encode("a<bos>b", Special::Parse).unwrap(), [byte(b'a'), BOS, byte(b'b')]);
    assert_eq!(made.encode("<bos>x<bos><b", Special::Parse).unwrap(), [BOS_X, BOS, byte(b'<'), byte(b'b')]);
    assert_eq!(Special::default(), Special::Text);
}

#[test]
fn a_word_that_is_a_token_needs_no_merges_under_llama3_but_never_is_a_control_token() {
    let (mut tokens, _, mut control) = vocabulary(&[]);
    tokens.extend(["Ġword".to_owned(), "secret".to_owned()]);
    control.extend([false, true]);
    let made = Tokenizer::new(tokens.clone(), &[], &control, PreTokenizer::Llama3).unwrap();
    assert_eq!(made.encode(" word", Special::Text).unwrap(), [258]);
    assert_eq!(made.encode("secret", Special::Text).unwrap(), b"secret".map(byte));
    assert_eq!(made.encode("secret", Special::Parse).unwrap(), [259]);
    let merging = Tokenizer::new(tokens, &[], &control, PreTokenizer::Qwen2).unwrap();
    assert_eq!(merging.encode(" word", Special::Text).unwrap(), b" word".map(byte));
}

#[test]
fn decode_gives_bytes_that_need_not_be_utf8() {
    let made = tokenizer(&["Ã ©"], PreTokenizer::Gpt2);
    assert_eq!(made.decode(&[byte(0xff), byte(0xd0), byte(0)]), [0xff, 0xd0, 0]);
    assert_eq!(made.decode(&[258, BOS, byte(b' '), 9999]), "é ".as_bytes());
    assert_eq!(made.decode_with_control(&[258, BOS, 9999]), "é<bos>".as_bytes());
    assert_eq!((made.id_of("Ã©"), made.id_of("é"), made.id_of("<bos>")), (Some(258), Some(byte(0xe9)), Some(BOS)));
    assert_eq!(made.id_of("none such"), None);
}

#[test]
fn control_tokens_and_tokens_outside_the_alphabet_stand_for_their_own_letters() {
    let (mut tokens, _, mut control) = vocabulary(&[]);
    tokens.extend(["<é>".to_owned(), "a b€".to_owned()]);
    control.extend([true, false]);
    let made = Tokenizer::new(tokens, &[], &control, PreTokenizer::Gpt2).unwrap();
    assert_eq!(made.encode("é<é>", Special::Parse).unwrap(), [byte(0xc3), byte(0xa9), 258]);
    assert_eq!(made.decode_with_control(&[258, 259]), "<é>a b€".as_bytes());
}

#[test]
fn a_long_word_takes_no_square_time() {
    let merges = ["a a", "aa aa", "aaaa aaaa", "b a"];
    let text = "a".repeat(1 << 20) + "b" + &"a".repeat(7);
    let ids = encode(&merges, &text);
    assert!(ids[..1 << 17].iter().all(|&id| id == 260));
    assert_eq!(ids[1 << 17..], [byte(b'b'), 259, 258, byte(b'a')]);
}

fn refused(change: impl FnOnce(&mut Vec<String>, &mut Vec<String>, &mut Vec<bool>)) -> String {
    let (mut tokens, mut merges, mut control) = vocabulary(&["a b"]);
    change(&mut tokens, &mut merges, &mut control);
    let Err(Error { kind, message }) = Tokenizer::new(tokens, &merges, &control, PreTokenizer::Gpt2) else {
        panic!("a malformed vocabulary was taken")
    };
    assert_eq!(kind, Kind::Malformed);
    message
}

#[test]
fn malformed_vocabularies_are_refused_with_what_is_wrong() {
    let message = refused(|_, _, control| control.truncate(3));
    assert_eq!(message, "tokenizer: 259 tokens, and 3 marks of control tokens");
    let message = refused(|tokens, _, _| tokens[5] = "<bos>".to_owned());
    assert_eq!(message, "tokenizer: token \"<bos>\" is there twice, as 0 and 5");
    let message = refused(|tokens, _, _| tokens[2 + 10] = "newline".to_owned());
    assert_eq!(message, "tokenizer: byte 0x0a ('Ċ') has no token");
    let message = refused(|_, _, control| control[2 + 65] = true);
    assert_eq!(message, "tokenizer: byte 0x41 ('A') has no token");
    let message = refused(|_, merges, _| merges.push("ab".to_owned()));
    assert_eq!(message, "tokenizer: merge \"ab\" is not two tokens with a space between them");
    let message = refused(|_, merges, _| merges.push("a b".to_owned()));
    assert_eq!(message, "tokenizer: merge \"a b\" is there twice, with the ranks 0 and 1");
    for (merge, missing) in [("ax b", "ax"), ("a bx", "bx"), ("b a", "ba"), ("a b c", "b c"), (" a", "")] {
        let message = refused(|_, merges, _| merges.push(merge.to_owned()));
        assert_eq!(message, format!("tokenizer: merge {merge:?}: {missing:?} is no token, or a control token"));
    }
    let message = refused(|_, _, control| control[258] = true);
    assert_eq!(message, "tokenizer: merge \"a b\": \"ab\" is no token, or a control token");
    let message = refused(|tokens, merges, control| {
        tokens.clear();
        merges.clear();
        control.clear();
    });
    assert_eq!(message, "tokenizer: byte 0x00 ('Ā') has no token");
}
