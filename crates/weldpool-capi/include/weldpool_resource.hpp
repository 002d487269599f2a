// Weldpool as a memory resource of CCCL (`cuda::mr`), which is what RMM's containers and libraries take.
//
// Memory is ordered by streams: what is freed on a stream is that stream's again at once, and others' once it has
// passed that point. Allocating throws std::bad_alloc, and std::invalid_argument for the calling thread's own default
// stream, which is cudaStreamPerThread, and a null stream too where the program is compiled for it (nvcc
// --default-stream per-thread): it is another stream on each thread, and the memory could not be told apart by it.
// Header only; link with libweldpool.
#ifndef WELDPOOL_RESOURCE_HPP
#define WELDPOOL_RESOURCE_HPP

#include <weldpool.h>

#include <cuda/memory_resource>
#include <cuda/stream_ref>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <new>
#include <stdexcept>

namespace weldpool {

// Memory of one GPU, of the pool that all resources of that GPU in this process share.
class memory_resource {
 public:
  explicit memory_resource(int device = 0) noexcept : device_{device} {}

  // Addresses are multiples of 256, or of a larger power of two up to 2^30. After std::bad_alloc
  // weldpool_last_error() says why.
  void* allocate(cuda::stream_ref stream, std::size_t bytes, std::size_t alignment = 256) {
    if (is_of_thread(stream.get()))
      throw std::invalid_argument{"weldpool: the per-thread default stream orders no memory; name a stream"};
    if (bytes == 0) return nullptr;
    void* address = weldpool_torch_malloc_aligned(static_cast<std::ptrdiff_t>(bytes), alignment, device_, stream.get());
    if (address == nullptr) throw std::bad_alloc{};
    return address;
  }

  // The calling thread's own default stream is waited for, and the memory is freed in the order of the legacy one.
  void deallocate(cuda::stream_ref stream, void* address, std::size_t bytes, std::size_t = 256) noexcept {
    if (address == nullptr) return;
    cudaStream_t order = stream.get();
    if (is_of_thread(order)) {
      // Memory that its work may still use stays.
      if (!finish(cudaStreamPerThread)) return;
      order = cudaStreamLegacy;
    }
    weldpool_torch_free(address, static_cast<std::ptrdiff_t>(bytes), device_, order);
  }

  // On the device's legacy default stream, which is waited for: others may use the memory at once, and it may be what
  // was freed there with work still to come. What is freed so must not be in use by any stream.
  void* allocate_sync(std::size_t bytes, std::size_t alignment = 256) {
    void* address = allocate(cuda::stream_ref{cudaStreamLegacy}, bytes, alignment);
    if (address != nullptr && !finish(cudaStreamLegacy)) {
      deallocate_sync(address, bytes, alignment);
      throw std::bad_alloc{};
    }
    return address;
  }

  void deallocate_sync(void* address, std::size_t bytes, std::size_t alignment = 256) noexcept {
    deallocate(cuda::stream_ref{cudaStreamLegacy}, address, bytes, alignment);
  }

  bool operator==(memory_resource const& other) const noexcept { return device_ == other.device_; }
  bool operator!=(memory_resource const& other) const noexcept { return !(*this == other); }

  friend constexpr void get_property(memory_resource const&, cuda::mr::device_accessible) noexcept {}

 private:
  static bool is_of_thread(cudaStream_t stream) noexcept {
#if defined(CUDA_API_PER_THREAD_DEFAULT_STREAM) || defined(__CUDA_API_PER_THREAD_DEFAULT_STREAM)
    if (stream == cudaStream_t{}) return true;
#endif
    return stream == cudaStreamPerThread;
  }

  // Waits for a default stream of this device, whichever is the thread's.
  bool finish(cudaStream_t stream) const noexcept {
    int before = 0;
    if (cudaGetDevice(&before) != cudaSuccess || cudaSetDevice(device_) != cudaSuccess) return false;
    bool const finished = cudaStreamSynchronize(stream) == cudaSuccess;
    return cudaSetDevice(before) == cudaSuccess && finished;
  }

  int device_;
};

static_assert(cuda::mr::resource_with<memory_resource, cuda::mr::device_accessible>);

}  // namespace weldpool

#endif
