/* Calls to sessions of one model, a byte each with what it is given: threads, 8-bit caches, forks, rewinds, text.
 *
 * Beside what crashes, the promises of the header are held: a call that fails leaves a session as it was, a fork says
 * what its origin says, whatever the number of threads, and generated text is as long as asked for at most. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"
#include "smallhold_engine.h"

#define MOST_SESSIONS 4
#define VOCABULARY 64 /* of the part sessions.gguf */
#define MOST_TOKENS 16

static const uint8_t *at, *end;

static uint8_t next(void) { return at < end ? *at++ : 0; }

static void hold(int is_true) {
  if (!is_true) abort();
}

/* Tokens of which one in 256 lies outside the vocabulary. */
static size_t tokens_of(uint32_t *tokens) {
  size_t count = next() % (MOST_TOKENS + 1);
  for (size_t i = 0; i < count; i++) {
    uint8_t byte = next();
    tokens[i] = byte == 255 ? VOCABULARY : byte % VOCABULARY;
  }
  return count;
}

static void compare(smallhold_session *one, smallhold_session *other) {
  const uint32_t token = 1;
  const int64_t last = 0;
  float a[VOCABULARY], b[VOCABULARY];
  char message[SMALLHOLD_MESSAGE_BYTES];
  int said = smallhold_session_score(one, &token, NULL, 1, &last, 1, NULL, 0, a, message);
  hold(said == smallhold_session_score(other, &token, NULL, 1, &last, 1, NULL, 0, b, message));
  if (said == SMALLHOLD_OK) hold(memcmp(a, b, sizeof a) == 0);
}

static void call(const smallhold_model *model, smallhold_session **sessions) {
  char message[SMALLHOLD_MESSAGE_BYTES];
  uint8_t what = next(), place = next() % MOST_SESSIONS;
  smallhold_session **session = &sessions[place];
  if (*session == NULL) *session = smallhold_session_new(model);
  uint64_t length = smallhold_session_length(*session);
  uint32_t tokens[MOST_TOKENS], drawn[MOST_TOKENS + 1];
  size_t count, drawn_count = MOST_TOKENS + 1;
  switch (what % 8) {
    case 0:
      smallhold_model_set_threads(model, next() % 5, message);
      break;
    case 1:
      smallhold_model_set_cache_bits(model, next(), message); /* of sessions that begin from now on */
      break;
    case 2:
      count = tokens_of(tokens);
      length += smallhold_session_append(*session, tokens, NULL, count, message) == SMALLHOLD_OK ? count : 0;
      break;
    case 3: {
      count = tokens_of(tokens);
      float logits[3];
      const uint32_t rows[] = {0, VOCABULARY - 1, next()};
      const int64_t where = (int64_t)next() - 1;
      smallhold_session_score(*session, tokens, NULL, count, &where, 1, rows, 3, logits, message);
      break;
    }
    case 4: {
      const smallhold_sampling how = {(float)next() / 64, (float)next() / 255, next(), next()};
      const uint32_t stop = next() % VOCABULARY;
      size_t most = next() % (MOST_TOKENS + 1);
      int is_greedy = next() % 2;
      if (smallhold_session_generate(*session, is_greedy ? NULL : &how, &stop, 1, most, drawn, &drawn_count, message) ==
          SMALLHOLD_OK) {
        hold(drawn_count <= most);
        for (size_t i = 0; i < drawn_count; i++) hold(drawn[i] < VOCABULARY && drawn[i] != stop);
        length += drawn_count;
      }
      break;
    }
    case 5: {
      uint64_t wanted = next();
      if (smallhold_session_rewind(*session, wanted, message) == SMALLHOLD_OK) hold(wanted <= length), length = wanted;
      break;
    }
    case 6: {
      smallhold_session *fork = smallhold_session_fork(*session);
      compare(*session, fork);
      smallhold_session **other = &sessions[next() % MOST_SESSIONS];
      if (other == session) {
        smallhold_session_free(fork);
        break;
      }
      smallhold_session_free(*other);
      *other = fork;
      break;
    }
    default:
      smallhold_session_free(*session);
      *session = NULL;
      return;
  }
  hold(smallhold_session_length(*session) == length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part trunk;
  if (trunk.data == NULL) trunk = part_of("sessions.gguf");
  const smallhold_model *model;
  smallhold_info info;
  char message[SMALLHOLD_MESSAGE_BYTES];
  const char *kernels = size % 2 ? "scalar" : NULL;
  hold(smallhold_model_from_bytes(trunk.data, trunk.size, kernels, &model, &info, message) == SMALLHOLD_OK);
  hold(info.vocab_size == VOCABULARY);
  smallhold_session *sessions[MOST_SESSIONS] = {NULL};
  for (at = data, end = data + size; at < end;) call(model, sessions);
  smallhold_model_free(model); /* the sessions keep it */
  for (int i = 0; i < MOST_SESSIONS; i++) smallhold_session_free(sessions[i]);
  return 0;
}
