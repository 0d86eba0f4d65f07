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
#include "team.h"

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

static const Kernels *named(const std::string &isa) {
  for (const Kernels *one : runnable())
    if (isa == one->name) return one;
  throw std::invalid_argument("this processor does not run " + isa);
}

// Address and two strides: of time and batch for rows, of rows and columns for matrices.
using Place = std::tuple<uintptr_t, int64_t, int64_t>;

// The same for a mask, then whether it has bytes, and their scale.
using MaskPlace = std::tuple<uintptr_t, int64_t, int64_t, bool, float>;

template <class Number> static Strided<Number> strided(const Place &place) {
  const auto [address, row, column] = place;
  return {reinterpret_cast<Number *>(address), row, column};
}

static Rows rows(const Place &place) {
  return {reinterpret_cast<float *>(std::get<0>(place)), std::get<1>(place), std::get<2>(place)};
}

static Mask mask(const MaskPlace &place) {
  const auto [address, time, batch, bytes, scale] = place;
  return {reinterpret_cast<const void *>(address), time, batch, bytes, scale};
}

template <class T> static T *at(uintptr_t address) { return reinterpret_cast<T *>(address); }

struct Aligned {
  void operator()(float *p) const { ::operator delete[](p, std::align_val_t(64)); }
};
using Floats = std::unique_ptr<float[], Aligned>;

static Floats floats(int64_t size) { return Floats(new (std::align_val_t(64)) float[size]); }

static Floats zeros(int64_t size) {
  Floats made = floats(size);
  std::fill_n(made.get(), size, 0.0f);
  return made;
}

static void run(const std::string &isa, bool backward, int cell, int64_t timesteps, int64_t batch,
                int64_t features, int64_t units, bool reverse, uintptr_t running, const Place &x,
                const std::vector<MaskPlace> &x_masks, const std::vector<MaskPlace> &h_masks,
                const std::vector<MaskPlace> &slots, const Place &kernel, const Place &recurrent,
                uintptr_t bias, uintptr_t h0, uintptr_t c0, uintptr_t h, uintptr_t c, uintptr_t y,
                uintptr_t saved, const Place &dh, bool dh_of_y, uintptr_t dh0, uintptr_t dc0, const Place &dx,
                const Place &dkernel, const Place &drecurrent, uintptr_t dbias, int64_t threads,
                bool of_units, uintptr_t parallel_for) {
  const Kernels *kernels = named(isa);
  Layer layer{};
  layer.cell = Cell(cell);
  layer.timesteps = timesteps, layer.batch = batch, layer.features = features, layer.units = units;
  layer.reverse = reverse, layer.running = at<const uint8_t>(running);
  layer.x = rows(x), layer.x_masks = x_masks.size(), layer.h_masks = h_masks.size();
  for (size_t k = 0; k < x_masks.size(); k++) layer.x_mask[k] = mask(x_masks[k]);
  for (size_t k = 0; k < h_masks.size(); k++) layer.h_mask[k] = mask(h_masks[k]);
  for (size_t s = 0; s < SLOTS; s++) layer.slots[s] = mask(slots.at(s));
  layer.kernel = strided<const float>(kernel), layer.recurrent = strided<const float>(recurrent);
  layer.bias = at<const float>(bias);
  const Floats start = zeros(h0 ? 0 : batch * units);
  layer.h0 = h0 ? at<const float>(h0) : start.get();
  if (layer.cell == LSTM) layer.c0 = h0 ? at<const float>(c0) : start.get();
  layer.h = at<float>(h), layer.c = at<float>(c), layer.y = at<float>(y);
  layer.saved = at<float>(saved);
  const bool holds = running && dh_of_y && std::get<0>(dh);
  const Floats held = zeros(holds ? batch * units : 0);
  layer.dh = rows(dh), layer.held = holds ? held.get() : nullptr;
  layer.dh0 = at<float>(dh0), layer.dc0 = at<float>(dc0), layer.dx = rows(dx);
  layer.dkernel = strided<float>(dkernel), layer.drecurrent = strided<float>(drecurrent);
  layer.dbias = at<float>(dbias);

  nb::gil_scoped_release released;
  if (!parallel_for) {  // lapse's own threads take about ten microseconds each to start
    const int64_t gates = layer.cell == LSTM ? 4 : layer.cell == SIMPLE_RNN ? 1 : 3;
    const int64_t products = timesteps * batch * (features + units) * units * gates;
    threads = std::clamp<int64_t>(products / 1000000, 1, threads);
  }
  constexpr int64_t FEWEST = 16;  // units for a thread: at least a vector
  const int64_t parts = std::min(threads, std::max<int64_t>(of_units ? units / FEWEST : batch, 1));
  const int64_t room = kernels->workspace_size(layer, of_units ? batch : (batch + parts - 1) / parts);
  const Floats packed = floats(kernels->packed_size(layer)), workspace = floats(parts * room);
  Team team(threads, parallel_for);
  team.run(threads, [&](int64_t index) {
    kernels->pack(layer, backward, of_units ? parts : 1, packed.get(), index, threads);
  });
  auto through = [&](Pass pass, int64_t begin, int64_t end) {
    const int64_t at_once = of_units ? 1 : end - begin;
    for (int64_t phase = begin; phase < end; phase += at_once)
      team.run(parts, [&](int64_t index) {
        pass(layer, packed.get(), {index, parts, of_units}, phase, phase + at_once,
             workspace.get() + index * room);
      });
  };
  const int64_t phases = kernels->phases(layer, backward);
  if (!backward) return through(kernels->forward, 0, timesteps * phases);

  layer.dz_steps = kernels->dz_steps(layer);
  const int64_t sums = kernels->gradient_size(layer, {threads - 1, threads, true});
  const Floats dz = floats(kernels->dz_size(layer)), gradients = floats(threads * sums);
  layer.dz = dz.get();
  for (int64_t step = 0; step < timesteps; step += layer.dz_steps) {
    const int64_t end = std::min(step + layer.dz_steps, timesteps);
    through(kernels->backward, step * phases, end * phases);
    team.run(threads, [&](int64_t index) {
      kernels->gradient(layer, nullptr, {index, threads, true}, step, end,
                        gradients.get() + index * sums);
    });
  }
}

