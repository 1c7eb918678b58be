/* The n-gram classifier's .npz, and a text that it weighs. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part trunk, task;
  if (trunk.data == NULL) trunk = part_of("trunk.gguf"), task = part_of("text.json");
  part parts[] = {{"gguf/trunk.gguf", trunk.data, trunk.size},
                  {"ngrams/x.npz", data, size},
                  {"tasks/x.json", task.data, task.size}};
  bytes bundle = bundle_of(parts, 3, "[\"x\"]");
  ask(bundle, (const uint8_t *)EVERY_REQUEST, strlen(EVERY_REQUEST));
  free(bundle.data);
  return 0;
}
