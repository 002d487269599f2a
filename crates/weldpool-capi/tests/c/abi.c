/* What the binary interface promises: wrong arguments, sizes of structures, errors, ownership. Prints what is wrong. */
#define _POSIX_C_SOURCE 200112L /* setenv */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weldpool.h>

static int failures;

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
      failures += 1;                                              \
    }                                                             \
  } while (0)

/* The code of an error, which is freed; its text has to be there, and to contain a part. */
static uint32_t code_with(weldpool_error_t *error, const char *part, int line) {
  uint32_t code = weldpool_error_code(error);
  const char *message = weldpool_error_message(error);
  if ((error != NULL) != (message[0] != '\0') || strstr(message, part) == NULL) {
    printf("line %d: the text is \"%s\", without \"%s\"\n", line, message, part);
    failures += 1;
  }
  weldpool_error_free(error);
  return code;
}

#define CODE(call, part) code_with(call, part, __LINE__)
#define OK(call) CHECK(CODE(call, "") == 0)
#define REFUSED(call, part) CHECK(CODE(call, part) == WELDPOOL_ERROR_INVALID_ARGUMENT)

static weldpool_device_t *device;
static weldpool_allocator_t *allocator;
static weldpool_queue_t *queue;
static weldpool_buffer_t *buffer;

static void ignored_nulls(void) {
  weldpool_error_free(NULL);
  weldpool_string_free(NULL);
  weldpool_runtime_free(NULL);
  weldpool_device_free(NULL);
  weldpool_strategy_free(NULL);
  weldpool_allocator_free(NULL);
  weldpool_buffer_free(NULL);
  weldpool_guard_free(NULL);
  weldpool_queue_free(NULL);
  weldpool_fence_free(NULL);
  weldpool_submission_free(NULL);
  weldpool_callback_free(NULL);
  weldpool_triton_response_allocator_free(NULL);
  CHECK(weldpool_error_code(NULL) == 0);
  CHECK(weldpool_error_message(NULL)[0] == '\0');
  CHECK(weldpool_error_advice(NULL) == NULL);
  CHECK(weldpool_error_os_error(NULL) == 0);
  CHECK(weldpool_error_requested_bytes(NULL) == 0);
  CHECK(weldpool_buffer_bytes(NULL) == 0);
  CHECK(weldpool_runtime_device_count(NULL) == 0);
}

