// The loop over time, compiled once for each instruction set; LAPSE_ISA names this one.
#include <new>

#include "cells.h"
#include "gemm.h"
#include "philox.h"
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

const float *row(const Rows &rows, int64_t t, int64_t b, const float *none = nullptr) {
  return rows.at ? rows.at + t * rows.time + b * rows.batch : none;
}

bool noisy(const Layer &layer) {
  for (const Rows &mask : layer.slots)
    if (mask.at) return true;
  return false;
}

// What one share works on: its samples, of which the first `running(t)` are real at step t. Without
// lengths they lie side by side, so that no core fetches ahead what another one writes; with lengths
// every share has long and short ones.
struct Share {
  const Layer &layer;
  int64_t part, parts, first = part * layer.batch / parts;
  int64_t samples = layer.lengths ? (layer.batch - part + parts - 1) / parts
                                  : (part + 1) * layer.batch / parts - first;

  int64_t sample(int64_t j) const {
    return layer.lengths ? layer.order[part + j * parts] : first + j;
  }
  int64_t length(int64_t j) const {
    return layer.lengths ? layer.lengths[sample(j)] : layer.timesteps;
  }
  int64_t running(int64_t t) const {
    int64_t n = samples;
    while (n && length(n - 1) <= t) n--;
    return n;
  }
};

// The states before step t.
const float *before(const float *first, const float *all, int64_t t, const Layer &l) {
  return t ? all + (t - 1) * l.batch * l.units : first;
}

// A row as a gate reads it: times its mask, if there is one.
void read(float *to, const float *from, const float *mask, int64_t n) {
  if (!mask) {
    std::copy(from, from + n, to);
    return;
  }
  for (int64_t u = 0; u < n; u++) to[u] = from[u] * mask[u];
}

// The part of z that gate k's share of x or of h goes to: the n of a GRU keeps them apart.
template <class Cell> constexpr int part_of(int k, bool of_h) {
  return of_h && Cell::SAVED > Cell::GATES && k == Cell::GATES - 1 ? k + 1 : k;
}

