/* Decisions of small language models: the C interface of the Smallhold engine.
 *
 * Functions that can fail return 0, or a kind of failure, and write a sentence into `message`
 * (SMALLHOLD_MESSAGE_BYTES bytes, or NULL). A session is used by one thread at a time; sessions of one model are
 * independent. Pointers come from this library and are freed once.
 */
#ifndef SMALLHOLD_ENGINE_H
#define SMALLHOLD_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SMALLHOLD_MESSAGE_BYTES 512

enum smallhold_kind {
  SMALLHOLD_OK = 0,
  SMALLHOLD_MALFORMED = 1,   /* a file is truncated, damaged, or says impossible things */
  SMALLHOLD_UNSUPPORTED = 2, /* well formed, but not computed here */
  SMALLHOLD_SHAPE = 3,       /* an argument has another shape, or an index lies outside */
  SMALLHOLD_CAPACITY = 4,    /* the context is full */
  SMALLHOLD_MEMORY = 5,      /* no memory left */
  SMALLHOLD_SYSTEM = 6,      /* a file cannot be read */
  SMALLHOLD_UNTRUSTED = 7    /* unsigned, signed by nobody who is trusted, altered, or expired */
};

typedef struct smallhold_model smallhold_model;
typedef struct smallhold_session smallhold_session;
typedef struct smallhold_program smallhold_program;

typedef struct {
  uint64_t vocab_size;     /* V */
  uint64_t width;          /* D */
  uint64_t context_length; /* positions that a session may hold */
  uint64_t layers;         /* L */
} smallhold_info;

/* A bundle with all of its tasks, asked by JSON: the whole of the engine in one call. `keys`: PEM texts one behind the
 * other, one of which has to have signed the bundle, or NULL where the host has verified it. `path`: a folder or one
 * file; from memory: one file, copied, and `now` in seconds since 1970, 0 where there is no clock. */
int smallhold_program_open(const char *path, const char *keys, const char *kernels, smallhold_program **program,
                           char *message);
int smallhold_program_from_bytes(const uint8_t *data, size_t length, const char *keys, uint64_t now,
                                 const char *kernels, smallhold_program **program, char *message);
/* Compute with `count` threads from now on, the caller among them; once. Without: one. The answers are the same bits. */
int smallhold_program_set_threads(const smallhold_program *program, size_t count, char *message);
/* The answer is JSON in UTF-8, of failures too, and stays until the next call; see src/program.rs for requests. A program
 * is used by one thread at a time. */
int smallhold_program_ask(smallhold_program *program, const char *request, size_t length, const char **answer);
void smallhold_program_free(smallhold_program *program);

/* Kernel families of this processor, the fastest first, separated by spaces. */
const char *smallhold_kernels(void);

/* Map a GGUF file (it must not change meanwhile), or read one from memory (copied). `kernels`: a family, or NULL for
 * the fastest. */
int smallhold_model_open(const char *path, const char *kernels, const smallhold_model **model, smallhold_info *info,
                         char *message);
int smallhold_model_from_bytes(const uint8_t *data, size_t length, const char *kernels, const smallhold_model **model,
                               smallhold_info *info, char *message);
/* Compute with `count` threads from now on, the caller among them; once a model. Without: one. Results are the same bits
 * whatever their number; where several sessions compute at once, one of them has the helpers. */
int smallhold_model_set_threads(const smallhold_model *model, size_t count, char *message);
/* Keep keys and values of sessions that begin from now on in 8 bits, each vector of a head with a step of its own, or in
 * 32, as without. 8 take a quarter of the memory, and are a little less exact. */
int smallhold_model_set_cache_bits(const smallhold_model *model, size_t bits, char *message);
/* Open sessions keep the model alive. */
void smallhold_model_free(const smallhold_model *model);

smallhold_session *smallhold_session_new(const smallhold_model *model);
/* An independent copy that shares memory until one of the two writes. */
smallhold_session *smallhold_session_fork(const smallhold_session *session);
void smallhold_session_free(smallhold_session *session);

uint64_t smallhold_session_length(const smallhold_session *session);
uint64_t smallhold_session_kv_bytes(const smallhold_session *session);

/* Forget all positions from `length` on. */
int smallhold_session_rewind(smallhold_session *session, uint64_t length, char *message);

/* Add `count` positions for good: tokens (count,) or embeddings (count, D), the other NULL. */
int smallhold_session_append(smallhold_session *session, const uint32_t *tokens, const float *embeddings, size_t count,
                             char *message);

/* Logits (num_at, R) of the next token at positions `at` of inputs that are tried and forgotten; -1 is the last position
 * appended, known directly after an append. `rows` are the R token ids asked for, or NULL for all V. */
int smallhold_session_score(smallhold_session *session, const uint32_t *tokens, const float *embeddings, size_t count,
                            const int64_t *at, size_t num_at, const uint32_t *rows, size_t num_rows, float *out,
                            char *message);

/* How the next token is chosen: logits are divided by `temperature`, 0 takes the most probable token always; among the
 * `top_k` most probable ones, 0: all; among the fewest that together reach the probability `top_p`, 1: all. */
typedef struct {
  float temperature;
  float top_p;
  uint64_t seed; /* the same seed draws the same tokens */
  uint32_t top_k;
} smallhold_sampling;

/* Go on with at most `most` tokens, known directly after an append; they are appended, and written to `out`, their
 * number to `count`. One of `stop` ends the text and is not part of it. `how`: NULL takes the most probable always. */
int smallhold_session_generate(smallhold_session *session, const smallhold_sampling *how, const uint32_t *stop,
                               size_t num_stop, size_t most, uint32_t *out, size_t *count, char *message);

/* The signal encoder of a task: embeddings (count, D) of channels (count, C), or, where `count` is 0, the embedding (D,)
 * of static features (S,) that begins a sequence. */
typedef struct smallhold_signal smallhold_signal;
int smallhold_signal_from_bytes(const uint8_t *data, size_t length, const char *kernels, smallhold_signal **encoder,
                                char *message);
void smallhold_signal_free(smallhold_signal *encoder);
int smallhold_signal_encode(const smallhold_signal *encoder, const float *from, size_t count, float *out, char *message);

#ifdef __cplusplus
}
#endif
#endif
