/* A text, one a line on standard input: the likeliest of some choices, on standard output.
 *
 * triage MODEL TASK CHOICE CHOICE..., for example: triage hospital triage Acne Psoriasis Migraine
 *
 * What every question begins with is computed once; a text is tried behind it and leaves no trace. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wasi_nn.h"

enum { MOST_CHOICES = 64, MOST_TOKENS = 96, MOST_TEXT = 4096 };

static void check(const char *what, uint32_t code) {
  if (code == 0) return;
  fprintf(stderr, "triage: %s: error %u\n", what, (unsigned)code);
  exit(1);
}

static uint32_t open_context(const char *model, const char *part) {
  char name[256];
  uint32_t graph, context;
  snprintf(name, sizeof name, "%s#%s", model, part);
  check(name, wasi_nn_load_by_name(name, strlen(name), &graph));
  check(name, wasi_nn_init_execution_context(graph, &context));
  return context;
}

static void set(uint32_t context, uint32_t index, int type, const void *data, uint32_t count) {
  wasi_nn_tensor tensor = {&count, 1, type, data, type == WASI_NN_U8 ? count : 4 * count};
  check("set_input", wasi_nn_set_input(context, index, &tensor));
}

static uint32_t get(uint32_t context, void *buffer, uint32_t most) {
  uint32_t bytes;
  check("get_output", wasi_nn_get_output(context, 0, buffer, most, &bytes));
  return bytes / 4;
}

/* Token ids of a text, or of words, one a line; `most` is in numbers. */
static uint32_t tokens(uint32_t context, const char *text, int32_t *ids, uint32_t most) {
  set(context, 0, WASI_NN_U8, text, strlen(text));
  check("tokens", wasi_nn_compute(context));
  return get(context, ids, 4 * most);
}

int main(int argc, char **argv) {
  static char text[MOST_TEXT];
  static int32_t ids[MOST_TEXT], rows[MOST_CHOICES];
  static float logits[MOST_CHOICES];
  int num_choices = argc - 3;
  if (num_choices < 2 || num_choices > MOST_CHOICES) {
    fprintf(stderr, "triage: expected MODEL TASK CHOICE CHOICE...\n");
    return 2;
  }
  uint32_t reader = open_context(argv[1], "text"), words = open_context(argv[1], "words");
  uint32_t session = open_context(argv[1], "session");

  for (int k = 0; k < num_choices; k++) {
    snprintf(text, sizeof text, "<%s:%s>", argv[2], argv[3 + k]);
    tokens(words, text, rows + k, 1);
  }
  set(session, INPUT_ROWS, WASI_NN_I32, rows, num_choices);
  snprintf(text, sizeof text, "<bos>\n<%s>", argv[2]);
  uint32_t begun = tokens(words, text, ids, 2);
  set(session, INPUT_APPEND, WASI_NN_I32, ids, begun);
  check("compute", wasi_nn_compute(session));
  int32_t marker = ids[1];

  while (fgets(text, sizeof text, stdin)) {
    text[strcspn(text, "\n")] = 0;
    uint32_t count = tokens(reader, text, ids, MOST_TEXT - 1);
    if (count > MOST_TOKENS) count = MOST_TOKENS;
    ids[count] = marker; /* a text task is asked as: <bos> marker text marker */
    set(session, INPUT_TRY, WASI_NN_I32, ids, count + 1);
    check("compute", wasi_nn_compute(session));
    get(session, logits, sizeof logits);

    int best = 0;
    float sum = 0;
    for (int k = 1; k < num_choices; k++)
      if (logits[k] > logits[best]) best = k;
    for (int k = 0; k < num_choices; k++) sum += expf(logits[k] - logits[best]);
    printf("%s %.4f\n", argv[3 + best], 1 / sum);
  }
  return 0;
}
