/* Our engine, through its C interface. */
#include "runtime.h"
#include "smallhold_engine.h"

static smallhold_session *session;
static char message[SMALLHOLD_MESSAGE_BYTES];

void runtime_open(const struct options *options) {
  const smallhold_model *model;
  smallhold_info info;
  if (smallhold_model_open(options->model, NULL, &model, &info, message)) fail("the engine: %s", message);
  if (smallhold_model_set_threads(model, (size_t)options->threads, message)) fail("the engine: %s", message);
  session = smallhold_session_new(model);
  smallhold_model_free(model); /* the session keeps it alive */
}

void runtime_rewind(size_t length) {
  if (smallhold_session_rewind(session, length, message)) fail("the engine: %s", message);
}

void runtime_append(const int32_t *tokens, size_t count) {
  if (smallhold_session_append(session, (const uint32_t *)tokens, NULL, count, message)) fail("the engine: %s", message);
}

void runtime_decide(const int32_t *tokens, size_t count, int keeps, const int32_t rows[2], float logits[2]) {
  int64_t at = keeps ? -1 : (int64_t)count - 1;
  if (keeps) runtime_append(tokens, count);
  if (smallhold_session_score(session, (const uint32_t *)tokens, NULL, keeps ? 0 : count, &at, 1,
                              (const uint32_t *)rows, 2, logits, message))
    fail("the engine: %s", message);
}
