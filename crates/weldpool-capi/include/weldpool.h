/* The memory manager of Weldpool for C and C++: libweldpool. Written by `cargo xtask header` from the library's sources.
 *
 * Functions are named weldpool_OBJECT_VERB. One that may fail returns a weldpool_error_t *: NULL for success, else an
 * error that the caller owns and frees with weldpool_error_free. Results are stored through pointers: after an error
 * handles, texts and addresses are NULL and numbers are zero, whereas a structure that is to be filled in stays as it
 * was. A result that is described as "if not null" need not be asked for. No function unwinds, and none ends the program
 * for a wrong argument: a null pointer where there has to be one, a number that no constant has, or a wrong struct_size
 * is an error of code WELDPOOL_ERROR_INVALID_ARGUMENT.
 *
 * Handles are made by functions and freed by weldpool_OBJECT_free, once, in any order: what others need lives on.
 * "Thread-safe" at a function says that threads may call it at once, on the same handles too.
 *
 * Structures begin with their size, which the caller sets, and grow at their end in later versions. Zero is the default
 * of each field that is passed in. What the caller's version does not know stays as the default; a field that the
 * library's version does not know has to be zero. A structure that the library passes to a function of the caller's has
 * the library's size, which may be an older one: look at struct_size before you touch a field that a later version
 * added. weldpool_size_class_t and weldpool_triton_source_t, of which there are lists, and WeldpoolTorchStats have no
 * size in them and never grow.
 *
 * How to build and link, with examples, and what is not here: docs/c.md. */

#ifndef WELDPOOL_H
#define WELDPOOL_H

#include <stddef.h>
#include <stdint.h>
// Triton's, declared in its tritonserver.h.
struct TRITONSERVER_ResponseAllocator;

// Version of the binary interface that this header describes. While it is 0, every release may change it; from 1 on, a
// number stands for an interface that only grows, and is the number behind `libweldpool.so.`.
#define WELDPOOL_ABI_VERSION 0

// The call is wrong: a null pointer, a number that no constant has, a wrong struct_size, a text that is no UTF-8.
#define WELDPOOL_ERROR_INVALID_ARGUMENT 1

// The request can never be satisfied as it stands: zero bytes, a bad alignment, a wrong range. Change it.
#define WELDPOOL_ERROR_INVALID_REQUEST 2

// A value of a configuration or an environment variable is wrong.
#define WELDPOOL_ERROR_INVALID_CONFIG 3

// The device has no memory left and everything idle was given back. Free something and try again.
#define WELDPOOL_ERROR_OUT_OF_MEMORY 4

// A limit that was set, or the device's largest segment, stands in the way although there may be memory.
#define WELDPOOL_ERROR_LIMIT_EXCEEDED 5

// This device, or this build, never offers what was asked.
#define WELDPOOL_ERROR_UNSUPPORTED 6

// Not now: work in flight, or another guard, holds the contents. Wait for it and try again.
#define WELDPOOL_ERROR_BUSY 7

// A wait ended before the work did.
#define WELDPOOL_ERROR_TIMEOUT 8

// The work was cancelled before its end.
#define WELDPOOL_ERROR_CANCELLED 9

// The device or queue is gone; every later call on it says the same.
#define WELDPOOL_ERROR_DEVICE_LOST 10

// The operating system or a driver refused a call for another reason.
#define WELDPOOL_ERROR_SYSTEM 11

// A mistake of the library's own, which it caught. Nothing is known of the objects that the call was given.
#define WELDPOOL_ERROR_INTERNAL 12

// As a time to wait: without end. As a limit: none.
#define WELDPOOL_FOREVER 18446744073709551615ull

// The default: fine size classes.
#define WELDPOOL_PRESET_FINE 0

// Size classes of the first design.
#define WELDPOOL_PRESET_SEED 1

// Powers of two, at most 32 idle blocks of each, and a thread that collects idle memory every minute.
#define WELDPOOL_PRESET_POOLING 2

// The adaptive strategy, which learns from the workload.
#define WELDPOOL_PRESET_ADAPTIVE 3

// No blocks are kept for reuse: each buffer is memory of its own.
#define WELDPOOL_CONFIG_NO_POOLING 1

// METAL_ALLOCATOR_DEBUG, METAL_ALLOCATOR_STATS and METAL_ALLOCATOR_PROFILE are read; they win over other flags.
#define WELDPOOL_CONFIG_FROM_ENVIRONMENT 2

// A thread watches memory pressure and has idle memory given back.
#define WELDPOOL_CONFIG_WATCH_PRESSURE 4

// A thread gives idle memory back that was not used for long.
#define WELDPOOL_CONFIG_COLLECT 8

// Sampled allocations keep a backtrace, for reports.
#define WELDPOOL_CONFIG_BACKTRACES 16

// Counters are checked against a walk over all live buffers at the end.
#define WELDPOOL_CONFIG_DEBUG_CHECKS 32

// Spans around slow paths go to the platform's profiler (Instruments, Nsight Systems).
#define WELDPOOL_CONFIG_PROFILING 64

// The contents are zero at first; memory that only the device reaches is zeroed on the request's queue, which it
// needs.
#define WELDPOOL_REQUEST_ZEROED 1

// Only memory that is held already serves the request: no driver call, no waiting; BUSY where none fits.
#define WELDPOOL_REQUEST_HELD_ONLY 2

// Queues of the device's peers reach the memory.
#define WELDPOOL_REQUEST_VISIBLE_TO_PEERS 4

// One memory that host and device both touch. The default.
#define WELDPOOL_STORAGE_SHARED 0

// Memory that the driver moves to whoever touches it.
#define WELDPOOL_STORAGE_MANAGED 1

// Memory that only the device touches; access by the host is refused.
#define WELDPOOL_STORAGE_PRIVATE 2

// Block characters of Unicode are drawn; else everything is ASCII.
#define WELDPOOL_DASHBOARD_UNICODE 1

// Enough memory.
#define WELDPOOL_PRESSURE_NORMAL 0

// Memory is filling up.
#define WELDPOOL_PRESSURE_MODERATE 1

// Caches should stop growing and give back what is whole.
#define WELDPOOL_PRESSURE_WARNING 2

// Allocations may soon fail, or the system stalls.
#define WELDPOOL_PRESSURE_CRITICAL 3

// Allocations fail or processes are about to be killed.
#define WELDPOOL_PRESSURE_EMERGENCY 4

// Nothing can be done.
#define WELDPOOL_RECOURSE_GIVE_UP 0

// Something was freed, or a limit raised: try again.
#define WELDPOOL_RECOURSE_RETRY 1

// Sources are asked as the list has them. Otherwise the one is first whose memory is nearest to what Triton asks for.
#define WELDPOOL_TRITON_LISTED_ORDER 1

// The system's heap serves what no source has memory for.
#define WELDPOOL_TRITON_PLAIN_FALLBACK 2

