/* GGUF weights, and a pass through them: append, fork, score, rewind. */
#include <stdlib.h>

#include "smallhold_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const smallhold_model *model;
  smallhold_info info;
  char message[SMALLHOLD_MESSAGE_BYTES];
  if (smallhold_model_from_bytes(data, size, size % 2 ? "scalar" : NULL, &model, &info, message) != SMALLHOLD_OK) return 0;
  smallhold_session *session = smallhold_session_new(model), *fork = smallhold_session_fork(session);
  smallhold_model_free(model); /* the sessions keep it */
  const uint32_t tokens[] = {0, 1, 2, 3, UINT32_MAX}, rows[] = {0, 1};
  const int64_t at[] = {-1, 0, 3};
  float *logits = calloc(info.vocab_size, 3 * sizeof *logits), *embeddings = calloc(info.width, 2 * sizeof *embeddings);
  if (logits == NULL || embeddings == NULL) abort();
  smallhold_session_append(session, tokens, NULL, 4, message);
  smallhold_session_append(session, tokens, NULL, 5, message); /* one lies outside the vocabulary */
  smallhold_session_score(session, tokens, NULL, 4, at, 3, NULL, 0, logits, message);
  smallhold_session_score(session, tokens, NULL, 4, at, 3, rows, 2, logits, message);
  smallhold_session_append(fork, NULL, embeddings, 2, message);
  smallhold_session_rewind(fork, 1, message);
  smallhold_session_score(fork, NULL, embeddings, 1, at + 1, 1, rows, 2, logits, message);
  smallhold_session_free(fork);
  smallhold_session_free(session);
  free(embeddings);
  free(logits);
  return 0;
}
