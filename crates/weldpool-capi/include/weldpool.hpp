// Weldpool's memory manager for C++17: owners of the handles of weldpool.h, and exceptions instead of error objects.
//
// Header only; link with libweldpool. Objects are moved, not copied; `clone` makes a further handle. An object that was
// moved from or released, or made by its default constructor, holds nothing: it may be assigned to and destroyed, what
// is noexcept answers null or 0, and whatever else is asked of it throws weldpool::error. What is thread-safe, and
// which errors there are, says weldpool.h at the function of the same name. Functions that are passed in may throw: an
// exception is caught, and counts as the function having done nothing.
#ifndef WELDPOOL_HPP
#define WELDPOOL_HPP

#include <weldpool.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <memory_resource>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace weldpool {

// What went wrong: a code of WELDPOOL_ERROR_* to act upon, and a text.
class error : public std::runtime_error {
 public:
  explicit error(weldpool_error_t const* object)
      : std::runtime_error{weldpool_error_message(object)},
        code_{weldpool_error_code(object)},
        os_error_{weldpool_error_os_error(object)},
        requested_bytes_{weldpool_error_requested_bytes(object)} {
    if (char const* advice = weldpool_error_advice(object)) advice_ = advice;
  }

  std::uint32_t code() const noexcept { return code_; }
  // What to do about it; empty where that cannot be said.
  std::string const& advice() const noexcept { return advice_; }
  int os_error() const noexcept { return os_error_; }
  std::uint64_t requested_bytes() const noexcept { return requested_bytes_; }

 private:
  std::uint32_t code_;
  int os_error_;
  std::uint64_t requested_bytes_;
  std::string advice_;
};

// Memory is out, or a limit stands in the way (WELDPOOL_ERROR_OUT_OF_MEMORY, WELDPOOL_ERROR_LIMIT_EXCEEDED).
class out_of_memory : public error {
 public:
  using error::error;
};

namespace detail {

inline void check(weldpool_error_t* object) {
  if (object == nullptr) return;
  std::unique_ptr<weldpool_error_t, decltype(&weldpool_error_free)> owned{object, &weldpool_error_free};
  std::uint32_t const code = weldpool_error_code(object);
  if (code == WELDPOOL_ERROR_OUT_OF_MEMORY || code == WELDPOOL_ERROR_LIMIT_EXCEEDED) throw out_of_memory{object};
  throw error{object};
}

// A text that the library made.
template <typename Say>
std::string text(Say say) {
  char* made = nullptr;
  check(say(&made));
  std::unique_ptr<char, decltype(&weldpool_string_free)> owned{made, &weldpool_string_free};
  return std::string{made};
}

template <typename Handle, void (*Free)(Handle*)>
class owner {
 public:
  owner() noexcept = default;
  // Takes a handle over.
  explicit owner(Handle* handle) noexcept : handle_{handle} {}
  // The handle of C, which stays this object's.
  Handle* get() const noexcept { return handle_.get(); }
  // Gives the handle up.
  Handle* release() noexcept { return handle_.release(); }
  explicit operator bool() const noexcept { return handle_ != nullptr; }

 private:
  struct deleter {
    void operator()(Handle* handle) const noexcept { Free(handle); }
  };
  std::unique_ptr<Handle, deleter> handle_;
};

// A structure that knows its size.
template <typename Structure>
Structure sized() noexcept {
  Structure structure{};
  structure.struct_size = sizeof structure;
  return structure;
}

// A function on the heap, which the library destroys.
template <typename Function>
void destroy(void* user_data) {
  delete static_cast<Function*>(user_data);
}

// Calls a strategy's function; what it throws leaves the choice as it was asked.
template <typename Function>
void choose(void* user_data, weldpool_asked_t const* asked, weldpool_choice_t* choice) {
  weldpool_choice_t as_asked;
  // An older library's structure is shorter.
  std::size_t const bytes = std::min(choice->struct_size, sizeof as_asked);
  std::memcpy(&as_asked, choice, bytes);
  try {
    (*static_cast<Function*>(user_data))(*asked, *choice);
  } catch (...) {
    std::memcpy(choice, &as_asked, bytes);
  }
}

}  // namespace detail

// Nanoseconds to wait; none for without end.
using timeout = std::optional<std::chrono::nanoseconds>;

namespace detail {
inline std::uint64_t nanoseconds(timeout limit) noexcept {
  if (!limit) return WELDPOOL_FOREVER;
  return limit->count() < 0 ? 0 : static_cast<std::uint64_t>(limit->count());
}
}  // namespace detail