// A handle to the pool of one device. Thread-safe.
typedef struct weldpool_allocator_t weldpool_allocator_t;

// A range of memory of a pool, and a share in its ownership: all of it as it was allocated, or a view of a part of it
// (weldpool_buffer_slice). The memory is freed with the last handle, guard and work that uses it. A handle is
// thread-safe, but for freeing it.
typedef struct weldpool_buffer_t weldpool_buffer_t;

// Keeps a function registered until it is freed.
typedef struct weldpool_callback_t weldpool_callback_t;

// A device: the host, a GPU, or one made of software. Thread-safe.
typedef struct weldpool_device_t weldpool_device_t;

// An error, which belongs to the caller of the function that returned it and is not changed any more.
typedef struct weldpool_error_t weldpool_error_t;

// A point in a queue, passed once all work submitted before it is done. Thread-safe.
typedef struct weldpool_fence_t weldpool_fence_t;

// Access to the contents of a buffer, until it is freed. It keeps the memory alive.
typedef struct weldpool_guard_t weldpool_guard_t;

// An ordered stream of device work, for memory of one pool. Thread-safe.
typedef struct weldpool_queue_t weldpool_queue_t;

// A response allocator of Triton's over pools of this library. Thread-safe, but for freeing it.
typedef struct weldpool_triton_response_allocator_t weldpool_triton_response_allocator_t;

// The real devices of the machine, and what copies between memories of different devices. Thread-safe.
typedef struct weldpool_runtime_t weldpool_runtime_t;

// A strategy, for weldpool_config_t. It may serve several allocators.
typedef struct weldpool_strategy_t weldpool_strategy_t;

// Permission to submit work beside a queue.
typedef struct weldpool_submission_t weldpool_submission_t;

// What a device is.
typedef struct {
  // sizeof(weldpool_device_info_t), set by the caller.
  size_t struct_size;
  // The name by which it is opened, such as "cuda:0"; lives as long as the handle.
  const char *name;
  // The maker's name for it; lives as long as the handle.
  const char *maker_name;
  // 1 if host and device share one physical memory.
  uint32_t unified;
  // Bit n is set if the device offers the storage mode n of WELDPOOL_STORAGE_*.
  uint32_t storage_modes;
  // Physical memory in bytes.
  uint64_t total_bytes;
  // Memory that the system could give without swapping, in bytes; 0 where it does not tell.
  uint64_t available_bytes;
  // Largest buffer in bytes.
  uint64_t buffer_bytes_max;
  // What is obtained from the driver is a multiple of this many bytes.
  uint64_t granularity;
  // Least alignment of a buffer in bytes.
  uint64_t alignment_min;
} weldpool_device_info_t;

// What a request asks for, and how the allocator stands.
typedef struct {
  // Size of this structure as the library knows it.
  size_t struct_size;
  // Bytes that are asked for.
  size_t bytes;
  // Alignment in bytes, 256 if the request names none.
  size_t alignment;
  // One of WELDPOOL_STORAGE_*.
  uint32_t storage;
  // Zero.
  uint32_t unused;
  // Name of the buffer, for the time of the call.
  const char *name;
  // Bytes held from the driver.
  uint64_t reserved_bytes;
  // The most that may be held; 0 for no limit.
  uint64_t limit_bytes;
  // Bytes requested and not yet freed.
  uint64_t live_bytes;
} weldpool_asked_t;

// How a request is to be served; given as the request asks.
typedef struct {
  // Size of this structure as the library knows it.
  size_t struct_size;
  // 1: from the pool and back into it. 0: from memory of its own, which goes back to the device when it is freed.
  uint32_t pool;
  // One of WELDPOOL_STORAGE_*. One that the device lacks fails the request.
  uint32_t storage;
  // Alignment in bytes, a power of two up to 1 GiB.
  size_t alignment;
} weldpool_choice_t;

// Decides how a request is served, by changing the choice. Called on the requesting thread, on several at once, with
// no lock held; it must not allocate from the same allocator, nor unwind.
typedef void (*weldpool_choose_fn)(void *user_data, const weldpool_asked_t *asked, weldpool_choice_t *choice);

// Called once when a function that was passed in will not be called any more, on whichever thread that is.
typedef void (*weldpool_destroy_fn)(void *user_data);

// A size class of one's own; see weldpool_config_t.
typedef struct {
  // Size of its blocks in bytes; a multiple of 256.
  size_t bytes;
  // Blocks made when the allocator is created.
  size_t initial;
  // Idle blocks that stay with the class when idle memory is collected.
  size_t kept;
  // Most idle blocks that all threads share.
  size_t cached_max;
  // Most idle blocks that each thread keeps for itself, at most 128.
  size_t thread_max;
} weldpool_size_class_t;

// Configuration of an allocator. Zero is the default of every field, so start from
// `weldpool_config_t config = {.struct_size = sizeof config};`.
typedef struct {
  // sizeof(weldpool_config_t).
  size_t struct_size;
  // Name of the pool in reports and logs. Default: the device's.
  const char *name;
  // One of WELDPOOL_PRESET_*, which the other fields change.
  uint32_t preset;
  // Any of WELDPOOL_CONFIG_*, added up.
  uint32_t flags;
  // Alignment of every buffer in bytes, a power of two from 256 to 1 GiB. Default: 256.
  size_t alignment;
  // Hard limit on the bytes held from the driver. Default: none but the device's own.
  uint64_t reserved_bytes_max;
  // Idle bytes kept; 1 keeps nothing. Default: a quarter of the device's memory.
  uint64_t cached_bytes_max;
  // Smallest segment asked of the driver, in bytes. Default: 2 MiB.
  size_t segment_bytes_min;
  // Most by which memory grows at once, unless a single request needs more, in bytes. Default: 64 MiB.
  size_t segment_bytes_max;
  // Part of the greatest sum of live bytes, in 1024ths, by which memory held may exceed it before holes are mapped
  // together. Default: 10.
  uint32_t slack_per_1024;
  // Driver time that each request may cost on average for tightness, in nanoseconds. Default: 1000.
  uint32_t driver_ns_per_operation;
  // How long an allocation that found no memory waits for work in flight, in nanoseconds; 1 waits for none. Default:
  // one second.
  uint64_t wait_max_ns;
  // How often pressure is assessed, in nanoseconds, from 10 ms to an hour. Default: one second.
  uint64_t pressure_interval_ns;
  // Time between collections, in nanoseconds, from 10 ms to a day. Default: what the preset says.
  uint64_t collect_interval_ns;
  // Bytes that a thread allocates for each allocation that is sampled; WELDPOOL_FOREVER samples none. Default: 512
  // KiB.
  uint64_t sample_interval_bytes;
  // Size classes instead of the preset's, ascending in size.
  const weldpool_size_class_t *classes;
  // How many, at most 4096.
  size_t class_count;
  // Decides how requests are served, instead of the preset's. The allocator keeps it; the handle may be freed.
  const weldpool_strategy_t *strategy;
} weldpool_config_t;

