;; A guest with one exported function a case. Each returns 0 where the host does as it should, else the number of the
;; step, counted from 1, that found something else. cases.json says what each shows; README.md how to run them.
(module
  (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name" (func $load_by_name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set_input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output" (func $get_output (param i32 i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 2)
  (global $step (mut i32) (i32.const 0))
  (global $failed (mut i32) (i32.const 0))
  (global $graph (mut i32) (i32.const -1))
  (global $context (mut i32) (i32.const -1))

  ;; Error codes
  (global $ok i32 (i32.const 0))
  (global $invalid_argument i32 (i32.const 1))
  (global $invalid_encoding i32 (i32.const 2))
  (global $busy i32 (i32.const 4))
  (global $unsupported i32 (i32.const 6))
  (global $too_large i32 (i32.const 7))
  (global $not_found i32 (i32.const 8))
  ;; Tensor types
  (global $f32 i32 (i32.const 1))
  (global $u8 i32 (i32.const 3))
  (global $i32 i32 (i32.const 4))
  (global $i64 i32 (i32.const 5))

  ;;    0  names
  (data (i32.const 0) "golden#session")        ;; the first 6 bytes are the plain model
  (data (i32.const 16) "golden#text")
  (data (i32.const 32) "golden#words")
  (data (i32.const 48) "no such model")
  ;;   64  a word of the vocabulary, and the same as a text
  (data (i32.const 64) "<bos>")
  (data (i32.const 96) "<bos>")
  (data (i32.const 112) "<no such word>")
  (data (i32.const 128) "\ff\fe")              ;; not UTF-8
  ;;  240  dimensions, 256 record of a tensor, 288 handles, 300 bytes written
  ;;  512  tokens 38 170 257 82 75 as i32, and as i64; without any of them the logits differ by 1.5 and more
  (data (i32.const 512) "\26\00\00\00\aa\00\00\00\01\01\00\00\52\00\00\00\4b\00\00\00")
  (data (i32.const 532) "\12\00\00\00") ;; a sixth, 18
  (data (i32.const 576) "\26\00\00\00\00\00\00\00\aa\00\00\00\00\00\00\00\01\01\00\00\00\00\00\00\52\00\00\00\00\00\00\00\4b\00\00\00\00\00\00\00")
  (data (i32.const 640) "\50\00\00\00\5b\00\00\00") ;; rows 80 and 91
  (data (i32.const 656) "\ff\ff\ff\ff")             ;; -1: a place, and no token
  (data (i32.const 660) "\ff\ff\ff\7f")             ;; beyond every vocabulary
  (data (i32.const 664) "\02\00\00\00")             ;; a length
  (data (i32.const 668) "\00\00\00\00")             ;; a length, a place, or a context
  ;; 1024  outputs, 16384 other outputs, 32768 zeros

  (func $expect (param $got i32) (param $wanted i32)
    (global.set $step (i32.add (global.get $step) (i32.const 1)))
    (if (i32.and (i32.ne (local.get $got) (local.get $wanted)) (i32.eqz (global.get $failed)))
      (then (global.set $failed (global.get $step)))))

  ;; The record of a tensor of one dimension, at 256.
  (func $tensor (param $type i32) (param $data i32) (param $count i32) (result i32)
    (local $size i32)
    (local.set $size (i32.const 4))
    (if (i32.eq (local.get $type) (global.get $u8)) (then (local.set $size (i32.const 1))))
    (if (i32.eq (local.get $type) (global.get $i64)) (then (local.set $size (i32.const 8))))
    (i32.store (i32.const 240) (local.get $count))
    (i32.store (i32.const 256) (i32.const 240))
    (i32.store (i32.const 260) (i32.const 1))
    (i32.store (i32.const 264) (local.get $type))
    (i32.store (i32.const 268) (local.get $data))
    (i32.store (i32.const 272) (i32.mul (local.get $count) (local.get $size)))
    (i32.const 256))

  (func $open (param $name i32) (param $bytes i32)
    (call $expect (call $load_by_name (local.get $name) (local.get $bytes) (i32.const 288)) (global.get $ok))
    (global.set $graph (i32.load (i32.const 288)))
    (call $expect (call $init (global.get $graph) (i32.const 292)) (global.get $ok))
    (global.set $context (i32.load (i32.const 292))))
  (func $open_plain (call $open (i32.const 0) (i32.const 6)))
  (func $open_session (call $open (i32.const 0) (i32.const 14)))

  (func $set (param $index i32) (param $type i32) (param $data i32) (param $count i32) (result i32)
    (call $set_input (global.get $context) (local.get $index)
      (call $tensor (local.get $type) (local.get $data) (local.get $count))))
  (func $run (result i32) (call $compute (global.get $context)))
  (func $get (param $index i32) (param $to i32) (param $most i32) (result i32)
    (call $get_output (global.get $context) (local.get $index) (local.get $to) (local.get $most) (i32.const 300)))
  ;; Positions, which are output 1 of a model and of a session.
  (func $length (result i32)
    (call $expect (call $get (i32.const 1) (i32.const 304) (i32.const 4)) (global.get $ok))
    (i32.load (i32.const 304)))

  ;; Two rows of two logits that differ by less than .06, twice a runtime's rounding.
  (func $are_alike (param $a i32) (param $b i32) (result i32)
    (i32.and
      (f32.lt (f32.abs (f32.sub (f32.load (local.get $a)) (f32.load (local.get $b)))) (f32.const 0.06))
      (f32.lt (f32.abs (f32.sub (f32.load offset=4 (local.get $a)) (f32.load offset=4 (local.get $b)))) (f32.const 0.06))))
  (func $rows (call $expect (call $set (i32.const 3) (global.get $i32) (i32.const 640) (i32.const 2)) (global.get $ok)))
  (func $append (param $from i32) (param $count i32)
    (call $expect (call $set (i32.const 0) (global.get $i32) (local.get $from) (local.get $count)) (global.get $ok))
    (call $expect (call $run) (global.get $ok)))
  (func $read (param $to i32)
    (call $expect (call $get (i32.const 0) (local.get $to) (i32.const 8)) (global.get $ok))
    (call $expect (i32.load (i32.const 300)) (i32.const 8)))

  ;; --- The ABI ---

  (func (export "a_model_is_opened_by_name_and_gives_logits") (result i32)
    (call $open_plain)
    (call $rows)
    (call $append (i32.const 512) (i32.const 5))
    (call $read (i32.const 1024))
    (global.get $failed))

  (func (export "a_model_remembers_nothing") (result i32)
    (call $open_plain)
    (call $rows)
    (call $append (i32.const 512) (i32.const 5))
    (call $read (i32.const 1024))
    (call $append (i32.const 512) (i32.const 5))
    (call $read (i32.const 16384))
    (call $expect (i32.load (i32.const 1024)) (i32.load (i32.const 16384)))
    (call $expect (i32.load (i32.const 1028)) (i32.load (i32.const 16388)))
    (call $expect (call $length) (i32.const 5))
    (call $expect (call $run) (global.get $invalid_argument)) ;; its input was used up
    (global.get $failed))

  (func (export "tokens_may_have_64_bits") (result i32)
    (call $open_plain)
    (call $rows)
    (call $append (i32.const 512) (i32.const 5))
    (call $read (i32.const 1024))
    (call $expect (call $set (i32.const 0) (global.get $i64) (i32.const 576) (i32.const 5)) (global.get $ok))
    (call $expect (call $run) (global.get $ok))
    (call $read (i32.const 16384))
    (call $expect (i32.load (i32.const 1024)) (i32.load (i32.const 16384)))
    (global.get $failed))

  (func (export "unknown_names_are_not_found") (result i32)
    (call $expect (call $load_by_name (i32.const 48) (i32.const 13) (i32.const 288)) (global.get $not_found))
    (call $expect (call $load_by_name (i32.const 0) (i32.const 0) (i32.const 288)) (global.get $not_found))
    (call $expect (call $load_by_name (i32.const 0) (i32.const 10) (i32.const 288)) (global.get $not_found)) ;; golden#ses
    (call $expect (call $load_by_name (i32.const 128) (i32.const 2) (i32.const 288)) (global.get $not_found))
    (global.get $failed))

  (func (export "wild_pointers_are_invalid_arguments") (result i32)
    (call $expect (call $load_by_name (i32.const -8) (i32.const 6) (i32.const 288)) (global.get $invalid_argument))
    (call $expect (call $load_by_name (i32.const -8) (i32.const 16) (i32.const 288)) (global.get $invalid_argument))
    (call $expect (call $load_by_name (i32.const 0) (i32.const 6) (i32.const -4)) (global.get $invalid_argument))
    (call $expect (call $load_by_name (i32.const 0) (i32.const 6) (i32.const 131072)) (global.get $invalid_argument))
    (call $open_plain)
    (call $expect (call $init (global.get $graph) (i32.const 131070)) (global.get $invalid_argument))
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 131060)) (global.get $invalid_argument))
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const -20)) (global.get $invalid_argument))
    ;; a record whose data, and one whose dimensions, lie outside
    (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const 131068) (i32.const 2)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const -4) (i32.const 2)) (global.get $invalid_argument))
    (drop (call $tensor (global.get $i32) (i32.const 512) (i32.const 5)))
    (i32.store (i32.const 256) (i32.const -4))
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 256)) (global.get $invalid_argument))
    ;; outputs and their size into nowhere
    (call $append (i32.const 512) (i32.const 5))
    (call $expect (call $get (i32.const 0) (i32.const 131064) (i32.const 65536)) (global.get $invalid_argument))
    (call $expect
      (call $get_output (global.get $context) (i32.const 1) (i32.const 304) (i32.const 4) (i32.const -4))
      (global.get $invalid_argument))
    (global.get $failed))

  (func (export "handles_that_do_not_exist_are_invalid_arguments") (result i32)
    (call $expect (call $init (i32.const 0) (i32.const 292)) (global.get $invalid_argument))
    (call $expect (call $init (i32.const -1) (i32.const 292)) (global.get $invalid_argument))
    (call $expect (call $compute (i32.const 0)) (global.get $invalid_argument))
    (call $open_plain)
    (global.set $context (i32.add (global.get $context) (i32.const 1)))
    (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const 512) (i32.const 5)) (global.get $invalid_argument))
    (call $expect (call $run) (global.get $invalid_argument))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 8)) (global.get $invalid_argument))
    (global.set $context (i32.const -1))
    (call $expect (call $run) (global.get $invalid_argument))
    (global.get $failed))

  (func (export "tensors_that_contradict_themselves_are_invalid_arguments") (result i32)
    (call $open_plain)
    (drop (call $tensor (global.get $i32) (i32.const 512) (i32.const 5)))
    (i32.store (i32.const 272) (i32.const 19)) ;; bytes
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 256)) (global.get $invalid_argument))
    (i32.store (i32.const 272) (i32.const 16))
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 256)) (global.get $invalid_argument))
    ;; 2^30 x 2^30 x 4 bytes is 0 in 32 bits, and in 64
    (i32.store (i32.const 240) (i32.const 0x40000000))
    (i32.store (i32.const 244) (i32.const 0x40000000))
    (i32.store (i32.const 260) (i32.const 2))
    (i32.store (i32.const 272) (i32.const 0))
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 256)) (global.get $invalid_argument))
    (i32.store (i32.const 260) (i32.const -1)) ;; dimensions
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 256)) (global.get $invalid_argument))
    (drop (call $tensor (i32.const 99) (i32.const 512) (i32.const 5))) ;; type
    (call $expect (call $set_input (global.get $context) (i32.const 0) (i32.const 256)) (global.get $invalid_argument))
    (global.get $failed))

  (func (export "inputs_that_the_model_does_not_have_are_invalid_arguments") (result i32)
    (call $open_plain)
    (call $expect (call $set (i32.const 9) (global.get $i32) (i32.const 512) (i32.const 5)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 0) (global.get $u8) (i32.const 512) (i32.const 5)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 0) (global.get $f32) (i32.const 512) (i32.const 5)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const 656) (i32.const 1)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const 660) (i32.const 1)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 3) (global.get $i32) (i32.const 660) (i32.const 1)) (global.get $invalid_argument))
    (call $expect (call $run) (global.get $invalid_argument))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 8)) (global.get $invalid_argument))
    (global.get $failed))

  (func (export "an_output_that_does_not_fit_is_too_large") (result i32)
    (call $open_plain)
    (call $rows)
    (call $append (i32.const 512) (i32.const 5))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 7)) (global.get $too_large))
    (call $expect (call $get (i32.const 7) (i32.const 1024) (i32.const 8)) (global.get $invalid_argument))
    (call $read (i32.const 1024))
    (global.get $failed))

  (func (export "load_refuses_what_it_does_not_take") (result i32)
    (call $expect (call $load (i32.const 512) (i32.const 1) (i32.const 99) (i32.const 0) (i32.const 288)) (global.get $invalid_encoding))
    (call $expect (call $load (i32.const 512) (i32.const 1) (i32.const 1) (i32.const 99) (i32.const 288)) (global.get $invalid_argument))
    (call $expect (call $load (i32.const 512) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 288)) (global.get $unsupported))
    (global.get $failed))

  ;; --- The session convention ---

  (func (export "a_session_in_pieces_is_the_whole") (result i32)
    (call $open_plain)
    (call $rows)
    (call $append (i32.const 512) (i32.const 5))
    (call $read (i32.const 1024))
    (call $open_session)
    (call $rows)
    (call $append (i32.const 512) (i32.const 2))
    (call $append (i32.const 520) (i32.const 1))
    (call $append (i32.const 524) (i32.const 2))
    (call $read (i32.const 16384))
    (call $expect (call $length) (i32.const 5))
    (call $expect (call $are_alike (i32.const 1024) (i32.const 16384)) (i32.const 1))
    (global.get $failed))

  (func (export "what_is_tried_leaves_no_trace") (result i32)
    (call $open_session)
    (call $rows)
    (call $append (i32.const 512) (i32.const 3))
    (call $expect (call $set (i32.const 1) (global.get $i32) (i32.const 524) (i32.const 2)) (global.get $ok))
    (call $expect (call $run) (global.get $ok))
    (call $read (i32.const 1024))
    (call $expect (call $length) (i32.const 3))
    (call $expect (call $set (i32.const 1) (global.get $i32) (i32.const 512) (i32.const 1)) (global.get $ok))
    (call $expect (call $run) (global.get $ok)) ;; something else is tried between
    (call $append (i32.const 524) (i32.const 2))
    (call $read (i32.const 16384))
    (call $expect (call $length) (i32.const 5))
    (call $expect (call $are_alike (i32.const 1024) (i32.const 16384)) (i32.const 1))
    (global.get $failed))

  (func (export "a_session_rewinds") (result i32)
    (call $open_session)
    (call $rows)
    (call $append (i32.const 512) (i32.const 5))
    (call $read (i32.const 1024))
    (call $expect (call $set (i32.const 4) (global.get $i32) (i32.const 664) (i32.const 1)) (global.get $ok)) ;; to 2
    (call $append (i32.const 520) (i32.const 3))
    (call $read (i32.const 16384))
    (call $expect (call $length) (i32.const 5))
    (call $expect (call $are_alike (i32.const 1024) (i32.const 16384)) (i32.const 1))
    (call $expect (call $set (i32.const 4) (global.get $i32) (i32.const 668) (i32.const 1)) (global.get $ok)) ;; to 0
    (call $expect (call $run) (global.get $ok))
    (call $expect (call $length) (i32.const 0))
    (call $expect (call $set (i32.const 4) (global.get $i32) (i32.const 664) (i32.const 1)) (global.get $ok)) ;; 2 is ahead
    (call $expect (call $run) (global.get $invalid_argument))
    (call $expect (call $length) (i32.const 0))
    (global.get $failed))

  (func (export "a_session_becomes_a_copy_of_another") (result i32)
    (call $open_session) ;; context 0
    (call $rows)
    (call $append (i32.const 512) (i32.const 3))
    (call $append (i32.const 524) (i32.const 2))
    (call $read (i32.const 1024))
    (call $open_session)
    (call $rows)
    (call $expect (call $set (i32.const 5) (global.get $i32) (i32.const 668) (i32.const 1)) (global.get $ok)) ;; of 0
    (call $expect (call $set (i32.const 2) (global.get $i32) (i32.const 656) (i32.const 1)) (global.get $ok)) ;; at -1
    (call $expect (call $run) (global.get $ok))
    (call $read (i32.const 16384))
    (call $expect (call $length) (i32.const 5))
    (call $expect (call $are_alike (i32.const 1024) (i32.const 16384)) (i32.const 1))
    (call $append (i32.const 512) (i32.const 2)) ;; and goes its own way
    (call $expect (call $length) (i32.const 7))
    (global.set $context (i32.const 0))
    (call $append (i32.const 532) (i32.const 1)) ;; as does the first
    (call $read (i32.const 1024))
    (call $expect (call $length) (i32.const 6))
    (call $expect (call $set (i32.const 5) (global.get $i32) (i32.const 660) (i32.const 1)) (global.get $invalid_argument))
    (call $open_plain)
    (call $rows)
    (call $append (i32.const 512) (i32.const 6))
    (call $read (i32.const 16384))
    (call $expect (call $are_alike (i32.const 1024) (i32.const 16384)) (i32.const 1))
    (global.get $failed))

  (func (export "places_and_rows_stay_until_they_are_set_again") (result i32)
    (call $open_session)
    (call $rows)
    (call $expect (call $set (i32.const 2) (global.get $i32) (i32.const 656) (i32.const 0)) (global.get $ok)) ;; read nothing
    (call $append (i32.const 512) (i32.const 3))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 0)) (global.get $ok))
    (call $expect (i32.load (i32.const 300)) (i32.const 0))
    (call $append (i32.const 524) (i32.const 2))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 0)) (global.get $ok))
    (call $expect (call $set (i32.const 2) (global.get $i32) (i32.const 656) (i32.const 1)) (global.get $ok)) ;; -1
    (call $expect (call $run) (global.get $ok))
    (call $read (i32.const 1024))
    (call $expect (call $set (i32.const 4) (global.get $i32) (i32.const 664) (i32.const 1)) (global.get $ok))
    (call $expect (call $run) (global.get $invalid_argument)) ;; after a rewind the last position's logits are not known
    (call $expect (call $length) (i32.const 5))               ;; and nothing has changed
    (global.get $failed))

  (func (export "a_full_context_is_too_large_and_unchanged") (result i32)
    (local $code i32)
    (call $open_session)
    (call $rows)
    (block $full
      (loop $more
        (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const 32768) (i32.const 48)) (global.get $ok))
        (local.set $code (call $run))
        (br_if $full (i32.ne (local.get $code) (global.get $ok)))
        (br $more)))
    (call $expect (local.get $code) (global.get $too_large))
    (call $expect (i32.rem_u (call $length) (i32.const 48)) (i32.const 0))
    (call $append (i32.const 512) (i32.const 1)) ;; there is room for one
    (global.get $failed))

  (func (export "words_and_texts_become_tokens") (result i32)
    (call $open (i32.const 32) (i32.const 12)) ;; golden#words
    (call $expect (call $set (i32.const 0) (global.get $u8) (i32.const 64) (i32.const 5)) (global.get $ok))
    (call $expect (call $run) (global.get $ok))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 64)) (global.get $ok))
    (call $expect (i32.load (i32.const 300)) (i32.const 4)) ;; one token
    (call $expect (call $set (i32.const 0) (global.get $u8) (i32.const 112) (i32.const 14)) (global.get $ok))
    (call $expect (call $run) (global.get $not_found))
    (call $open (i32.const 16) (i32.const 11)) ;; golden#text
    (call $expect (call $set (i32.const 0) (global.get $u8) (i32.const 96) (i32.const 5)) (global.get $ok))
    (call $expect (call $run) (global.get $ok))
    (call $expect (call $get (i32.const 0) (i32.const 1024) (i32.const 64)) (global.get $ok))
    (call $expect (i32.gt_u (i32.load (i32.const 300)) (i32.const 4)) (i32.const 1)) ;; in a text nothing is special
    (call $expect (call $set (i32.const 0) (global.get $u8) (i32.const 128) (i32.const 2)) (global.get $invalid_argument))
    (call $expect (call $set (i32.const 0) (global.get $i32) (i32.const 512) (i32.const 2)) (global.get $invalid_argument))
    (global.get $failed))

  ;; --- Guests that mean no good: the host lives ---

  (func (export "too_many_contexts_are_busy") (result i32)
    (local $left i32) (local $code i32)
    (local.set $left (i32.const 100000))
    (call $open_session)
    (block $stop
      (loop $more
        (local.set $code (call $init (global.get $graph) (i32.const 292)))
        (br_if $stop (i32.ne (local.get $code) (global.get $ok)))
        (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
    (call $expect (local.get $code) (global.get $busy))
    (call $append (i32.const 512) (i32.const 5)) ;; those that are open go on
    (global.get $failed))

  (func (export "memory_without_end_is_refused") (result i32)
    (block $refused
      (loop $more
        (br_if $refused (i32.eq (memory.grow (i32.const 256)) (i32.const -1)))
        (br_if $more (i32.lt_u (memory.size) (i32.const 65280)))
        (return (i32.const 1))))
    (call $open_plain) ;; names and results are found in a memory that grew
    (global.get $failed))

  (func (export "loops_for_ever") (result i32) (loop $again (br $again)) (i32.const 0))

  (func $deeper (param $n i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get $n) (i32.const 1))) (local.get $n)))
  (func (export "calls_itself_for_ever") (result i32) (call $deeper (i32.const 0)))

  (func (export "reads_beyond_its_memory") (result i32) (i32.load (i32.const -8)))
)