// Throws unless the library that runs has the binary interface that this header describes.
inline void check_version() {
  if (weldpool_abi_version() == WELDPOOL_ABI_VERSION) return;
  throw std::runtime_error{"libweldpool " + std::string{weldpool_version()} + " has another binary interface"};
}

class device : public detail::owner<weldpool_device_t, &weldpool_device_free> {
 public:
  using owner::owner;
  device() noexcept = default;
  // "host", "cuda:1", "metal", "fake:apple"; see weldpool_device_open.
  explicit device(std::string const& name) : owner{open(name)} {}
  static device of_environment() {
    weldpool_device_t* handle = nullptr;
    detail::check(weldpool_device_open_default(&handle));
    return device{handle};
  }
  // Its texts live as long as the device.
  weldpool_device_info_t info() const {
    auto info = detail::sized<weldpool_device_info_t>();
    detail::check(weldpool_device_info(get(), &info));
    return info;
  }

 private:
  static weldpool_device_t* open(std::string const& name) {
    weldpool_device_t* handle = nullptr;
    detail::check(weldpool_device_open(name.c_str(), &handle));
    return handle;
  }
};

// A configuration of which zero is the default of every field.
inline weldpool_config_t config() noexcept { return detail::sized<weldpool_config_t>(); }
// A request, likewise.
inline weldpool_request_t request(std::size_t bytes) noexcept {
  auto request = detail::sized<weldpool_request_t>();
  request.bytes = bytes;
  return request;
}

// Decides how requests are served; see weldpool_choose_fn. The library may be older than this header: the function
// looks at struct_size before it touches a field that a later version added.
class strategy : public detail::owner<weldpool_strategy_t, &weldpool_strategy_free> {
 public:
  using owner::owner;
  using function = std::function<void(weldpool_asked_t const&, weldpool_choice_t&)>;
  strategy() noexcept = default;
  explicit strategy(function choose) : owner{make(std::move(choose))} {}

 private:
  static weldpool_strategy_t* make(function choose) {
    weldpool_strategy_t* handle = nullptr;
    auto* held = new function{std::move(choose)};
    detail::check(weldpool_strategy_create(&detail::choose<function>, held, &detail::destroy<function>, &handle));
    return handle;
  }
};

class fence : public detail::owner<weldpool_fence_t, &weldpool_fence_free> {
 public:
  using owner::owner;
  bool is_complete() const {
    std::uint32_t complete = 0;
    detail::check(weldpool_fence_is_complete(get(), &complete));
    return complete != 0;
  }
  void wait(timeout limit = {}) const { detail::check(weldpool_fence_wait(get(), detail::nanoseconds(limit))); }
};

// Access to contents as values of T, until it is destroyed or released. It keeps the memory alive.
template <typename T>
class access : public detail::owner<weldpool_guard_t, &weldpool_guard_free> {
  static_assert(std::is_trivially_copyable_v<T>, "contents are plain values");

