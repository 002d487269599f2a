// What pool.c does, with weldpool.hpp: a pool with a limit, work on two queues, views, statistics, memory pressure, a
// recorded trace; and a strategy and a container of std::pmr.
//
//     pool DEVICE TRACE        for instance: pool host /tmp/pool.wpt
//
// How to compile it: docs/c.md.
#include <weldpool.hpp>

#include <algorithm>
#include <exception>
#include <iostream>
#include <numeric>
#include <string>
#include <vector>

namespace {

constexpr std::size_t limit_bytes = 64u << 20;
constexpr std::size_t batch_values = 1u << 18;
constexpr int batches = 16;

void demand(bool condition, char const* what) {
  if (!condition) throw std::runtime_error{what};
}

// One batch: the input goes up on one queue, is copied by another that waits for it, and is freed in that one's order.
void batch(weldpool::allocator const& allocator, weldpool::queue const& upload, weldpool::queue const& compute,
           int number) {
  auto request = weldpool::request(batch_values * sizeof(float));
  request.name = "input";
  request.queue = upload.get();
  weldpool::buffer input = allocator.allocate(request);
  weldpool::buffer output = allocator.allocate(request.bytes, compute);

  std::vector<float> values(batch_values);
  std::iota(values.begin(), values.end(), static_cast<float>(number));
  upload.write(values.data(), request.bytes, input);
  compute.copy(input, output);
  compute.free(input);

  // A view of the second half, which keeps the memory.
  weldpool::buffer half = output.slice(request.bytes / 2, request.bytes / 2);
  output = {};
  half.wait();
  auto result = half.read<float>();
  demand(std::equal(result.begin(), result.end(), values.begin() + batch_values / 2), "a batch came out wrong");
}

void run(std::string const& name, std::string const& trace) {
  weldpool::check_version();
  weldpool::device device{name};

  // What is small stays pooled; the rest is memory of its own.
  weldpool::strategy strategy{[](weldpool_asked_t const& asked, weldpool_choice_t& choice) {
    choice.pool = asked.bytes <= (8u << 20) ? 1 : 0;
  }};
  auto config = weldpool::config();
  config.name = "example";
  config.reserved_bytes_max = limit_bytes;
  config.strategy = strategy.get();
  weldpool::allocator allocator{device, config};

  weldpool::buffer spare = allocator.allocate(1u << 20);
  allocator.on_pressure([&spare](weldpool_pressure_event_t const& event) {
    std::cout << "pressure went from " << event.before << " to " << event.level << '\n';
    if (event.level >= WELDPOOL_PRESSURE_WARNING) spare = {};
  });

  {
    weldpool::queue upload = allocator.create_queue();
    weldpool::queue compute = allocator.create_queue();
    allocator.record(trace);
    for (int number = 1; number <= batches; ++number) batch(allocator, upload, compute, number);
    std::cout << allocator.record_stop() << " events are in " << trace << '\n';

    bool called = false;
    compute.call([&called] { called = true; }).wait();
    demand(called, "the queue did not call");
  }

  try {
    static_cast<void>(allocator.allocate(2 * limit_bytes));
    demand(false, "twice the limit was not refused");
  } catch (weldpool::out_of_memory const& error) {
    std::cout << "refused: " << error.what() << '\n';
  }

  allocator.signal_pressure(WELDPOOL_PRESSURE_CRITICAL);
  allocator.check_pressure();
  allocator.signal_pressure(WELDPOOL_PRESSURE_NORMAL);
  allocator.check_pressure();
  demand(!spare, "pressure was not answered");

  weldpool::pmr_resource resource{allocator};
  {
    std::pmr::vector<int> numbers{&resource};
    for (int number = 0; number < 1000; ++number) numbers.push_back(number);
    demand(allocator.stats().live_bytes >= numbers.size() * sizeof(int), "the vector is elsewhere");
  }

  std::cout << allocator.dashboard(80);
  demand(allocator.stats().live_bytes == 0, "something was not freed");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " DEVICE TRACE\n";
    return 2;
  }
  try {
    run(argv[1], argv[2]);
    return 0;
  } catch (std::exception const& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
