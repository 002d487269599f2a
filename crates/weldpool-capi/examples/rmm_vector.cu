// RMM's containers on Weldpool's memory: two streams fill and sum vectors of many lengths, and the sums are checked.
//
// Build, from the root of the repository (docs/c.md): the wheels of requirements/gpu.txt have RMM, its logger and CCCL.
//   cargo build --release -p weldpool-capi
//   python3 -m pip install --no-deps --target target/gpu-wheels -r requirements/gpu.txt; w=$PWD/target/gpu-wheels
//   nvcc -O2 -std=c++17 -I crates/weldpool-capi/include -I $w/nvidia/cu13/include/cccl -I $w/librmm/include \
//     -I $w/rapids_logger/include crates/weldpool-capi/examples/rmm_vector.cu -L $w/librmm/lib64 -lrmm \
//     -L $w/rapids_logger/lib64 -lrapids_logger -L target/release -lweldpool \
//     -Xlinker "-rpath=$w/librmm/lib64:$w/rapids_logger/lib64:$PWD/target/release" -o target/rmm_vector
#include <weldpool_resource.hpp>

#include <rmm/device_uvector.hpp>

#include <cstdio>
#include <memory>
#include <vector>

__global__ void fill(unsigned* values, size_t count, unsigned value) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) values[i] = value;
}

__global__ void sum(unsigned const* values, size_t count, unsigned long long* into) {
  unsigned long long part = 0;
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) part += values[i];
  atomicAdd(into, part);
}

int main() {
  weldpool::memory_resource resource{0};
  cudaStream_t streams[2];
  for (auto& stream : streams) cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  int wrong = 0;
  {
    std::vector<std::unique_ptr<rmm::device_uvector<unsigned>>> kept(8);
    for (unsigned round = 1; round <= 400; ++round) {
      cudaStream_t stream = streams[round % 2];
      size_t count = size_t{1} << (8 + round % 13);
      // The vector in the place is freed in the order of its own stream.
      auto& place = kept[round % kept.size()];
      place = std::make_unique<rmm::device_uvector<unsigned>>(count, stream, resource);
      rmm::device_uvector<unsigned long long> total(1, stream, resource);
      cudaMemsetAsync(total.data(), 0, sizeof(unsigned long long), stream);
      fill<<<64, 256, 0, stream>>>(place->data(), count, round);
      sum<<<64, 256, 0, stream>>>(place->data(), count, total.data());
      unsigned long long got = 0;
      cudaMemcpyAsync(&got, total.data(), sizeof got, cudaMemcpyDeviceToHost, stream);
      cudaStreamSynchronize(stream);
      wrong += got != static_cast<unsigned long long>(count) * round;
    }
  }
  for (auto& stream : streams) {
    weldpool_torch_forget_stream(0, stream);
    cudaStreamDestroy(stream);
  }
  WeldpoolTorchStats stats{};
  if (weldpool_torch_stats(0, &stats) != 0) {
    std::printf("%s\n", weldpool_last_error());
    return 1;
  }
  std::printf("%d sums wrong; %llu allocations, %llu driver calls, live %llu, peak reserved %llu of %llu live\n", wrong,
              (unsigned long long)stats.allocations, (unsigned long long)stats.driver_calls,
              (unsigned long long)stats.live, (unsigned long long)stats.reserved_peak,
              (unsigned long long)stats.live_peak);
  return wrong != 0 || stats.live != 0;
}
