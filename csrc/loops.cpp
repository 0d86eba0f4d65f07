// The loop over time, compiled once for each instruction set; LAPSE_ISA names this one.
#include <algorithm>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

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

// Row t of b; nothing where there are none.
float *row(const Rows &rows, int64_t t, int64_t b) {
  return rows.at ? rows.at + t * rows.time + b * rows.batch : nullptr;
}

float *moved(float *array, int64_t by) { return array ? array + by : nullptr; }
const float *moved(const float *array, int64_t by) { return array ? array + by : nullptr; }

// The n factors of a mask; `room` is where bytes become numbers, `none` where there is no noise.
const float *factors(const Mask &mask, int64_t t, int64_t b, int64_t n, float *room,
                     const float *none = nullptr) {
  if (!mask.at) return none;
  const int64_t first = t * mask.time + b * mask.batch;
  if (!mask.bytes) return static_cast<const float *>(mask.at) + first;
  const uint8_t *from = static_cast<const uint8_t *>(mask.at) + first;
  for (int64_t u = 0; u < n; u++) room[u] = mask.scale * float(from[u]);
  return room;
}

const Mask &of_gate(const Mask *masks, int64_t count, int64_t gate) {
  return masks[count > 1 ? gate : 0];
}

bool drops(const Layer &layer) {
  return std::any_of(layer.slots, layer.slots + KEEP_C, [](const Mask &mask) { return mask.at; });
}
bool keeps(const Layer &layer) { return layer.slots[KEEP_C].at || layer.slots[KEEP_H].at; }

// What one share works on: its samples, and at a step those that are real and those that are padding.
// Without padding they lie side by side, so that no core fetches ahead what another one writes; with
// it every share has long and short ones.
struct Share {
  const Layer &layer;
  const int64_t first;  // without padding
  std::vector<int64_t> samples, real, padding;

  Share(const Layer &l, int64_t part, int64_t parts) : layer(l), first(part * l.batch / parts) {
    if (!l.running) {
      for (int64_t b = first; b < (part + 1) * l.batch / parts; b++)
        samples.push_back(b);
      real = samples;
      return;
    }
    std::vector<std::pair<int64_t, int64_t>> longest_first;
    for (int64_t b = 0; b < l.batch; b++) {
      const uint8_t *of_b = l.running + b * l.timesteps;
      longest_first.push_back({-std::accumulate(of_b, of_b + l.timesteps, int64_t(0)), b});
    }
    std::sort(longest_first.begin(), longest_first.end());
    for (int64_t n = part; n < l.batch; n += parts) samples.push_back(longest_first[n].second);
  }

  void at(int64_t t) {
    if (!layer.running) return;
    real.clear(), padding.clear();
    for (int64_t b : samples)
      (layer.running[b * layer.timesteps + t] ? real : padding).push_back(b);
  }
};

// The n-th step that is run.
int64_t step_of(const Layer &l, int64_t n) { return l.reverse ? l.timesteps - 1 - n : n; }

