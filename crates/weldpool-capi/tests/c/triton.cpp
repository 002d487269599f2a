// The response allocator as C++ has it. Prints what is wrong.
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <vector>
#include <weldpool.hpp>

#include "fake_triton.h"

static int failures = 0;

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      failures += 1;                                              \
    }                                                             \
  } while (0)

static_assert(std::is_nothrow_default_constructible_v<weldpool::triton_response_allocator>);

int main() {
  weldpool::allocator host{weldpool::device{"host"}};
  {
    bool refused = false;
    try {
      weldpool::triton_response_allocator none{std::initializer_list<weldpool::response_source>{}};
    } catch (weldpool::error const& error) {
      refused = error.code() == WELDPOOL_ERROR_INVALID_ARGUMENT;
    }
    CHECK(refused);
  }
  auto options = weldpool::triton_options();
  options.name = "answers";
  weldpool::triton_response_allocator allocator{{{host}, {host, WELDPOOL_STORAGE_SHARED}}, options};
  TRITONSERVER_ResponseAllocator* triton = allocator.response_allocator();
  void* buffer = nullptr;
  void* of_buffer = nullptr;
  int type = 0;
  std::int64_t id = 0;
  CHECK(triton->start(triton, allocator.userp()) == nullptr);
  CHECK(triton->alloc(triton, "out", 1000, 0, 0, allocator.userp(), &buffer, &of_buffer, &type, &id) == nullptr);
  CHECK(buffer != nullptr && type == 0);
  std::memset(buffer, 1, 1000);
  CHECK(allocator.stats().live_bytes == 1000);
  CHECK(host.report().find("answers") != std::string::npos);

  weldpool::triton_response_allocator moved{std::move(allocator)};
  CHECK(!allocator && allocator.response_allocator() == nullptr && allocator.userp() == nullptr);
  CHECK(triton->release(triton, buffer, of_buffer, 1000, type, id) == nullptr);
  CHECK(moved.stats().releases == 1 && moved.stats().live_buffers == 0);
  moved = weldpool::triton_response_allocator{};

  // Sources that are known at run time only.
  std::vector<weldpool::response_source> sources;
  for (int i = 0; i < 3; ++i) sources.push_back({host});
  moved = weldpool::triton_response_allocator{sources.data(), sources.size(), options};
  triton = moved.response_allocator();
  CHECK(triton->alloc(triton, "out", 9, 0, 0, moved.userp(), &buffer, &of_buffer, &type, &id) == nullptr);
  CHECK(triton->release(triton, buffer, of_buffer, 9, type, id) == nullptr);
  moved = {};
  CHECK(allocators == 0 && errors == 0);
  std::puts(failures == 0 ? "right" : "wrong");
  return failures == 0 ? 0 : 1;
}
