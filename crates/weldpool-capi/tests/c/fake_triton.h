/* The functions of Triton that the response allocator calls, in the program itself. For C and C++, in one file of it. */
#ifndef FAKE_TRITON_H
#define FAKE_TRITON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As tritonserver.h has them; enumerations are ints. */
typedef struct TRITONSERVER_Error {
  int code;
  char text[512];
} TRITONSERVER_Error;
typedef struct TRITONSERVER_ResponseAllocator TRITONSERVER_ResponseAllocator;
typedef struct TRITONSERVER_BufferAttributes {
  int memory_type;
  int64_t id;
  size_t bytes;
} TRITONSERVER_BufferAttributes;
typedef TRITONSERVER_Error *(*alloc_fn)(TRITONSERVER_ResponseAllocator *, const char *, size_t, int, int64_t, void *, void **,
                                        void **, int *, int64_t *);
typedef TRITONSERVER_Error *(*release_fn)(TRITONSERVER_ResponseAllocator *, void *, void *, size_t, int, int64_t);
typedef TRITONSERVER_Error *(*start_fn)(TRITONSERVER_ResponseAllocator *, void *);
typedef TRITONSERVER_Error *(*attributes_fn)(TRITONSERVER_ResponseAllocator *, const char *, TRITONSERVER_BufferAttributes *,
                                             void *, void *);
typedef TRITONSERVER_Error *(*query_fn)(TRITONSERVER_ResponseAllocator *, void *, const char *, size_t *, int *, int64_t *);
struct TRITONSERVER_ResponseAllocator {
  alloc_fn alloc;
  release_fn release;
  start_fn start;
  attributes_fn attributes;
  query_fn query;
};

/* Objects that are not deleted, and the setter of attributes that fails, by its number from 1; 0 for none. */
static int errors, allocators, failing_setter;

TRITONSERVER_Error *TRITONSERVER_ApiVersion(uint32_t *major, uint32_t *minor) {
  *major = 1;
  *minor = 34;
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *message) {
  TRITONSERVER_Error *error = (TRITONSERVER_Error *)calloc(1, sizeof *error);
  if (error == NULL) abort();
  error->code = code;
  snprintf(error->text, sizeof error->text, "%s", message);
  errors += 1;
  return error;
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
  errors -= 1;
  free(error);
}

const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) { return error->text; }

static TRITONSERVER_Error *of_setter(int number) {
  return number == failing_setter ? TRITONSERVER_ErrorNew(1, "on purpose") : NULL;
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetMemoryType(TRITONSERVER_BufferAttributes *attributes, int type) {
  attributes->memory_type = type;
  return of_setter(1);
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetMemoryTypeId(TRITONSERVER_BufferAttributes *attributes, int64_t id) {
  attributes->id = id;
  return of_setter(2);
}

TRITONSERVER_Error *TRITONSERVER_BufferAttributesSetByteSize(TRITONSERVER_BufferAttributes *attributes, size_t bytes) {
  attributes->bytes = bytes;
  return of_setter(3);
}

TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorNew(TRITONSERVER_ResponseAllocator **allocator, alloc_fn alloc,
                                                      release_fn release, start_fn start) {
  *allocator = (TRITONSERVER_ResponseAllocator *)calloc(1, sizeof **allocator);
  if (*allocator == NULL) abort();
  (*allocator)->alloc = alloc;
  (*allocator)->release = release;
  (*allocator)->start = start;
  allocators += 1;
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorSetBufferAttributesFunction(TRITONSERVER_ResponseAllocator *allocator,
                                                                              attributes_fn function) {
  allocator->attributes = function;
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorSetQueryFunction(TRITONSERVER_ResponseAllocator *allocator,
                                                                   query_fn function) {
  allocator->query = function;
  return NULL;
}

TRITONSERVER_Error *TRITONSERVER_ResponseAllocatorDelete(TRITONSERVER_ResponseAllocator *allocator) {
  allocators -= 1;
  free(allocator);
  return NULL;
}

#ifdef __cplusplus
}
#endif

#endif
