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
  weldpool_triton_source_t many[65];
  CHECK(code_with(weldpool_triton_response_allocator_create(NULL, 0, NULL, &made), "source") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  CHECK(code_with(weldpool_triton_response_allocator_create(NULL, 1, NULL, &made), "sources") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, &options, &made), "0x40") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  options.flags = 0;
  options.unused = 1;
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, &options, &made), "options.unused is 1") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  options.unused = 0;
  source.unused = 7;
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, &options, &made), "sources[].unused is 7") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  source.unused = 0;
  for (int at = 0; at < 65; at += 1) many[at] = source;
  CHECK(code_with(weldpool_triton_response_allocator_create(many, 65, &options, &made), "at most 64") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  OK(weldpool_triton_response_allocator_create(many, 64, &options, &made));
  weldpool_triton_response_allocator_free(made);
  options.flags = WELDPOOL_TRITON_PLAIN_FALLBACK;
  CHECK(code_with(weldpool_triton_response_allocator_create(many, 64, &options, &made), "at most 64") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  OK(weldpool_triton_response_allocator_create(many, 63, &options, &made));
  weldpool_triton_response_allocator_free(made);
  made = NULL;
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
  struct TRITONSERVER_ResponseAllocator *triton = weldpool_triton_response_allocator_handle(allocator);
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

/* The code of an error of Triton's, which is deleted; its text has to contain a part. */
static int told(TRITONSERVER_Error *error, const char *part) {
  int code;
  CHECK(error != NULL);
  if (error == NULL) return -1;
  code = error->code;
  CHECK(strstr(TRITONSERVER_ErrorMessage(error), part) != NULL);
  TRITONSERVER_ErrorDelete(error);
  return code;
}

/* After an error of the attributes function nobody calls release: it has freed the buffer. */
static void refused_attributes(const weldpool_allocator_t *pool) {
  weldpool_triton_response_allocator_t *allocator = NULL;
  weldpool_triton_source_t source = {.allocator = pool, .storage = WELDPOOL_STORAGE_SHARED};
  weldpool_triton_stats_t stats = {.struct_size = sizeof stats};
  weldpool_stats_t of_pool = {.struct_size = sizeof of_pool};
  TRITONSERVER_ResponseAllocator *triton;
  TRITONSERVER_BufferAttributes attributes = {-1, -1, 0};
  int64_t id = 0;
  int type = 0;
  OK(weldpool_triton_response_allocator_create(&source, 1, NULL, &allocator));
  triton = weldpool_triton_response_allocator_handle(allocator);
  for (int setter = 1; setter <= 3; setter += 1) {
    void *given = weldpool_triton_response_allocator_userp(allocator), *buffer = NULL, *userp = NULL;
    CHECK(triton->alloc(triton, "out", 1000, 0, 0, given, &buffer, &userp, &type, &id) == NULL);
    failing_setter = setter;
    CHECK(told(triton->attributes(triton, "out", &attributes, given, userp), "on purpose") == 1);
    failing_setter = 0;
    CHECK(errors == 0);
    OK(weldpool_triton_response_allocator_stats(allocator, &stats));
    CHECK(stats.reclaimed == (uint64_t)setter && stats.live_buffers == 0 && stats.releases == 0);
    OK(weldpool_allocator_stats(pool, &of_pool));
    CHECK(of_pool.live_bytes == 0);
  }
  weldpool_triton_response_allocator_free(allocator);
}

/* Without a fallback an output that no source has memory for fails, and the next is served. */
static void exhaustion(const weldpool_allocator_t *pool) {
  weldpool_triton_response_allocator_t *allocator = NULL;
  weldpool_triton_source_t source = {.allocator = pool, .storage = WELDPOOL_STORAGE_SHARED};
  weldpool_triton_stats_t stats = {.struct_size = sizeof stats};
  TRITONSERVER_ResponseAllocator *triton;
  void *given, *buffer = &failures, *userp = &failures;
  int64_t id = 0;
  int type = 0;
  OK(weldpool_triton_response_allocator_create(&source, 1, NULL, &allocator));
  triton = weldpool_triton_response_allocator_handle(allocator);
  given = weldpool_triton_response_allocator_userp(allocator);
  CHECK(told(triton->alloc(triton, "out", 64 << 20, 0, 0, given, &buffer, &userp, &type, &id), "'out'") == 4);
  CHECK(buffer == NULL && userp == NULL && errors == 0);
  OK(weldpool_triton_response_allocator_stats(allocator, &stats));
  CHECK(stats.failures == 1 && stats.allocations == 0);
  buffer = output(allocator, 1000, 0, &userp, &type);
  CHECK(buffer != NULL && triton->release(triton, buffer, userp, 1000, 0, 0) == NULL);
  weldpool_triton_response_allocator_free(allocator);
}

/* The nearest memory is first, unless the list is to be kept to. */
static void orders(const weldpool_allocator_t *host) {
  weldpool_allocator_t *pinned = pool("fake:discrete", 4 << 20);
  weldpool_triton_source_t sources[] = {{pinned, WELDPOOL_STORAGE_SHARED, 0}, {host, WELDPOOL_STORAGE_SHARED, 0}};
  weldpool_triton_options_t options = {.struct_size = sizeof options};
  for (int listed = 0; listed <= 1; listed += 1) {
    weldpool_triton_response_allocator_t *allocator = NULL;
    TRITONSERVER_ResponseAllocator *triton;
    void *buffer, *userp;
    int type;
    options.flags = listed ? WELDPOOL_TRITON_LISTED_ORDER : 0;
    OK(weldpool_triton_response_allocator_create(sources, 2, &options, &allocator));
    triton = weldpool_triton_response_allocator_handle(allocator);
    buffer = output(allocator, 1000, 0, &userp, &type);
    CHECK(type == listed); /* 1 is pinned memory */
    CHECK(triton->release(triton, buffer, userp, 1000, type, 0) == NULL);
    weldpool_triton_response_allocator_free(allocator);
  }
  weldpool_allocator_free(pinned);
}

/* Callers of other versions: theirs is shorter, or has a field more. */
static void sizes(const weldpool_allocator_t *pool) {
  weldpool_triton_response_allocator_t *allocator = NULL;
  weldpool_triton_source_t source = {.allocator = pool, .storage = WELDPOOL_STORAGE_SHARED};
  /* What lies behind the two fields that an older caller knows is not his. */
  struct {
    size_t struct_size;
    const char *name;
    uint64_t behind;
  } older = {.struct_size = 2 * sizeof(size_t), .name = "older", .behind = UINT64_MAX};
  struct {
    weldpool_triton_options_t known;
    uint64_t more;
  } newer = {.known = {.struct_size = sizeof newer, .name = "newer"}, .more = 0};
  struct {
    size_t struct_size;
    uint64_t responses, behind;
  } small = {.struct_size = 16, .responses = 9, .behind = 77};
  struct {
    weldpool_triton_stats_t known;
    uint64_t more;
  } large = {.known = {.struct_size = sizeof large}, .more = 77};
  OK(weldpool_triton_response_allocator_create(&source, 1, (const weldpool_triton_options_t *)(const void *)&older,
                                               &allocator));
  weldpool_triton_response_allocator_free(allocator);
  OK(weldpool_triton_response_allocator_create(&source, 1, &newer.known, &allocator));
  OK(weldpool_triton_response_allocator_stats(allocator, (weldpool_triton_stats_t *)(void *)&small));
  CHECK(small.struct_size == 16 && small.responses == 0 && small.behind == 77);
  OK(weldpool_triton_response_allocator_stats(allocator, &large.known));
  CHECK(large.known.struct_size == sizeof large && large.more == 0);
  weldpool_triton_response_allocator_free(allocator);
  newer.more = 1;
  CHECK(code_with(weldpool_triton_response_allocator_create(&source, 1, &newer.known, &allocator), "does not know") ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
  CHECK(allocator == NULL);
}

int main(void) {
  const size_t megabytes = (size_t)3 << 20;
  weldpool_allocator_t *unified = pool("fake:apple", 4 << 20), *host = pool("host", 4 << 20);
  weldpool_triton_source_t sources[] = {{unified, WELDPOOL_STORAGE_SHARED, 0}, {host, WELDPOOL_STORAGE_SHARED, 0}};
  weldpool_triton_options_t options = {.struct_size = sizeof options, .name = "answers",
                                       .flags = WELDPOOL_TRITON_PLAIN_FALLBACK};
  weldpool_triton_response_allocator_t *allocator = NULL;
  weldpool_triton_stats_t stats = {.struct_size = sizeof stats};
  struct TRITONSERVER_ResponseAllocator *triton;
  void *buffers[4], *userps[4];
  int types[4], wanted = 2;
  int64_t id = 0;

  refusals(unified);
  refused_attributes(host);
  exhaustion(host);
  orders(host);
  sizes(host);
  CHECK(allocators == 0);
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