// A request for memory. Zero is the default of every field but `bytes`.
typedef struct {
  // sizeof(weldpool_request_t).
  size_t struct_size;
  // How many bytes; not zero.
  size_t bytes;
  // Alignment in bytes, a power of two up to 1 GiB; at least 256 in any case.
  size_t alignment;
  // One of WELDPOOL_STORAGE_*.
  uint32_t storage;
  // Any of WELDPOOL_REQUEST_*, added up.
  uint32_t flags;
  // Name for statistics and reports. A process has 65,536 distinct ones; further ones show as "(other)".
  const char *name;
  // The queue whose work uses the memory first; null for the host's order.
  const weldpool_queue_t *queue;
} weldpool_request_t;

// Where a buffer is, and what it is.
typedef struct {
  // sizeof(weldpool_buffer_info_t), set by the caller.
  size_t struct_size;
  // Length of the range in bytes.
  size_t bytes;
  // Address for the host; null for private storage. It is read and written under a guard (weldpool_buffer_read), or
  // on the caller's own responsibility.
  void *host;
  // Address for the device (CUDA: a CUdeviceptr; Metal: the GPU address); 0 where it has none of its own.
  uint64_t device_address;
  // The driver's object of the memory around (Metal: an MTLBuffer); null where there is none.
  void *resource;
  // Where the range begins in that, in bytes.
  size_t resource_offset;
  // Bytes of the block that all views of the memory are in.
  size_t block_bytes;
  // Alignment of the block in bytes, as far as it was asked for.
  size_t alignment;
  // One of WELDPOOL_STORAGE_*, which a strategy may have chosen.
  uint32_t storage;
  // 1 while this is the only handle of the memory, guards included.
  uint32_t unique;
} weldpool_buffer_info_t;

// What is known of an address.
typedef struct {
  // sizeof(weldpool_block_info_t), set by the caller.
  size_t struct_size;
  // Address of the first byte.
  uint64_t address;
  // Bytes that were requested.
  uint64_t bytes;
  // Bytes of the block behind them.
  uint64_t block_bytes;
  // One of WELDPOOL_STORAGE_*.
  uint32_t storage;
  // The system's number of the node (NUMA) that the memory is of, -1 where nodes are not kept apart.
  int32_t node;
} weldpool_block_info_t;

// A function that a queue calls, or that is called in its order.
typedef void (*weldpool_call_fn)(void *user_data);

// What work that is submitted beside a queue has to keep. All null: it is submitted to the stream that the queue is
// over, whose order does.
typedef struct {
  // sizeof(weldpool_order_t), set by the caller.
  size_t struct_size;
  // What to submit to (an MTLCommandQueue).
  void *queue;
  // The event that the work waits for before it begins (an MTLSharedEvent),
  void *wait_event;
  // and its value.
  uint64_t wait_value;
  // The event that the work signals behind its end,
  void *signal_event;
  // and its value.
  uint64_t signal_value;
} weldpool_order_t;

// Statistics of an allocator. Sizes are in bytes, counts since it was created.
typedef struct {
  // sizeof(weldpool_stats_t), set by the caller.
  size_t struct_size;
  // Requested and not yet freed,
  uint64_t live_bytes;
  // most of it at once,
  uint64_t live_bytes_peak;
  // and the sum of all, rounding included.
  uint64_t live_bytes_total;
  // Held from the driver,
  uint64_t reserved_bytes;
  // most of it at once,
  uint64_t reserved_bytes_peak;
  // and the sum of all that was obtained.
  uint64_t reserved_bytes_total;
  // Held besides, for copies.
  uint64_t staging_bytes;
  // Others' memory that the device was made to know.
  uint64_t registered_bytes;
  // Empty segments that the system may take (Metal).
  uint64_t parked_bytes;
  // The limit on what is reserved; 0 for none.
  uint64_t limit_bytes;
  // Blocks that users hold, rounding included.
  uint64_t block_bytes;
  // Held from the driver and idle.
  uint64_t cached_bytes;
  // Freed, and waiting for work.
  uint64_t deferred_bytes;
  // Free in arenas.
  uint64_t free_bytes;
  // Largest free range.
  uint64_t largest_free_bytes;
  // Successful allocations.
  uint64_t allocations;
  // Memory given back.
  uint64_t frees;
  // Allocations that memory held already served.
  uint64_t hits;
  // Allocations that needed memory from the driver.
  uint64_t misses;
  // Times that memory was obtained.
  uint64_t growths;
  // Times that holes were mapped together instead.
  uint64_t remaps;
  // Allocations that failed.
  uint64_t failures;
  // Those of them for want of memory, or because of a limit.
  uint64_t memory_failures;
  // Driver calls that obtain, return, register or unregister memory.
  uint64_t driver_calls;
  // Those that failed.
  uint64_t driver_failures;
  // Nanoseconds in them.
  uint64_t driver_ns;
  // Segments held.
  uint64_t segments;
  // Requests for which neither the device nor the limit allowed more memory.
  uint64_t out_of_memory_events;
  // Those that failed after all.
  uint64_t out_of_memory_failures;
  // Changes of the level of pressure.
  uint64_t pressure_events;
  // Given back in answer to pressure.
  uint64_t pressure_returned_bytes;
  // Collections that gave something back.
  uint64_t collections;
  // What they gave back.
  uint64_t collected_bytes;
  // Pressure from 0 to 1.
  double pressure;
  // hits / (hits + misses); 1 before the first allocation.
  double hit_rate;
  // live / reserved; 1 when nothing is reserved.
  double utilisation;
  // One of WELDPOOL_PRESSURE_*.
  uint32_t pressure_level;
  // Zero.
  uint32_t unused;
} weldpool_stats_t;

// A change of level.
typedef struct {
  // Size of this structure as the library knows it.
  size_t struct_size;
  // The level before, one of WELDPOOL_PRESSURE_*.
  uint32_t before;
  // The level now.
  uint32_t level;
  // The greatest used / limit of all sources, from 0 to 1.
  double pressure;
  // Bytes that idle memory gave back for it.
  uint64_t given_back_bytes;
  // The source that it comes from, or null; for the time of the call.
  const char *source;
} weldpool_pressure_event_t;

// Is told of a change of level, on whichever thread assessed pressure: the one that watches
// (WELDPOOL_CONFIG_WATCH_PRESSURE), one that calls weldpool_allocator_check_pressure, one whose allocation found no
// memory, and, where no thread watches and the level falls, one whose allocation the caches did not serve. One is
// called at a time: the assessment holds a lock that the others wait for, so it must not wait for another thread that
// allocates from this allocator or checks. It must not unwind.
typedef void (*weldpool_pressure_fn)(void *user_data, const weldpool_pressure_event_t *event);

