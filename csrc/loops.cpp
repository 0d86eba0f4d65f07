// The loop over time, compiled once for each instruction set; LAPSE_ISA names this one.
#include <cmath>
#include <memory>
#include <new>

#include "cells.h"
#include "gemm.h"
#include "recurrent.h"

namespace lapse {
namespace {

// Zeroed floats, aligned for whole vectors.
struct Scratch {
  explicit Scratch(int64_t size)
      : at(new (std::align_val_t(64)) float[size + LANES]()) {}
  ~Scratch() { ::operator delete[](at, std::align_val_t(64)); }
  Scratch(const Scratch &) = delete;
  operator float *() const { return at; }
  float *const at;
};

const float *row(const Mask &mask, int64_t t, int64_t b, const float *ones) {
  return mask.at ? mask.at + t * mask.time + b * mask.batch : ones;
}

bool noisy(const Loop &loop) {
  for (const Mask &mask : loop.slots)
    if (mask.at) return true;
  return false;
}

// What one share works on: its samples, of which the first `running(t)` are real at step t. Without
// lengths they lie side by side, so that no core fetches ahead what another one writes; with lengths
// every share has long and short ones.
struct Share {
  const Loop &loop;
  int64_t part, parts, first = part * loop.batch / parts;
  int64_t samples = loop.lengths ? (loop.batch - part + parts - 1) / parts
                                 : (part + 1) * loop.batch / parts - first;

  int64_t sample(int64_t j) const {
    return loop.lengths ? loop.order[part + j * parts] : first + j;
  }
  int64_t length(int64_t j) const { return loop.lengths ? loop.lengths[sample(j)] : loop.timesteps; }
  int64_t running(int64_t t) const {
    int64_t n = samples;
    while (n && length(n - 1) <= t) n--;
    return n;
  }
};

// The states after step t - 1.
const float *before(const float *first, const float *all, int64_t t, const Loop &l) {
  return t ? all + (t - 1) * l.batch * l.units : first;
}

void times(float *out, const float *a, const float *mask, int64_t n) {
  for (int64_t u = 0; u < n; u++) out[u] = a[u] * mask[u];
}

template <template <bool> class CellOf, bool NOISY>
void forward(const Loop &l, const float *packed, int64_t part, int64_t parts) {
  using Cell = CellOf<NOISY>;
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t H = l.units, wide = padded(H), reads = l.gates_read_apart ? G : 1;
  const Share share{l, part, parts};
  Scratch ones(wide), zeros(G * H), read(share.samples * reads * H), z(share.samples * G * wide);
  std::fill(ones.at, ones.at + wide, 1.0f);

  for (int64_t t = 0; t < l.timesteps; t++) {
    const int64_t running = share.running(t);
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    float *h_new = l.h + t * l.batch * H, *c_new = l.c + t * l.batch * H;
    for (int64_t j = 0; j < running; j++)
      for (int64_t k = 0; k < reads; k++) {
        const int64_t b = share.sample(j);
        float *to = read + (j * reads + k) * H;
        if (l.read[k].at)
          times(to, h + b * H, row(l.read[k], t, b, nullptr), H);
        else
          std::copy(h + b * H, h + (b + 1) * H, to);
      }
    for (int k = 0; k < G; k++)
      multiply(running, H, H, read + (reads > 1 ? k * H : 0), reads * H, packed + k * H * wide, 0, H,
               z + k * wide, G * wide);
    for (int64_t j = 0; j < running; j++) {
      const int64_t b = share.sample(j), at = t * l.batch + b;
      Row r{z + j * G * wide, wide,          l.bias ? l.bias : zeros, h + b * H,
            c + b * H,        h_new + b * H, c_new + b * H,           l.saved + at * S * H,
            {}};
      for (int s = 0; s < SLOTS; s++) r.mask[s] = row(l.slots[s], t, b, ones);
      Cell::step(r, H);
    }
    for (int64_t j = running; j < share.samples; j++) {
      const int64_t b = share.sample(j);
      std::copy(h + b * H, h + (b + 1) * H, h_new + b * H);
      if (l.c) std::copy(c + b * H, c + (b + 1) * H, c_new + b * H);
    }
  }
}

template <template <bool> class CellOf, bool NOISY>
void backward(const Loop &l, const float *packed, int64_t part, int64_t parts) {
  using Cell = CellOf<NOISY>;
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t H = l.units, wide = padded(H);
  const Share share{l, part, parts};
  Scratch ones(wide), dz(share.samples * G * H), read(share.samples * wide);
  std::fill(ones.at, ones.at + wide, 1.0f);
  for (int64_t t = l.timesteps - 1; t >= 0; t--) {
    const int64_t running = share.running(t);
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    for (int64_t j = 0; j < share.samples && l.dh.at; j++) {
      const int64_t b = share.sample(j);
      const float *outside = row(l.dh, t, b, nullptr);
      float *dh = l.dh0 + b * H;
      for (int64_t u = 0; u < H; u++) dh[u] += outside[u];
    }
    for (int64_t j = 0; j < running; j++) {
      const int64_t b = share.sample(j), at = t * l.batch + b;
      float *gradient = l.dz + at * S * H;
      BackRow r{h + b * H,       c + b * H, l.saved + at * S * H, l.dh0 + b * H,
                l.dc0 + b * H, gradient,  {}};
      for (int s = 0; s < SLOTS; s++) r.mask[s] = row(l.slots[s], t, b, ones);
      Cell::back(r, H);
      // What U made of h: the last gate of GRU has a gradient of its own.
      std::copy(gradient, gradient + (G - 1) * H, dz + j * G * H);
      std::copy(gradient + (S - 1) * H, gradient + S * H, dz + (j * G + G - 1) * H);
    }
    for (int64_t k = 0; k < (l.gates_read_apart ? G : 1); k++) {
      const int64_t depth = l.gates_read_apart ? H : G * H;
      multiply(running, depth, H, dz + k * H, G * H, packed, k * H, G * H, read, wide);
      for (int64_t j = 0; j < running; j++) {
        const int64_t b = share.sample(j);
        const float *mask = row(l.read[k], t, b, ones), *from = read + j * wide;
        float *dh = l.dh0 + b * H;
        for (int64_t u = 0; u < H; u++) dh[u] += from[u] * mask[u];
      }
    }
    for (int64_t j = running; j < share.samples; j++) {
      float *gradient = l.dz + (t * l.batch + share.sample(j)) * S * H;
      std::fill(gradient, gradient + S * H, 0.0f);
    }
  }
}

#define BOTH(name)                                                                           \
  void name##_any(const Loop &l, const float *packed, int64_t part, int64_t parts) {         \
    const bool n = noisy(l);                                                                 \
    switch (l.cell) {                                                                        \
      case LSTM: return (n ? name<Lstm, true> : name<Lstm, false>)(l, packed, part, parts);  \
      case GRU: return (n ? name<Gru, true> : name<Gru, false>)(l, packed, part, parts);     \
      case SIMPLE_RNN:                                                                       \
        return (n ? name<SimpleRnn, true> : name<SimpleRnn, false>)(l, packed, part, parts); \
    }                                                                                        \
  }
BOTH(forward)
BOTH(backward)

}  // namespace

#define NAMED(isa) kernels_##isa
#define NAME_OF(isa) NAMED(isa)
#define TEXT(isa) #isa
#define TEXT_OF(isa) TEXT(isa)
extern const Kernels NAME_OF(LAPSE_ISA);
const Kernels NAME_OF(LAPSE_ISA) = {TEXT_OF(LAPSE_ISA), forward_any, backward_any, packed_size, pack};

}  // namespace lapse
