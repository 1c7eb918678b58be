#include "archive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smallhold_engine.h"

#define MOST_PARTS 16

const char EVERY_REQUEST[] =
    "{\"about\":true}\n"
    "{\"task\":\"x\",\"text\":\"Red, itchy: 39 \xc2\xb0""C \xd0\xb4\xd0\xb0\",\"explain\":true}\n"
    "{\"task\":\"x\",\"text\":\"Don't  give 1234 mg.\\n\\n \\tI'LL (see) aedaedaedaedaedaedaedaedaedaedaedaedaedaedaedaed!!\"}\n"
    "{\"task\":\"x\",\"patient\":\"7\",\"static\":[1]}\n"
    "{\"task\":\"x\",\"patient\":\"7\",\"observe\":[[\"HR\",118],[\"HR\",1e9]],\"close\":2,\"decide\":true}\n"
    "{\"task\":\"x\",\"patient\":\"7\",\"observe\":[[\"HR\",40.5]],\"close\":true,\"decide\":true,\"explain\":true}\n"
    "{\"task\":\"x\",\"patient\":\"8\",\"static\":{\"age\":-2},\"words\":true,\"observe\":[[\"HR\",90]],\"close\":2,"
    "\"decide\":true}\n"
    "{\"task\":\"x\",\"patient\":\"7\",\"close\":99,\"decide\":true}\n"
    "{\"task\":\"x\",\"patient\":\"7\",\"static\":null}\n";

static void *or_end(void *found, const char *what) {
  if (found == NULL) {
    fprintf(stderr, "fuzz: %s\n", what);
    exit(2);
  }
  return found;
}

static void add(bytes *out, const void *data, size_t size) {
  if (out->size + size >= out->room) {
    out->room = 2 * (out->size + size) + 256;
    out->data = or_end(realloc(out->data, out->room), "no memory left");
  }
  if (size > 0) memcpy(out->data + out->size, data, size);
  out->size += size;
}

static void add_number(bytes *out, uint32_t number, int width) {
  for (int i = 0; i < width; i++) add(out, &(uint8_t){number >> 8 * i & 255}, 1);
}

static uint32_t crc32_of(const uint8_t *data, size_t size) {
  static uint32_t table[256];
  static int is_filled;
  for (uint32_t byte = 0; !is_filled && byte < 256; byte++) {
    uint32_t sum = byte;
    for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
    table[byte] = sum;
  }
  is_filled = 1;
  uint32_t sum = ~0u;
  for (size_t i = 0; i < size; i++) sum = table[(sum ^ data[i]) & 255] ^ sum >> 8;
  return ~sum;
}

