// The threads of one call: the caller's own, through a function at an address, or where it has none,
// threads that live as long as the call and wait between its parts.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

namespace lapse {

class Team {
 public:
  Team(int64_t threads, uintptr_t parallel_for)
      : threads_(threads), parallel_for_(reinterpret_cast<ParallelFor>(parallel_for)) {}

  ~Team() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    begin_.notify_all();
    for (std::thread &worker : workers_) worker.join();
  }

  // Runs part(0) to part(parts - 1), and returns when all are done.
  template <class Part> void run(int64_t parts, Part part) {
    auto some = [](int64_t begin, int64_t end, void *context) {
      for (int64_t n = begin; n < end; n++) (*static_cast<Part *>(context))(n);
    };
    if (parts <= 1 || threads_ <= 1)
      some(0, parts, &part);
    else if (!parallel_for_)
      among_workers(parts, some, &part);
    else if (parallel_for_(0, parts, 1, some, &part))
      throw std::runtime_error(FAILED);
  }

 private:
  static constexpr const char *FAILED = "a thread of the C++ kernels failed, perhaps out of memory";

  // PyTorch's stable C interface to its thread pool; a second pool beside it would slow both down.
  using Some = void (*)(int64_t, int64_t, void *);
  using ParallelFor = int (*)(int64_t, int64_t, int64_t, Some, void *);

  void among_workers(int64_t parts, Some some, void *context) {
    while (int64_t(workers_.size()) < threads_ - 1) {
      const int64_t place = workers_.size() + 1;
      workers_.emplace_back([this, place, seen = round_]() mutable { work(place, seen); });
    }
    {
      std::lock_guard lock(mutex_);
      parts_ = parts, some_ = some, context_ = context, busy_ = workers_.size();
      round_++;
    }
    begin_.notify_all();
    share(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    if (failed_) throw std::runtime_error(FAILED);
  }

  void work(int64_t place, int64_t seen) {
    std::unique_lock lock(mutex_);
    while (true) {
      begin_.wait(lock, [&] { return over_ || round_ != seen; });
      if (over_) return;
      seen = round_;
      lock.unlock();
      share(place);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void share(int64_t place) {
    try {
      for (int64_t n = place; n < parts_; n += threads_) some_(n, n + 1, context_);
    } catch (...) {
      failed_ = true;
    }
  }

  const int64_t threads_;
  const ParallelFor parallel_for_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable begin_, done_;
  int64_t round_ = 0, busy_ = 0, parts_ = 0;
  Some some_ = nullptr;
  void *context_ = nullptr;
  bool over_ = false;
  std::atomic<bool> failed_ = false;
};

}  // namespace lapse
