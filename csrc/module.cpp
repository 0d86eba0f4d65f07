// The Python module: pointers in, pointers out. It links to no framework; the caller owns all memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "recurrent.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace lapse {

extern const Kernels kernels_generic;
#ifdef LAPSE_X86
extern const Kernels kernels_avx2, kernels_avx512;
#endif

static std::vector<const Kernels *> runnable() {
  std::vector<const Kernels *> found;
#ifdef LAPSE_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(&kernels_avx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
#endif
  found.push_back(&kernels_generic);
  return found;
}

// PyTorch's own thread pool (its stable C interface); a second pool beside it would slow both down.
using ParallelFor = int (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);

using Place = std::tuple<uintptr_t, int64_t, int64_t>;  // address, stride of time, of batch

static Mask mask(const Place &place) {
  return {reinterpret_cast<const float *>(std::get<0>(place)), std::get<1>(place), std::get<2>(place)};
}

template <class T> static T *at(uintptr_t address) { return reinterpret_cast<T *>(address); }

static void run(const std::string &isa, bool backward, int cell, int64_t timesteps, int64_t batch,
                int64_t units, const std::vector<Place> &read, const std::vector<Place> &slots,
                uintptr_t lengths, uintptr_t order, uintptr_t weights, uintptr_t bias, uintptr_t h0,
                uintptr_t c0, uintptr_t h, uintptr_t c, uintptr_t saved, const Place &dh,
                uintptr_t dz, uintptr_t dh0, uintptr_t dc0, int64_t threads,
                uintptr_t parallel_for) {
  const Kernels *kernels = nullptr;
  for (const Kernels *one : runnable())
    if (isa == one->name) kernels = one;
  if (!kernels) throw std::invalid_argument("this processor does not run " + isa);
  Loop loop{};
  loop.cell = Cell(cell);
  loop.timesteps = timesteps, loop.batch = batch, loop.units = units;
  loop.gates_read_apart = read.size() > 1;
  for (size_t k = 0; k < read.size(); k++) loop.read[k] = mask(read[k]);
  for (size_t s = 0; s < SLOTS; s++) loop.slots[s] = mask(slots.at(s));
  loop.lengths = at<const int64_t>(lengths), loop.order = at<const int64_t>(order);
  loop.weights = at<const float>(weights), loop.bias = at<const float>(bias);
  loop.h0 = at<const float>(h0), loop.c0 = at<const float>(c0);
  loop.h = at<float>(h), loop.c = at<float>(c), loop.saved = at<float>(saved);
  loop.dh = mask(dh), loop.dz = at<float>(dz);
  loop.dh0 = at<float>(dh0), loop.dc0 = at<float>(dc0);

  nb::gil_scoped_release released;
  const int64_t gates = cell == LSTM ? 4 : cell == GRU ? 3 : 1;
  const int64_t rows = backward ? gates * units : units, columns = backward ? 1 : gates;
  struct Aligned {
    void operator()(float *p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<float[], Aligned> packed(
      new (std::align_val_t(64)) float[kernels->packed_size(rows, columns, units)]);
  kernels->pack(loop.weights, rows, columns, units, packed.get());

  struct Work {
    const Loop &loop;
    const float *packed;
    Run run;
    int64_t parts;
  } work{loop, packed.get(), backward ? kernels->backward : kernels->forward, std::min(threads, batch)};
  auto share = [](int64_t begin, int64_t end, void *context) {
    const Work &w = *static_cast<Work *>(context);
    for (int64_t part = begin; part < end; part++) w.run(w.loop, w.packed, part, w.parts);
  };
  if (parallel_for && work.parts > 1)
    reinterpret_cast<ParallelFor>(parallel_for)(0, work.parts, 1, share, &work);
  else
    share(0, work.parts, &work);
}

}  // namespace lapse

NB_MODULE(_cpu, m) {
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const lapse::Kernels *one : lapse::runnable()) names.push_back(one->name);
    return names;
  });
  m.def("run", &lapse::run, nb::kw_only(), "isa"_a, "backward"_a, "cell"_a, "timesteps"_a, "batch"_a,
        "units"_a, "read"_a, "slots"_a, "lengths"_a, "order"_a, "weights"_a, "bias"_a, "h0"_a,
        "c0"_a, "h"_a, "c"_a, "saved"_a, "dh"_a, "dz"_a, "dh0"_a, "dc0"_a, "threads"_a, "parallel_for"_a);
}