// What was asked for, and how things stand, when everything else has been tried. Sizes in bytes.
typedef struct {
  // Size of this structure as the library knows it.
  size_t struct_size;
  // What was asked for.
  size_t requested_bytes;
  // At which alignment.
  size_t alignment;
  // In which storage mode, one of WELDPOOL_STORAGE_*.
  uint32_t storage;
  // How often functions have been asked for this request, from 1.
  uint32_t round;
  // For what; for the time of the call.
  const char *name;
  // Requested and not yet freed.
  uint64_t live_bytes;
  // Held from the driver and idle.
  uint64_t cached_bytes;
  // Held from the driver.
  uint64_t reserved_bytes;
  // The most that may be held; 0 for no limit.
  uint64_t limit_bytes;
  // The largest free range.
  uint64_t largest_free_bytes;
} weldpool_out_of_memory_t;

// Is asked for help; answers WELDPOOL_RECOURSE_RETRY or WELDPOOL_RECOURSE_GIVE_UP, for which anything else counts. It
// runs on the thread whose request found no memory, on several at once, with no lock held, and may free and allocate.
// It must not unwind.
typedef uint32_t (*weldpool_out_of_memory_fn)(void *user_data, const weldpool_out_of_memory_t *event);

// Where memory of outputs comes from. There are lists of it, so it has no size in it and does not grow.
typedef struct {
  // The pool. The response allocator keeps what it needs of it.
  const weldpool_allocator_t *allocator;
  // One of WELDPOOL_STORAGE_*.
  uint32_t storage;
  // Zero.
  uint32_t unused;
} weldpool_triton_source_t;

// Options of a response allocator. Zero is the default of every field.
typedef struct {
  // sizeof(weldpool_triton_options_t).
  size_t struct_size;
  // Name of the buffers in statistics and reports of pools. Default: "triton response".
  const char *name;
  // Any of WELDPOOL_TRITON_*, added up.
  uint32_t flags;
  // Zero.
  uint32_t unused;
} weldpool_triton_options_t;

// What a response allocator did since it was made. allocations is the sum of releases, reclaimed and live_buffers.
typedef struct {
  // sizeof(weldpool_triton_stats_t), set by the caller.
  size_t struct_size;
  // Responses that were begun.
  uint64_t responses;
  // Questions of backends about the memory that an output would get.
  uint64_t queries;
  // Buffers that were handed out.
  uint64_t allocations;
  // Outputs of no bytes, which have no buffer and no release.
  uint64_t empty;
  // Buffers that did not come from the source that was asked first.
  uint64_t fallbacks;
  // Outputs for which no source had memory.
  uint64_t failures;
  // Buffers that Triton gave back.
  uint64_t releases;
  // Buffers freed at once, since Triton took no notice of them.
  uint64_t reclaimed;
  // Buffers that are out,
  uint64_t live_buffers;
  // their bytes,
  uint64_t live_bytes;
  // and the most of them at once.
  uint64_t live_bytes_peak;
} weldpool_triton_stats_t;

#if defined(__linux__)
// What a device's pool holds, in bytes. The structure has no size in it and does not grow.
typedef struct {
  // Requested by PyTorch and not freed.
  uint64_t live;
  // Most of it at once.
  uint64_t live_peak;
  // Held from the driver.
  uint64_t reserved;
  // Most of it at once.
  uint64_t reserved_peak;
  // Allocations.
  uint64_t allocations;
  // Calls of the driver for memory.
  uint64_t driver_calls;
} WeldpoolTorchStats;
#endif

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Version of the binary interface of the library that runs, to be compared with WELDPOOL_ABI_VERSION.
uint32_t weldpool_abi_version(void);

// Release of the library that runs, such as "0.1.0". Static.
const char *weldpool_version(void);

// The code, one of `WELDPOOL_ERROR_*`; 0 for null, which is success. A later version may have further codes.
uint32_t weldpool_error_code(const weldpool_error_t *error);

// What failed, where, why, and what to do, as UTF-8, for as long as the error lives; empty for null.
const char *weldpool_error_message(const weldpool_error_t *error);

// What to do about it, which the message ends with; null where that cannot be said. Lives as long as the error.
const char *weldpool_error_advice(const weldpool_error_t *error);

// The error number of the operating system (`errno`), 0 where it reported none.
int32_t weldpool_error_os_error(const weldpool_error_t *error);

// Bytes that were requested, 0 where the error belongs to no request for memory.
uint64_t weldpool_error_requested_bytes(const weldpool_error_t *error);

// Frees an error. Null is ignored.
void weldpool_error_free(weldpool_error_t *error);

// Frees a text that a function of this library returned through a `char **`. Null is ignored. Thread-safe.
void weldpool_string_free(char *text);

// Opens every real device there is; what cannot be opened is no error, see weldpool_runtime_absent.
//
// Errors: what opening the host says. Free with weldpool_runtime_free. Thread-safe.
weldpool_error_t *weldpool_runtime_open(weldpool_runtime_t **runtime);

// How many devices there are, at least one, which is the host; 0 for null. Thread-safe.
size_t weldpool_runtime_device_count(const weldpool_runtime_t *runtime);

// The device at a position, from 0, which is the host.
//
// Errors: INVALID_REQUEST for a position that there is not, else as for weldpool_device_open. Free with
// weldpool_device_free. Thread-safe.
weldpool_error_t *weldpool_runtime_device(const weldpool_runtime_t *runtime,
                                          size_t position,
                                          weldpool_device_t **device);

// What cannot be used here and why, a line for each kind of device, or device. Free the text with
// weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_runtime_absent(const weldpool_runtime_t *runtime, char **text);

// Copies all of `source` to the start of `destination`, whatever devices they are of, and returns when it is there. On
// one device weldpool_queue_copy does it without waiting.
//
// Errors: INVALID_REQUEST when the destination is shorter or overlaps the source, BUSY while a guard is held, else
// what drivers say. Thread-safe.
weldpool_error_t *weldpool_runtime_copy(const weldpool_runtime_t *runtime,
                                        const weldpool_buffer_t *source,
                                        const weldpool_buffer_t *destination);

// Frees a handle; devices that came from it go on. Null is ignored.
void weldpool_runtime_free(weldpool_runtime_t *runtime);

// Opens a device by name: "host", "metal", "cuda", "fake:discrete", "fake:apple", with a number behind a further colon
// if it is not the first of its kind ("cuda:1"). Devices of one name are the same hardware, but for those made of
// software, of which each has memory of its own.
//
// Errors: INVALID_REQUEST for a name that there is not, which lists those there are; else what opening the device
// says, as UNSUPPORTED where there is no driver. Free with weldpool_device_free. Thread-safe.
weldpool_error_t *weldpool_device_open(const char *name, weldpool_device_t **device);

// Opens the device that the environment variable METAL_DEVICE_ID names, by name or by its position among all devices;
// without it, the host.
//
// Errors: INVALID_CONFIG naming the variable; else as for weldpool_device_open. Thread-safe.
weldpool_error_t *weldpool_device_open_default(weldpool_device_t **device);

