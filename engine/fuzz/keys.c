/* PEM keys, before the golden envelope. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"
#include "smallhold_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part envelope, manifest;
  if (manifest.data == NULL) envelope = part_of("golden.dsse.json"), manifest = part_of("golden.json");
  part parts[] = {{"manifest.dsse.json", envelope.data, envelope.size}, {"manifest.json", manifest.data, manifest.size}};
  bytes bundle = archive_of(parts, 2);
  char *text = malloc(size + 1), message[SMALLHOLD_MESSAGE_BYTES];
  if (text == NULL) abort();
  if (size > 0) memcpy(text, data, size);
  text[size] = 0;
  smallhold_program *program;
  if (smallhold_program_from_bytes(bundle.data, bundle.size, text, 0, NULL, &program, message) == SMALLHOLD_OK) abort();
  free(text);
  free(bundle.data);
  return 0;
}
