/* Everything that the C interface does, with memory that ends at the first, second, third ... large allocation, until it
 * is enough: scarce_memory BUNDLE.zip TRUNK.gguf LEAST_BYTES REQUEST...
 *
 * A call may be answered, or refused with SMALLHOLD_MEMORY; a request that was refused is asked again with all of the
 * memory, and has to be answered as if nothing had been. Anything else ends with 1, an abort with a signal. The last words are how many allocations were refused and how many calls gave SMALLHOLD_MEMORY. */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smallhold_engine.h"

/* glibc's own, below the names that the library is linked with. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static size_t least = (size_t)-1;
static long seen, first, refused;
static int is_lasting;

static int is_refused(size_t size) {
  if (size < least) return 0;
  long at = seen++;
  int is = is_lasting ? at >= first : at == first;
  refused += is;
  return is;
}

void *malloc(size_t size) { return is_refused(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return is_refused(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *at, size_t size) { return is_refused(size) ? NULL : __libc_realloc(at, size); }
void *aligned_alloc(size_t alignment, size_t size) { return is_refused(size) ? NULL : __libc_memalign(alignment, size); }
int posix_memalign(void **at, size_t alignment, size_t size) {
  *at = aligned_alloc(alignment, size);
  return *at == NULL ? 12 : 0;
}

static long memory_errors;

static int check(const char *what, int kind, const char *message) {
  if (kind == SMALLHOLD_OK) return 1;
  if (kind == SMALLHOLD_MEMORY && strstr(message, "no memory left")) {
    memory_errors++;
    return 0;
  }
  fprintf(stderr, "%s: kind %d, %s\n", what, kind, message);
  exit(1);
}

typedef struct {
  uint8_t *data;
  size_t size;
} bytes;

static bytes file(const char *path) {
  FILE *from = fopen(path, "rb");
  if (from == NULL) exit(2);
  fseek(from, 0, SEEK_END);
  bytes found = {NULL, (size_t)ftell(from)};
  rewind(from);
  found.data = malloc(found.size);
  if (found.data == NULL || fread(found.data, 1, found.size, from) != found.size) exit(2);
  fclose(from);
  return found;
}

#define MOST_REQUESTS 16
static char *expected[MOST_REQUESTS];

static void ask_all(bytes bundle, char **requests) {
  smallhold_program *program;
  char message[SMALLHOLD_MESSAGE_BYTES];
  if (!check("open", smallhold_program_from_bytes(bundle.data, bundle.size, NULL, 0, NULL, &program, message), message)) return;
  for (int i = 0; requests[i] && i < MOST_REQUESTS; i++) {
    const char *answer;
    int kind = smallhold_program_ask(program, requests[i], strlen(requests[i]), &answer);
    size_t kept = least;
    least = (size_t)-1;
    if (!check(requests[i], kind, answer) &&
        !check("again", smallhold_program_ask(program, requests[i], strlen(requests[i]), &answer), answer))
      exit(1);
    if (expected[i] == NULL) expected[i] = strdup(answer);
    if (strcmp(expected[i], answer) != 0) {
      fprintf(stderr, "%s: expected %s, got %s\n", requests[i], expected[i], answer);
      exit(1);
    }
    least = kept;
  }
  smallhold_program_free(program);
}

static void read_all(bytes trunk) {
  enum { TOKENS = 60, AT = 60 };
  static uint32_t tokens[TOKENS];
  static int64_t at[AT];
  char message[SMALLHOLD_MESSAGE_BYTES];
  const smallhold_model *model;
  smallhold_info info;
  if (!check("load", smallhold_model_from_bytes(trunk.data, trunk.size, NULL, &model, &info, message), message)) return;
  for (int i = 0; i < AT; i++) at[i] = i % TOKENS;
  size_t kept = least;
  least = (size_t)-1;
  float *logits = malloc(AT * info.vocab_size * sizeof *logits);
  least = kept;
  smallhold_session *session = smallhold_session_new(model), *fork;
  smallhold_model_free(model);
  uint64_t before = smallhold_session_length(session);
  if (!check("append", smallhold_session_append(session, tokens, NULL, TOKENS / 2, message), message) &&
      smallhold_session_length(session) != before)
    exit(1);
  fork = smallhold_session_fork(session);
  check("append to a fork", smallhold_session_append(fork, tokens, NULL, 4, message), message);
  if (!check("rewind", smallhold_session_rewind(session, 0, message), message)) exit(1);
  check("score", smallhold_session_score(session, tokens, NULL, TOKENS, at, AT, NULL, 0, logits, message), message);
  free(logits);
  smallhold_session_free(fork);
  smallhold_session_free(session);
}

int main(int count, char **words) {
  if (count < 4) return 2;
  bytes bundle = file(words[1]), trunk = file(words[2]);
  long all = 0, failed = 0;
  ask_all(bundle, words + 4); /* with all of the memory: what is expected */
  for (is_lasting = 0; is_lasting < 2; is_lasting++) {
    for (first = 0;; first++) {
      seen = refused = 0;
      least = strtoul(words[3], NULL, 10);
      ask_all(bundle, words + 4);
      read_all(trunk);
      least = (size_t)-1;
      all += refused;
      if (refused == 0) break; /* there was enough: every call was answered */
      failed++;
    }
  }
  printf("%ld %ld %ld\n", all, failed, memory_errors);
  return 0;
}
