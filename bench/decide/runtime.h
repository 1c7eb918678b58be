/* What the driver asks of a runtime: one sequence that grows, is asked, and forgets. Failures end the process. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stddef.h>
#include <stdint.h>

struct options {
  const char *model; /* GGUF file */
  int threads;
  int flash; /* 1: flash attention, where the runtime has a choice */
};

void runtime_open(const struct options *options);
/* Forget all positions from `length` on. */
void runtime_rewind(size_t length);
/* Add tokens for good, without an answer. */
void runtime_append(const int32_t *tokens, size_t count);
/* Logits of two tokens after these tokens. They stay where `keeps`; else the sequence is as before. */
void runtime_decide(const int32_t *tokens, size_t count, int keeps, const int32_t rows[2], float logits[2]);

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