template <template <bool> class CellOf, bool NOISY>
void forward(const Layer &l, const float *packed, int64_t part, int64_t parts) {
  using Cell = CellOf<NOISY>;
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t F = l.features, H = l.units, wide = padded(H);
  const int64_t xs = std::max<int64_t>(l.x_masks, 1), hs = std::max<int64_t>(l.h_masks, 1);
  const Share share{l, part, parts};
  Scratch ones(wide), zeros(S * H), z(share.samples * S * wide);
  Scratch x_read(share.samples * xs * F), h_read(share.samples * hs * H);
  std::fill(ones.at, ones.at + wide, 1.0f);

  for (int64_t t = 0; t < l.timesteps; t++) {
    const int64_t running = share.running(t);
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    float *h_new = l.h + t * l.batch * H, *c_new = l.c + t * l.batch * H;
    for (int64_t j = 0; j < running; j++) {
      const int64_t b = share.sample(j);
      for (int64_t k = 0; k < xs; k++)
        read(x_read + (j * xs + k) * F, row(l.x, t, b), row(l.x_mask[k], t, b), F);
      for (int64_t k = 0; k < hs; k++)
        read(h_read + (j * hs + k) * H, h + b * H, row(l.h_mask[k], t, b), H);
    }
    for (int k = 0; k < G; k++) {
      const Matrix of_x{x_read + (xs > 1 ? k * F : 0), xs * F, 1};
      const Matrix of_h{h_read + (hs > 1 ? k * H : 0), hs * H, 1};
      const float *recurrent = packed + (G * F + k * H) * wide;
      const int to_x = part_of<Cell>(k, false), to_h = part_of<Cell>(k, true);
      multiply(running, F, H, of_x, packed + k * F * wide, 0, F, z + to_x * wide, S * wide, false);
      multiply(running, H, H, of_h, recurrent, 0, H, z + to_h * wide, S * wide, to_h == to_x);
    }
    for (int64_t j = 0; j < running; j++) {
      const int64_t b = share.sample(j);
      Row r{z + j * S * wide, wide,          l.bias ? l.bias : zeros, h + b * H,
            c + b * H,        h_new + b * H, c_new + b * H, l.saved + (t * l.batch + b) * S * H,
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

// Adds to `to`, row by row, what a gradient before the activations gives back through a transposed
// matrix [G * H][n] and the masks that stood before it.
template <class To>
void give_back(const Share &share, int64_t running, int64_t t, int gates, int64_t n, int64_t masks,
               const Rows *mask, const float *dz, const float *packed, float *scratch, To to) {
  const int64_t H = share.layer.units, wide = padded(n), groups = std::max<int64_t>(masks, 1);
  const int64_t depth = groups > 1 ? H : gates * H;
  for (int64_t k = 0; k < groups; k++) {
    const Matrix of_z{dz + k * H, gates * H, 1};
    multiply(running, depth, n, of_z, packed, k * H, gates * H, scratch, wide, false);
    for (int64_t j = 0; j < running; j++) {
      const int64_t b = share.sample(j);
      const float *from = scratch + j * wide, *m = row(mask[k], t, b);
      float *sum = to(b);
      if (m)
        for (int64_t u = 0; u < n; u++) sum[u] += from[u] * m[u];
      else
        for (int64_t u = 0; u < n; u++) sum[u] += from[u];
    }
  }
}

template <template <bool> class CellOf, bool NOISY>
void backward(const Layer &l, const float *packed, int64_t part, int64_t parts) {
  using Cell = CellOf<NOISY>;
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t F = l.features, H = l.units;
  const float *recurrent = packed + G * H * padded(F);
  const Share share{l, part, parts};
  Scratch ones(padded(H)), dz(share.samples * G * H), scratch(share.samples * padded(std::max(F, H)));
  std::fill(ones.at, ones.at + H, 1.0f);

  for (int64_t t = l.timesteps - 1; t >= 0; t--) {
    const int64_t running = share.running(t);
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    for (int64_t j = 0; j < share.samples; j++) {
      const int64_t b = share.sample(j);
      const float *outside = row(l.dh, t, b);
      float *dh = l.dh0 + b * H;
      if (outside)
        for (int64_t u = 0; u < H; u++) dh[u] += outside[u];
      if (l.dx.at) std::fill_n(l.dx.at + t * l.dx.time + b * l.dx.batch, F, 0.0f);
      if (j >= running) std::fill_n(l.dz + (t * l.batch + b) * S * H, S * H, 0.0f);
    }
    for (int64_t j = 0; j < running; j++) {
      const int64_t b = share.sample(j), at = (t * l.batch + b) * S * H;
      BackRow r{h + b * H, c + b * H, l.saved + at, l.dh0 + b * H, l.dc0 + b * H, l.dz + at, {}};
      for (int s = 0; s < SLOTS; s++) r.mask[s] = row(l.slots[s], t, b, ones);
      Cell::back(r, H);
      std::copy_n(l.dz + at, G * H, dz + j * G * H);
    }
    if (l.dx.at)
      give_back(share, running, t, G, F, l.x_masks, l.x_mask, dz, packed, scratch,
                [&](int64_t b) { return l.dx.at + t * l.dx.time + b * l.dx.batch; });
    if (S > G)
      for (int64_t j = 0; j < running; j++) {
        const int64_t at = (t * l.batch + share.sample(j)) * S * H;
        std::copy_n(l.dz + at + (S - 1) * H, H, dz + (j * G + G - 1) * H);
      }
    give_back(share, running, t, G, H, l.h_masks, l.h_mask, dz, recurrent, scratch,
              [&](int64_t b) { return l.dh0 + b * H; });
  }
}

// The gradients of the weights: products of all steps' rows, some hundred at a time. Shares take the
// panels of columns in turn.
template <template <bool> class CellOf, bool NOISY>
void gradient(const Layer &l, const float *, int64_t part, int64_t parts) {
  using Cell = CellOf<NOISY>;
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  constexpr int64_t PANEL = WIDE * LANES, BLOCK = 256;
  const int64_t F = l.features, H = l.units, panels = (H + PANEL - 1) / PANEL;
  const bool apart = l.x_masks > 1 || l.h_masks > 1;
  Scratch x_read(BLOCK * F), h_read(BLOCK * H), dz(BLOCK * PANEL);
  Scratch sums(G * panels * (F + H) * PANEL), bias(S * H);

  int64_t at[BLOCK][2];
  for (int64_t next = 0, all = l.timesteps * l.batch; next < all;) {
    int64_t rows = 0;
    for (; next < all && rows < BLOCK; next++) {
      const int64_t t = next / l.batch, b = next % l.batch;
      if (!l.lengths || t < l.lengths[b]) at[rows][0] = t, at[rows][1] = b, rows++;
    }
    int there = -1;  // the gate whose rows are in x_read and h_read
    for (int k = 0; k < G; k++)
      for (int64_t panel = 0; panel < panels; panel++) {
        if ((k * panels + panel) % parts != part) continue;
        if (there < 0 || (apart && there != k)) {
          there = k;
          for (int64_t n = 0; n < rows; n++) {
            const int64_t t = at[n][0], b = at[n][1];
            const float *h = before(l.h0, l.h, t, l) + b * H;
            read(x_read + n * F, row(l.x, t, b), row(l.x_mask[l.x_masks > 1 ? k : 0], t, b), F);
            read(h_read + n * H, h, row(l.h_mask[l.h_masks > 1 ? k : 0], t, b), H);
          }
        }
        const int64_t first = panel * PANEL, real = std::min(PANEL, H - first);
        float *sum = sums + (k * panels + panel) * (F + H) * PANEL;
        for (bool of_h : {false, true}) {
          const int slot = part_of<Cell>(k, of_h);
          if (!of_h || slot != k)
            for (int64_t n = 0; n < rows; n++) {
              const float *from = l.dz + (at[n][0] * l.batch + at[n][1]) * S * H + slot * H + first;
              std::copy_n(from, real, dz + n * padded(real));
              for (int64_t u = 0; u < real; u++) bias[slot * H + first + u] += from[u];
            }
          const Matrix across{of_h ? h_read : x_read, 1, of_h ? H : F};
          multiply(of_h ? H : F, rows, real, across, dz, 0, rows, sum + (of_h ? F * PANEL : 0), PANEL,
                   true);
        }
      }
  }
  for (int64_t n = part; n < G * panels; n += parts) {
    const int64_t k = n / panels, first = n % panels * PANEL, real = std::min(PANEL, H - first);
    const float *sum = sums + n * (F + H) * PANEL;
    for (int64_t m = 0; m < F + H; m++) {
      float *to = m < F ? l.dkernel + m * G * H : l.drecurrent + (m - F) * G * H;
      std::copy_n(sum + m * PANEL, real, to + k * H + first);
    }
    for (bool of_h : {false, true}) {
      const int64_t from = part_of<Cell>(k, of_h) * H + first;
      std::copy_n(bias + from, real, l.dbias + from);
    }
  }
}

#define PASS(name)                                                                            \
  void name##_any(const Layer &l, const float *packed, int64_t part, int64_t parts) {         \
    const bool n = noisy(l);                                                                  \
    switch (l.cell) {                                                                         \
      case LSTM: return (n ? name<Lstm, true> : name<Lstm, false>)(l, packed, part, parts);   \
      case GRU: return (n ? name<Gru, true> : name<Gru, false>)(l, packed, part, parts);      \
      case SIMPLE_RNN:                                                                        \
        return (n ? name<SimpleRnn, true> : name<SimpleRnn, false>)(l, packed, part, parts);  \
    }                                                                                         \
  }
PASS(forward)
PASS(backward)
PASS(gradient)

int64_t gates_of(const Layer &l) { return l.cell == LSTM ? 4 : l.cell == GRU ? 3 : 1; }

int64_t packed_floats(const Layer &l) {
  const int64_t G = gates_of(l), F = l.features, H = l.units;
  return std::max(packed_size(F, G, H) + packed_size(H, G, H),
                  packed_size(G * H, 1, F) + packed_size(G * H, 1, H));
}

void pack_both(const Layer &l, bool backward, float *packed) {
  const int64_t G = gates_of(l), F = l.features, H = l.units;
  if (backward) {
    pack(l.kernel, F, G * H, 1, F, packed);
    pack(l.recurrent, H, G * H, 1, H, packed + packed_size(G * H, 1, F));
  } else {
    pack(l.kernel, G * H, F, G, H, packed);
    pack(l.recurrent, G * H, H, G, H, packed + packed_size(F, G, H));
  }
}

}  // namespace

#define NAMED(isa) kernels_##isa
#define NAME_OF(isa) NAMED(isa)
#define TEXT(isa) #isa
#define TEXT_OF(isa) TEXT(isa)
extern const Kernels NAME_OF(LAPSE_ISA);
const Kernels NAME_OF(LAPSE_ISA) = {TEXT_OF(LAPSE_ISA), forward_any,   backward_any,
                                    gradient_any,       packed_floats, pack_both,
                                    words,              coins};

}  // namespace lapse
