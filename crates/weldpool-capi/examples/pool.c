/* A pool with a limit, work on two queues, views, statistics, memory pressure and a recorded trace.
 *
 *     pool DEVICE TRACE        for instance: pool host /tmp/pool.wpt
 *
 * How to compile it: docs/c.md. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <weldpool.h>

#define LIMIT_BYTES (64u << 20)
#define BATCH_BYTES (1u << 20)
#define BATCHES 16

/* Ends the program with the text of an error. */
static void check(weldpool_error_t *error, const char *what) {
  if (error == NULL) return;
  fprintf(stderr, "%s: %s\n", what, weldpool_error_message(error));
  weldpool_error_free(error);
  exit(1);
}

/* What the application keeps and can do without. */
struct cache {
  weldpool_buffer_t *spare;
  unsigned given_up;
};

static void on_pressure(void *user_data, const weldpool_pressure_event_t *event) {
  struct cache *cache = user_data;
  printf("pressure went from %" PRIu32 " to %" PRIu32 "\n", event->before, event->level);
  if (event->level < WELDPOOL_PRESSURE_WARNING || cache->spare == NULL) return;
  weldpool_buffer_free(cache->spare);
  cache->spare = NULL;
  cache->given_up += 1;
}

/* One batch: the input goes up on one queue, is copied by another that waits for it, and is freed in that one's order,
 * without the host waiting. The result is read from the half of it that was asked for. */
static void batch(weldpool_allocator_t *allocator, weldpool_queue_t *upload, weldpool_queue_t *compute,
                  unsigned number) {
  weldpool_request_t request = {.struct_size = sizeof request, .bytes = BATCH_BYTES, .name = "input", .queue = upload};
  weldpool_buffer_t *input, *output, *half;
  unsigned char *host = malloc(BATCH_BYTES / 2);
  if (host == NULL) exit(1);
  check(weldpool_allocator_allocate_with(allocator, &request, &input), "input");
  request.name = "output";
  request.queue = compute;
  check(weldpool_allocator_allocate_with(allocator, &request, &output), "output");

  check(weldpool_queue_fill(upload, input, number, NULL), "fill");
  check(weldpool_queue_copy(compute, input, output, NULL), "copy");
  check(weldpool_buffer_free_on(input, compute), "free");

  check(weldpool_buffer_slice(output, BATCH_BYTES / 2, BATCH_BYTES / 2, &half), "slice");
  weldpool_buffer_free(output); /* the view keeps the memory */
  check(weldpool_queue_read(compute, half, host, BATCH_BYTES / 2), "read");
  for (size_t i = 0; i < BATCH_BYTES / 2; i += 4096) {
    if (host[i] != number) {
      fprintf(stderr, "batch %u: byte %zu is %d\n", number, i, host[i]);
      exit(1);
    }
  }
  weldpool_buffer_free(half);
  free(host);
}

/* A request beyond the limit is an error with a code, and costs nothing. */
static void beyond_the_limit(weldpool_allocator_t *allocator) {
  weldpool_buffer_t *buffer;
  weldpool_error_t *error = weldpool_allocator_allocate(allocator, 2u * LIMIT_BYTES, NULL, &buffer);
  if (weldpool_error_code(error) != WELDPOOL_ERROR_LIMIT_EXCEEDED || buffer != NULL) {
    fprintf(stderr, "twice the limit was not refused\n");
    exit(1);
  }
  printf("refused: %s\n", weldpool_error_message(error));
  weldpool_error_free(error);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s DEVICE TRACE\n", argv[0]);
    return 2;
  }
  if (weldpool_abi_version() != WELDPOOL_ABI_VERSION) {
    fprintf(stderr, "libweldpool %s has another interface than its header\n", weldpool_version());
    return 2;
  }

  weldpool_device_t *device;
  check(weldpool_device_open(argv[1], &device), "device");
  weldpool_device_info_t about = {.struct_size = sizeof about};
  check(weldpool_device_info(device, &about), "device");
  printf("%s: %s\n", about.name, about.maker_name);

  weldpool_config_t config = {
      .struct_size = sizeof config,
      .name = "example",
      .reserved_bytes_max = LIMIT_BYTES,
      .flags = WELDPOOL_CONFIG_DEBUG_CHECKS,
  };
  weldpool_allocator_t *allocator;
  check(weldpool_allocator_create(device, &config, &allocator), "allocator");
  weldpool_device_free(device);

  struct cache cache = {0};
  check(weldpool_allocator_allocate(allocator, BATCH_BYTES, NULL, &cache.spare), "spare");
  check(weldpool_allocator_on_pressure(allocator, on_pressure, &cache, NULL), "on_pressure");

  weldpool_queue_t *upload, *compute;
  check(weldpool_queue_create(allocator, &upload), "queue");
  check(weldpool_queue_create(allocator, &compute), "queue");
  check(weldpool_allocator_record(allocator, argv[2]), "record");
  for (unsigned number = 1; number <= BATCHES; number++) batch(allocator, upload, compute, number);
  uint64_t events = 0;
  check(weldpool_allocator_record_stop(allocator, &events, NULL), "record");
  printf("%" PRIu64 " events are in %s\n", events, argv[2]);
  beyond_the_limit(allocator);

  /* The system would say so by itself, with WELDPOOL_CONFIG_WATCH_PRESSURE. */
  uint32_t level;
  check(weldpool_allocator_signal_pressure(allocator, WELDPOOL_PRESSURE_CRITICAL), "pressure");
  check(weldpool_allocator_check_pressure(allocator, &level), "pressure");
  check(weldpool_allocator_signal_pressure(allocator, WELDPOOL_PRESSURE_NORMAL), "pressure");
  check(weldpool_allocator_check_pressure(allocator, &level), "pressure");

  weldpool_queue_free(upload);
  weldpool_queue_free(compute);
  char *text;
  check(weldpool_allocator_dashboard(allocator, 80, 0, &text), "dashboard");
  printf("%s", text);
  weldpool_string_free(text);

  weldpool_stats_t stats = {.struct_size = sizeof stats};
  check(weldpool_allocator_stats(allocator, &stats), "stats");
  weldpool_allocator_free(allocator);
  int right = stats.live_bytes == 0 && events == 4u * BATCHES && cache.given_up == 1 && cache.spare == NULL;
  printf("%" PRIu64 " allocations, %" PRIu64 " driver calls, %s\n", stats.allocations, stats.driver_calls,
         right ? "all freed" : "something is wrong");
  return right ? 0 : 1;
}
