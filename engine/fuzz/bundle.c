/* A bundle in one file: raw, or made of what the fuzzer says and then damaged, because no mutation finds a checksum.
 *
 * A made one is 0, then the number of damages, for each two bytes of place and one to flip with; then members, each the
 * length of its name, the name, two bytes of length and the content. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"
#include "smallhold_engine.h"

static void open_it(const uint8_t *data, size_t size, const char *keys) {
  smallhold_program *program;
  char message[SMALLHOLD_MESSAGE_BYTES];
  uint64_t now = 1800000000;
  if (smallhold_program_from_bytes(data, size, keys, now, NULL, &program, message) == SMALLHOLD_OK)
    smallhold_program_free(program);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part keys;
  if (keys.data == NULL) keys = part_of("golden.pem");
  if (size == 0 || data[0] != 0) {
    open_it(data, size, NULL);
    open_it(data, size, (const char *)keys.data);
    return 0;
  }
  size_t damages = size > 1 ? data[1] : 0, at = 2 + 3 * damages, count = 0;
  part parts[16];
  char names[16][256];
  while (count < 16 && at < size && at + 1 + data[at] + 2 <= size) {
    size_t length = data[at];
    memcpy(names[count], data + at + 1, length);
    names[count][length] = 0;
    at += 1 + length;
    size_t content = data[at] | data[at + 1] << 8;
    at += 2;
    if (content > size - at) content = size - at;
    parts[count] = (part){names[count], data + at, content};
    at += content;
    count++;
  }
  bytes made = archive_of(parts, count);
  for (size_t i = 0; i < damages && 2 + 3 * i + 2 < size; i++) {
    const uint8_t *damage = data + 2 + 3 * i;
    made.data[(damage[0] | damage[1] << 8) % made.size] ^= damage[2];
  }
  open_it(made.data, made.size, NULL);
  open_it(made.data, made.size, (const char *)keys.data);
  free(made.data);
  return 0;
}
