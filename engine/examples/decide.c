/* Ask a bundle from C.
 *
 *     cc decide.c -I ../include -L ../target/release -lsmallhold_engine -o decide
 *     ./decide BUNDLE KEYS.pem '{"task": "triage", "text": "Red, itchy patches on both elbows."}' ...
 */
#include <smallhold_engine.h>
#include <stdio.h>
#include <string.h>

static char keys[1 << 16];

int main(int count, char **words) {
  char message[SMALLHOLD_MESSAGE_BYTES];
  smallhold_program *program = NULL;
  int worst = SMALLHOLD_OK;
  if (count < 3) {
    fprintf(stderr, "usage: decide BUNDLE KEYS.pem REQUEST...\n");
    return 2;
  }
  FILE *file = fopen(words[2], "rb");
  if (file == NULL) {
    perror(words[2]);
    return 2;
  }
  keys[fread(keys, 1, sizeof keys - 1, file)] = '\0';
  fclose(file);
  if (smallhold_program_open(words[1], keys, NULL, &program, message) != SMALLHOLD_OK) {
    fprintf(stderr, "error: %s\n", message);
    return 2;
  }
  for (int i = 3; i < count; i++) {
    const char *answer = NULL;
    int kind = smallhold_program_ask(program, words[i], strlen(words[i]), &answer);
    if (kind != SMALLHOLD_OK) worst = kind;
    puts(answer);
  }
  smallhold_program_free(program);
  return worst == SMALLHOLD_OK ? 0 : 1;
}