 public:
  access() noexcept = default;
  access(weldpool_guard_t* guard, T* data, std::size_t size) noexcept : owner{guard}, data_{data}, size_{size} {}
  access(access&& other) noexcept
      : owner{std::move(other)},
        data_{std::exchange(other.data_, nullptr)},
        size_{std::exchange(other.size_, 0)} {}
  access& operator=(access&& other) noexcept {
    owner::operator=(std::move(other));
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  weldpool_guard_t* release() noexcept {
    data_ = nullptr;
    size_ = 0;
    return owner::release();
  }
  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  T* begin() const noexcept { return data_; }
  T* end() const noexcept { return data_ + size_; }
  T& operator[](std::size_t index) const noexcept { return data_[index]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// A range of memory, and a share in its ownership.
class buffer : public detail::owner<weldpool_buffer_t, &weldpool_buffer_free> {
 public:
  using owner::owner;
  std::size_t size() const noexcept { return weldpool_buffer_bytes(get()); }
  std::string name() const {
    return detail::text([&](char** made) { return weldpool_buffer_name(get(), made); });
  }
  weldpool_buffer_info_t info() const {
    auto info = detail::sized<weldpool_buffer_info_t>();
    detail::check(weldpool_buffer_info(get(), &info));
    return info;
  }
  // A view of a part, which owns a share too.
  buffer slice(std::size_t offset, std::size_t bytes) const {
    weldpool_buffer_t* handle = nullptr;
    detail::check(weldpool_buffer_slice(get(), offset, bytes, &handle));
    return buffer{handle};
  }
  buffer clone() const {
    weldpool_buffer_t* handle = nullptr;
    detail::check(weldpool_buffer_clone(get(), &handle));
    return buffer{handle};
  }
  // Throws std::invalid_argument where the range is no whole number of aligned values.
  template <typename T>
  access<T const> read() const {
    weldpool_guard_t* guard = nullptr;
    void const* data = nullptr;
    detail::check(weldpool_buffer_read(get(), &guard, &data));
    access<T const> held{guard, static_cast<T const*>(data), size() / sizeof(T)};
    suit<T>(data);
    return held;
  }
  template <typename T>
  access<T> write() const {
    weldpool_guard_t* guard = nullptr;
    void* data = nullptr;
    detail::check(weldpool_buffer_write(get(), &guard, &data));
    access<T> held{guard, static_cast<T*>(data), size() / sizeof(T)};
    suit<T>(data);
    return held;
  }
  void wait(timeout limit = {}) const { detail::check(weldpool_buffer_wait(get(), detail::nanoseconds(limit))); }

 private:
  template <typename T>
  void suit(void const* data) const {
    if (size() % sizeof(T) != 0 || reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0)
      throw std::invalid_argument{"weldpool: the range is no whole number of aligned values"};
  }
};

// Permission to submit work beside a queue, destroyed where that was not submitted.
using submission = detail::owner<weldpool_submission_t, &weldpool_submission_free>;

class queue : public detail::owner<weldpool_queue_t, &weldpool_queue_free> {
 public:
  using owner::owner;
  void synchronize(timeout limit = {}) const {
    detail::check(weldpool_queue_synchronize(get(), detail::nanoseconds(limit)));
  }
  fence mark() const {
    weldpool_fence_t* handle = nullptr;
    detail::check(weldpool_queue_fence(get(), &handle));
    return fence{handle};
  }
  fence copy(buffer const& source, buffer const& destination) const {
    weldpool_fence_t* handle = nullptr;
    detail::check(weldpool_queue_copy(get(), source.get(), destination.get(), &handle));
    return fence{handle};
  }
  fence fill(buffer const& destination, std::uint8_t value) const {
    weldpool_fence_t* handle = nullptr;
    detail::check(weldpool_queue_fill(get(), destination.get(), value, &handle));
    return fence{handle};
  }
  fence write(void const* source, std::size_t bytes, buffer const& destination) const {
    weldpool_fence_t* handle = nullptr;
    detail::check(weldpool_queue_write(get(), source, bytes, destination.get(), &handle));
    return fence{handle};
  }
  void read(buffer const& source, void* destination, std::size_t bytes) const {
    detail::check(weldpool_queue_read(get(), source.get(), destination, bytes));
  }
  // Has a function called in the order of the queue. What it captures ends behind it, which may be after the fence.
  fence call(std::function<void()> function) const {
    weldpool_fence_t* handle = nullptr;
    auto* held = new std::function<void()>{std::move(function)};
    detail::check(weldpool_queue_call(
        get(),
        [](void* user_data) {
          try {
            (*static_cast<std::function<void()>*>(user_data))();
          } catch (...) {
          }
        },
        held, &detail::destroy<std::function<void()>>, &handle));
    return fence{handle};
  }
  // Work that others submitted so far uses the memory.
  void note_use(buffer const& used) const { detail::check(weldpool_queue_note_use(get(), used.get())); }
  // Work of others, which has ended when the fence has passed, reads the memory.
  void note_read(buffer const& used, fence const& end) const {
    detail::check(weldpool_queue_note_read(get(), used.get(), end.get()));
  }
  // Work of others, submitted before the fence, writes it; the result is the fence until which nobody else uses it.
  fence note_write(buffer const& used, fence const& end) const {
    weldpool_fence_t* handle = nullptr;
    detail::check(weldpool_queue_note_write(get(), used.get(), end.get(), &handle));
    return fence{handle};
  }
  // Before others submit work, such as MPSGraph; `order` becomes what that has to keep. See
  // weldpool_queue_before_external_submit.
  [[nodiscard]] submission before_external_submit(weldpool_order_t& order) const {
    order = detail::sized<weldpool_order_t>();
    weldpool_submission_t* handle = nullptr;
    detail::check(weldpool_queue_before_external_submit(get(), &order, &handle));
    return submission{handle};
  }
  // And after; the result is behind that work.
  fence after_external_submit(submission submitted) const {
    weldpool_fence_t* handle = nullptr;
    detail::check(weldpool_queue_after_external_submit(get(), submitted.release(), &handle));
    return fence{handle};
  }
  // Frees a handle in the order of this queue; after an exception it is still there.
  void free(buffer& freed) const {
    detail::check(weldpool_buffer_free_on(freed.get(), get()));
    static_cast<void>(freed.release());
  }
};

// Keeps a function registered.
using callback = detail::owner<weldpool_callback_t, &weldpool_callback_free>;

class allocator : public detail::owner<weldpool_allocator_t, &weldpool_allocator_free> {
 public:
  using owner::owner;
  allocator() noexcept = default;
  explicit allocator(device const& of) : owner{make(of, nullptr)} {}
  allocator(device const& of, weldpool_config_t const& config) : owner{make(of, &config)} {}

  allocator clone() const {
    weldpool_allocator_t* handle = nullptr;
    detail::check(weldpool_allocator_clone(get(), &handle));
    return allocator{handle};
  }
  buffer allocate(std::size_t bytes) const {
    weldpool_buffer_t* handle = nullptr;
    detail::check(weldpool_allocator_allocate(get(), bytes, nullptr, &handle));
    return buffer{handle};
  }
  buffer allocate(std::size_t bytes, queue const& first) const {
    weldpool_buffer_t* handle = nullptr;
    detail::check(weldpool_allocator_allocate(get(), bytes, first.get(), &handle));
    return buffer{handle};
  }
  buffer allocate(weldpool_request_t const& request) const {
    weldpool_buffer_t* handle = nullptr;
    detail::check(weldpool_allocator_allocate_with(get(), &request, &handle));
    return buffer{handle};
  }
  // Memory without an object, freed by its address; see weldpool_allocator_allocate_address.
  void* allocate_address(weldpool_request_t const& request) const {
    void* address = nullptr;
    detail::check(weldpool_allocator_allocate_address(get(), &request, &address));
    return address;
  }
  void free_address(void* address) const { detail::check(weldpool_allocator_free_address(get(), address, nullptr)); }
  // In the order of a queue, whose work may still use the memory.
  void free_address(void* address, queue const& last) const {
    detail::check(weldpool_allocator_free_address(get(), address, last.get()));
  }
  // The live memory that contains an address.
  weldpool_block_info_t find(void const* address) const {
    auto info = detail::sized<weldpool_block_info_t>();
    detail::check(weldpool_allocator_find(get(), address, &info));
    return info;
  }
  queue create_queue() const {
    weldpool_queue_t* handle = nullptr;
    detail::check(weldpool_queue_create(get(), &handle));
    return queue{handle};
  }
  // A cudaStream_t or CUstream; see weldpool_queue_adopt_cuda.
  queue adopt_cuda(void* stream) const {
    weldpool_queue_t* handle = nullptr;
    detail::check(weldpool_queue_adopt_cuda(get(), stream, &handle));
    return queue{handle};
  }
  void forget_cuda(void* stream) const { detail::check(weldpool_queue_forget_cuda(get(), stream)); }

  std::size_t pre_allocate(std::size_t bytes, std::size_t count) const {
    std::size_t made = 0;
    detail::check(weldpool_allocator_pre_allocate(get(), bytes, count, &made));
    return made;
  }
  std::size_t reserve(std::size_t bytes, std::uint32_t storage = WELDPOOL_STORAGE_SHARED) const {
    std::size_t obtained = 0;
    detail::check(weldpool_allocator_reserve(get(), bytes, storage, &obtained));
    return obtained;
  }
  std::size_t trim() const {
    std::size_t returned = 0;
    detail::check(weldpool_allocator_trim(get(), &returned));
    return returned;
  }
  void collect_soon() const { detail::check(weldpool_allocator_collect_soon(get())); }
  // What comes back from these is what it was.
  bool set_pooling(bool on) const {
    std::uint32_t before = 0;
    detail::check(weldpool_allocator_set_pooling(get(), on, &before));
    return before != 0;
  }
  bool set_profiling(bool on) const {
    std::uint32_t before = 0;
    detail::check(weldpool_allocator_set_profiling(get(), on, &before));
    return before != 0;
  }
  // 0 for no limit, also in what comes back.
  std::uint64_t set_reserved_bytes_max(std::uint64_t bytes) const {
    std::uint64_t before = 0;
    detail::check(weldpool_allocator_set_reserved_bytes_max(get(), bytes, &before));
    return before;
  }
  std::uint64_t set_cached_bytes_max(std::uint64_t bytes) const {
    std::uint64_t before = 0;
    detail::check(weldpool_allocator_set_cached_bytes_max(get(), bytes, &before));
    return before;
  }

  weldpool_stats_t stats() const {
    auto stats = detail::sized<weldpool_stats_t>();
    detail::check(weldpool_allocator_stats(get(), &stats));
    return stats;
  }
  std::string stats_json() const {
    return detail::text([&](char** made) { return weldpool_allocator_stats_json(get(), made); });
  }
  std::string report() const {
    return detail::text([&](char** made) { return weldpool_allocator_report(get(), made); });
  }
  std::string report_json() const {
    return detail::text([&](char** made) { return weldpool_allocator_report_json(get(), made); });
  }
  std::string dashboard(std::uint32_t width = 0, std::uint32_t flags = 0) const {
    return detail::text([&](char** made) { return weldpool_allocator_dashboard(get(), width, flags, made); });
  }
  std::string prometheus() const {
    return detail::text([&](char** made) { return weldpool_allocator_prometheus(get(), made); });
  }
  std::string health() const {
    return detail::text([&](char** made) { return weldpool_allocator_health(get(), made); });
  }

  std::uint32_t pressure() const {
    std::uint32_t level = 0;
    detail::check(weldpool_allocator_pressure(get(), &level));
    return level;
  }
  std::uint32_t check_pressure() const {
    std::uint32_t level = 0;
    detail::check(weldpool_allocator_check_pressure(get(), &level));
    return level;
  }
  void signal_pressure(std::uint32_t level) const { detail::check(weldpool_allocator_signal_pressure(get(), level)); }
  // Called for as long as the pool has handles, on the threads that weldpool_pressure_fn names, among them those that
  // allocate: what it captures is owned, or outlives them all. It must not wait for a thread that allocates or checks,
  // nor hold this allocator.
  void on_pressure(std::function<void(weldpool_pressure_event_t const&)> function) const {
    using held_function = std::function<void(weldpool_pressure_event_t const&)>;
    auto* held = new held_function{std::move(function)};
    detail::check(weldpool_allocator_on_pressure(
        get(),
        [](void* user_data, weldpool_pressure_event_t const* event) {
          try {
            (*static_cast<held_function*>(user_data))(*event);
          } catch (...) {
          }
        },
        held, &detail::destroy<held_function>));
  }
  // Called on each thread whose request finds no memory, on several at once; true has the request tried again. No call
  // begins once the callback is destroyed, but one that is under way on another thread goes on when the destructor has
  // returned: what the function captures is owned by it, or outlives all threads that allocate.
  [[nodiscard]] callback on_out_of_memory(std::function<bool(weldpool_out_of_memory_t const&)> function) const {
    using held_function = std::function<bool(weldpool_out_of_memory_t const&)>;
    auto* held = new held_function{std::move(function)};
    weldpool_callback_t* handle = nullptr;
    detail::check(weldpool_allocator_on_out_of_memory(
        get(),
        [](void* user_data, weldpool_out_of_memory_t const* event) -> std::uint32_t {
          try {
            if ((*static_cast<held_function*>(user_data))(*event)) return WELDPOOL_RECOURSE_RETRY;
          } catch (...) {
          }
          return WELDPOOL_RECOURSE_GIVE_UP;
        },
        held, &detail::destroy<held_function>, &handle));
    return callback{handle};
  }

  void record(std::string const& path) const { detail::check(weldpool_allocator_record(get(), path.c_str())); }
  // How many events are in the file.
  std::uint64_t record_stop() const {
    std::uint64_t events = 0;
    detail::check(weldpool_allocator_record_stop(get(), &events, nullptr));
    return events;
  }

 private:
  static weldpool_allocator_t* make(device const& of, weldpool_config_t const* config) {
    weldpool_allocator_t* handle = nullptr;
    detail::check(weldpool_allocator_create(of.get(), config, &handle));
    return handle;
  }
};

// The real devices of the machine, and copies between memories of different devices.
class runtime : public detail::owner<weldpool_runtime_t, &weldpool_runtime_free> {
 public:
  using owner::owner;
  // Opens every real device there is.
  static runtime open() {
    weldpool_runtime_t* handle = nullptr;
    detail::check(weldpool_runtime_open(&handle));
    return runtime{handle};
  }
  std::size_t device_count() const noexcept { return weldpool_runtime_device_count(get()); }
  // By position, from 0, which is the host.
  weldpool::device device(std::size_t position) const {
    weldpool_device_t* handle = nullptr;
    detail::check(weldpool_runtime_device(get(), position, &handle));
    return weldpool::device{handle};
  }
  // What cannot be used here and why, a line for each.
  std::string absent() const {
    return detail::text([&](char** made) { return weldpool_runtime_absent(get(), made); });
  }
  // Copies all of a buffer, and returns when it is there.
  void copy(buffer const& source, buffer const& destination) const {
    detail::check(weldpool_runtime_copy(get(), source.get(), destination.get()));
  }
};

// Replays a trace on fresh allocators of a device; the result is JSON. See weldpool_trace_replay.
inline std::string replay(std::string const& path, device const& of) {
  return detail::text([&](char** made) { return weldpool_trace_replay(path.c_str(), of.get(), nullptr, made); });
}
inline std::string replay(std::string const& path, device const& of, weldpool_config_t const& config) {
  return detail::text([&](char** made) { return weldpool_trace_replay(path.c_str(), of.get(), &config, made); });
}

// A pool from which outputs of a Triton within this process get their memory. It has to live until the response
// allocator is made, which keeps what it needs of it.
struct response_source {
  allocator const& pool;
  std::uint32_t storage = WELDPOOL_STORAGE_SHARED;
};

// Options of a response allocator, of which zero is the default of every field.
inline weldpool_triton_options_t triton_options() noexcept { return detail::sized<weldpool_triton_options_t>(); }

// Serves outputs of a Triton within this process. Its destructor frees it, and is to run only after each request that
// was given it has had its last response; it does not wait for them. Responses may outlive it.
class triton_response_allocator
    : public detail::owner<weldpool_triton_response_allocator_t, &weldpool_triton_response_allocator_free> {
 public:
  using owner::owner;
  triton_response_allocator() noexcept = default;
  explicit triton_response_allocator(std::initializer_list<response_source> sources,
                                     weldpool_triton_options_t const& options = triton_options())
      : owner{make(sources.begin(), sources.size(), options)} {}
  triton_response_allocator(response_source const* sources, std::size_t count,
                            weldpool_triton_options_t const& options = triton_options())
      : owner{make(sources, count, options)} {}

  // The arguments `response_allocator` and `response_allocator_userp` of
  // TRITONSERVER_InferenceRequestSetResponseCallback.
  ::TRITONSERVER_ResponseAllocator* response_allocator() const noexcept {
    return weldpool_triton_response_allocator_handle(get());
  }
  void* userp() const noexcept { return weldpool_triton_response_allocator_userp(get()); }

  weldpool_triton_stats_t stats() const {
    auto stats = detail::sized<weldpool_triton_stats_t>();
    detail::check(weldpool_triton_response_allocator_stats(get(), &stats));
    return stats;
  }

 private:
  static weldpool_triton_response_allocator_t* make(response_source const* sources, std::size_t count,
                                                    weldpool_triton_options_t const& options) {
    std::vector<weldpool_triton_source_t> listed(count);
    for (std::size_t at = 0; at < count; ++at) {
      listed[at].allocator = sources[at].pool.get();
      listed[at].storage = sources[at].storage;
    }
    weldpool_triton_response_allocator_t* handle = nullptr;
    detail::check(weldpool_triton_response_allocator_create(listed.data(), listed.size(), &options, &handle));
    return handle;
  }
};

// The pool behind the containers of std::pmr. Memory is of shared storage, which the host reaches.
class pmr_resource : public std::pmr::memory_resource {
 public:
  explicit pmr_resource(allocator const& of) : allocator_{of.clone()} {}

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    auto asked = request(bytes == 0 ? 1 : bytes);
    asked.alignment = alignment;
    void* address = nullptr;
    weldpool_error_t* object = weldpool_allocator_allocate_address(allocator_.get(), &asked, &address);
    if (object != nullptr) {
      weldpool_error_free(object);
      throw std::bad_alloc{};
    }
    return address;
  }
  void do_deallocate(void* address, std::size_t, std::size_t) override {
    weldpool_error_t* object = weldpool_allocator_free_address(allocator_.get(), address, nullptr);
    assert(object == nullptr && "the address is not one that this resource gave");
    weldpool_error_free(object);
  }
  bool do_is_equal(std::pmr::memory_resource const& other) const noexcept override { return this == &other; }

  allocator allocator_;
};

}  // namespace weldpool

#endif
