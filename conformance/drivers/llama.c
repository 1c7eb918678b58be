/* Logits of prompts, computed by llama.cpp's library in float32 around the file's own weights.
 *
 *   llama WEIGHTS PROMPTS   float32 logits of every position on standard output
 *
 * PROMPTS is written by `encode` of conformance/prompts.py; numbers lie as on the machine, little end first. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "llama.h"

enum { CONTEXT = 1024 };

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static uint32_t number(FILE *file) {
  uint32_t found;
  if (fread(&found, sizeof found, 1, file) != 1) fail("the prompts end in the middle");
  return found;
}

int main(int count, char **words) {
  if (count != 3) fail("usage: llama WEIGHTS PROMPTS");
  llama_log_set(quiet, NULL);
  llama_backend_init();
  struct llama_model *model = llama_model_load_from_file(words[1], llama_model_default_params());
  if (!model) fail("the weights cannot be loaded");
  struct llama_context_params wanted = llama_context_default_params();
  wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = CONTEXT;
  wanted.n_threads = wanted.n_threads_batch = 1;
  wanted.type_k = wanted.type_v = GGML_TYPE_F32; /* its default, float16, rounds what it remembers */
  wanted.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  struct llama_context *context = llama_init_from_model(model, wanted);
  if (!context) fail("there is no such context");
  const int32_t width = llama_model_n_embd(model), vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  struct llama_batch batches[] = {llama_batch_init(CONTEXT, 0, 1), llama_batch_init(CONTEXT, width, 1)};
  FILE *file = fopen(words[2], "rb");
  if (!file) fail("the prompts cannot be read");
  for (uint32_t prompts = number(file); prompts > 0; prompts--) {
    llama_memory_clear(llama_get_memory(context), true);
    int32_t length = 0;
    for (uint32_t parts = number(file); parts > 0; parts--) {
      uint32_t is_embedded = number(file), positions = number(file);
      if (positions > (uint32_t)(CONTEXT - length)) fail("a prompt is longer than the context");
      struct llama_batch batch = batches[is_embedded ? 1 : 0];
      void *input = is_embedded ? (void *)batch.embd : (void *)batch.token;
      size_t numbers = is_embedded ? positions * (size_t)width : positions;
      if (fread(input, 4, numbers, file) != numbers) fail("the prompts end in the middle");
      batch.n_tokens = (int32_t)positions;
      for (uint32_t i = 0; i < positions; i++) {
        batch.pos[i] = length + (int32_t)i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
      }
      if (llama_decode(context, batch)) fail("llama_decode failed");
      length += (int32_t)positions;
      for (uint32_t i = 0; i < positions; i++) {
        const float *logits = llama_get_logits_ith(context, (int32_t)i);
        if (!logits) fail("there are no logits");
        if (fwrite(logits, sizeof *logits, vocab, stdout) != (size_t)vocab) fail("the logits cannot be written");
      }
    }
  }
  return 0;
}