// Fills in what a device is; its memory is asked of the system.
//
// Errors: INVALID_ARGUMENT, or what the system says. Thread-safe.
weldpool_error_t *weldpool_device_info(const weldpool_device_t *device, weldpool_device_info_t *info);

// Frees a handle; allocators of the device go on. Null is ignored.
void weldpool_device_free(weldpool_device_t *device);

// A strategy that calls a function for each request. What the function answers is checked: a storage or a pool that is
// no constant serves the request as it asks, a wrong alignment fails it.
//
// `user_data` is taken over in any case: `destroy`, if given, is called once when neither handle nor allocator needs
// it any more, or at once where this call fails. Free with weldpool_strategy_free. Thread-safe.
weldpool_error_t *weldpool_strategy_create(weldpool_choose_fn choose,
                                           void *user_data,
                                           weldpool_destroy_fn destroy,
                                           weldpool_strategy_t **strategy);

// Frees a handle; allocators that use the strategy go on with it. Null is ignored.
void weldpool_strategy_free(weldpool_strategy_t *strategy);

// A pool of a device's memory. `config` may be null for the default.
//
// Errors: INVALID_ARGUMENT, INVALID_CONFIG naming the field, or what the device says. Free with
// weldpool_allocator_free. Thread-safe.
weldpool_error_t *weldpool_allocator_create(const weldpool_device_t *device,
                                            const weldpool_config_t *config,
                                            weldpool_allocator_t **allocator);

// A further handle to the same pool. Free it with weldpool_allocator_free. Thread-safe.
weldpool_error_t *weldpool_allocator_clone(const weldpool_allocator_t *allocator, weldpool_allocator_t **clone);

// Frees a handle. Buffers may outlive it and keep the pool alive; with the last handle, leaks are reported as the
// configuration says, and idle memory goes back to the device. Null is ignored.
void weldpool_allocator_free(weldpool_allocator_t *allocator);

// A buffer of `bytes` bytes of shared storage, aligned to 256 bytes. With `queue`, whose work uses it first, memory
// that work on this queue still uses can serve; null is the host's order.
//
// Errors: as for weldpool_allocator_allocate_with. Free with weldpool_buffer_free. Thread-safe.
weldpool_error_t *weldpool_allocator_allocate(const weldpool_allocator_t *allocator,
                                              size_t bytes,
                                              const weldpool_queue_t *queue,
                                              weldpool_buffer_t **buffer);

// A buffer as requested. Its contents are whatever the memory held before, unless zeroes were asked for.
//
// Errors: INVALID_REQUEST for zero bytes, a size that no buffer can have, or a wrong alignment; UNSUPPORTED for a
// storage mode that the device lacks; LIMIT_EXCEEDED or OUT_OF_MEMORY once everything idle was given back, nothing in
// flight ended within wait_max_ns and no callback freed anything; BUSY for WELDPOOL_REQUEST_HELD_ONLY; else what the
// driver says. Nothing was allocated then. Free with weldpool_buffer_free. Thread-safe.
weldpool_error_t *weldpool_allocator_allocate_with(const weldpool_allocator_t *allocator,
                                                   const weldpool_request_t *request,
                                                   weldpool_buffer_t **buffer);

// Makes sure that `count` further buffers of `bytes` bytes can be had without a driver call, as far as so many may be
// idle; `made`, if not null, is how many were made ready.
//
// Errors: as for weldpool_allocator_allocate; what was made ready stays. Thread-safe.
weldpool_error_t *weldpool_allocator_pre_allocate(const weldpool_allocator_t *allocator,
                                                  size_t bytes,
                                                  size_t count,
                                                  size_t *made);

// Obtains at least `bytes` bytes of a storage mode (WELDPOOL_STORAGE_*) from the device and leaves them idle;
// `obtained`, if not null, is how many.
//
// Errors: OUT_OF_MEMORY or LIMIT_EXCEEDED with nothing given up for it, UNSUPPORTED for a storage mode that the device
// lacks, INVALID_REQUEST while pooling is off, else what the driver says. Thread-safe.
weldpool_error_t *weldpool_allocator_reserve(const weldpool_allocator_t *allocator,
                                             size_t bytes,
                                             uint32_t storage,
                                             size_t *obtained);

// Gives all idle memory back to the device; `returned`, if not null, is how many bytes.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_allocator_trim(const weldpool_allocator_t *allocator, size_t *returned);

// Has idle memory collected now rather than at the end of the interval.
//
// Errors: UNSUPPORTED without WELDPOOL_CONFIG_COLLECT. Thread-safe.
weldpool_error_t *weldpool_allocator_collect_soon(const weldpool_allocator_t *allocator);

// Switches pooling; `before`, if not null, is what it was. 1 is on, 0 off.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_allocator_set_pooling(const weldpool_allocator_t *allocator, uint32_t on, uint32_t *before);

// Sets the hard limit on the bytes held from the driver, 0 for none; `before`, if not null, is what it was. Idle
// memory beyond it goes back now; what is in use stays until it is freed.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_allocator_set_reserved_bytes_max(const weldpool_allocator_t *allocator,
                                                            uint64_t bytes,
                                                            uint64_t *before);

// Sets the limit on idle bytes; `before`, if not null, is what it was. Idle memory beyond it goes back now.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_allocator_set_cached_bytes_max(const weldpool_allocator_t *allocator,
                                                          uint64_t bytes,
                                                          uint64_t *before);

// Switches spans for the platform's profiler on (1) or off (0); `before`, if not null, is what it was.
//
// Errors: UNSUPPORTED where there is no such tool. Thread-safe.
weldpool_error_t *weldpool_allocator_set_profiling(const weldpool_allocator_t *allocator,
                                                   uint32_t on,
                                                   uint32_t *before);

// Fills in where a buffer is. The addresses are good as long as the memory is, which a handle keeps; who uses them
// keeps away from work in flight, as guards do.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_buffer_info(const weldpool_buffer_t *buffer, weldpool_buffer_info_t *info);

// Length of the range in bytes; 0 for null. Thread-safe.
size_t weldpool_buffer_bytes(const weldpool_buffer_t *buffer);

// The name that the memory was requested with. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_buffer_name(const weldpool_buffer_t *buffer, char **name);

// A view of `bytes` bytes from `offset`, counted from the start of this range, which owns a share of the memory too.
//
// Errors: INVALID_REQUEST when that does not lie inside. Free with weldpool_buffer_free. Thread-safe.
weldpool_error_t *weldpool_buffer_slice(const weldpool_buffer_t *buffer,
                                        size_t offset,
                                        size_t bytes,
                                        weldpool_buffer_t **slice);

// A further handle of the same range. Free it with weldpool_buffer_free. Thread-safe.
weldpool_error_t *weldpool_buffer_clone(const weldpool_buffer_t *buffer, weldpool_buffer_t **clone);