/* FIPS 180-4, section 6.2; the constants are 32 bits of the fractions of cube roots of primes. */
static void sha256_of(const uint8_t *data, size_t size, char hex[65]) {
  static const uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  size_t blocks = (size + 8) / 64 + 1;
  for (size_t block = 0; block < blocks; block++) {
    uint32_t w[64] = {0};
    for (size_t i = 0; i < 64; i++) {
      size_t at = 64 * block + i;
      uint8_t byte = at < size ? data[at] : at == size ? 0x80 : 0;
      if (block == blocks - 1 && i >= 56) byte = (uint8_t)((uint64_t)size * 8 >> 8 * (63 - i));
      w[i / 4] = w[i / 4] << 8 | byte;
    }
#define ROTATED(x, by) ((x) >> (by) | (x) << (32 - (by)))
    for (int t = 16; t < 64; t++) {
      uint32_t a = w[t - 15], b = w[t - 2];
      w[t] = w[t - 16] + w[t - 7] + (ROTATED(a, 7) ^ ROTATED(a, 18) ^ a >> 3) + (ROTATED(b, 17) ^ ROTATED(b, 19) ^ b >> 10);
    }
    uint32_t s[8];
    memcpy(s, state, sizeof s);
    for (int t = 0; t < 64; t++) {
      uint32_t a = s[0], e = s[4];
      uint32_t one = s[7] + (ROTATED(e, 6) ^ ROTATED(e, 11) ^ ROTATED(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[t] + w[t];
      uint32_t two = (ROTATED(a, 2) ^ ROTATED(a, 13) ^ ROTATED(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
      memmove(s + 1, s, 7 * sizeof *s);
      s[4] += one;
      s[0] = one + two;
    }
#undef ROTATED
    for (int i = 0; i < 8; i++) state[i] += s[i];
  }
  for (int i = 0; i < 8; i++) sprintf(hex + 8 * i, "%08x", state[i]);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const part *)a)->name, ((const part *)b)->name);
}

static void add_shared(bytes *out, const part *member, uint32_t checksum) {
  static const uint8_t first[] = {20, 0, 0, 0, 0, 0, 0, 0, 33, 0}; /* version, flags, method, time, date */
  add(out, first, sizeof first);
  add_number(out, checksum, 4);
  add_number(out, (uint32_t)member->size, 4);
  add_number(out, (uint32_t)member->size, 4);
  add_number(out, (uint32_t)strlen(member->name), 2);
  add_number(out, 0, 2);
}

bytes archive_of(const part *parts, size_t count) {
  part sorted[MOST_PARTS];
  uint32_t starts[MOST_PARTS];
  or_end(count <= MOST_PARTS ? sorted : NULL, "too many parts");
  if (count > 0) memcpy(sorted, parts, count * sizeof *parts);
  qsort(sorted, count, sizeof *sorted, by_name);
  bytes out = {0}, index = {0};
  for (size_t i = 0; i < count; i++) {
    starts[i] = (uint32_t)out.size;
    add(&out, "PK\3\4", 4);
    uint32_t checksum = crc32_of(sorted[i].data, sorted[i].size);
    add_shared(&out, &sorted[i], checksum);
    add(&out, sorted[i].name, strlen(sorted[i].name));
    add(&out, sorted[i].data, sorted[i].size);
    add(&index, "PK\1\2\24\3", 6);
    add_shared(&index, &sorted[i], checksum);
    add_number(&index, 0, 4); /* comment, disk */
    add_number(&index, 0, 2);
    add_number(&index, 0100644u << 16, 4);
    add_number(&index, starts[i], 4);
    add(&index, sorted[i].name, strlen(sorted[i].name));
  }
  uint32_t start = (uint32_t)out.size;
  if (index.size > 0) add(&out, index.data, index.size);
  add(&out, "PK\5\6\0\0\0\0", 8);
  add_number(&out, (uint32_t)count, 2);
  add_number(&out, (uint32_t)count, 2);
  add_number(&out, (uint32_t)index.size, 4);
  add_number(&out, start, 4);
  add_number(&out, 0, 2);
  free(index.data);
  return out;
}

bytes bundle_of(const part *parts, size_t count, const char *tasks) {
  part all[MOST_PARTS];
  or_end(count < MOST_PARTS ? all : NULL, "too many parts");
  memcpy(all, parts, count * sizeof *parts);
  qsort(all, count, sizeof *all, by_name);
  bytes manifest = {0};
  char text[512], digest[65];
  sha256_of(NULL, 0, digest);
  sprintf(text, "{\"base_digest\":\"%s\",\"context_length\":64,\"created\":\"2025-01-01T00:00:00Z\",\"expires\":null,\"files\":{",
          digest);
  add(&manifest, text, strlen(text));
  for (size_t i = 0; i < count; i++) {
    sha256_of(all[i].data, all[i].size, digest);
    snprintf(text, sizeof text, "%s\"%s\":{\"bytes\":%zu,\"role\":\"part\",\"runtime\":null,\"sha256\":\"%s\"}", i ? "," : "",
             all[i].name, all[i].size, digest);
    add(&manifest, text, strlen(text));
  }
  static const char middle[] = "},\"format_version\":1,\"is_simulated\":true,\"minimum_runtime\":\"0.1.0\",\"name\":\"fuzz\",\"tasks\":";
  static const char last[] = ",\"training_data\":[],\"version\":\"1.0.0\"}";
  add(&manifest, middle, strlen(middle));
  add(&manifest, tasks, strlen(tasks));
  add(&manifest, last, strlen(last));
  all[count] = (part){"manifest.json", manifest.data, manifest.size};
  bytes made = archive_of(all, count + 1);
  free(manifest.data);
  return made;
}

part part_of(const char *name) {
  char path[4096];
  const char *folder = or_end(getenv("SMALLHOLD_FUZZ_PARTS"), "set SMALLHOLD_FUZZ_PARTS to the folder that seeds.py made");
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = or_end(fopen(path, "rb"), path);
  bytes found = {0};
  uint8_t chunk[4096];
  for (size_t got; (got = fread(chunk, 1, sizeof chunk, file)) > 0;) add(&found, chunk, got);
  fclose(file);
  add(&found, "", 1); /* a text ends here; not counted */
  return (part){name, found.data, found.size - 1};
}

void ask(bytes bundle, const uint8_t *requests, size_t size) {
  smallhold_program *program = NULL;
  char message[SMALLHOLD_MESSAGE_BYTES];
  if (smallhold_program_from_bytes(bundle.data, bundle.size, NULL, 0, NULL, &program, message) != SMALLHOLD_OK) return;
  while (size > 0) {
    const uint8_t *end = memchr(requests, '\n', size);
    size_t line = end ? (size_t)(end - requests) : size;
    char *copy = or_end(malloc(line ? line : 1), "no memory left"); /* of its very size, so that reading on shows */
    if (line > 0) memcpy(copy, requests, line);
    const char *answer = NULL;
    smallhold_program_ask(program, copy, line, &answer);
    free(copy);
    if (answer == NULL || answer[0] != '{') abort();
    size -= end ? line + 1 : line;
    requests += line + 1;
  }
  smallhold_program_free(program);
}