static void refused_nulls(void) {
  weldpool_runtime_t *a_runtime;
  weldpool_device_t *a_device;
  weldpool_allocator_t *an_allocator;
  weldpool_queue_t *a_queue;
  weldpool_buffer_t *a_buffer;
  weldpool_guard_t *a_guard;
  weldpool_fence_t *a_fence = (weldpool_fence_t *)1;
  weldpool_submission_t *a_submission;
  weldpool_strategy_t *a_strategy;
  weldpool_callback_t *a_callback;
  weldpool_device_info_t device_info = {.struct_size = sizeof device_info};
  weldpool_buffer_info_t buffer_info = {.struct_size = sizeof buffer_info};
  weldpool_block_info_t block_info = {.struct_size = sizeof block_info};
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 1};
  weldpool_stats_t stats = {.struct_size = sizeof stats};
  weldpool_order_t order = {.struct_size = sizeof order};
  const void *read;
  void *written;
  char *text;
  uint32_t number;

  REFUSED(weldpool_runtime_open(NULL), "runtime is null");
  REFUSED(weldpool_runtime_device(NULL, 0, &a_device), "runtime is null");
  REFUSED(weldpool_runtime_absent(NULL, &text), "runtime is null");
  REFUSED(weldpool_runtime_copy(NULL, buffer, buffer), "runtime is null");
  OK(weldpool_runtime_open(&a_runtime));
  CHECK(weldpool_runtime_device_count(a_runtime) >= 1);
  CHECK(CODE(weldpool_runtime_device(a_runtime, 1000, &a_device), "device 1000") == WELDPOOL_ERROR_INVALID_REQUEST);
  OK(weldpool_runtime_absent(a_runtime, &text));
  weldpool_string_free(text);
  REFUSED(weldpool_runtime_copy(a_runtime, NULL, buffer), "source is null");
  weldpool_runtime_free(a_runtime);

  REFUSED(weldpool_device_open(NULL, &a_device), "name is null");
  CHECK(a_device == NULL);
  REFUSED(weldpool_device_open("host", NULL), "device is null");
  REFUSED(weldpool_device_open("\xff", &a_device), "UTF-8");
  REFUSED(weldpool_device_open_default(NULL), "device is null");
  REFUSED(weldpool_device_info(NULL, &device_info), "device is null");
  REFUSED(weldpool_device_info(device, NULL), "info is null");
  REFUSED(weldpool_strategy_create(NULL, NULL, NULL, &a_strategy), "choose is null");
  CHECK(a_strategy == NULL);

  REFUSED(weldpool_allocator_create(NULL, NULL, &an_allocator), "device is null");
  CHECK(an_allocator == NULL);
  REFUSED(weldpool_allocator_create(device, NULL, NULL), "allocator is null");
  REFUSED(weldpool_allocator_clone(NULL, &an_allocator), "allocator is null");
  REFUSED(weldpool_allocator_allocate(NULL, 1, NULL, &a_buffer), "allocator is null");
  CHECK(a_buffer == NULL);
  REFUSED(weldpool_allocator_allocate(allocator, 1, NULL, NULL), "buffer is null");
  REFUSED(weldpool_allocator_allocate_with(allocator, NULL, &a_buffer), "request is null");
  REFUSED(weldpool_allocator_allocate_with(NULL, &request, &a_buffer), "allocator is null");
  REFUSED(weldpool_allocator_pre_allocate(NULL, 1, 1, NULL), "allocator is null");
  REFUSED(weldpool_allocator_reserve(NULL, 1, 0, NULL), "allocator is null");
  REFUSED(weldpool_allocator_trim(NULL, NULL), "allocator is null");
  REFUSED(weldpool_allocator_collect_soon(NULL), "allocator is null");
  REFUSED(weldpool_allocator_set_pooling(NULL, 1, NULL), "allocator is null");
  REFUSED(weldpool_allocator_set_reserved_bytes_max(NULL, 1, NULL), "allocator is null");
  REFUSED(weldpool_allocator_set_cached_bytes_max(NULL, 1, NULL), "allocator is null");
  REFUSED(weldpool_allocator_set_profiling(NULL, 1, NULL), "allocator is null");
  REFUSED(weldpool_allocator_stats(NULL, &stats), "allocator is null");
  REFUSED(weldpool_allocator_stats(allocator, NULL), "stats is null");
  REFUSED(weldpool_allocator_stats_json(allocator, NULL), "text is null");
  REFUSED(weldpool_allocator_stats_json(NULL, &text), "allocator is null");
  REFUSED(weldpool_allocator_report(NULL, &text), "allocator is null");
  REFUSED(weldpool_allocator_report_json(NULL, &text), "allocator is null");
  REFUSED(weldpool_allocator_dashboard(NULL, 0, 0, &text), "allocator is null");
  REFUSED(weldpool_allocator_prometheus(NULL, &text), "allocator is null");
  REFUSED(weldpool_allocator_health(NULL, &text), "allocator is null");
  CHECK(text == NULL);
  REFUSED(weldpool_allocator_pressure(NULL, &number), "allocator is null");
  REFUSED(weldpool_allocator_pressure(allocator, NULL), "level is null");
  REFUSED(weldpool_allocator_check_pressure(NULL, &number), "allocator is null");
  REFUSED(weldpool_allocator_signal_pressure(NULL, 0), "allocator is null");
  REFUSED(weldpool_allocator_on_pressure(allocator, NULL, NULL, NULL), "function is null");
  REFUSED(weldpool_allocator_on_out_of_memory(allocator, NULL, NULL, NULL, &a_callback), "function is null");
  REFUSED(weldpool_allocator_record(NULL, "x"), "allocator is null");
  REFUSED(weldpool_allocator_record(allocator, NULL), "path is null");
  REFUSED(weldpool_allocator_record_stop(NULL, NULL, NULL), "allocator is null");
  REFUSED(weldpool_trace_replay(NULL, device, NULL, &text), "path is null");
  REFUSED(weldpool_trace_replay("x", NULL, NULL, &text), "device is null");
  REFUSED(weldpool_allocator_allocate_address(allocator, NULL, &written), "request is null");
  REFUSED(weldpool_allocator_allocate_address(allocator, &request, NULL), "address is null");
  REFUSED(weldpool_allocator_free_address(NULL, NULL, NULL), "allocator is null");
  OK(weldpool_allocator_free_address(allocator, NULL, NULL));
  REFUSED(weldpool_allocator_find(allocator, device, NULL), "info is null");
  REFUSED(weldpool_allocator_find(NULL, device, &block_info), "allocator is null");

  REFUSED(weldpool_buffer_info(NULL, &buffer_info), "buffer is null");
  REFUSED(weldpool_buffer_info(buffer, NULL), "info is null");
  REFUSED(weldpool_buffer_name(NULL, &text), "buffer is null");
  REFUSED(weldpool_buffer_slice(NULL, 0, 1, &a_buffer), "buffer is null");
  REFUSED(weldpool_buffer_slice(buffer, 0, 1, NULL), "slice is null");
  REFUSED(weldpool_buffer_clone(NULL, &a_buffer), "buffer is null");
  REFUSED(weldpool_buffer_wait(NULL, 0), "buffer is null");
  REFUSED(weldpool_buffer_free_on(NULL, queue), "buffer is null");
  REFUSED(weldpool_buffer_free_on(buffer, NULL), "queue is null");
  REFUSED(weldpool_buffer_read(NULL, &a_guard, &read), "buffer is null");
  CHECK(a_guard == NULL && read == NULL);
  REFUSED(weldpool_buffer_read(buffer, NULL, &read), "guard is null");
  REFUSED(weldpool_buffer_read(buffer, &a_guard, NULL), "data is null");
  REFUSED(weldpool_buffer_write(NULL, &a_guard, &written), "buffer is null");

  REFUSED(weldpool_queue_create(NULL, &a_queue), "allocator is null");
  REFUSED(weldpool_queue_adopt_cuda(NULL, NULL, &a_queue), "allocator is null");
  REFUSED(weldpool_queue_forget_cuda(NULL, NULL), "allocator is null");
  CHECK(CODE(weldpool_queue_adopt_cuda(allocator, NULL, &a_queue), "CUDA") == WELDPOOL_ERROR_UNSUPPORTED);
  REFUSED(weldpool_queue_synchronize(NULL, 0), "queue is null");
  REFUSED(weldpool_queue_fence(queue, NULL), "fence is null");
  REFUSED(weldpool_queue_copy(queue, NULL, buffer, &a_fence), "source is null");
  CHECK(a_fence == NULL);
  REFUSED(weldpool_queue_copy(queue, buffer, NULL, NULL), "destination is null");
  REFUSED(weldpool_queue_copy(NULL, buffer, buffer, NULL), "queue is null");
  REFUSED(weldpool_queue_fill(queue, NULL, 0, NULL), "buffer is null");
  REFUSED(weldpool_queue_write(queue, NULL, 1, buffer, NULL), "source is null");
  REFUSED(weldpool_queue_read(queue, buffer, NULL, 1), "destination is null");
  REFUSED(weldpool_queue_call(queue, NULL, NULL, NULL, NULL), "function is null");
  REFUSED(weldpool_queue_note_use(queue, NULL), "buffer is null");
  REFUSED(weldpool_queue_note_read(queue, buffer, NULL), "fence is null");
  REFUSED(weldpool_queue_note_write(queue, buffer, NULL, NULL), "fence is null");
  REFUSED(weldpool_queue_before_external_submit(NULL, &order, &a_submission), "queue is null");
  REFUSED(weldpool_queue_before_external_submit(queue, NULL, &a_submission), "order is null");
  REFUSED(weldpool_queue_after_external_submit(queue, NULL, &a_fence), "submission is null");
  REFUSED(weldpool_fence_is_complete(NULL, &number), "fence is null");
  REFUSED(weldpool_fence_wait(NULL, 0), "fence is null");
}

/* A place that holds something, and a refused call: handles become null and numbers zero, whatever is refused. */
#define CLEARS(place, call)                       \
  do {                                            \
    memset(&(place), 0x55, sizeof(place));        \
    uint32_t refused = CODE(call, "");            \
    CHECK(refused != 0 && (place) == 0);          \
  } while (0)

