/* Our logic on llama.cpp's library: the prefix stays, what is new is appended in one batch, one position is asked, and
 * what was tried is removed. */
#include "llama.h"
#include "runtime.h"

#include <stdlib.h>

enum { CONTEXT = 512 };

static struct llama_context *context;
static struct llama_batch batch;
static int32_t length;

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

void runtime_open(const struct options *options) {
  llama_log_set(quiet, NULL);
  llama_backend_init();
  struct llama_model *model = llama_model_load_from_file(options->model, llama_model_default_params());
  if (!model) fail("llama.cpp: %s cannot be loaded", options->model);
  struct llama_context_params wanted = llama_context_default_params();
  wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = CONTEXT;
  wanted.n_threads = wanted.n_threads_batch = options->threads;
  wanted.flash_attn_type = options->flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  wanted.n_outputs_max = 1; /* one position is asked: its logits are all that needs room */
  context = llama_init_from_model(model, wanted);
  if (!context) fail("llama.cpp: no context of %d positions", CONTEXT);
  batch = llama_batch_init(CONTEXT, 0, 1);
}

void runtime_rewind(size_t to) {
  llama_memory_seq_rm(llama_get_memory(context), 0, (llama_pos)to, -1);
  length = (int32_t)to;
}

static void decode(const int32_t *tokens, size_t count, int is_asked) {
  if (!count) return;
  if (length + count > CONTEXT) fail("llama.cpp: %zu tokens do not fit behind %d of %d", count, length, CONTEXT);
  for (size_t i = 0; i < count; i++) {
    batch.token[i] = tokens[i];
    batch.pos[i] = length + (int32_t)i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = is_asked && i + 1 == count;
  }
  batch.n_tokens = (int32_t)count;
  int code = llama_decode(context, batch);
  if (code) fail("llama.cpp: llama_decode answers %d", code);
  length += (int32_t)count;
}

void runtime_append(const int32_t *tokens, size_t count) { decode(tokens, count, 0); }

void runtime_decide(const int32_t *tokens, size_t count, int keeps, const int32_t rows[2], float logits[2]) {
  int32_t before = length;
  decode(tokens, count, 1);
  const float *all = llama_get_logits_ith(context, -1);
  if (!all) fail("llama.cpp: no logits");
  logits[0] = all[rows[0]];
  logits[1] = all[rows[1]];
  if (!keeps) runtime_rewind((size_t)before);
}
