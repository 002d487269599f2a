// CUDA's own allocators: cudaMalloc, and cudaMallocAsync on the device's default pool.
#include "peer.h"
#include <cuda_runtime.h>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

static bool async_pool;
static std::vector<cudaStream_t> streams;
static std::atomic<uint64_t> held, peak;
static cudaMemPool_t pool;

extern "C" int peer_open(const char* setting, int threads) {
  async_pool = std::strcmp(setting, "async") == 0;
  streams.resize(threads);
  for (auto& stream : streams)
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess) return 1;
  if (async_pool) {
    // At its best: nothing goes back to the driver at synchronization.
    uint64_t keep = UINT64_MAX;
    if (cudaDeviceGetDefaultMemPool(&pool, 0) != cudaSuccess) return 2;
    if (cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep) != cudaSuccess) return 3;
  }
  return cudaFree(nullptr) == cudaSuccess ? 0 : 4;
}

extern "C" void* peer_allocate(int thread, size_t bytes) {
  void* address = nullptr;
  if (async_pool) {
    if (cudaMallocAsync(&address, bytes, streams[thread]) != cudaSuccess) return nullptr;
    return address;
  }
  if (cudaMalloc(&address, bytes) != cudaSuccess) return nullptr;
  uint64_t now = held.fetch_add(bytes) + bytes, before = peak.load();
  while (before < now && !peak.compare_exchange_weak(before, now)) {}
  return address;
}

extern "C" void peer_free(int thread, void* address, size_t bytes) {
  if (async_pool) {
    cudaFreeAsync(address, streams[thread]);
  } else {
    cudaFree(address);
    held.fetch_sub(bytes);
  }
}

extern "C" uint64_t peer_peak_reserved() {
  if (!async_pool) return peak.load();
  uint64_t high = 0;
  cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemHigh, &high);
  return high;
}

extern "C" const char* peer_version() {
  static std::string text;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  text = "driver " + std::to_string(driver) + ", runtime " + std::to_string(runtime);
  return text.c_str();
}