static void results_after_errors(void) {
  size_t size;
  uint32_t number;
  uint64_t large, other;
  weldpool_fence_t *a_fence;
  weldpool_guard_t *a_guard;
  const void *read;
  void *written;
  CLEARS(size, weldpool_allocator_pre_allocate(NULL, 1, 1, &size));
  CLEARS(size, weldpool_allocator_pre_allocate(allocator, 0, 1, &size));
  CLEARS(size, weldpool_allocator_reserve(NULL, 1, WELDPOOL_STORAGE_SHARED, &size));
  CLEARS(size, weldpool_allocator_reserve(allocator, 1, 17, &size));
  CLEARS(size, weldpool_allocator_trim(NULL, &size));
  CLEARS(number, weldpool_allocator_set_pooling(NULL, 1, &number));
  CLEARS(number, weldpool_allocator_set_pooling(allocator, 2, &number));
  CLEARS(number, weldpool_allocator_set_profiling(NULL, 1, &number));
  CLEARS(number, weldpool_allocator_set_profiling(allocator, 2, &number));
  CLEARS(large, weldpool_allocator_set_reserved_bytes_max(NULL, 1, &large));
  CLEARS(large, weldpool_allocator_set_cached_bytes_max(NULL, 1, &large));
  CLEARS(large, weldpool_allocator_record_stop(NULL, &large, NULL));
  other = 7;
  CLEARS(large, weldpool_allocator_record_stop(allocator, &large, &other));
  CHECK(other == 0);
  CLEARS(number, weldpool_allocator_pressure(NULL, &number));
  CLEARS(number, weldpool_allocator_check_pressure(NULL, &number));
  CLEARS(number, weldpool_fence_is_complete(NULL, &number));
  CLEARS(a_fence, weldpool_queue_fill(queue, buffer, 256, &a_fence));
  CLEARS(a_fence, weldpool_queue_write(NULL, "", 1, buffer, &a_fence));
  CLEARS(a_fence, weldpool_queue_call(queue, NULL, NULL, NULL, &a_fence));
  CLEARS(a_fence, weldpool_queue_note_write(queue, NULL, NULL, &a_fence));
  CLEARS(a_fence, weldpool_queue_after_external_submit(queue, NULL, &a_fence));
  /* Where the first of two places is missing, too. */
  CLEARS(read, weldpool_buffer_read(buffer, NULL, &read));
  CLEARS(a_guard, weldpool_buffer_read(buffer, &a_guard, NULL));
  CLEARS(written, weldpool_buffer_write(buffer, NULL, &written));

  /* Structures stay as they were. */
  weldpool_stats_t stats, stats_before;
  weldpool_block_info_t info, info_before;
  weldpool_order_t order, order_before;
  weldpool_submission_t *submission;
  memset(&stats, 0x55, sizeof stats);
  stats.struct_size = sizeof stats;
  stats_before = stats;
  REFUSED(weldpool_allocator_stats(NULL, &stats), "allocator is null");
  CHECK(memcmp(&stats, &stats_before, sizeof stats) == 0);
  memset(&info, 0x55, sizeof info);
  info.struct_size = sizeof info;
  info_before = info;
  CHECK(CODE(weldpool_allocator_find(allocator, &info, &info), "no live memory") == WELDPOOL_ERROR_INVALID_REQUEST);
  CHECK(memcmp(&info, &info_before, sizeof info) == 0);
  memset(&order, 0x55, sizeof order);
  order.struct_size = sizeof order;
  order_before = order;
  CLEARS(submission, weldpool_queue_before_external_submit(NULL, &order, &submission));
  CHECK(memcmp(&order, &order_before, sizeof order) == 0);
}

/* This program has no Triton. */
static void no_triton(void) {
  weldpool_triton_response_allocator_t *made;
  weldpool_triton_source_t source = {.allocator = allocator, .storage = WELDPOOL_STORAGE_SHARED};
  memset(&made, 0x55, sizeof made);
  CHECK(CODE(weldpool_triton_response_allocator_create(&source, 1, NULL, &made), "TRITONSERVER_") ==
        WELDPOOL_ERROR_UNSUPPORTED);
  CHECK(made == NULL);
}

/* Numbers that no constant has, and flags of a later version. */
static void refused_numbers(void) {
  weldpool_buffer_t *made;
  weldpool_allocator_t *other;
  char *text;
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 1, .storage = 3};
  REFUSED(weldpool_allocator_allocate_with(allocator, &request, &made), "3 is no storage mode");
  request.storage = UINT32_MAX;
  REFUSED(weldpool_allocator_allocate_with(allocator, &request, &made), "4294967295 is no storage mode");
  request.storage = 0;
  request.flags = 1u << 31;
  REFUSED(weldpool_allocator_allocate_with(allocator, &request, &made), "0x80000000");
  weldpool_config_t config = {.struct_size = sizeof config, .preset = 4};
  REFUSED(weldpool_allocator_create(device, &config, &other), "4 is no preset");
  config.preset = 0;
  config.flags = 1u << 20;
  REFUSED(weldpool_allocator_create(device, &config, &other), "0x100000");
  REFUSED(weldpool_allocator_reserve(allocator, 1, 17, NULL), "17 is no storage mode");
  REFUSED(weldpool_allocator_signal_pressure(allocator, 5), "5 is no level");
  REFUSED(weldpool_allocator_set_pooling(allocator, 2, NULL), "2 is neither");
  REFUSED(weldpool_allocator_dashboard(allocator, 0, 2, &text), "0x2");
  REFUSED(weldpool_queue_fill(queue, buffer, 256, NULL), "256 is no byte");
}

static void sizes_of_structures(void) {
  weldpool_buffer_t *made;
  weldpool_request_t request = {.struct_size = 0, .bytes = 1};
  REFUSED(weldpool_allocator_allocate_with(allocator, &request, &made), "sizeof(weldpool_request_t)");
  request.struct_size = sizeof request + 1;
  REFUSED(weldpool_allocator_allocate_with(allocator, &request, &made), "sizeof(weldpool_request_t)");
  request.struct_size = SIZE_MAX;
  REFUSED(weldpool_allocator_allocate_with(allocator, &request, &made), "sizeof(weldpool_request_t)");

  /* An older caller knows only how many bytes; what lies behind is not his. */
  size_t older[3] = {2 * sizeof(size_t), 1000, SIZE_MAX};
  OK(weldpool_allocator_allocate_with(allocator, (const weldpool_request_t *)(const void *)older, &made));
  CHECK(weldpool_buffer_bytes(made) == 1000);
  weldpool_buffer_free(made);

  /* A newer caller has a field more. */
  struct {
    weldpool_request_t known;
    uint64_t more;
  } newer = {.known = {.struct_size = sizeof newer, .bytes = 1000}, .more = 0};
  OK(weldpool_allocator_allocate_with(allocator, &newer.known, &made));
  weldpool_buffer_free(made);
  newer.more = 1;
  REFUSED(weldpool_allocator_allocate_with(allocator, &newer.known, &made), "does not know");

  struct {
    size_t struct_size;
    uint64_t live_bytes, behind;
  } small = {.struct_size = 16, .behind = 77};
  OK(weldpool_allocator_stats(allocator, (weldpool_stats_t *)(void *)&small));
  CHECK(small.struct_size == 16 && small.live_bytes == weldpool_buffer_bytes(buffer) && small.behind == 77);
  struct {
    weldpool_stats_t known;
    uint64_t more;
  } large = {.known = {.struct_size = sizeof large}, .more = 77};
  OK(weldpool_allocator_stats(allocator, &large.known));
  CHECK(large.known.struct_size == sizeof large && large.more == 0);
  CHECK(large.known.live_bytes == small.live_bytes && large.known.allocations >= 1);
}

