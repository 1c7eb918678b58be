/* wasi_ephemeral_nn for C, from https://github.com/WebAssembly/wasi-nn (wasi-nn.witx); copy it into a guest of your own. */
#ifndef WASI_NN_H
#define WASI_NN_H

#include <stdint.h>

enum { WASI_NN_F16, WASI_NN_F32, WASI_NN_F64, WASI_NN_U8, WASI_NN_I32, WASI_NN_I64 };

/* Inputs of a session: see docs/guides/wasi-nn.md. */
enum { INPUT_APPEND, INPUT_TRY, INPUT_AT, INPUT_ROWS, INPUT_LENGTH, INPUT_COPY_OF };

typedef struct {
  const uint32_t *dimensions;
  uint32_t rank;
  uint8_t type;
  const void *data;
  uint32_t bytes;
} wasi_nn_tensor;

#define WASI_NN(name) __attribute__((import_module("wasi_ephemeral_nn"), import_name(#name))) uint32_t wasi_nn_##name

WASI_NN(load_by_name)(const char *name, uint32_t bytes, uint32_t *graph);
WASI_NN(init_execution_context)(uint32_t graph, uint32_t *context);
WASI_NN(set_input)(uint32_t context, uint32_t index, const wasi_nn_tensor *tensor);
WASI_NN(compute)(uint32_t context);
WASI_NN(get_output)(uint32_t context, uint32_t index, void *buffer, uint32_t most, uint32_t *written);

#endif
