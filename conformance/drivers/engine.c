/* Logits of prompts, computed by the engine's library.
 *
 *   engine                           kernel families, the fastest first
 *   engine WEIGHTS KERNELS PROMPTS   float32 logits of every position on standard output
 *
 * PROMPTS is written by `encode` of conformance/prompts.py; numbers lie as on the machine, little end first. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "smallhold_engine.h"

static char message[SMALLHOLD_MESSAGE_BYTES];

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void check(int code) {
  if (code) fail(message);
}

static void *room(size_t count, size_t size) {
  void *found = calloc(count + 1, size);
  if (!found) fail("no memory left");
  return found;
}

static uint32_t number(FILE *file) {
  uint32_t found;
  if (fread(&found, sizeof found, 1, file) != 1) fail("the prompts end in the middle");
  return found;
}

int main(int count, char **words) {
  if (count == 1) return puts(smallhold_kernels()) < 0;
  if (count != 4) fail("usage: engine [WEIGHTS KERNELS PROMPTS]");
  const smallhold_model *model;
  smallhold_info info;
  check(smallhold_model_open(words[1], words[2], &model, &info, message));
  FILE *file = fopen(words[3], "rb");
  if (!file) fail("the prompts cannot be read");
  for (uint32_t prompts = number(file); prompts > 0; prompts--) {
    smallhold_session *session = smallhold_session_new(model);
    for (uint32_t parts = number(file); parts > 0; parts--) {
      uint32_t is_embedded = number(file), positions = number(file);
      size_t numbers = is_embedded ? positions * (size_t)info.width : positions;
      void *input = room(numbers, 4);
      if (fread(input, 4, numbers, file) != numbers) fail("the prompts end in the middle");
      const uint32_t *tokens = is_embedded ? NULL : input;
      const float *embeddings = is_embedded ? input : NULL;
      int64_t *at = room(positions, sizeof *at);
      for (uint32_t i = 0; i < positions; i++) at[i] = i;
      size_t size = positions * (size_t)info.vocab_size;
      float *logits = room(size, sizeof *logits);
      check(smallhold_session_score(session, tokens, embeddings, positions, at, positions, NULL, 0, logits, message));
      if (parts > 1) check(smallhold_session_append(session, tokens, embeddings, positions, message));
      if (fwrite(logits, sizeof *logits, size, stdout) != size) fail("the logits cannot be written");
      free(logits);
      free(at);
      free(input);
    }
    smallhold_session_free(session);
  }
  smallhold_model_free(model);
  return 0;
}
