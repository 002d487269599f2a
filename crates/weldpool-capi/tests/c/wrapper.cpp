// What weldpool.hpp promises: ownership, exceptions, guards, functions that throw. Prints what is wrong.
#include <weldpool.hpp>

#include <cstdio>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

namespace {

int failures = 0;

#define CHECK(condition)                                       \
  do {                                                         \
    if (!(condition)) {                                        \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      failures += 1;                                           \
    }                                                          \
  } while (0)

// The code of the error that a call throws, 0 for none.
template <typename Call>
std::uint32_t code(Call call) {
  try {
    call();
    return 0;
  } catch (weldpool::error const& error) {
    CHECK(std::strlen(error.what()) > 0);
    return error.code();
  }
}

static_assert(!std::is_copy_constructible_v<weldpool::buffer>);
static_assert(std::is_nothrow_move_constructible_v<weldpool::buffer>);
static_assert(std::is_nothrow_move_assignable_v<weldpool::allocator>);
static_assert(std::is_base_of_v<weldpool::error, weldpool::out_of_memory>);

template <typename... Objects>
constexpr bool made_from_nothing = (std::is_nothrow_default_constructible_v<Objects> && ...);
static_assert(made_from_nothing<weldpool::device, weldpool::strategy, weldpool::fence, weldpool::access<int>,
                                weldpool::buffer, weldpool::queue, weldpool::submission, weldpool::callback,
                                weldpool::allocator, weldpool::runtime>);
static_assert(std::is_nothrow_move_constructible_v<weldpool::access<int>> &&
              std::is_nothrow_move_assignable_v<weldpool::access<int>> &&
              !std::is_copy_constructible_v<weldpool::access<int>>);

void ownership(weldpool::allocator const& allocator) {
  weldpool::buffer first = allocator.allocate(1000);
  weldpool::buffer second = std::move(first);
  CHECK(!first && second.size() == 1000 && first.size() == 0);
  CHECK(code([&] { static_cast<void>(first.info()); }) == WELDPOOL_ERROR_INVALID_ARGUMENT);
  weldpool::buffer third = second.clone();
  CHECK(second.info().unique == 0);
  second = {};
  CHECK(third.info().unique == 1 && allocator.stats().live_bytes == 1000);
  {
    std::vector<weldpool::buffer> many;
    for (int i = 0; i < 10; ++i) many.push_back(third.slice(static_cast<std::size_t>(i) * 100, 100));
    third = {};
    CHECK(allocator.stats().live_bytes == 1000);
  }
  CHECK(allocator.stats().live_bytes == 0);
  auto request = weldpool::request(64);
  request.name = "named";
  CHECK(allocator.allocate(request).name() == "named");
}

void guards(weldpool::allocator const& allocator) {
  weldpool::buffer buffer = allocator.allocate(1024);
  {
    auto values = buffer.write<float>();
    CHECK(values.size() == 256);
    for (float& value : values) value = 0.5f;
    CHECK(code([&] { static_cast<void>(buffer.read<float>()); }) == WELDPOOL_ERROR_BUSY);
  }
  auto values = buffer.read<float>();
  CHECK(values[255] == 0.5f);
  static_assert(std::is_const_v<std::remove_reference_t<decltype(values[0])>>);
  bool refused = false;
  try {
    static_cast<void>(buffer.slice(0, 1022).read<float>());
  } catch (std::invalid_argument const&) {
    refused = true;
  }
  CHECK(refused);
  buffer = {};
  CHECK(values[0] == 0.5f);
}

// What was moved from or released holds nothing, its addresses least of all.
void moved_guards(weldpool::allocator const& allocator) {
  weldpool::buffer buffer = allocator.allocate(1024);
  auto first = buffer.write<std::uint32_t>();
  auto second = std::move(first);
  CHECK(!first && first.data() == nullptr && first.size() == 0 && first.begin() == first.end());
  CHECK(second && second.size() == 256);
  second[0] = 7;
  weldpool::access<std::uint32_t> third;
  CHECK(!third && third.data() == nullptr && third.size() == 0);
  third = std::move(second);
  CHECK(!second && second.data() == nullptr && second.size() == 0);
  CHECK(third && third[0] == 7);
  weldpool_guard_t* guard = third.release();
  CHECK(guard != nullptr && !third && third.data() == nullptr && third.size() == 0);
  CHECK(code([&] { static_cast<void>(buffer.read<std::uint32_t>()); }) == WELDPOOL_ERROR_BUSY);
  weldpool_guard_free(guard);
  CHECK(buffer.read<std::uint32_t>()[0] == 7);
}

void addresses(weldpool::allocator const& allocator) {
  auto* address = static_cast<unsigned char*>(allocator.allocate_address(weldpool::request(1000)));
  CHECK(allocator.find(address + 500).address == reinterpret_cast<std::uintptr_t>(address));
  allocator.free_address(address);
  CHECK(code([&] { static_cast<void>(allocator.find(address)); }) == WELDPOOL_ERROR_INVALID_REQUEST);
  weldpool::queue queue = allocator.create_queue();
  auto request = weldpool::request(1000);
  request.queue = queue.get();
  allocator.free_address(allocator.allocate_address(request), queue);
  CHECK(allocator.stats().live_bytes == 0);
}

void switches(weldpool::device const& device) {
  auto config = weldpool::config();
  config.flags = WELDPOOL_CONFIG_COLLECT;
  weldpool::allocator allocator{device, config};
  allocator.collect_soon();
  CHECK(allocator.set_pooling(false) && !allocator.set_pooling(true));
  // Where there is no tool for it, it says so.
  std::uint32_t const refused = code([&] { CHECK(!allocator.set_profiling(false)); });
  CHECK(refused == 0 || refused == WELDPOOL_ERROR_UNSUPPORTED);
}

void runtimes(weldpool::allocator const& allocator) {
  weldpool::runtime runtime = weldpool::runtime::open();
  CHECK(runtime.device_count() >= 1 && weldpool::runtime{}.device_count() == 0);
  CHECK(std::string{runtime.device(0).info().name} == "host");
  CHECK(runtime.absent().find('\n') != std::string::npos);
  weldpool::allocator host{runtime.device(0)};
  weldpool::buffer far = allocator.allocate(4000), near = host.allocate(4000);
  near.write<int>()[999] = 5;
  runtime.copy(near, far);
  CHECK(far.read<int>()[999] == 5);
  CHECK(code([&] { runtime.copy(far, near.slice(0, 100)); }) == WELDPOOL_ERROR_INVALID_REQUEST);
}

// An older library knows less of a choice than this header does.
void shorter_choices() {
  using function = weldpool::strategy::function;
  function throws = [](weldpool_asked_t const&, weldpool_choice_t& choice) {
    choice.pool = 0;
    throw 1;
  };
  weldpool_asked_t const asked{};
  // The size, pool and storage, and nothing behind them.
  std::unique_ptr<std::uint64_t[]> words{new std::uint64_t[2]};
  void* volatile place = words.get();  // the compiler knows nothing of its size
  auto* choice = static_cast<weldpool_choice_t*>(place);
  choice->struct_size = 2 * sizeof words[0];
  choice->pool = 1;
  choice->storage = WELDPOOL_STORAGE_MANAGED;
  weldpool::detail::choose<function>(&throws, &asked, choice);
  CHECK(choice->pool == 1 && choice->storage == WELDPOOL_STORAGE_MANAGED);
}

void errors(weldpool::device const& device) {
  auto config = weldpool::config();
  config.reserved_bytes_max = 4u << 20;
  config.wait_max_ns = 1;
  weldpool::allocator allocator{device, config};
  try {
    static_cast<void>(allocator.allocate(5u << 20));
    CHECK(false);
  } catch (weldpool::out_of_memory const& error) {
    CHECK(error.code() == WELDPOOL_ERROR_LIMIT_EXCEEDED && error.requested_bytes() == 5u << 20);
    CHECK(!error.advice().empty());
  }
  CHECK(allocator.set_reserved_bytes_max(0) == 4u << 20);
  static_cast<void>(allocator.allocate(5u << 20));
  CHECK(allocator.trim() > 0);

  weldpool::pmr_resource resource{allocator};
  allocator.set_reserved_bytes_max(4u << 20);
  bool out = false;
  try {
    static_cast<void>(resource.allocate(5u << 20));
  } catch (std::bad_alloc const&) {
    out = true;
  }
  CHECK(out);
  void* address = resource.allocate(0);
  CHECK(address != nullptr);
  resource.deallocate(address, 0);
  CHECK(code([&] { weldpool::device{"gpu"}; }) == WELDPOOL_ERROR_INVALID_REQUEST);
}

// What a function throws goes nowhere, and what it captures ends with it.
void functions(weldpool::device const& device) {
  auto captured = std::make_shared<int>(0);
  {
    weldpool::strategy strategy{[captured](weldpool_asked_t const& asked, weldpool_choice_t& choice) {
      ++*captured;
      choice.alignment = 4096;
      if (asked.bytes == 13) throw 13;
    }};
    auto config = weldpool::config();
    config.strategy = strategy.get();
    config.reserved_bytes_max = 4u << 20;
    config.wait_max_ns = 1;
    weldpool::allocator allocator{device, config};
    CHECK(allocator.allocate(12).info().alignment == 4096);
    CHECK(allocator.allocate(13).info().alignment == 256);
    CHECK(*captured == 2);

    weldpool::buffer kept = allocator.allocate(3u << 20);
    {
      weldpool::callback callback = allocator.on_out_of_memory([captured, &kept](auto const& event) {
        CHECK(event.requested_bytes == 2u << 20);
        kept = {};
        return true;
      });
      static_cast<void>(allocator.allocate(2u << 20));
      CHECK(!kept);
    }
    weldpool::callback throws = allocator.on_out_of_memory([](auto const&) -> bool { throw 1; });
    CHECK(code([&] { static_cast<void>(allocator.allocate(9u << 20)); }) == WELDPOOL_ERROR_LIMIT_EXCEEDED);

    allocator.on_pressure([captured](auto const&) { throw 1; });
    allocator.signal_pressure(WELDPOOL_PRESSURE_WARNING);
    CHECK(allocator.check_pressure() == WELDPOOL_PRESSURE_WARNING);

    weldpool::queue queue = allocator.create_queue();
    queue.call([captured] { throw 1; }).wait();
    queue.synchronize();
  }
  // The queue's thread may drop a function a little after its fence.
  for (int waited = 0; captured.use_count() > 1 && waited < 100000000; ++waited) continue;
  CHECK(captured.use_count() == 1);
}

void queues(weldpool::allocator const& allocator) {
  weldpool::queue queue = allocator.create_queue();
  std::vector<int> values(1000, 7), back(1000, 0);
  std::size_t const bytes = values.size() * sizeof(int);
  weldpool::buffer source = allocator.allocate(bytes, queue), copy = allocator.allocate(bytes);
  queue.write(values.data(), bytes, source);
  weldpool::fence fence = queue.copy(source, copy);
  queue.free(source);
  CHECK(!source);
  queue.read(copy, back.data(), bytes);
  CHECK(back == values && fence.is_complete());
  queue.fill(copy, 0).wait();
  copy.wait(std::chrono::seconds{10});
  CHECK(copy.read<int>()[0] == 0);
  queue.note_use(copy);
  queue.mark().wait();

  // Work of others.
  weldpool_order_t order;
  weldpool::submission submission = queue.before_external_submit(order);
  CHECK(submission && order.struct_size == sizeof order);
  weldpool::fence end;
  // Where there is an event to signal, nobody does: the work was not submitted.
  if (order.signal_event == nullptr)
    end = queue.after_external_submit(std::move(submission));
  else
    end = queue.mark();
  queue.note_read(copy, end);
  queue.note_write(copy, end).wait();
  copy.wait();
  weldpool::submission none;
  CHECK(code([&] { static_cast<void>(queue.after_external_submit(std::move(none))); }) ==
        WELDPOOL_ERROR_INVALID_ARGUMENT);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  weldpool::check_version();
  weldpool::device device{argv[1]};
  CHECK(std::string{device.info().name}.find(argv[1]) == 0);
  weldpool::allocator allocator{device};
  ownership(allocator);
  guards(allocator);
  moved_guards(allocator);
  addresses(allocator);
  switches(device);
  runtimes(allocator);
  shorter_choices();
  errors(device);
  functions(device);
  queues(allocator);
  allocator.record(argv[2]);
  static_cast<void>(allocator.allocate(1));
  CHECK(allocator.record_stop() == 2);
  CHECK(weldpool::replay(argv[2], device).find("\"allocs\"") != std::string::npos);
  auto wrong = weldpool::config();
  wrong.alignment = 3;
  CHECK(code([&] { static_cast<void>(weldpool::replay(argv[2], device, wrong)); }) == WELDPOOL_ERROR_INVALID_CONFIG);
  CHECK(allocator.report().size() > 100 && allocator.report_json()[0] == '{' && allocator.stats_json()[0] == '{');
  CHECK(!allocator.health().empty() && !allocator.prometheus().empty());
  std::puts(failures == 0 ? "right" : "wrong");
  return failures == 0 ? 0 : 1;
}
