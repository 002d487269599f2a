// Weldpool as a memory resource of CCCL (`cuda::mr`), which is what RMM's containers and libraries take.
//
// Memory is ordered by streams: what is freed on a stream is that stream's again at once, and others' once it has
// passed that point. Allocating and freeing throws nothing but std::bad_alloc. Header only; link with libweldpool.
#ifndef WELDPOOL_RESOURCE_HPP
#define WELDPOOL_RESOURCE_HPP

#include <weldpool.h>

#include <cuda/memory_resource>
#include <cuda/stream_ref>

#include <cuda_runtime_api.h>

#include <cstddef>
#include <new>

namespace weldpool {

// Memory of one GPU, of the pool that all resources of that GPU in this process share.
class memory_resource {
 public:
  explicit memory_resource(int device = 0) noexcept : device_{device} {}

  // Addresses are multiples of 256, or of a larger power of two up to 2^30. After std::bad_alloc
  // weldpool_last_error() says why.
  void* allocate(cuda::stream_ref stream, std::size_t bytes, std::size_t alignment = 256) {
    if (bytes == 0) return nullptr;
    void* address = weldpool_torch_malloc_aligned(static_cast<ssize_t>(bytes), alignment, device_, stream.get());
    if (address == nullptr) throw std::bad_alloc{};
    return address;
  }

  void deallocate(cuda::stream_ref stream, void* address, std::size_t bytes, std::size_t = 256) noexcept {
    if (address != nullptr)
      weldpool_torch_free(address, static_cast<ssize_t>(bytes), device_, stream.get());
  }

  // On the default stream, which is waited for: others may use the memory at once, and it may be what was freed there
  // with work still to come. What is freed so must not be in use by any stream.
  void* allocate_sync(std::size_t bytes, std::size_t alignment = 256) {
    void* address = allocate(cuda::stream_ref{cudaStream_t{}}, bytes, alignment);
    if (address != nullptr && cudaStreamSynchronize(cudaStream_t{}) != cudaSuccess) {
      deallocate_sync(address, bytes, alignment);
      throw std::bad_alloc{};
    }
    return address;
  }

  void deallocate_sync(void* address, std::size_t bytes, std::size_t alignment = 256) noexcept {
    deallocate(cuda::stream_ref{cudaStream_t{}}, address, bytes, alignment);
  }

  bool operator==(memory_resource const& other) const noexcept { return device_ == other.device_; }
  bool operator!=(memory_resource const& other) const noexcept { return !(*this == other); }

  friend constexpr void get_property(memory_resource const&, cuda::mr::device_accessible) noexcept {}

 private:
  int device_;
};

static_assert(cuda::mr::resource_with<memory_resource, cuda::mr::device_accessible>);

}  // namespace weldpool

#endif