// Waits until no submitted work uses the memory, or for `timeout_ns` nanoseconds.
//
// Errors: TIMEOUT, DEVICE_LOST. Thread-safe.
weldpool_error_t *weldpool_buffer_wait(const weldpool_buffer_t *buffer, uint64_t timeout_ns);

// Frees a handle, from any thread. The memory of the last one is used again once the work is over that was submitted
// with it through a queue of this library, or noted. Null is ignored.
void weldpool_buffer_free(weldpool_buffer_t *buffer);

// Frees a handle in the order of a queue: work that was submitted to it so far, by whomever, may still use the memory.
// If it was the last handle, the same queue has the memory again at once, everybody else once the queue has passed
// this point.
//
// Errors: INVALID_ARGUMENT, and what the driver says where there are further handles; the handle is not freed then.
// Thread-safe.
weldpool_error_t *weldpool_buffer_free_on(weldpool_buffer_t *buffer, const weldpool_queue_t *queue);

// Read access to a buffer's contents: nothing writes them through this library until the guard is freed. `data` is
// their address; there are weldpool_buffer_bytes of them. Readers do not exclude each other.
//
// Errors: BUSY while submitted work writes the memory or a write guard is held on any view of it (weldpool_buffer_wait
// waits for work), UNSUPPORTED for private storage. Free with weldpool_guard_free, on any thread. Thread-safe.
weldpool_error_t *weldpool_buffer_read(const weldpool_buffer_t *buffer, weldpool_guard_t **guard, const void **data);

// Write access to a buffer's contents: nothing else touches them through this library until the guard is freed.
//
// Errors: as for weldpool_buffer_read, and BUSY while submitted work reads the memory or any other guard is held on
// any view of it. Free with weldpool_guard_free, on any thread, before work that reads it is submitted. Thread-safe.
weldpool_error_t *weldpool_buffer_write(const weldpool_buffer_t *buffer, weldpool_guard_t **guard, void **data);

// Ends the access. Null is ignored.
void weldpool_guard_free(weldpool_guard_t *guard);

// Memory as an address without a handle, as malloc gives it: the host's address, or the device's where the host has
// none. No guard protects its contents. It keeps the pool alive until it is freed.
//
// Errors: as for weldpool_allocator_allocate_with. Free with weldpool_allocator_free_address. Thread-safe.
weldpool_error_t *weldpool_allocator_allocate_address(const weldpool_allocator_t *allocator,
                                                      const weldpool_request_t *request,
                                                      void **address);

// Frees memory by the address that weldpool_allocator_allocate_address gave. With `queue`, work that was submitted to
// it so far may still use the memory; else nobody does. Null is ignored.
//
// Errors: INVALID_REQUEST for an address that was not given so, or was freed. Thread-safe.
weldpool_error_t *weldpool_allocator_free_address(const weldpool_allocator_t *allocator,
                                                  void *address,
                                                  const weldpool_queue_t *queue);

// The live memory of the pool that contains an address. The address is not read.
//
// Errors: INVALID_REQUEST where there is none. Thread-safe.
weldpool_error_t *weldpool_allocator_find(const weldpool_allocator_t *allocator,
                                          const void *address,
                                          weldpool_block_info_t *info);

// A new queue of the allocator's device.
//
// Errors: what the driver says. Free with weldpool_queue_free. Thread-safe.
weldpool_error_t *weldpool_queue_create(const weldpool_allocator_t *allocator, weldpool_queue_t **queue);

// The queue over a stream of CUDA (a CUstream or cudaStream_t; null is the legacy default stream) of the primary
// context of the device. Who made the stream goes on submitting to it; memory that is allocated and freed on the queue
// is ordered by the stream. Handles of one stream stand for one queue. The stream must not be destroyed before
// weldpool_queue_forget_cuda.
//
// Errors: UNSUPPORTED for another device, INVALID_REQUEST for the per-thread default stream, BUSY for a stream that
// records a graph, LIMIT_EXCEEDED beyond 4096 streams, else what the driver says. Free with weldpool_queue_free, which
// does not destroy the stream. Thread-safe.
weldpool_error_t *weldpool_queue_adopt_cuda(const weldpool_allocator_t *allocator,
                                            void *stream,
                                            weldpool_queue_t **queue);

// Forgets an adopted stream that is about to be destroyed: it is used no more, also by handles that are still there,
// and memory that was freed in its order is reusable once its work is done. Nothing happens where it was not adopted.
//
// Errors: as for weldpool_queue_adopt_cuda; the stream is still known then. Thread-safe.
weldpool_error_t *weldpool_queue_forget_cuda(const weldpool_allocator_t *allocator, void *stream);

// Waits until everything that was submitted so far is done, or for `timeout_ns` nanoseconds.
//
// Errors: TIMEOUT, DEVICE_LOST, else what the driver says. Thread-safe.
weldpool_error_t *weldpool_queue_synchronize(const weldpool_queue_t *queue, uint64_t timeout_ns);

// A fence at the present end of the queue.
//
// Errors: what the driver says. Free with weldpool_fence_free. Thread-safe.
weldpool_error_t *weldpool_queue_fence(const weldpool_queue_t *queue, weldpool_fence_t **fence);

// Submits a copy of all of `source` to the start of `destination`. Work of other queues that uses either comes before
// it. `fence`, if not null, is behind it. Handles may be freed at once.
//
// Errors: INVALID_REQUEST when the destination is shorter or overlaps the source, or either is memory that only
// another device reaches; BUSY while a guard is held; else what the driver says. Thread-safe.
weldpool_error_t *weldpool_queue_copy(const weldpool_queue_t *queue,
                                      const weldpool_buffer_t *source,
                                      const weldpool_buffer_t *destination,
                                      weldpool_fence_t **fence);

// Submits setting every byte of `buffer` to the low eight bits of `value`.
//
// Errors: as for weldpool_queue_copy, and INVALID_ARGUMENT for a value above 255. Thread-safe.
weldpool_error_t *weldpool_queue_fill(const weldpool_queue_t *queue,
                                      const weldpool_buffer_t *buffer,
                                      uint32_t value,
                                      weldpool_fence_t **fence);

// Submits a copy of `length` bytes of the caller's memory to the start of `destination`; returns when they were read.
//
// Errors: INVALID_REQUEST when the destination is shorter or not of this queue's pool, BUSY while a guard is held,
// else what the driver says; a first part may have been submitted then. Thread-safe.
weldpool_error_t *weldpool_queue_write(const weldpool_queue_t *queue,
                                       const void *source,
                                       size_t length,
                                       const weldpool_buffer_t *destination,
                                       weldpool_fence_t **fence);

// Copies all of `source` to the start of the caller's memory of `length` bytes, in the order of the queue; returns
// when it is there.
//
// Errors: as for weldpool_queue_write; what is in the caller's memory is undefined then. Thread-safe.
weldpool_error_t *weldpool_queue_read(const weldpool_queue_t *queue,
                                      const weldpool_buffer_t *source,
                                      void *destination,
                                      size_t length);

