/* The memory manager of Weldpool for C and C++: libweldpool.
 *
 * No function unwinds into its caller. After a null pointer or a number other than zero, weldpool_last_error()
 * says what went wrong, and the same is printed to standard error, but for a request of no bytes. Functions may be
 * called from any thread. How to build and link: docs/c.md. */
#ifndef WELDPOOL_H
#define WELDPOOL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Text of the calling thread's last error, valid until the thread's next call; empty if there was none. */
const char* weldpool_last_error(void);

#ifdef __linux__
/* PyTorch's pluggable allocator (torch.cuda.memory.CUDAPluggableAllocator): alloc_fn, free_fn and
 * record_stream_fn. `stream` is a cudaStream_t of the device's primary context; memory is ordered by it.
 * The pool of a device is opened by the first call, with the configuration of the environment
 * (METAL_ALLOCATOR_DEBUG, METAL_ALLOCATOR_STATS, METAL_ALLOCATOR_PROFILE). */
/* Null for no bytes, when there is no memory, and on a stream that records a CUDA graph. */
void* weldpool_torch_malloc(ssize_t bytes, int device, void* stream);
/* At a multiple of `alignment`, a power of two up to 2^30. Addresses of either function are multiples of 256. */
void* weldpool_torch_malloc_aligned(ssize_t bytes, size_t alignment, int device, void* stream);
/* `address` is the one that malloc gave. On a stream that cannot be looked up now, since it records a graph and was not
 * seen before, or 4,096 are known, a later call of malloc or free for the device frees the memory; the first such free is
 * told like an error. */
void weldpool_torch_free(void* address, ssize_t bytes, int device, void* stream);
/* Work on `stream` uses the memory that has a byte at `address`: it is reused after that work. The stream is alive when
 * the memory is freed. */
void weldpool_torch_record_stream(void* address, void* stream);
/* A stream must not be destroyed before it is forgotten here; 0 on success, also where it was not known or nothing was
 * allocated on the device, which is not opened for it. PyTorch never destroys its own. */
int weldpool_torch_forget_stream(int device, void* stream);

/* What a device's pool holds, in bytes, and what it did. */
typedef struct WeldpoolTorchStats {
  uint64_t live;          /* requested and not freed */
  uint64_t live_peak;
  uint64_t reserved;      /* held from the driver */
  uint64_t reserved_peak;
  uint64_t allocations;
  uint64_t driver_calls;  /* for memory */
} WeldpoolTorchStats;

/* 0 on success. */
int weldpool_torch_stats(int device, WeldpoolTorchStats* stats);
#endif

#ifdef __cplusplus
}
#endif

#endif
