/* A DSSE envelope beside the golden manifest, and the golden key: decoding, encoding for the signature, ed25519. */
#include <stdlib.h>

#include "archive.h"
#include "smallhold_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part keys, manifest;
  if (keys.data == NULL) keys = part_of("golden.pem"), manifest = part_of("golden.json");
  part parts[] = {{"manifest.dsse.json", data, size}, {"manifest.json", manifest.data, manifest.size}};
  bytes bundle = archive_of(parts, 2);
  smallhold_program *program;
  char message[SMALLHOLD_MESSAGE_BYTES];
  int kind = smallhold_program_from_bytes(bundle.data, bundle.size, (const char *)keys.data, 0, NULL, &program, message);
  free(bundle.data);
  if (kind != SMALLHOLD_UNTRUSTED) abort(); /* its files are missing, so there is no other end */
  return 0;
}