// Submits a function of the host's, called once on a thread of the library's or of the driver's. It must not unwind,
// nor wait for this queue; on CUDA for no queue at all, and what needs the driver is refused there as BUSY. On Metal it
// must not wait for a thread either that submits to other queues, as by a lock which that holds meanwhile.
//
// `user_data` is taken over in any case: `destroy`, if given, is called once behind the function, which may be after
// `fence` has passed, or at once, with the function uncalled, where this call fails. Where the device or the queue is
// lost before the function was called, it never is: `destroy` is called on any thread, when the loss is noticed or at
// the latest when the queue has ended. Errors: what the driver says. Thread-safe.
weldpool_error_t *weldpool_queue_call(const weldpool_queue_t *queue,
                                      weldpool_call_fn function,
                                      void *user_data,
                                      weldpool_destroy_fn destroy,
                                      weldpool_fence_t **fence);

// Takes note that work which somebody else submitted to the queue so far uses the memory, and may write it: guards are
// refused, and the memory is not used again, before that work is done.
//
// Errors: what the driver says. Thread-safe.
weldpool_error_t *weldpool_queue_note_use(const weldpool_queue_t *queue, const weldpool_buffer_t *buffer);

// Takes note that work of others, which has ended when `fence` has passed, reads the memory.
//
// Errors: BUSY while a write guard is held, which races with the work; the use is noted. Thread-safe.
weldpool_error_t *weldpool_queue_note_read(const weldpool_queue_t *queue,
                                           const weldpool_buffer_t *buffer,
                                           const weldpool_fence_t *fence);

// Takes note that work of others, submitted to this queue before `fence`, writes the memory. `behind`, if not null, is
// the fence until which nobody else uses it, which for managed storage is a later one.
//
// Errors: BUSY while a guard is held, which races with the work, or what the driver says. The use is noted.
// Thread-safe.
weldpool_error_t *weldpool_queue_note_write(const weldpool_queue_t *queue,
                                            const weldpool_buffer_t *buffer,
                                            const weldpool_fence_t *fence,
                                            weldpool_fence_t **behind);

// Frees a handle. Work that was submitted goes on, and memory that was freed in its order is reusable once that is
// done. Null is ignored.
void weldpool_queue_free(weldpool_queue_t *queue);

// Whether the point has passed: 1 or 0.
//
// Errors: DEVICE_LOST when it never will. Thread-safe.
weldpool_error_t *weldpool_fence_is_complete(const weldpool_fence_t *fence, uint32_t *complete);

// Waits until the point has passed, or for `timeout_ns` nanoseconds.
//
// Errors: TIMEOUT, DEVICE_LOST; BUSY in a function that a CUDA queue calls. Thread-safe.
weldpool_error_t *weldpool_fence_wait(const weldpool_fence_t *fence, uint64_t timeout_ns);

// Frees a handle; it waits for nothing. Null is ignored.
void weldpool_fence_free(weldpool_fence_t *fence);

// To be called before somebody else submits work that uses memory of the queue's device, such as MPSGraph, which
// commits command buffers by itself. `order` is what the work has to keep. A submission is given back to
// weldpool_queue_after_external_submit, or freed by weldpool_submission_free where the work was not submitted.
//
// Errors: what the driver says. Thread-safe.
weldpool_error_t *weldpool_queue_before_external_submit(const weldpool_queue_t *queue,
                                                        weldpool_order_t *order,
                                                        weldpool_submission_t **submission);

// Takes note that the announced work was submitted: later work of the queue waits for it. `fence`, if not null, is
// behind it, with which memory that it uses is noted: weldpool_queue_note_read, weldpool_queue_note_write. The
// submission is freed, also where this fails.
//
// Work that fails on the GPU signals nothing: the completed handler of its last command buffer sets the event's
// signaledValue to `signal_value` then, if that is less, since the queue waits until then. It retains the event for that, does so before anything else,
// and submits nothing that uses memory of the queue's.
//
// Errors: INVALID_REQUEST for what was announced to another queue or is forgotten, else what the driver says; the
// queue does not wait then, and whoever submitted the work waits himself. Thread-safe.
weldpool_error_t *weldpool_queue_after_external_submit(const weldpool_queue_t *queue,
                                                       weldpool_submission_t *submission,
                                                       weldpool_fence_t **fence);

// Frees a submission whose work was not submitted. Null is ignored.
void weldpool_submission_free(weldpool_submission_t *submission);

// Fills in statistics, in some 20 us; exact when no call is under way.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_allocator_stats(const weldpool_allocator_t *allocator, weldpool_stats_t *stats);

// Statistics as JSON, on one line: those of weldpool_stats_t, and those of size classes and nodes.
//
// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_allocator_stats_json(const weldpool_allocator_t *allocator, char **text);

// The detailed report as text: statistics, health, classes, live buffers by name, arenas. It walks all live buffers.
//
// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_allocator_report(const weldpool_allocator_t *allocator, char **text);

// The detailed report as JSON, on one line.
//
// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_allocator_report_json(const weldpool_allocator_t *allocator, char **text);

// The state of the allocator, drawn for a terminal of `width` characters, from 40 to 240, 0 for 80. `flags` are any of
// WELDPOOL_DASHBOARD_*.
//
// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_allocator_dashboard(const weldpool_allocator_t *allocator,
                                               uint32_t width,
                                               uint32_t flags,
                                               char **text);

// Metrics in Prometheus's text format, version 0.0.4, with histograms of samples.
//
// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_allocator_prometheus(const weldpool_allocator_t *allocator, char **text);

// How the allocator is doing: "healthy", "attention" or "critical" on the first line, then a line for each finding,
// with what was seen and what to change.
//
// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_allocator_health(const weldpool_allocator_t *allocator, char **text);

// The level of the last assessment.
//
// Errors: INVALID_ARGUMENT, or SYSTEM when pressure cannot be watched here. Thread-safe.
weldpool_error_t *weldpool_allocator_pressure(const weldpool_allocator_t *allocator, uint32_t *level);

// Assesses pressure now, on this thread, answers it as configured, and gives the level.
//
// Errors: as for weldpool_allocator_pressure. Thread-safe.
weldpool_error_t *weldpool_allocator_check_pressure(const weldpool_allocator_t *allocator, uint32_t *level);

// Raises the level to at least `level` until the next such call; WELDPOOL_PRESSURE_NORMAL takes it back. A watching
// thread acts on it at once, otherwise weldpool_allocator_check_pressure does.
//
// Errors: as for weldpool_allocator_pressure. Thread-safe.
weldpool_error_t *weldpool_allocator_signal_pressure(const weldpool_allocator_t *allocator, uint32_t level);

