/* Task files: decision plan, scales of readings, words, calibration. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part trunk, encoder, ngrams;
  if (trunk.data == NULL) trunk = part_of("trunk.gguf"), encoder = part_of("encoder.gguf"), ngrams = part_of("ngrams.npz");
  part parts[] = {{"gguf/trunk.gguf", trunk.data, trunk.size},
                  {"gguf/x.encoder.gguf", encoder.data, encoder.size},
                  {"ngrams/x.npz", ngrams.data, ngrams.size},
                  {"tasks/x.json", data, size}};
  bytes bundle = bundle_of(parts, 4, "[\"x\"]");
  ask(bundle, (const uint8_t *)EVERY_REQUEST, strlen(EVERY_REQUEST));
  free(bundle.data);
  return 0;
}
