;; A guest that asks its host for the logits of one prompt, through wasi_ephemeral_nn.
;;
;; At $input its host puts the prompt, as a data segment: parts, each five numbers of 32 bits (tensor type, positions,
;; width or 0, bytes, 1 for the last part) and the bytes of token ids or embeddings. `ask` leaves float32 logits of every
;; position in memory and gives their place; it traps where a call is refused.
(module
  (import "wasi_ephemeral_nn" "load_by_name" (func $load_by_name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init_execution_context (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set_input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output" (func $get_output (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1024) ;; 64 MiB
  (data (i32.const 16) "trunk#session")
  (data (i32.const 65536) "PROMPT")
  (global $name i32 (i32.const 16))
  (global $graph i32 (i32.const 32))
  (global $context i32 (i32.const 36))
  (global $tensor i32 (i32.const 40)) ;; dimensions and their count, type, data and its bytes
  (global $shape i32 (i32.const 64))
  (global $size i32 (i32.const 72))
  (global $places i32 (i32.const 1024)) ;; room for 4096 positions
  (global $input i32 (i32.const 65536))
  (global $output i32 (i32.const 16777216))
  (global $end i32 (i32.const 67108864))

  (func $check (param $code i32)
    (if (local.get $code) (then (unreachable))))

  (func $set (param $index i32) (param $rank i32) (param $type i32) (param $data i32) (param $bytes i32)
    (i32.store offset=0 (global.get $tensor) (global.get $shape))
    (i32.store offset=4 (global.get $tensor) (local.get $rank))
    (i32.store offset=8 (global.get $tensor) (local.get $type))
    (i32.store offset=12 (global.get $tensor) (local.get $data))
    (i32.store offset=16 (global.get $tensor) (local.get $bytes))
    (call $check (call $set_input (i32.load (global.get $context)) (local.get $index) (global.get $tensor))))

  ;; Input 2: the first so many of the positions that are tried.
  (func $read_at (param $count i32)
    (i32.store (global.get $shape) (local.get $count))
    (call $set (i32.const 2) (i32.const 1) (i32.const 4) (global.get $places)
      (i32.mul (local.get $count) (i32.const 4))))

  ;; Input 0, appended, or 1, tried: the part whose five numbers lie at $at.
  (func $give (param $index i32) (param $at i32)
    (i32.store (global.get $shape) (i32.load offset=4 (local.get $at)))
    (i32.store offset=4 (global.get $shape) (i32.load offset=8 (local.get $at)))
    (call $set (local.get $index) (i32.add (i32.const 1) (i32.ne (i32.load offset=8 (local.get $at)) (i32.const 0)))
      (i32.load (local.get $at)) (i32.add (local.get $at) (i32.const 20)) (i32.load offset=12 (local.get $at))))

  (func (export "ask") (result i32) (local $at i32) (local $i i32) (local $out i32)
    (loop $next
      (i32.store (i32.add (global.get $places) (i32.mul (local.get $i) (i32.const 4))) (local.get $i))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 4096))))
    (call $check (call $load_by_name (global.get $name) (i32.const 13) (global.get $graph)))
    (call $check (call $init_execution_context (i32.load (global.get $graph)) (global.get $context)))
    (local.set $at (global.get $input))
    (local.set $out (global.get $output))
    (loop $part
      (call $give (i32.const 1) (local.get $at))
      (call $read_at (i32.load offset=4 (local.get $at)))
      (call $check (call $compute (i32.load (global.get $context))))
      (call $check (call $get_output (i32.load (global.get $context)) (i32.const 0) (local.get $out)
        (i32.sub (global.get $end) (local.get $out)) (global.get $size)))
      (local.set $out (i32.add (local.get $out) (i32.load (global.get $size))))
      (if (i32.eqz (i32.load offset=16 (local.get $at))) (then
        (call $give (i32.const 0) (local.get $at))
        (call $read_at (i32.const 0))
        (call $check (call $compute (i32.load (global.get $context))))
        (local.set $at (i32.add (local.get $at) (i32.add (i32.const 20) (i32.load offset=12 (local.get $at)))))
        (br $part))))
    (global.get $output)))