// Has a function called after each change of level, as long as the pool has handles, on the threads that
// weldpool_pressure_fn names, those that allocate among them. It may free memory. It must not hold a handle of this
// allocator, which would keep it alive for ever.
//
// `user_data` is taken over in any case: `destroy`, if given, is called once when the function will not be called any
// more, or at once where this call fails. Errors: LIMIT_EXCEEDED beyond 64 functions, else as for
// weldpool_allocator_pressure. Thread-safe.
weldpool_error_t *weldpool_allocator_on_pressure(const weldpool_allocator_t *allocator,
                                                 weldpool_pressure_fn function,
                                                 void *user_data,
                                                 weldpool_destroy_fn destroy);

// Has a function asked for help before a request for memory fails, until `callback` is freed. User data that owns a
// handle of this allocator keeps the pool alive until then.
//
// `user_data` is taken over in any case: `destroy`, if given, is called once when the function will not be called any
// more, or at once where this call fails. Errors: LIMIT_EXCEEDED beyond 64 functions. Free with
// weldpool_callback_free. Thread-safe.
weldpool_error_t *weldpool_allocator_on_out_of_memory(const weldpool_allocator_t *allocator,
                                                      weldpool_out_of_memory_fn function,
                                                      void *user_data,
                                                      weldpool_destroy_fn destroy,
                                                      weldpool_callback_t **callback);

// Ends a registration. A call of the function that is under way goes on, after which its user data is destroyed. Null
// is ignored.
void weldpool_callback_free(weldpool_callback_t *callback);

// Records every allocation and free of the pool to a file from now on, a binary one, by custom `*.wpt`; the program
// `weldpool trace` converts and shows it. The file is made, or emptied. A recording that is under way is ended.
//
// Errors: SYSTEM where the file cannot be made, or one that was under way could not be written; the new one has not
// begun, or has, respectively. Thread-safe.
weldpool_error_t *weldpool_allocator_record(const weldpool_allocator_t *allocator, const char *path);

// Ends the recording: what was recorded is in the file. `events` and `dropped`, if not null, are how many events are
// in it, and for how many there was no room.
//
// Errors: INVALID_REQUEST where nothing is recorded, SYSTEM where the file could not be written. Thread-safe.
weldpool_error_t *weldpool_allocator_record_stop(const weldpool_allocator_t *allocator,
                                                 uint64_t *events,
                                                 uint64_t *dropped);

// Replays a trace on fresh allocators of a device: this library's recordings, and the formats that `weldpool trace`
// reads, gzip included. The result is JSON, on one line: latencies, memory held, failures. `config` may be null.
//
// Errors: SYSTEM where the file cannot be read, INVALID_REQUEST where it is damaged, UNSUPPORTED for an unknown
// format, else as for weldpool_allocator_create. Free the text with weldpool_string_free. Thread-safe.
weldpool_error_t *weldpool_trace_replay(const char *path,
                                        const weldpool_device_t *device,
                                        const weldpool_config_t *config,
                                        char **json);

// A response allocator over `count` sources, at most 64, or 63 with WELDPOOL_TRITON_PLAIN_FALLBACK. `options` may be
// null for the default. Triton's functions are looked for in the process: libtritonserver has to be loaded.
//
// Errors: INVALID_ARGUMENT for no source or too many, UNSUPPORTED where there is no Triton, and for storage that the
// device lacks or Triton has no name for (private storage of Metal), SYSTEM with what Triton says. Free with
// weldpool_triton_response_allocator_free. Thread-safe.
weldpool_error_t *weldpool_triton_response_allocator_create(const weldpool_triton_source_t *sources,
                                                            size_t count,
                                                            const weldpool_triton_options_t *options,
                                                            weldpool_triton_response_allocator_t **allocator);

// The argument `response_allocator` of TRITONSERVER_InferenceRequestSetResponseCallback; null for null. It is not to be
// deleted. Thread-safe.
struct TRITONSERVER_ResponseAllocator *weldpool_triton_response_allocator_handle(const weldpool_triton_response_allocator_t *allocator);

// The argument `response_allocator_userp` of the same function, which has to be this one; null for null. Thread-safe.
void *weldpool_triton_response_allocator_userp(const weldpool_triton_response_allocator_t *allocator);

// Fills in what it did so far; exact when no call of Triton's is under way.
//
// Errors: INVALID_ARGUMENT. Thread-safe.
weldpool_error_t *weldpool_triton_response_allocator_stats(const weldpool_triton_response_allocator_t *allocator,
                                                           weldpool_triton_stats_t *stats);

// Frees a response allocator. To be called only after each request that was given it has had its last response; it does
// not wait for them. Responses may outlive it: the last buffer frees the rest. Null is ignored.
void weldpool_triton_response_allocator_free(weldpool_triton_response_allocator_t *allocator);

// The text of the calling thread's last error, which ends with zero and is valid until the thread's next call
// of this library; empty if there was none.
const char *weldpool_last_error(void);

#if defined(__linux__)
// Memory of `device` for work on `stream`: PyTorch's `alloc_fn`. Null for no bytes, when there is no memory, and on a
// stream that records a CUDA graph.
//
// The stream has to be one of the device's primary context, and alive until `weldpool_torch_forget_stream` or the
// end of the process.
void *weldpool_torch_malloc(ptrdiff_t bytes, int device, void *stream);
#endif

#if defined(__linux__)
// As `weldpool_torch_malloc`, at a multiple of `alignment`, a power of two up to 1 GiB. Every address is one of 256.
//
// The stream has to be as `weldpool_torch_malloc` wants it.
void *weldpool_torch_malloc_aligned(ptrdiff_t bytes, size_t alignment, int device, void *stream);
#endif

#if defined(__linux__)
// Takes memory back in the order of `stream`: PyTorch's `free_fn`. Where a stream cannot be looked up now, because it
// records a graph and was not seen before, or 4,096 are known, the memory is freed by a later call of
// `weldpool_torch_malloc` or of this function for the device, when it can; the first such free says so.
//
// The address has to come from `weldpool_torch_malloc` for the same device, and to be used no more but by work
// submitted to `stream`, or to streams that were recorded; the stream has to be alive, and to stay so until
// `weldpool_torch_forget_stream` or the end of the process. `bytes` is not looked at.
void weldpool_torch_free(void *address, ptrdiff_t bytes, int device, void *stream);
#endif

#if defined(__linux__)
// Takes note that work on a further stream uses memory, by any address in it: PyTorch's `record_stream_fn`.
//
// The stream has to be alive when the memory is freed.
void weldpool_torch_record_stream(void *address, void *stream);
#endif

#if defined(__linux__)
// Forgets a stream that is about to be destroyed, after which it is not used any more; 0 on success, also where it
// was not known, or the device has no pool. PyTorch never destroys its own streams.
//
// The stream has to be alive, and of the device's primary context.
int weldpool_torch_forget_stream(int device, void *stream);
#endif

#if defined(__linux__)
// Fills in what the pool of a device holds; 0 on success.
//
// `stats` has to point to a place for them; null is an error.
int weldpool_torch_stats(int device, WeldpoolTorchStats *stats);
#endif

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WELDPOOL_H */
