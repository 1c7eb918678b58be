/* The tokenizer, which lies in the weight file, and texts cut by it. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static part task;
  if (task.data == NULL) task = part_of("text-alone.json");
  part parts[] = {{"gguf/trunk.gguf", data, size}, {"tasks/x.json", task.data, task.size}};
  bytes bundle = bundle_of(parts, 2, "[\"x\"]");
  ask(bundle, (const uint8_t *)EVERY_REQUEST, strlen(EVERY_REQUEST));
  free(bundle.data);
  return 0;
}
