/* The response allocator as Triton's core calls it. Prints what is wrong. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weldpool.h>

#include "fake_triton.h"

static int failures;

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
      failures += 1;                                              \
    }                                                             \
  } while (0)

/* The code of an error, which is freed; its text has to contain a part. */
static uint32_t code_with(weldpool_error_t *error, const char *part) {
  uint32_t code = weldpool_error_code(error);
  CHECK(strstr(weldpool_error_message(error), part) != NULL);
  weldpool_error_free(error);
  return code;
}

#define OK(call) CHECK(code_with(call, "") == 0)

static weldpool_allocator_t *pool(const char *name, uint64_t limit) {
  weldpool_device_t *device = NULL;
  weldpool_allocator_t *allocator = NULL;
  weldpool_config_t config = {.struct_size = sizeof config, .reserved_bytes_max = limit};
  OK(weldpool_device_open(name, &device));
  OK(weldpool_allocator_create(device, &config, &allocator));
  weldpool_device_free(device);
  return allocator;
}

static void refusals(const weldpool_allocator_t *allocator) {
  weldpool_triton_response_allocator_t *made = NULL;
  weldpool_triton_source_t source = {.allocator = allocator, .storage = WELDPOOL_STORAGE_SHARED};
  weldpool_triton_options_t options = {.struct_size = sizeof options, .flags = 64};
  CHECK(code_with(weldpool_triton_response_allocator_create(NULL, 0, NULL, &made), "source") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  CHECK(code_with(weldpool_triton_response_allocator_create(NULL, 1, NULL, &made), "sources") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, &options, &made), "0x40") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  source.storage = WELDPOOL_STORAGE_PRIVATE;
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, NULL, &made), "private") ==
        WELDPOOL_ERROR_UNSUPPORTED);
  source.storage = 9;
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, NULL, &made), "storage mode") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  source.allocator = NULL;
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, NULL, &made), "allocator is null") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  CHECK(made == NULL);
  CHECK(weldpool_triton_response_allocator_handle(NULL) == NULL);
  CHECK(weldpool_triton_response_allocator_userp(NULL) == NULL);
  CHECK(code_with(weldpool_triton_response_allocator_stats(NULL, NULL), "null") == WELDPOOL_ERROR_INVALID_ARGUMENT);
  weldpool_triton_response_allocator_free(NULL);
}

/* One output, as the core obtains it. */
static void *output(weldpool_triton_response_allocator_t *allocator, size_t bytes, int wanted, void **userp, int *type) {
  TRITONSERVER_ResponseAllocator *triton = weldpool_triton_response_allocator_handle(allocator);
  void *given = weldpool_triton_response_allocator_userp(allocator);
  void *buffer = &failures;
  TRITONSERVER_BufferAttributes attributes = {-1, -1, 0};
  int64_t id = 0;
  *type = wanted;
  *userp = &failures;
  CHECK(triton->start(triton, given) == NULL);
  CHECK(triton->alloc(triton, "out", bytes, wanted, 0, given, &buffer, userp, type, &id) == NULL);
  CHECK(triton->attributes(triton, "out", &attributes, given, *userp) == NULL);
  CHECK(attributes.bytes == bytes && attributes.id == id);
  return buffer;
}

int main(void) {
  const size_t megabytes = (size_t)3 << 20;
  weldpool_allocator_t *unified = pool("fake:apple", 4 << 20), *host = pool("host", 4 << 20);
  weldpool_triton_source_t sources[] = {{unified, WELDPOOL_STORAGE_SHARED, 0}, {host, WELDPOOL_STORAGE_SHARED, 0}};
  weldpool_triton_options_t options = {.struct_size = sizeof options, .name = "answers",
                                       .flags = WELDPOOL_TRITON_PLAIN_FALLBACK};
  weldpool_triton_response_allocator_t *allocator = NULL;
  weldpool_triton_stats_t stats = {.struct_size = sizeof stats};
  TRITONSERVER_ResponseAllocator *triton;
  void *buffers[4], *userps[4];
  int types[4], wanted = 2;
  int64_t id = 0;

  refusals(unified);
  OK(weldpool_triton_response_allocator_create(sources, 2, &options, &allocator));
  triton = weldpool_triton_response_allocator_handle(allocator);
  CHECK(triton->query(triton, weldpool_triton_response_allocator_userp(allocator), NULL, NULL, &wanted, &id) == NULL);
  CHECK(wanted == 0);
  for (int at = 0; at < 3; at += 1) {
    buffers[at] = output(allocator, megabytes, 2, &userps[at], &types[at]);
    CHECK(buffers[at] != NULL && types[at] == 0);
    memset(buffers[at], at, megabytes);
  }
  buffers[3] = output(allocator, 0, 0, &userps[3], &types[3]);
  CHECK(buffers[3] == NULL && userps[3] == NULL);
  OK(weldpool_triton_response_allocator_stats(allocator, &stats));
  CHECK(stats.responses == 4 && stats.allocations == 3 && stats.empty == 1 && stats.fallbacks == 2 && stats.queries == 1);
  CHECK(stats.live_buffers == 3 && stats.live_bytes == 3 * megabytes && stats.live_bytes_peak == 3 * megabytes);
  CHECK(triton->release(triton, buffers[0], userps[0], megabytes, 0, 0) == NULL);
  OK(weldpool_triton_response_allocator_stats(allocator, &stats));
  CHECK(stats.releases == 1 && stats.live_buffers == 2);

  /* Responses outlive the allocator and the handles of the pools. */
  weldpool_triton_response_allocator_free(allocator);
  weldpool_allocator_free(unified);
  weldpool_allocator_free(host);
  CHECK(allocators == 1);
  for (int at = 1; at < 3; at += 1) {
    CHECK(((unsigned char *)buffers[at])[megabytes - 1] == at);
    CHECK(triton->release(triton, buffers[at], userps[at], megabytes, 0, 0) == NULL);
  }
  CHECK(allocators == 0 && errors == 0);
  if (failures == 0) printf("right\n");
  return failures != 0;
}
