/* The C interface for the Java virtual machine; Engine.kt says the same in Kotlin. */
#include <jni.h>
#include <stdlib.h>
#include <string.h>

#include "smallhold_engine.h"

static jbyteArray array_of(JNIEnv *env, const char *text) {
  jsize length = (jsize)strlen(text);
  jbyteArray array = (*env)->NewByteArray(env, length);
  if (array != NULL) (*env)->SetByteArrayRegion(env, array, 0, length, (const jbyte *)text);
  return array;
}

static void fail(JNIEnv *env, jclass native, int kind, const char *message) {
  jmethodID failure =
      (*env)->GetStaticMethodID(env, native, "failure", "(I[B)Lsmallhold/engine/EngineException;");
  jbyteArray words = array_of(env, message);
  if (failure == NULL || words == NULL) return; /* the machine has thrown already */
  jthrowable thrown = (jthrowable)(*env)->CallStaticObjectMethod(env, native, failure, (jint)kind, words);
  if (!(*env)->ExceptionCheck(env) && thrown != NULL) (*env)->Throw(env, thrown);
}

/* A copy of an array with a zero behind it; NULL, and a failure thrown, where there is no memory. */
static char *text_of(JNIEnv *env, jclass native, jbyteArray array, jsize *length) {
  *length = (*env)->GetArrayLength(env, array);
  char *text = malloc((size_t)*length + 1);
  if (text == NULL) {
    fail(env, native, SMALLHOLD_MEMORY, "no memory left for a text");
    return NULL;
  }
  (*env)->GetByteArrayRegion(env, array, 0, *length, (jbyte *)text);
  text[*length] = 0;
  return text;
}

static jlong opened(JNIEnv *env, jclass native, int kind, smallhold_program *program, const char *message) {
  if (kind == SMALLHOLD_OK) return (jlong)(intptr_t)program;
  fail(env, native, kind, message);
  return 0;
}

JNIEXPORT jlong JNICALL Java_smallhold_engine_Native_open(JNIEnv *env, jclass native, jbyteArray path, jbyteArray keys) {
  jsize length;
  smallhold_program *program = NULL;
  char message[SMALLHOLD_MESSAGE_BYTES] = "", *path_text = text_of(env, native, path, &length), *keys_text = NULL;
  if (path_text == NULL) return 0;
  if (keys != NULL && (keys_text = text_of(env, native, keys, &length)) == NULL) {
    free(path_text);
    return 0;
  }
  int kind = smallhold_program_open(path_text, keys_text, NULL, &program, message);
  free(keys_text);
  free(path_text);
  return opened(env, native, kind, program, message);
}

JNIEXPORT jlong JNICALL Java_smallhold_engine_Native_of(JNIEnv *env, jclass native, jbyteArray bundle, jbyteArray keys,
                                                         jlong now) {
  jsize length;
  smallhold_program *program = NULL;
  char message[SMALLHOLD_MESSAGE_BYTES] = "", *keys_text = NULL;
  if (keys != NULL && (keys_text = text_of(env, native, keys, &length)) == NULL) return 0;
  jbyte *bytes = (*env)->GetByteArrayElements(env, bundle, NULL);
  if (bytes == NULL) {
    free(keys_text);
    return 0; /* the machine has thrown already */
  }
  int kind = smallhold_program_from_bytes((const uint8_t *)bytes, (size_t)(*env)->GetArrayLength(env, bundle), keys_text,
                                          (uint64_t)now, NULL, &program, message);
  (*env)->ReleaseByteArrayElements(env, bundle, bytes, JNI_ABORT);
  free(keys_text);
  return opened(env, native, kind, program, message);
}

JNIEXPORT jbyteArray JNICALL Java_smallhold_engine_Native_ask(JNIEnv *env, jclass native, jlong handle,
                                                               jbyteArray request) {
  jsize length;
  const char *answer;
  char *text = text_of(env, native, request, &length);
  if (text == NULL) return NULL;
  smallhold_program_ask((smallhold_program *)(intptr_t)handle, text, (size_t)length, &answer); /* tells of failures too */
  free(text);
  return array_of(env, answer);
}

JNIEXPORT void JNICALL Java_smallhold_engine_Native_free(JNIEnv *env, jclass native, jlong handle) {
  (void)env, (void)native;
  smallhold_program_free((smallhold_program *)(intptr_t)handle);
}
