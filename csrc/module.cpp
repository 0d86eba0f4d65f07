// The Python module: pointers in, pointers out. It links to no framework; the caller owns all memory.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
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

static Rows rows(const Place &place) {
  return {reinterpret_cast<float *>(std::get<0>(place)), std::get<1>(place), std::get<2>(place)};
}

template <class T> static T *at(uintptr_t address) { return reinterpret_cast<T *>(address); }

static void run(const std::string &isa, bool backward, int cell, int64_t timesteps, int64_t batch,
                int64_t features, int64_t units, uintptr_t lengths, uintptr_t order, const Place &x,
                const std::vector<Place> &x_masks, const std::vector<Place> &h_masks,
                const std::vector<Place> &slots, uintptr_t kernel, uintptr_t recurrent,
                uintptr_t bias, uintptr_t h0, uintptr_t c0, uintptr_t h, uintptr_t c, uintptr_t saved,
                const Place &dh, uintptr_t dh0, uintptr_t dc0, uintptr_t dz, const Place &dx,
                uintptr_t dkernel, uintptr_t drecurrent, uintptr_t dbias, int64_t threads,
                uintptr_t parallel_for) {
  const Kernels *kernels = nullptr;
  for (const Kernels *one : runnable())
    if (isa == one->name) kernels = one;
  if (!kernels) throw std::invalid_argument("this processor does not run " + isa);
  Layer layer{};
  layer.cell = Cell(cell);
  layer.timesteps = timesteps, layer.batch = batch, layer.features = features, layer.units = units;
  layer.lengths = at<const int64_t>(lengths), layer.order = at<const int64_t>(order);
  layer.x = rows(x), layer.x_masks = x_masks.size(), layer.h_masks = h_masks.size();
  for (size_t k = 0; k < x_masks.size(); k++) layer.x_mask[k] = rows(x_masks[k]);
  for (size_t k = 0; k < h_masks.size(); k++) layer.h_mask[k] = rows(h_masks[k]);
  for (size_t s = 0; s < SLOTS; s++) layer.slots[s] = rows(slots.at(s));
  layer.kernel = at<const float>(kernel), layer.recurrent = at<const float>(recurrent);
  layer.bias = at<const float>(bias);
  layer.h0 = at<const float>(h0), layer.c0 = at<const float>(c0);
  layer.h = at<float>(h), layer.c = at<float>(c), layer.saved = at<float>(saved);
  layer.dh = rows(dh), layer.dh0 = at<float>(dh0), layer.dc0 = at<float>(dc0);
  layer.dz = at<float>(dz), layer.dx = rows(dx);
  layer.dkernel = at<float>(dkernel), layer.drecurrent = at<float>(drecurrent);
  layer.dbias = at<float>(dbias);

  nb::gil_scoped_release released;
  struct Aligned {
    void operator()(float *p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<float[], Aligned> packed(
      new (std::align_val_t(64)) float[kernels->packed_size(layer)]);
  kernels->pack(layer, backward, packed.get());

  struct Work {
    const Layer &layer;
    const float *packed;
    Pass pass;
    int64_t parts;
  };
  auto all_shares = [&](Pass pass, int64_t parts) {
    Work work{layer, packed.get(), pass, parts};
    auto share = [](int64_t begin, int64_t end, void *context) {
      const Work &w = *static_cast<Work *>(context);
      for (int64_t part = begin; part < end; part++) w.pass(w.layer, w.packed, part, w.parts);
    };
    if (parallel_for && parts > 1)
      reinterpret_cast<ParallelFor>(parallel_for)(0, parts, 1, share, &work);
    else
      share(0, parts, &work);
  };
  all_shares(backward ? kernels->backward : kernels->forward, std::min(threads, batch));
  if (backward) all_shares(kernels->gradient, threads);
}

using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T> using Out = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

static void words(uint32_t low, uint32_t high, Words samples, Words steps, Words gates,
                  Out<uint32_t> out) {
  const uint32_t key[2] = {low, high};
  runnable()[0]->words(key, samples.data(), samples.size(), steps.data(), steps.size(), gates.data(),
                       gates.size(), out.shape(3), out.data());
}

static void coins(uint32_t low, uint32_t high, Words samples, Words steps, Words gates,
                  uint32_t threshold, float scale, Out<float> out) {
  const uint32_t key[2] = {low, high};
  runnable()[0]->coins(key, samples.data(), samples.size(), steps.data(), steps.size(), gates.data(),
                       gates.size(), out.shape(3), threshold, scale, out.data());
}

}  // namespace lapse

NB_MODULE(_cpu, m) {
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const lapse::Kernels *one : lapse::runnable()) names.push_back(one->name);
    return names;
  });
  m.def("words", &lapse::words, "low"_a, "high"_a, "samples"_a, "steps"_a, "gates"_a, "out"_a);
  m.def("coins", &lapse::coins, "low"_a, "high"_a, "samples"_a, "steps"_a, "gates"_a, "threshold"_a,
        "scale"_a, "out"_a);
  m.def("run", &lapse::run, nb::kw_only(), "isa"_a, "backward"_a, "cell"_a, "timesteps"_a, "batch"_a,
        "features"_a, "units"_a, "lengths"_a, "order"_a, "x"_a, "x_masks"_a, "h_masks"_a, "slots"_a,
        "kernel"_a, "recurrent"_a, "bias"_a, "h0"_a, "c0"_a, "h"_a, "c"_a, "saved"_a, "dh"_a, "dh0"_a,
        "dc0"_a, "dz"_a, "dx"_a, "dkernel"_a, "drecurrent"_a, "dbias"_a, "threads"_a,
        "parallel_for"_a);
}
