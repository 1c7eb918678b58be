/* Requests, one a line, to a program with a text task `x` and a task of readings `y`. */
#include <stdlib.h>

#include "archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bytes bundle;
  static part trunk, encoder, ngrams, text, signal;
  if (bundle.data == NULL) {
    trunk = part_of("trunk.gguf"), encoder = part_of("encoder.gguf"), ngrams = part_of("ngrams.npz");
    text = part_of("text.json"), signal = part_of("signal-y.json");
    part parts[] = {{"gguf/trunk.gguf", trunk.data, trunk.size},
                    {"gguf/x.encoder.gguf", encoder.data, encoder.size},
                    {"ngrams/x.npz", ngrams.data, ngrams.size},
                    {"tasks/x.json", text.data, text.size},
                    {"tasks/y.json", signal.data, signal.size}};
    bundle = bundle_of(parts, 5, "[\"x\",\"y\"]");
  }
  ask(bundle, data, size);
  return 0;
}
