// RMM's pool, arena and asynchronous resources.
#include "peer.h"
#include <rmm/cuda_stream_view.hpp>
#include <rmm/mr/arena_memory_resource.hpp>
#include <rmm/mr/cuda_async_memory_resource.hpp>
#include <rmm/mr/cuda_memory_resource.hpp>
#include <rmm/mr/pool_memory_resource.hpp>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

static std::vector<cudaStream_t> streams;
static std::optional<rmm::mr::pool_memory_resource> pool;
static std::optional<rmm::mr::arena_memory_resource> arena;
static std::optional<rmm::mr::cuda_async_memory_resource> async_resource;

extern "C" int peer_open(const char* setting, int threads) try {
  streams.resize(threads);
  for (auto& stream : streams)
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) return 1;
  if (!std::strcmp(setting, "pool")) {
    pool.emplace(rmm::mr::cuda_memory_resource{}, 0);
  } else if (!std::strcmp(setting, "arena")) {
    arena.emplace(rmm::mr::cuda_memory_resource{});
  } else {
    async_resource.emplace();
  }
  return 0;
} catch (...) {
  return 2;
}

extern "C" void* peer_allocate(int thread, size_t bytes) try {
  rmm::cuda_stream_view stream{streams[thread]};
  if (pool) return pool->allocate(stream, bytes, 256);
  if (arena) return arena->allocate(stream, bytes, 256);
  return async_resource->allocate(stream, bytes, 256);
} catch (...) {
  return nullptr;
}

extern "C" void peer_free(int thread, void* address, size_t bytes) {
  rmm::cuda_stream_view stream{streams[thread]};
  if (pool) return pool->deallocate(stream, address, bytes, 256);
  if (arena) return arena->deallocate(stream, address, bytes, 256);
  async_resource->deallocate(stream, address, bytes, 256);
}

// The resources do not say what they hold; see the report.
extern "C" uint64_t peer_peak_reserved() { return 0; }

extern "C" const char* peer_version() { return "26.10.0"; }
