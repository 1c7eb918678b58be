/* Measure a runtime from inside one process, so that no Python is in the figures.
 *
 * usage: driver --model FILE --events FILE [--threads N] [--flash 0|1] [--once]
 *
 * The events file (workload.py): `rows NO YES`, then groups. A group opens with `begin N ID...`: an empty sequence, then
 * N tokens for good, untimed. `keep N ID...` appends N tokens and asks; `try N ID...` asks and rolls back.
 * On standard input: a group's number a line. Out: one line of JSON a group: wall and processor time of every event in
 * ns, and the two logits. With `--once` the first event of the first group is answered and the process ends.
 */
#include "runtime.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum kind { BEGIN, KEEP, TRY };

struct step {
  enum kind kind;
  int32_t *tokens;
  size_t count;
};

static struct step *steps;
static size_t num_steps, *groups, num_groups;
static int32_t rows[2];

_Noreturn void fail(const char *format, ...) {
  va_list values;
  va_start(values, format);
  vfprintf(stderr, format, values);
  va_end(values);
  fputc('\n', stderr);
  exit(1);
}

static void *grow(void *from, size_t count, size_t size) {
  void *grown = realloc(from, count * size);
  if (!grown) fail("out of memory for %zu items of %zu bytes", count, size);
  return grown;
}

static void read_events(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) fail("%s: %s", path, strerror(errno));
  if (fscanf(file, " rows %d %d", &rows[0], &rows[1]) != 2) fail("%s: expected `rows NO YES` first", path);
  char word[8];
  size_t count;
  while (fscanf(file, " %7s %zu", word, &count) == 2) {
    struct step step = {BEGIN, NULL, count};
    if (!strcmp(word, "keep")) step.kind = KEEP;
    else if (!strcmp(word, "try")) step.kind = TRY;
    else if (strcmp(word, "begin")) fail("%s: expected begin, keep or try, got %s", path, word);
    if (!num_steps && step.kind != BEGIN) fail("%s: expected a group to open with begin", path);
    step.tokens = grow(NULL, count + 1, sizeof *step.tokens);
    for (size_t i = 0; i < count; i++)
      if (fscanf(file, "%d", &step.tokens[i]) != 1) fail("%s: step %zu: expected %zu tokens", path, num_steps, count);
    steps = grow(steps, num_steps + 1, sizeof *steps);
    if (step.kind == BEGIN) {
      groups = grow(groups, num_groups + 1, sizeof *groups);
      groups[num_groups++] = num_steps;
    }
    steps[num_steps++] = step;
  }
  if (!feof(file) || !num_groups) fail("%s: expected whole groups to the end", path);
  fclose(file);
}

static int64_t now(clockid_t clock) {
  struct timespec at;
  clock_gettime(clock, &at);
  return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static void print(const char *name, const int64_t *values, size_t count) {
  printf("\"%s\": [", name);
  for (size_t i = 0; i < count; i++) printf("%s%lld", i ? ", " : "", (long long)values[i]);
  printf("], ");
}

static void run_group(size_t group, int is_once) {
  size_t at = groups[group], end = group + 1 < num_groups ? groups[group + 1] : num_steps;
  size_t count = end - at - 1;
  int64_t *wall = grow(NULL, count + 1, sizeof *wall), *cpu = grow(NULL, count + 1, sizeof *cpu);
  float(*logits)[2] = grow(NULL, count + 1, sizeof *logits);
  runtime_rewind(0);
  runtime_append(steps[at].tokens, steps[at].count);
  if (is_once && count > 1) count = 1;
  for (size_t i = 0; i < count; i++) {
    const struct step *step = &steps[at + 1 + i];
    int64_t wall_begun = now(CLOCK_MONOTONIC), cpu_begun = now(CLOCK_PROCESS_CPUTIME_ID);
    runtime_decide(step->tokens, step->count, step->kind == KEEP, rows, logits[i]);
    cpu[i] = now(CLOCK_PROCESS_CPUTIME_ID) - cpu_begun;
    wall[i] = now(CLOCK_MONOTONIC) - wall_begun;
  }
  printf("{");
  print("wall_ns", wall, count);
  print("cpu_ns", cpu, count);
  printf("\"logits\": [");
  for (size_t i = 0; i < count; i++) printf("%s[%.9g, %.9g]", i ? ", " : "", logits[i][0], logits[i][1]);
  printf("]}\n");
  fflush(stdout);
  free(wall);
  free(cpu);
  free(logits);
}

int main(int count, char **arguments) {
  struct options options = {NULL, 1, 1};
  const char *events = NULL;
  int is_once = 0;
  for (int i = 1; i < count; i++) {
    const char *name = arguments[i];
    if (!strcmp(name, "--once")) {
      is_once = 1;
      continue;
    }
    if (i + 1 >= count) fail("%s: expected a value", name);
    const char *value = arguments[++i];
    if (!strcmp(name, "--model")) options.model = value;
    else if (!strcmp(name, "--events")) events = value;
    else if (!strcmp(name, "--threads")) options.threads = atoi(value);
    else if (!strcmp(name, "--flash")) options.flash = atoi(value);
    else fail("%s: expected --model, --events, --threads, --flash or --once", name);
  }
  if (!options.model || !events || options.threads < 1) fail("expected --model FILE, --events FILE, --threads 1 or more");
  read_events(events);
  runtime_open(&options);
  if (is_once) {
    run_group(0, 1);
    return 0;
  }
  printf("{\"ready\": true}\n");
  fflush(stdout);
  size_t group;
  while (scanf("%zu", &group) == 1) {
    if (group >= num_groups) fail("group %zu: there are %zu", group, num_groups);
    run_group(group, 0);
  }
  return 0;
}
