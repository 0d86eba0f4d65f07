// `torch_parallel_for` with plain threads, whose beginnings and ends ThreadSanitizer sees; those of
// PyTorch's pool it doesn't.
#include <cstdint>
#include <thread>
#include <vector>

extern "C" int parallel_for(int64_t begin, int64_t end, int64_t,
                            void (*run)(int64_t, int64_t, void *), void *context) {
  std::vector<std::thread> threads;
  for (int64_t n = begin; n < end; n++) threads.emplace_back(run, n, n + 1, context);
  for (std::thread &thread : threads) thread.join();
  return 0;
}