// The states before step t.
const float *before(const float *first, const float *all, int64_t t, const Layer &l) {
  const int64_t from = l.reverse ? t + 1 : t - 1;
  return from < 0 || from == l.timesteps ? first : moved(all, from * l.batch * l.units);
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

template <class Cell>
void forward(const Layer &l, const float *packed, int64_t part, int64_t parts) {
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t F = l.features, H = l.units, wide = padded(H);
  const int64_t xs = std::max<int64_t>(l.x_masks, 1);
  const int64_t hs = Cell::RESETS_BEFORE ? G : std::max<int64_t>(l.h_masks, 1);
  Share share(l, part, parts);
  const int64_t samples = share.samples.size();
  Scratch ones(wide), zeros(S * H), z(samples * S * wide), room(std::max(SLOTS * wide, F));
  Scratch x_read(samples * xs * F), h_read(samples * hs * H);
  std::fill(ones.at, ones.at + wide, 1.0f);

  for (int64_t n = 0; n < l.timesteps; n++) {
    const int64_t t = step_of(l, n);
    share.at(t);
    const int64_t real = share.real.size();
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    float *h_new = l.h + t * l.batch * H, *c_new = moved(l.c, t * l.batch * H);
    for (int64_t j = 0; j < real; j++) {
      const int64_t b = share.real[j];
      for (int64_t k = 0; k < xs; k++)
        read(x_read + (j * xs + k) * F, row(l.x, t, b), factors(l.x_mask[k], t, b, F, room), F);
      for (int64_t k = 0; k < hs; k++)
        read(h_read + (j * hs + k) * H, h + b * H,
             factors(of_gate(l.h_mask, l.h_masks, k), t, b, H, room), H);
    }
    auto unit_row = [&](int64_t j) {
      const int64_t b = share.real[j];
      Row r{z + j * S * wide,
            wide,
            l.bias ? l.bias : zeros,
            h + b * H,
            moved(c, b * H),
            h_new + b * H,
            moved(c_new, b * H),
            l.saved + (t * l.batch + b) * S * H,
            {}};
      for (int s = 0; s < SLOTS; s++)
        r.mask[s] = factors(l.slots[s], t, b, H, room + s * wide, ones);
      return r;
    };
    for (int k = 0; k < G; k++) {
      if constexpr (Cell::RESETS_BEFORE)
        if (k == G - 1)
          for (int64_t j = 0; j < real; j++) {
            const Row r = unit_row(j);
            Cell::gate(r, H);
            Cell::reset(h_read + (j * hs + k) * H, r.saved + H, r.mask[1], H);
          }
      const Matrix of_x{x_read + (xs > 1 ? k * F : 0), xs * F, 1};
      const Matrix of_h{h_read + (hs > 1 ? k * H : 0), hs * H, 1};
      const float *recurrent = packed + (G * F + k * H) * wide;
      const int to_x = part_of<Cell>(k, false), to_h = part_of<Cell>(k, true);
      multiply(real, F, H, of_x, packed + k * F * wide, 0, F, z + to_x * wide, S * wide, false);
      multiply(real, H, H, of_h, recurrent, 0, H, z + to_h * wide, S * wide, to_h == to_x);
    }
    for (int64_t j = 0; j < real; j++) Cell::step(unit_row(j), H);
    for (int64_t b : share.padding) {
      std::copy_n(h + b * H, H, h_new + b * H);
      if (l.c) std::copy_n(c + b * H, H, c_new + b * H);
    }
  }
}

// What gradients before the activations give back through the part of `packed`, a transposed matrix
// [all gates * H][n], that belongs to `gates` of them from `gate` on: one row each for `real`.
void through(const Share &share, int64_t gate, int64_t gates, int64_t all, int64_t n, const float *dz,
             const float *packed, float *to) {
  const int64_t H = share.layer.units;
  const Matrix of_z{dz + gate * H, all * H, 1};
  multiply(share.real.size(), gates * H, n, of_z, packed, gate * H, all * H, to, padded(n), false);
}

// Adds to `to`, row by row, what the first `gates` of `all` give back, through the masks that stood
// before the matrix.
template <class To>
void give_back(const Share &share, int64_t t, int64_t gates, int64_t all, int64_t n, int64_t masks,
               const Mask *mask, const float *dz, const float *packed, float *scratch, float *room,
               To to) {
  const int64_t groups = masks > 1 ? gates : 1;
  for (int64_t k = 0; k < groups; k++) {
    through(share, k, gates / groups, all, n, dz, packed, scratch);
    for (size_t j = 0; j < share.real.size(); j++) {
      const int64_t b = share.real[j];
      const float *from = scratch + j * padded(n), *m = factors(mask[k], t, b, n, room);
      float *sum = to(b);
      if (m)
        for (int64_t u = 0; u < n; u++) sum[u] += from[u] * m[u];
      else
        for (int64_t u = 0; u < n; u++) sum[u] += from[u];
    }
  }
}

template <class Cell>
void backward(const Layer &l, const float *packed, int64_t part, int64_t parts) {
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t F = l.features, H = l.units, wide = padded(std::max(F, H));
  const float *recurrent = packed + G * H * padded(F);
  Share share(l, part, parts);
  const int64_t samples = share.samples.size();
  // Gradients stand side by side, a row for each sample, in dz itself where they can.
  const bool in_place = S == G && !l.running;
  Scratch ones(wide), beside(in_place ? 0 : samples * G * H), scratch(samples * wide);
  Scratch room((SLOTS + 1) * wide);
  std::fill(ones.at, ones.at + wide, 1.0f);

  for (int64_t n = l.timesteps - 1; n >= 0; n--) {
    const int64_t t = step_of(l, n);
    share.at(t);
    const int64_t real = share.real.size();
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    for (int64_t b : share.samples) {
      const float *outside = row(l.dh, t, b);
      float *dh = l.dh0 + b * H;
      if (outside)
        for (int64_t u = 0; u < H; u++) dh[u] += outside[u];
      if (l.dx.at) std::fill_n(row(l.dx, t, b), F, 0.0f);
    }
    for (int64_t b : share.padding) std::fill_n(l.dz + (t * l.batch + b) * S * H, S * H, 0.0f);
    auto unit_row = [&](int64_t j) {
      const int64_t b = share.real[j], at = (t * l.batch + b) * S * H;
      BackRow r{h + b * H,     moved(c, b * H),     l.saved + at, l.dh0 + b * H,
                moved(l.dc0, b * H), l.dz + at, {}};
      for (int s = 0; s < SLOTS; s++)
        r.mask[s] = factors(l.slots[s], t, b, H, room + s * wide, ones);
      return r;
    };
    for (int64_t j = 0; j < real; j++) {
      const BackRow r = unit_row(j);
      Cell::back(r, H);
      if (!in_place) std::copy_n(r.dz, G * H, beside + j * G * H);
    }
    const float *dz = in_place ? l.dz + (t * l.batch + share.first) * S * H : beside.at;
    if constexpr (Cell::RESETS_BEFORE) {
      through(share, G - 1, 1, G, H, dz, recurrent, scratch);
      for (int64_t j = 0; j < real; j++) {
        const BackRow r = unit_row(j);
        const Mask &of_n = of_gate(l.h_mask, l.h_masks, G - 1);
        const float *h_mask = factors(of_n, t, share.real[j], H, room + SLOTS * wide, ones);
        Cell::back_reset(r, scratch + j * padded(H), h_mask, H);
        if (!in_place) std::copy_n(r.dz + H, H, beside + (j * G + 1) * H);
      }
    }
    if (l.dx.at)
      give_back(share, t, G, G, F, l.x_masks, l.x_mask, dz, packed, scratch, room,
                [&](int64_t b) { return row(l.dx, t, b); });
    if (S > G)
      for (int64_t j = 0; j < real; j++)
        std::copy_n(l.dz + ((t * l.batch + share.real[j]) * S + S - 1) * H, H,
                    beside + (j * G + G - 1) * H);
    give_back(share, t, G - Cell::RESETS_BEFORE, G, H, l.h_masks, l.h_mask, dz, recurrent, scratch,
              room, [&](int64_t b) { return l.dh0 + b * H; });
  }
}

// Some columns of a gate: their gradients so far, and what those before the activations are in a block
// of steps, for W and for U; the same but for the n of a GRU.
struct Columns {
  int gate;
  int64_t first, count;
  float *of_x, *of_h;
  float *dz_x, *dz_h;
};

// The gradients of the weights: products of all steps' rows, some hundred at a time. A share has panels
// of columns that lie side by side.
template <class Cell>
void gradient(const Layer &l, const float *, int64_t part, int64_t parts) {
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  constexpr int64_t PANEL = WIDE * LANES, BLOCK = 128;
  const int64_t F = l.features, H = l.units, panels = (H + PANEL - 1) / PANEL;
  const int64_t begin = part * G * panels / parts, end = (part + 1) * G * panels / parts;
  const bool apart = l.x_masks > 1 || l.h_masks > 1 || Cell::RESETS_BEFORE;
  Scratch x_read(BLOCK * F), h_read(BLOCK * H), room(std::max(F, H)), ones(H), bias(S * H);
  Scratch dz((end - begin) * 2 * BLOCK * PANEL), sums((end - begin) * (F + H) * PANEL);
  std::fill(ones.at, ones.at + H, 1.0f);

  std::vector<Columns> mine;
  for (int64_t n = begin; n < end; n++) {
    const int gate = n / panels;
    const int64_t first = n % panels * PANEL;
    float *sum = sums + (n - begin) * (F + H) * PANEL, *room_z = dz + (n - begin) * 2 * BLOCK * PANEL;
    const bool two = part_of<Cell>(gate, true) != part_of<Cell>(gate, false);
    mine.push_back({gate, first, std::min(PANEL, H - first), sum, sum + F * PANEL, room_z,
                    two ? room_z + BLOCK * PANEL : room_z});
  }
  int64_t at[BLOCK][2];
  for (int64_t next = 0, all = l.timesteps * l.batch; next < all;) {
    int64_t rows = 0;
    for (; next < all && rows < BLOCK; next++) {
      const int64_t t = next / l.batch, b = next % l.batch;
      if (!l.running || l.running[b * l.timesteps + t]) at[rows][0] = t, at[rows][1] = b, rows++;
    }
    // Row by row: along a column, each step would be in another page of memory.
    for (int64_t n = 0; n < rows; n++) {
      const float *of_step = l.dz + (at[n][0] * l.batch + at[n][1]) * S * H;
      auto take = [&](const Columns &c, int slot, float *to) {
        const float *from = of_step + slot * H + c.first;
        float *total = bias + slot * H + c.first;
        std::copy_n(from, c.count, to + n * padded(c.count));
        for (int64_t u = 0; u < c.count; u++) total[u] += from[u];
      };
      for (const Columns &c : mine) {
        take(c, part_of<Cell>(c.gate, false), c.dz_x);
        if (c.dz_h != c.dz_x) take(c, part_of<Cell>(c.gate, true), c.dz_h);
      }
    }
    int there = -1;  // the gate whose rows are in x_read and h_read
    for (const Columns &c : mine) {
      if (there < 0 || (apart && there != c.gate)) {
        there = c.gate;
        for (int64_t n = 0; n < rows; n++) {
          const int64_t t = at[n][0], b = at[n][1];
          const Mask &x_mask = of_gate(l.x_mask, l.x_masks, there);
          const Mask &h_mask = of_gate(l.h_mask, l.h_masks, there);
          const float *h = before(l.h0, l.h, t, l) + b * H;
          read(x_read + n * F, row(l.x, t, b), factors(x_mask, t, b, F, room), F);
          read(h_read + n * H, h, factors(h_mask, t, b, H, room), H);
          if constexpr (Cell::RESETS_BEFORE)
            if (there == G - 1)
              Cell::reset(h_read + n * H, l.saved + ((t * l.batch + b) * S + 1) * H,
                          factors(l.slots[1], t, b, H, room, ones), H);
        }
      }
      multiply(F, rows, c.count, {x_read, 1, F}, c.dz_x, 0, rows, c.of_x, PANEL, true);
      multiply(H, rows, c.count, {h_read, 1, H}, c.dz_h, 0, rows, c.of_h, PANEL, true);
    }
  }
  for (const Columns &c : mine) {
    for (int64_t m = 0; m < F + H; m++) {
      float *to = m < F ? l.dkernel + m * G * H : l.drecurrent + (m - F) * G * H;
      std::copy_n(c.of_x + m * PANEL, c.count, to + c.gate * H + c.first);
    }
    for (bool of_h : {false, true}) {
      const int64_t from = part_of<Cell>(c.gate, of_h) * H + c.first;
      std::copy_n(bias + from, c.count, l.dbias + from);
    }
  }
}

// The template constants, from the layer.
#define NOISES(name, Cell)                                                                 \
  (drops(l) ? keeps(l) ? name<Cell<true, true>> : name<Cell<true, false>>                  \
   : keeps(l) ? name<Cell<false, true>> : name<Cell<false, false>>)(l, packed, part, parts)
#define PASS(name)                                                                         \
  void name##_any(const Layer &l, const float *packed, int64_t part, int64_t parts) {      \
    switch (l.cell) {                                                                      \
      case LSTM: return NOISES(name, Lstm);                                                \
      case GRU: return NOISES(name, Gru);                                                  \
      case GRU_RESET_BEFORE: return NOISES(name, GruResetBefore);                          \
      case SIMPLE_RNN: return NOISES(name, SimpleRnn);                                     \
    }                                                                                      \
  }
PASS(forward)
PASS(backward)
PASS(gradient)

int64_t gates_of(const Layer &l) { return l.cell == LSTM ? 4 : l.cell == SIMPLE_RNN ? 1 : 3; }

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
                                    words,              coins,         multiply_adds};

}  // namespace lapse
