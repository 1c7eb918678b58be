/* A manifest that the host has verified, with the files of a whole bundle beside it. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part trunk, task;
  if (trunk.data == NULL) trunk = part_of("trunk.gguf"), task = part_of("text-alone.json");
  part parts[] = {{"gguf/trunk.gguf", trunk.data, trunk.size},
                  {"manifest.json", data, size},
                  {"tasks/x.json", task.data, task.size}};
  bytes bundle = archive_of(parts, 3);
  ask(bundle, (const uint8_t *)EVERY_REQUEST, strlen(EVERY_REQUEST));
  free(bundle.data);
  return 0;
}