using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T> using Out = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// How many threads share `numbers` to draw: each has at least about ten microseconds of work, which is
// what it takes to wake it.
static int64_t shares(int64_t numbers, int64_t threads) {
  return std::clamp<int64_t>(numbers / 32768, 1, threads);
}

// Rows [samples][steps][gates] of counters, in equal shares.
template <class Draw>
static void draw(uint32_t low, uint32_t high, const Words &samples, const Words &steps,
                 const Words &gates, int64_t width, int64_t threads, uintptr_t parallel_for,
                 Draw one) {
  const Counters counters{{low, high},
                          samples.data(),
                          steps.data(),
                          gates.data(),
                          int64_t(steps.size()),
                          int64_t(gates.size()),
                          width};
  const int64_t rows = samples.size() * steps.size() * gates.size();
  if (rows == 0) return;
  const int64_t parts = shares(rows * width, threads);
  nb::gil_scoped_release released;
  Team(parts, parallel_for).run(parts, [&](int64_t part) {
    one(counters, part * rows / parts, (part + 1) * rows / parts);
  });
}

template <class T> using Flat = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Coins times a factor.
static void scale(Flat<const uint8_t> coins, float factor, Flat<float> out, int64_t threads,
                  uintptr_t parallel_for) {
  if (coins.size() != out.size()) throw std::invalid_argument("sizes of coins and out differ");
  const int64_t size = coins.size(), parts = shares(size, threads);
  const uint8_t *from = coins.data();
  float *to = out.data();
  nb::gil_scoped_release released;
  Team(parts, parallel_for).run(parts, [&](int64_t part) {
    for (int64_t n = part * size / parts; n < (part + 1) * size / parts; n++)
      to[n] = float(from[n]) * factor;
  });
}

static void words(uint32_t low, uint32_t high, Words samples, Words steps, Words gates,
                  Out<uint32_t> out, int64_t threads, uintptr_t parallel_for) {
  draw(low, high, samples, steps, gates, out.shape(3), threads, parallel_for,
       [&, kernels = runnable()[0]](const Counters &counters, int64_t begin, int64_t end) {
         kernels->words(counters, begin, end, out.data());
       });
}

static void coins(uint32_t low, uint32_t high, Words samples, Words steps, Words gates,
                  uint32_t threshold, Out<uint8_t> out, int64_t threads, uintptr_t parallel_for) {
  draw(low, high, samples, steps, gates, out.shape(3), threads, parallel_for,
       [&, kernels = runnable()[0]](const Counters &counters, int64_t begin, int64_t end) {
         kernels->coins(counters, begin, end, threshold, out.data());
       });
}

static int64_t multiply_adds(const std::string &isa, int64_t rounds, int64_t threads,
                             uintptr_t parallel_for) {
  const Kernels *kernels = named(isa);
  nb::gil_scoped_release released;
  Team(threads, parallel_for).run(threads, [&](int64_t) { kernels->multiply_adds(rounds); });
  return threads * rounds * kernels->multiply_adds(1);
}

}  // namespace lapse

NB_MODULE(_kernels, m) {
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const lapse::Kernels *one : lapse::runnable()) names.push_back(one->name);
    return names;
  });
  m.def("words", &lapse::words, "low"_a, "high"_a, "samples"_a, "steps"_a, "gates"_a, "out"_a,
        "threads"_a, "parallel_for"_a);
  m.def("coins", &lapse::coins, "low"_a, "high"_a, "samples"_a, "steps"_a, "gates"_a, "threshold"_a,
        "out"_a, "threads"_a, "parallel_for"_a);
  m.def("scale", &lapse::scale, "coins"_a, "factor"_a, "out"_a, "threads"_a, "parallel_for"_a);
  m.def("multiply_adds", &lapse::multiply_adds, "isa"_a, "rounds"_a, "threads"_a, "parallel_for"_a);
  m.def("run", &lapse::run, nb::kw_only(), "isa"_a, "backward"_a, "cell"_a, "timesteps"_a, "batch"_a,
        "features"_a, "units"_a, "reverse"_a, "running"_a, "x"_a, "x_masks"_a, "h_masks"_a, "slots"_a,
        "kernel"_a, "recurrent"_a, "bias"_a, "h0"_a, "c0"_a, "h"_a, "c"_a, "y"_a, "saved"_a, "dh"_a,
        "dh_of_y"_a, "dh0"_a, "dc0"_a, "dx"_a, "dkernel"_a, "drecurrent"_a, "dbias"_a, "threads"_a,
        "of_units"_a, "parallel_for"_a);
}
