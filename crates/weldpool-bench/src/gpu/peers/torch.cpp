// PyTorch's caching allocator, from C++. Settings of its own come in PYTORCH_CUDA_ALLOC_CONF.
#include "peer.h"
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/version.h>
#include <vector>

static std::vector<c10::cuda::CUDAStream> streams;

extern "C" int peer_open(const char*, int threads) {
  c10::cuda::CUDACachingAllocator::init(1);
  for (int i = 0; i < threads; i++) streams.push_back(c10::cuda::getStreamFromPool(false, 0));
  return 0;
}

extern "C" void* peer_allocate(int thread, size_t bytes) {
  try {
    return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, streams[thread].stream());
  } catch (...) {
    return nullptr;
  }
}

extern "C" void peer_free(int, void* address, size_t) {
  c10::cuda::CUDACachingAllocator::raw_delete(address);
}

extern "C" uint64_t peer_peak_reserved() {
  auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
  return stats.reserved_bytes[0].peak;
}

extern "C" const char* peer_version() { return TORCH_VERSION; }
