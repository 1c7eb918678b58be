/* The weights of a signal encoder, alone and under a task that reads with them. */
#include <stdlib.h>
#include <string.h>

#include "archive.h"
#include "smallhold_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  smallhold_signal *encoder;
  char message[SMALLHOLD_MESSAGE_BYTES];
  if (smallhold_signal_from_bytes(data, size, NULL, &encoder, message) != SMALLHOLD_OK) return 0;
  smallhold_signal_free(encoder);
  static part trunk, task;
  if (task.data == NULL) trunk = part_of("trunk.gguf"), task = part_of("signal.json");
  part parts[] = {{"gguf/trunk.gguf", trunk.data, trunk.size},
                  {"gguf/x.encoder.gguf", data, size},
                  {"tasks/x.json", task.data, task.size}};
  bytes bundle = bundle_of(parts, 3, "[\"x\"]");
  ask(bundle, (const uint8_t *)EVERY_REQUEST, strlen(EVERY_REQUEST));
  free(bundle.data);
  return 0;
}
