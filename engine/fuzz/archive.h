/* A bundle in one file around the bytes of a fuzzer: right sizes, checksums and digests, which no mutation finds. */
#ifndef SMALLHOLD_FUZZ_ARCHIVE_H
#define SMALLHOLD_FUZZ_ARCHIVE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  const char *name;
  const uint8_t *data;
  size_t size;
} part;

typedef struct {
  uint8_t *data;
  size_t size, room;
} bytes;

/* Parts as the one ZIP layout of a bundle, sorted by name; freed by the caller. */
bytes archive_of(const part *parts, size_t count);

/* Parts with a manifest that lists them and the tasks of `tasks`, a JSON list; freed by the caller. */
bytes bundle_of(const part *parts, size_t count, const char *tasks);

/* A file of the folder in the variable SMALLHOLD_FUZZ_PARTS (see seeds.py), read once; the process ends without it. */
part part_of(const char *name);

/* Open a bundle that its host has verified and ask it line by line. Everything may fail; nothing may crash. */
void ask(bytes bundle, const uint8_t *requests, size_t size);

/* Requests to a text task and to a task of readings, both named `x`: every door and every explanation. */
extern const char EVERY_REQUEST[];

#endif