static void errors_have_code_text_and_advice(void) {
  weldpool_device_t *none;
  CHECK(CODE(weldpool_device_open("gpu", &none), "there are host, metal, cuda") == WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool_buffer_t *made;
  CHECK(CODE(weldpool_allocator_allocate(allocator, 0, NULL, &made), "zero bytes") == WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 1, .alignment = 3};
  CHECK(CODE(weldpool_allocator_allocate_with(allocator, &request, &made), "power of two") ==
        WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool_config_t config = {.struct_size = sizeof config, .alignment = 3};
  weldpool_allocator_t *other;
  CHECK(CODE(weldpool_allocator_create(device, &config, &other), "alignment") == WELDPOOL_ERROR_INVALID_CONFIG);
  CHECK(CODE(weldpool_allocator_record(allocator, "/nowhere/at/all"), "/nowhere/at/all") == WELDPOOL_ERROR_SYSTEM);
  CHECK(CODE(weldpool_allocator_record_stop(allocator, NULL, NULL), "nothing is recorded") ==
        WELDPOOL_ERROR_INVALID_REQUEST);
  CHECK(CODE(weldpool_allocator_collect_soon(allocator), "WELDPOOL_CONFIG_COLLECT") == WELDPOOL_ERROR_UNSUPPORTED);
}

/* At the limit a request fails with its own code, nothing is lost, and after a free the same request succeeds. */
static void out_of_memory_loses_nothing(void) {
  weldpool_config_t config = {.struct_size = sizeof config, .reserved_bytes_max = 8u << 20, .wait_max_ns = 1};
  weldpool_allocator_t *small;
  OK(weldpool_allocator_create(device, &config, &small));
  weldpool_buffer_t *kept, *made;
  OK(weldpool_allocator_allocate(small, 6u << 20, NULL, &kept));
  for (int round = 0; round < 50; round++) {
    weldpool_request_t request = {.struct_size = sizeof request, .bytes = 4u << 20, .name = "too much"};
    weldpool_error_t *error = weldpool_allocator_allocate_with(small, &request, &made);
    CHECK(made == NULL && weldpool_error_requested_bytes(error) == 4u << 20);
    const char *advice = weldpool_error_advice(error);
    CHECK(advice != NULL && strstr(weldpool_error_message(error), advice) != NULL);
    CHECK(CODE(error, "too much") == WELDPOOL_ERROR_LIMIT_EXCEEDED);
    void *address = &request;
    CHECK(CODE(weldpool_allocator_allocate_address(small, &request, &address), "too much") ==
          WELDPOOL_ERROR_LIMIT_EXCEEDED);
    CHECK(address == NULL);
  }
  weldpool_stats_t stats = {.struct_size = sizeof stats};
  OK(weldpool_allocator_stats(small, &stats));
  CHECK(stats.live_bytes == 6u << 20 && stats.failures == 100 && stats.memory_failures == 100);
  CHECK(stats.reserved_bytes <= 8u << 20 && stats.limit_bytes == 8u << 20);
  weldpool_buffer_free(kept);
  OK(weldpool_allocator_allocate(small, 4u << 20, NULL, &made));
  weldpool_buffer_free(made);
  uint64_t before = 0;
  OK(weldpool_allocator_set_reserved_bytes_max(small, 0, &before));
  CHECK(before == 8u << 20);
  size_t returned = 0;
  OK(weldpool_allocator_trim(small, &returned));
  CHECK(returned > 0);
  OK(weldpool_allocator_stats(small, &stats));
  CHECK(stats.live_bytes == 0 && stats.reserved_bytes == 0 && stats.allocations == stats.frees);
  weldpool_allocator_free(small);
}

/* Guards exclude each other, and keep memory alive whose handles are gone. */
static void guards(void) {
  weldpool_buffer_t *made, *view;
  weldpool_guard_t *first, *second;
  const void *read;
  void *written;
  OK(weldpool_allocator_allocate(allocator, 4096, NULL, &made));
  OK(weldpool_buffer_slice(made, 1024, 1024, &view));
  OK(weldpool_buffer_write(made, &first, &written));
  memset(written, 42, 4096);
  CHECK(CODE(weldpool_buffer_read(view, &second, &read), "guard") == WELDPOOL_ERROR_BUSY);
  CHECK(second == NULL && read == NULL);
  CHECK(CODE(weldpool_queue_fill(queue, view, 1, NULL), "guard") == WELDPOOL_ERROR_BUSY);
  weldpool_guard_free(first);
  OK(weldpool_buffer_read(view, &first, &read));
  OK(weldpool_buffer_read(made, &second, &read));
  CHECK(CODE(weldpool_buffer_write(made, (weldpool_guard_t **)&(weldpool_guard_t *){NULL}, &written), "guard") ==
        WELDPOOL_ERROR_BUSY);
  weldpool_guard_free(second);
  weldpool_buffer_free(made);
  weldpool_buffer_free(view);
  CHECK(((const unsigned char *)read)[5] == 42);
  weldpool_guard_free(first);

  weldpool_buffer_info_t info = {.struct_size = sizeof info};
  OK(weldpool_allocator_allocate(allocator, 4096, NULL, &made));
  OK(weldpool_buffer_info(made, &info));
  CHECK(info.bytes == 4096 && info.host != NULL && info.unique == 1 && info.storage == WELDPOOL_STORAGE_SHARED);
  OK(weldpool_buffer_clone(made, &view));
  OK(weldpool_buffer_info(made, &info));
  CHECK(info.unique == 0);
  CHECK(CODE(weldpool_buffer_slice(made, 4000, 97, &(weldpool_buffer_t *){NULL}), "4000..4097") ==
        WELDPOOL_ERROR_INVALID_REQUEST);
  CHECK(CODE(weldpool_buffer_slice(made, SIZE_MAX, 2, &(weldpool_buffer_t *){NULL}), "beyond") ==
        WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool_buffer_free(made);
  weldpool_buffer_free(view);
}

static unsigned destroyed, calls;

static void destroy(void *user_data) {
  CHECK(user_data == (void *)&calls);
  destroyed += 1;
}

static void count(void *user_data) { *(unsigned *)user_data += 1; }

static void on_pressure(void *user_data, const weldpool_pressure_event_t *event) {
  CHECK(event->struct_size == sizeof *event && event->level != event->before);
  count(user_data);
}

static uint32_t on_out_of_memory(void *user_data, const weldpool_out_of_memory_t *event) {
  CHECK(event->requested_bytes == 7u << 20 && strcmp(event->name, "unnamed") == 0 && event->round == 1);
  count(user_data);
  return 99;
}

static void choose(void *user_data, const weldpool_asked_t *asked, weldpool_choice_t *choice) {
  CHECK(choice->pool == 1 && choice->alignment == asked->alignment && choice->storage == asked->storage);
  count(user_data);
  if (asked->bytes == 1000) choice->alignment = 4096;
  if (asked->bytes == 2000) choice->storage = 99; /* not a mode: served as asked */
  if (asked->bytes == 3000) choice->alignment = 3;
  if (strcmp(asked->name, "alone") == 0) choice->pool = 0;
}

/* User data is destroyed once, whether the call succeeds or not, and when nobody needs it any more. */
static void functions_of_the_callers(void) {
  weldpool_strategy_t *strategy;
  weldpool_callback_t *callback;
  weldpool_buffer_t *made;
  destroyed = calls = 0;
  REFUSED(weldpool_strategy_create(choose, &calls, destroy, NULL), "strategy is null");
  REFUSED(weldpool_allocator_on_pressure(NULL, on_pressure, &calls, destroy), "allocator is null");
  REFUSED(weldpool_allocator_on_out_of_memory(NULL, on_out_of_memory, &calls, destroy, &callback), "allocator");
  REFUSED(weldpool_queue_call(NULL, count, &calls, destroy, NULL), "queue is null");
  CHECK(destroyed == 4 && calls == 0);

  OK(weldpool_strategy_create(choose, &calls, destroy, &strategy));
  weldpool_config_t config = {.struct_size = sizeof config, .strategy = strategy, .reserved_bytes_max = 6u << 20};
  weldpool_allocator_t *other;
  OK(weldpool_allocator_create(device, &config, &other));
  weldpool_strategy_free(strategy);
  CHECK(destroyed == 4);

  weldpool_buffer_info_t info = {.struct_size = sizeof info};
  OK(weldpool_allocator_allocate(other, 1000, NULL, &made));
  OK(weldpool_buffer_info(made, &info));
  CHECK(info.alignment == 4096 && (uintptr_t)info.host % 4096 == 0);
  weldpool_buffer_free(made);
  OK(weldpool_allocator_allocate(other, 2000, NULL, &made));
  weldpool_buffer_free(made);
  CHECK(CODE(weldpool_allocator_allocate(other, 3000, NULL, &made), "alignment") == WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 1u << 20, .name = "alone"};
  OK(weldpool_allocator_trim(other, NULL));
  OK(weldpool_allocator_allocate_with(other, &request, &made));
  weldpool_buffer_free(made);
  weldpool_stats_t stats = {.struct_size = sizeof stats};
  OK(weldpool_allocator_stats(other, &stats));
  CHECK(stats.reserved_bytes == 0);
  CHECK(calls == 4);

  calls = 0;
  OK(weldpool_allocator_on_out_of_memory(other, on_out_of_memory, &calls, destroy, &callback));
  CHECK(CODE(weldpool_allocator_allocate(other, 7u << 20, NULL, &made), "limit") == WELDPOOL_ERROR_LIMIT_EXCEEDED);
  CHECK(calls == 2 && destroyed == 4); /* the strategy, and the function, once */
  weldpool_callback_free(callback);
  CHECK(destroyed == 5);

  calls = 0;
  uint32_t level = 99;
  OK(weldpool_allocator_on_pressure(other, on_pressure, &calls, destroy));
  OK(weldpool_allocator_signal_pressure(other, WELDPOOL_PRESSURE_EMERGENCY));
  OK(weldpool_allocator_check_pressure(other, &level));
  CHECK(level == WELDPOOL_PRESSURE_EMERGENCY && calls == 1);
  OK(weldpool_allocator_signal_pressure(other, WELDPOOL_PRESSURE_NORMAL));
  OK(weldpool_allocator_check_pressure(other, &level));
  CHECK(level == WELDPOOL_PRESSURE_NORMAL && calls == 2 && destroyed == 5);
  weldpool_allocator_free(other);
  CHECK(destroyed == 7); /* pressure's, and the strategy's */

  calls = 0;
  OK(weldpool_queue_call(queue, count, &calls, destroy, NULL));
  OK(weldpool_queue_synchronize(queue, WELDPOOL_FOREVER));
  CHECK(calls == 1);
  for (int waited = 0; destroyed == 7 && waited < 1000000; waited++) OK(weldpool_queue_synchronize(queue, 0));
  CHECK(destroyed == 8);
}

static void addresses(void) {
  void *address, *other;
  weldpool_block_info_t info = {.struct_size = sizeof info};
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 10000};
  OK(weldpool_allocator_allocate_address(allocator, &request, &address));
  memset(address, 255, request.bytes);
  OK(weldpool_allocator_free_address(allocator, address, NULL));
  request.flags = WELDPOOL_REQUEST_ZEROED;
  OK(weldpool_allocator_allocate_address(allocator, &request, &address));
  for (size_t i = 0; i < request.bytes; i++) CHECK(((unsigned char *)address)[i] == 0);
  OK(weldpool_allocator_find(allocator, (char *)address + 5000, &info));
  CHECK(info.address == (uint64_t)(uintptr_t)address && info.bytes == 10000 && info.block_bytes >= 10000);
  OK(weldpool_allocator_free_address(allocator, address, NULL));
  CHECK(CODE(weldpool_allocator_free_address(allocator, address, NULL), "given up") == WELDPOOL_ERROR_INVALID_REQUEST);
  CHECK(CODE(weldpool_allocator_find(allocator, address, &info), "no live memory") == WELDPOOL_ERROR_INVALID_REQUEST);
  request.queue = queue;
  request.flags = 0;
  OK(weldpool_allocator_allocate_address(allocator, &request, &address));
  OK(weldpool_allocator_free_address(allocator, address, queue));
  OK(weldpool_allocator_allocate_address(allocator, &request, &other));
  CHECK(other == address); /* the same queue has it again at once */
  OK(weldpool_allocator_free_address(allocator, other, queue));
}

static void hold(void *user_data) {
  while (!__atomic_load_n((int *)user_data, __ATOMIC_ACQUIRE)) continue;
}

static void *host_of(const weldpool_buffer_t *of) {
  weldpool_buffer_info_t info = {.struct_size = sizeof info};
  OK(weldpool_buffer_info(of, &info));
  return info.host;
}

/* Work that the library knows nothing of: memory freed in the order of its queue is that queue's again at once, and
 * nobody else's before, whichever handle is the last. */
static void order_of_frees(void) {
  int open = 0;
  size_t bytes = 5u << 20;
  weldpool_buffer_t *made, *clone, *other;
  OK(weldpool_queue_call(queue, hold, &open, NULL, NULL));
  OK(weldpool_allocator_allocate(allocator, bytes, queue, &made));
  void *first = host_of(made);
  OK(weldpool_buffer_free_on(made, queue));
  OK(weldpool_allocator_allocate(allocator, bytes, NULL, &other));
  CHECK(host_of(other) != first);
  OK(weldpool_allocator_allocate(allocator, bytes, queue, &made));
  CHECK(host_of(made) == first);
  weldpool_buffer_free(other);
  OK(weldpool_buffer_free_on(made, queue));

  bytes = 7u << 20;
  OK(weldpool_allocator_allocate(allocator, bytes, NULL, &made));
  OK(weldpool_buffer_clone(made, &clone));
  first = host_of(made);
  OK(weldpool_buffer_free_on(made, queue));
  weldpool_buffer_free(clone);
  OK(weldpool_allocator_allocate(allocator, bytes, NULL, &other));
  CHECK(host_of(other) != first);
  weldpool_buffer_free(other);
  __atomic_store_n(&open, 1, __ATOMIC_RELEASE);
  OK(weldpool_queue_synchronize(queue, WELDPOOL_FOREVER));
}

/* Work keeps what it uses: a held queue's memory is refused to the host, and to others after a free. */
static void order_of_queues(void) {
  int open = 0;
  uint32_t complete = 9;
  weldpool_buffer_t *source, *copy, *next, *view;
  weldpool_guard_t *guard;
  weldpool_fence_t *fence;
  const void *read;
  OK(weldpool_allocator_allocate(allocator, 3u << 20, NULL, &source));
  OK(weldpool_allocator_allocate(allocator, 3u << 20, NULL, &copy));
  OK(weldpool_queue_call(queue, hold, &open, NULL, NULL));
  OK(weldpool_queue_fill(queue, source, 7, NULL));
  OK(weldpool_queue_copy(queue, source, copy, &fence));
  CHECK(CODE(weldpool_buffer_read(copy, &guard, &read), "") == WELDPOOL_ERROR_BUSY);
  CHECK(CODE(weldpool_fence_wait(fence, 1000), "") == WELDPOOL_ERROR_TIMEOUT);
  CHECK(CODE(weldpool_buffer_wait(copy, 1000), "") == WELDPOOL_ERROR_TIMEOUT);
  OK(weldpool_fence_is_complete(fence, &complete));
  CHECK(complete == 0);
  weldpool_buffer_info_t before = {.struct_size = sizeof before}, after = before;
  OK(weldpool_buffer_info(source, &before));
  OK(weldpool_buffer_slice(source, 0, 256, &view));
  OK(weldpool_buffer_free_on(source, queue)); /* the view still holds it */
  OK(weldpool_buffer_free_on(view, queue));
  OK(weldpool_allocator_allocate(allocator, 3u << 20, NULL, &next));
  OK(weldpool_buffer_info(next, &after));
  CHECK(after.host != before.host);
  __atomic_store_n(&open, 1, __ATOMIC_RELEASE);
  OK(weldpool_fence_wait(fence, WELDPOOL_FOREVER));
  OK(weldpool_fence_is_complete(fence, &complete));
  CHECK(complete == 1);
  weldpool_fence_free(fence);
  OK(weldpool_buffer_wait(copy, WELDPOOL_FOREVER));
  OK(weldpool_buffer_read(copy, &guard, &read));
  CHECK(((const unsigned char *)read)[(3u << 20) - 1] == 7);
  weldpool_guard_free(guard);
  weldpool_buffer_free(copy);
  weldpool_buffer_free(next);

  /* Work of others: announced, given back, noted. */
  weldpool_order_t order = {.struct_size = sizeof order};
  weldpool_submission_t *submission;
  weldpool_queue_t *elsewhere;
  OK(weldpool_queue_create(allocator, &elsewhere));
  OK(weldpool_queue_before_external_submit(queue, &order, &submission));
  if (order.signal_event != NULL) {
    /* Nobody signals the event here, so the work was not submitted. */
    CHECK(order.queue != NULL && order.wait_event != NULL && order.signal_value > 0);
    weldpool_submission_free(submission);
    OK(weldpool_queue_fence(queue, &fence));
  } else {
    OK(weldpool_queue_after_external_submit(queue, submission, &fence));
    OK(weldpool_queue_before_external_submit(queue, &order, &submission));
    OK(weldpool_queue_after_external_submit(queue, submission, NULL)); /* nobody wants the fence */
  }
  OK(weldpool_queue_note_read(queue, buffer, fence));
  OK(weldpool_queue_note_write(queue, buffer, fence, NULL));
  OK(weldpool_queue_note_use(queue, buffer));
  weldpool_fence_free(fence);
  OK(weldpool_queue_before_external_submit(queue, &order, &submission));
  CHECK(CODE(weldpool_queue_after_external_submit(elsewhere, submission, &fence), "another queue") ==
        WELDPOOL_ERROR_INVALID_REQUEST);
  CHECK(fence == NULL);
  weldpool_queue_free(elsewhere);
  OK(weldpool_buffer_wait(buffer, WELDPOOL_FOREVER));
}

static void storage_modes(void) {
  weldpool_device_info_t about = {.struct_size = sizeof about};
  OK(weldpool_device_info(device, &about));
  CHECK(about.total_bytes > 0 && about.buffer_bytes_max > 0 && about.alignment_min > 0 && about.granularity > 0);
  CHECK((about.storage_modes & 1u << WELDPOOL_STORAGE_SHARED) != 0 && about.storage_modes < 8);
  for (uint32_t mode = WELDPOOL_STORAGE_SHARED; mode <= WELDPOOL_STORAGE_PRIVATE; mode++) {
    weldpool_buffer_t *made;
    weldpool_guard_t *guard;
    const void *read;
    weldpool_buffer_info_t info = {.struct_size = sizeof info};
    weldpool_request_t request = {.struct_size = sizeof request, .bytes = 1000, .storage = mode};
    if ((about.storage_modes & 1u << mode) == 0) {
      CHECK(CODE(weldpool_allocator_allocate_with(allocator, &request, &made), "") == WELDPOOL_ERROR_UNSUPPORTED);
      continue;
    }
    OK(weldpool_allocator_allocate_with(allocator, &request, &made));
    OK(weldpool_buffer_info(made, &info));
    CHECK(info.storage == mode && (info.host == NULL) == (mode == WELDPOOL_STORAGE_PRIVATE));
    if (strcmp(about.name, "host") != 0) CHECK(info.device_address != 0);
    CHECK((info.resource != NULL) == (strncmp(about.name, "fake:apple", 10) == 0));
    if (mode == WELDPOOL_STORAGE_PRIVATE) {
      CHECK(CODE(weldpool_buffer_read(made, &guard, &read), "private") == WELDPOOL_ERROR_UNSUPPORTED);
      unsigned char given[1000], back[1000];
      memset(given, 9, sizeof given);
      OK(weldpool_queue_write(queue, given, sizeof given, made, NULL));
      OK(weldpool_queue_read(queue, made, back, sizeof back));
      CHECK(memcmp(given, back, sizeof given) == 0);
      CHECK(CODE(weldpool_queue_read(queue, made, back, 999), "1000 bytes into 999") == WELDPOOL_ERROR_INVALID_REQUEST);
    }
    weldpool_buffer_free(made);
  }
}

static void configurations(void) {
  weldpool_allocator_t *other;
  weldpool_buffer_t *made;
  for (uint32_t preset = WELDPOOL_PRESET_FINE; preset <= WELDPOOL_PRESET_ADAPTIVE; preset++) {
    weldpool_config_t config = {.struct_size = sizeof config, .preset = preset};
    OK(weldpool_allocator_create(device, &config, &other));
    OK(weldpool_allocator_allocate(other, 1000, NULL, &made));
    weldpool_buffer_free(made);
    weldpool_allocator_free(other);
  }
  weldpool_size_class_t classes[] = {
      {.bytes = 1024, .cached_max = 4, .thread_max = 4},
      {.bytes = 65536, .initial = 2, .cached_max = 4, .thread_max = 4},
  };
  weldpool_config_t config = {.struct_size = sizeof config, .classes = classes, .class_count = 2};
  weldpool_buffer_info_t info = {.struct_size = sizeof info};
  OK(weldpool_allocator_create(device, &config, &other));
  OK(weldpool_allocator_allocate(other, 1025, NULL, &made));
  OK(weldpool_buffer_info(made, &info));
  CHECK(info.block_bytes == 65536);
  weldpool_buffer_free(made);
  weldpool_allocator_free(other);
  classes[0].bytes = 1000;
  CHECK(CODE(weldpool_allocator_create(device, &config, &other), "1000 bytes") == WELDPOOL_ERROR_INVALID_CONFIG);
  classes[0].thread_max = 129;
  REFUSED(weldpool_allocator_create(device, &config, &other), "129");
  config.classes = NULL;
  REFUSED(weldpool_allocator_create(device, &config, &other), "classes is null");

  weldpool_config_t of_environment = {.struct_size = sizeof config, .flags = WELDPOOL_CONFIG_FROM_ENVIRONMENT};
  CHECK(setenv("METAL_ALLOCATOR_STATS", "loud", 1) == 0);
  CHECK(CODE(weldpool_allocator_create(device, &of_environment, &other), "METAL_ALLOCATOR_STATS") ==
        WELDPOOL_ERROR_INVALID_CONFIG);
  CHECK(unsetenv("METAL_ALLOCATOR_STATS") == 0);
  CHECK(setenv("METAL_DEVICE_ID", "gpu", 1) == 0);
  weldpool_device_t *by_default;
  CHECK(CODE(weldpool_device_open_default(&by_default), "METAL_DEVICE_ID") == WELDPOOL_ERROR_INVALID_CONFIG);
  CHECK(unsetenv("METAL_DEVICE_ID") == 0);
  OK(weldpool_device_open_default(&by_default));
  weldpool_device_free(by_default);
}

static void idle_memory(void) {
  weldpool_config_t config = {
      .struct_size = sizeof config,
      .flags = WELDPOOL_CONFIG_COLLECT | WELDPOOL_CONFIG_WATCH_PRESSURE,
      .collect_interval_ns = 3600000000000u,
  };
  weldpool_allocator_t *other;
  weldpool_buffer_t *made;
  weldpool_stats_t stats = {.struct_size = sizeof stats};
  size_t count = 0;
  uint32_t was = 9;
  uint64_t before = 0;
  OK(weldpool_allocator_create(device, &config, &other));
  OK(weldpool_allocator_pre_allocate(other, 4096, 4, &count));
  CHECK(count == 4);
  OK(weldpool_allocator_reserve(other, 1u << 20, WELDPOOL_STORAGE_SHARED, &count));
  CHECK(count >= 1u << 20);
  OK(weldpool_allocator_stats(other, &stats));
  CHECK(stats.reserved_bytes >= 1u << 20 && stats.cached_bytes > 0 && stats.live_bytes == 0);
  OK(weldpool_allocator_collect_soon(other));
  OK(weldpool_allocator_set_cached_bytes_max(other, 0, &before));
  CHECK(before > 0);
  OK(weldpool_allocator_trim(other, NULL));
  OK(weldpool_allocator_set_pooling(other, 0, &was));
  CHECK(was == 1);
  OK(weldpool_allocator_allocate(other, 4096, NULL, &made));
  weldpool_buffer_free(made);
  OK(weldpool_allocator_stats(other, &stats));
  CHECK(stats.reserved_bytes == 0);
  CHECK(CODE(weldpool_allocator_reserve(other, 1, WELDPOOL_STORAGE_SHARED, NULL), "") ==
        WELDPOOL_ERROR_INVALID_REQUEST);
  OK(weldpool_allocator_set_pooling(other, 1, NULL));
  weldpool_request_t held = {.struct_size = sizeof held, .bytes = 4096, .flags = WELDPOOL_REQUEST_HELD_ONLY};
  CHECK(CODE(weldpool_allocator_allocate_with(other, &held, &made), "") == WELDPOOL_ERROR_BUSY);
  weldpool_allocator_free(other);
}

static void copies_between_devices(void) {
  weldpool_runtime_t *runtime;
  weldpool_device_t *another, *host;
  weldpool_allocator_t *other;
  weldpool_buffer_t *far, *near;
  weldpool_guard_t *guard;
  const void *read;
  void *written;
  OK(weldpool_runtime_open(&runtime));
  OK(weldpool_runtime_device(runtime, 0, &host));
  weldpool_device_free(host);
  OK(weldpool_device_open("fake:discrete:1", &another));
  OK(weldpool_allocator_create(another, NULL, &other));
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 100000, .storage = WELDPOOL_STORAGE_PRIVATE};
  OK(weldpool_allocator_allocate_with(other, &request, &far));
  OK(weldpool_allocator_allocate(allocator, request.bytes, NULL, &near));
  OK(weldpool_buffer_write(near, &guard, &written));
  memset(written, 5, request.bytes);
  CHECK(CODE(weldpool_runtime_copy(runtime, near, far), "guard") == WELDPOOL_ERROR_BUSY);
  weldpool_guard_free(guard);
  OK(weldpool_runtime_copy(runtime, near, far));
  OK(weldpool_buffer_write(near, &guard, &written));
  memset(written, 0, request.bytes);
  weldpool_guard_free(guard);
  OK(weldpool_runtime_copy(runtime, far, near));
  OK(weldpool_buffer_read(near, &guard, &read));
  CHECK(((const unsigned char *)read)[0] == 5 && ((const unsigned char *)read)[99999] == 5);
  weldpool_guard_free(guard);
  CHECK(CODE(weldpool_runtime_copy(runtime, near, buffer), "") == WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool_buffer_free(near);
  weldpool_buffer_free(far);
  weldpool_allocator_free(other);
  weldpool_device_free(another);
  weldpool_runtime_free(runtime);
}

static weldpool_buffer_t *handed[4];

/* Allocates and frees, writes and reads, and leaves a buffer for whoever comes next, as do three others meanwhile. */
static void *thread(void *number) {
  uintptr_t own = (uintptr_t)number;
  for (uintptr_t round = 0; round < 2000; round++) {
    weldpool_buffer_t *made, *clone;
    weldpool_guard_t *guard;
    void *written;
    if (weldpool_allocator_allocate(allocator, 100 + 997 * (round % 50), round % 3 ? NULL : queue, &made) != NULL)
      return number;
    if (weldpool_buffer_clone(made, &clone) != NULL) return number;
    weldpool_error_t *error = weldpool_buffer_write(made, &guard, &written);
    if (error == NULL) {
      memset(written, (int)own, weldpool_buffer_bytes(made));
      if (((unsigned char *)written)[99] != own) return number;
      weldpool_guard_free(guard);
    } else if (weldpool_error_code(error) != WELDPOOL_ERROR_BUSY) {
      return number; /* busy it may be with work that the queue had before */
    }
    weldpool_error_free(error);
    if (round % 5 == 0) {
      if (weldpool_queue_fill(queue, clone, 1, NULL) != NULL) return number;
      if (weldpool_buffer_free_on(clone, queue) != NULL) return number;
    } else {
      weldpool_buffer_free(clone);
    }
    weldpool_buffer_free(__atomic_exchange_n(&handed[(own + round) % 4], made, __ATOMIC_ACQ_REL));
  }
  return NULL;
}

static void threads(void) {
  pthread_t all[4];
  weldpool_stats_t stats = {.struct_size = sizeof stats};
  for (uintptr_t i = 0; i < 4; i++) CHECK(pthread_create(&all[i], NULL, thread, (void *)(i + 1)) == 0);
  for (int i = 0; i < 4; i++) {
    void *failed = all;
    CHECK(pthread_join(all[i], &failed) == 0 && failed == NULL);
  }
  for (int i = 0; i < 4; i++) weldpool_buffer_free(handed[i]);
  OK(weldpool_queue_synchronize(queue, WELDPOOL_FOREVER));
  OK(weldpool_allocator_stats(allocator, &stats));
  CHECK(stats.live_bytes == weldpool_buffer_bytes(buffer));
}

static void texts_and_traces(const char *path) {
  char *text;
  OK(weldpool_allocator_stats_json(allocator, &text));
  CHECK(text[0] == '{' && strstr(text, "\"live\"") != NULL && strchr(text, '\n') == NULL);
  weldpool_string_free(text);
  OK(weldpool_allocator_report(allocator, &text));
  CHECK(strstr(text, "abi") != NULL);
  weldpool_string_free(text);
  OK(weldpool_allocator_report_json(allocator, &text));
  CHECK(strstr(text, "\"arenas\"") != NULL);
  weldpool_string_free(text);
  OK(weldpool_allocator_dashboard(allocator, 40, WELDPOOL_DASHBOARD_UNICODE, &text));
  CHECK(strstr(text, "abi") != NULL);
  weldpool_string_free(text);
  OK(weldpool_allocator_prometheus(allocator, &text));
  CHECK(strstr(text, "weldpool_pool_live_bytes{pool=\"abi\"}") != NULL);
  weldpool_string_free(text);
  OK(weldpool_allocator_health(allocator, &text));
  CHECK(strncmp(text, "healthy\n", 8) == 0 || strncmp(text, "attention\n", 10) == 0 ||
        strncmp(text, "critical\n", 9) == 0);
  weldpool_string_free(text);
  OK(weldpool_buffer_name(buffer, &text));
  CHECK(strcmp(text, "weights") == 0);
  weldpool_string_free(text);

  weldpool_buffer_t *made;
  uint64_t events = 0, dropped = 9;
  OK(weldpool_allocator_record(allocator, path));
  OK(weldpool_allocator_allocate(allocator, 1000, NULL, &made));
  weldpool_buffer_free(made);
  OK(weldpool_allocator_record_stop(allocator, &events, &dropped));
  CHECK(events == 2 && dropped == 0);
  OK(weldpool_trace_replay(path, device, NULL, &text));
  CHECK(strstr(text, "\"allocs\":1") != NULL || strstr(text, "\"allocs\": 1") != NULL);
  weldpool_string_free(text);
  CHECK(CODE(weldpool_trace_replay("/nowhere", device, NULL, &text), "/nowhere") == WELDPOOL_ERROR_SYSTEM);
  weldpool_config_t config = {.struct_size = sizeof config, .alignment = 3};
  CHECK(CODE(weldpool_trace_replay(path, device, &config, &text), "alignment") == WELDPOOL_ERROR_INVALID_CONFIG);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  CHECK(weldpool_abi_version() == WELDPOOL_ABI_VERSION && strlen(weldpool_version()) >= 5);
  ignored_nulls();
  OK(weldpool_device_open(argv[1], &device));
  weldpool_config_t config = {.struct_size = sizeof config, .name = "abi", .flags = WELDPOOL_CONFIG_DEBUG_CHECKS};
  OK(weldpool_allocator_create(device, &config, &allocator));
  OK(weldpool_queue_create(allocator, &queue));
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = 4096, .name = "weights"};
  OK(weldpool_allocator_allocate_with(allocator, &request, &buffer));

  refused_nulls();
  results_after_errors();
  no_triton();
  refused_numbers();
  sizes_of_structures();
  errors_have_code_text_and_advice();
  out_of_memory_loses_nothing();
  guards();
  functions_of_the_callers();
  addresses();
  order_of_frees();
  order_of_queues();
  storage_modes();
  configurations();
  idle_memory();
  copies_between_devices();
  threads();
  texts_and_traces(argv[2]);

  weldpool_allocator_t *clone;
  OK(weldpool_allocator_clone(allocator, &clone));
  weldpool_allocator_free(allocator);
  weldpool_stats_t stats = {.struct_size = sizeof stats};
  OK(weldpool_allocator_stats(clone, &stats));
  CHECK(stats.live_bytes == 4096);
  weldpool_queue_free(queue);
  weldpool_allocator_free(clone);
  weldpool_device_free(device);
  weldpool_buffer_free(buffer); /* the last that keeps the pool */
  printf(failures == 0 ? "right\n" : "%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
