// The loop over time, compiled once for each instruction set; LAPSE_ISA names this one.
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "cells.h"
#include "gemm.h"
#include "philox.h"
#include "recurrent.h"

namespace lapse {
namespace {

// Deals out a workspace, aligned for whole vectors; from none it only counts.
struct Room {
  float *at;
  int64_t taken = 0;
  float *take(int64_t size) {
    float *from = at ? at + taken : nullptr;
    taken += padded(size);
    return from;
  }
};

// Row t of b; nothing where there are none.
float *row(const Rows &rows, int64_t t, int64_t b) {
  return rows.at ? rows.at + t * rows.time + b * rows.batch : nullptr;
}

float *moved(float *array, int64_t by) { return array ? array + by : nullptr; }
const float *moved(const float *array, int64_t by) { return array ? array + by : nullptr; }

// A row of a mask, of which `range` is wanted; `room` is where bytes become numbers, `none` where there
// is no noise.
const float *factors(const Mask &mask, int64_t t, int64_t b, Columns range, float *room,
                     const float *none = nullptr) {
  if (!mask.at) return none;
  const int64_t first = t * mask.time + b * mask.batch;
  if (!mask.bytes) return static_cast<const float *>(mask.at) + first;
  const uint8_t *from = static_cast<const uint8_t *>(mask.at) + first;
  for (int64_t u = range.begin; u < range.end; u++) room[u] = mask.scale * float(from[u]);
  return room;
}

const Mask &of_gate(const Mask *masks, int64_t count, int64_t gate) {
  return masks[count > 1 ? gate : 0];
}

bool drops(const Layer &layer) {
  return std::any_of(layer.slots, layer.slots + KEEP_C, [](const Mask &mask) { return mask.at; });
}
bool keeps(const Layer &layer) { return layer.slots[KEEP_C].at || layer.slots[KEEP_H].at; }

// What one part works on: its samples, at a step those that are real and those that are padding, and
// its units. Without padding samples lie side by side, so that no core fetches ahead what another one
// writes; with it every part has long and short ones.
struct Share {
  const Layer &layer;
  const Columns units;
  const int64_t first;  // sample, without padding
  std::vector<int64_t> samples, real, padding;

  Share(const Layer &l, Part part)
      : layer(l),
        units(part.of_units ? cut(l.units, part.index, part.count) : Columns{0, l.units}),
        first(part.of_units ? 0 : part.index * l.batch / part.count) {
    const int64_t index = part.of_units ? 0 : part.index, count = part.of_units ? 1 : part.count;
    if (!l.running) {
      for (int64_t b = first; b < (index + 1) * l.batch / count; b++) samples.push_back(b);
      real = samples;
      return;
    }
    std::vector<std::pair<int64_t, int64_t>> longest_first;
    for (int64_t b = 0; b < l.batch; b++) {
      const uint8_t *of_b = l.running + b * l.timesteps;
      const bool matters = count > 1;
      longest_first.push_back(
          {matters ? -std::accumulate(of_b, of_b + l.timesteps, int64_t(0)) : 0, b});
    }
    std::sort(longest_first.begin(), longest_first.end());
    for (int64_t n = index; n < l.batch; n += count) samples.push_back(longest_first[n].second);
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

// How many ways x and h are read at a step.
template <class Cell> int64_t readings(const Layer &l) {
  return Cell::RESETS_BEFORE || l.x_masks > 1 || l.h_masks > 1 ? Cell::GATES : 1;
}

template <class Cell> struct ForwardRoom {
  float *ones, *zeros, *z, *read, *mask;
  ForwardRoom(const Layer &l, int64_t samples, Room &room)
      : ones(room.take(padded(l.units))),
        zeros(room.take(Cell::SAVED * l.units)),
        z(room.take(samples * Cell::SAVED * padded(l.units))),
        read(room.take(samples * readings<Cell>(l) * (l.features + l.units))),
        mask(room.take(std::max(SLOTS * padded(l.units), l.features))) {}
};

template <class Cell>
void forward(const Layer &l, const float *packed, Part part, int64_t begin, int64_t end,
             float *workspace) {
  constexpr int G = Cell::GATES, S = Cell::SAVED, PHASES = Cell::FORWARD_PHASES;
  const int64_t F = l.features, H = l.units, wide = padded(H), depth = F + H;
  const int64_t groups = readings<Cell>(l);
  Share share(l, part);
  const Columns mine = share.units;
  const Units units{mine.begin, mine.end, H};
  Room whole{workspace};
  const ForwardRoom<Cell> room(l, share.samples.size(), whole);
  if (begin == 0) {
    std::fill_n(room.ones, wide, 1.0f);
    std::fill_n(room.zeros, S * H, 0.0f);
  }

  for (int64_t phase = begin; phase < end; phase++) {
    const bool reads = phase % PHASES == 0, steps = phase % PHASES == PHASES - 1;
    const int64_t t = step_of(l, phase / PHASES);
    const bool turned = phase / PHASES % 2;  // so that a step begins with the weights the last one used
    share.at(t);
    const int64_t real = share.real.size();
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    float *h_new = l.h + t * l.batch * H, *c_new = moved(l.c, t * l.batch * H);
    auto reading = [&](int64_t j, int64_t k) { return room.read + (j * groups + k) * depth; };
    auto unit_row = [&](int64_t j) {
      const int64_t b = share.real[j];
      Row r{room.z + j * S * wide,
            wide,
            l.bias ? l.bias : room.zeros,
            h + b * H,
            moved(c, b * H),
            h_new + b * H,
            moved(c_new, b * H),
            l.saved + (t * l.batch + b) * S * H,
            {}};
      for (int s = 0; s < SLOTS; s++)
        r.mask[s] = factors(l.slots[s], t, b, mine, room.mask + s * wide, room.ones);
      return r;
    };
    auto product = [&](int k) {
      const Matrix a{reading(0, groups > 1 ? k : 0), groups * depth, 1}, of_h{a.at + F, a.row, 1};
      const float *of_gate = packed + (G * mine.begin + k * padded(mine.count())) * depth;
      const int to_x = part_of<Cell>(k, false), to_h = part_of<Cell>(k, true);
      const int64_t first = to_x == to_h ? depth : F;
      float *of_x = room.z + to_x * wide;
      multiply(real, first, mine, a, of_gate, 0, depth, of_x, S * wide, false, turned);
      if (to_x != to_h)
        multiply(real, H, mine, of_h, of_gate, F, depth, room.z + to_h * wide, S * wide, false, turned);
    };

    if (reads) {
      for (int64_t j = 0; j < real; j++)
        for (int64_t k = 0; k < groups; k++) {
          const int64_t b = share.real[j];
          const Mask &x_mask = of_gate(l.x_mask, l.x_masks, k), &h_mask = of_gate(l.h_mask, l.h_masks, k);
          read(reading(j, k), row(l.x, t, b), factors(x_mask, t, b, {0, F}, room.mask), F);
          read(reading(j, k) + F, h + b * H, factors(h_mask, t, b, {0, H}, room.mask), H);
        }
      constexpr int now = G - Cell::RESETS_BEFORE;
      for (int k = 0; k < now; k++) product(turned ? now - 1 - k : k);
    }
    if constexpr (Cell::RESETS_BEFORE) {
      if (reads)
        for (int64_t j = 0; j < real; j++) Cell::gate(unit_row(j), units);
      if (steps) {
        for (int64_t j = 0; j < real; j++) {
          const int64_t b = share.real[j];
          const float *mask = factors(l.slots[1], t, b, {0, H}, room.mask, room.ones);
          Cell::reset(reading(j, G - 1) + F, unit_row(j).saved + H, mask, {0, H, H});
        }
        product(G - 1);
      }
    }
    if (!steps) continue;
    for (int64_t j = 0; j < real; j++) Cell::step(unit_row(j), units);
    for (int64_t b : share.padding) {
      std::copy(h + b * H + mine.begin, h + b * H + mine.end, h_new + b * H + mine.begin);
      if (l.c) std::copy(c + b * H + mine.begin, c + b * H + mine.end, c_new + b * H + mine.begin);
    }
  }
}

// Gradients before the gates' activations, of the n-th step back.
float *gradients(const Layer &l, int64_t n, int64_t b, int64_t parts) {
  return l.dz + (n % l.dz_steps * l.batch + b) * parts * l.units;
}

template <class Cell> struct BackwardRoom {
  float *ones, *dz, *back, *mask;
  BackwardRoom(const Layer &l, int64_t samples, Room &room)
      : ones(room.take(padded(l.units))),
        dz(room.take(l.running ? samples * Cell::SAVED * l.units : 0)),
        back(room.take(samples * padded(std::max(l.features, l.units)))),
        mask(room.take((SLOTS + 1) * padded(std::max(l.features, l.units)))) {}
};

template <class Cell>
void backward(const Layer &l, const float *packed, Part part, int64_t begin, int64_t end,
              float *workspace) {
  constexpr int G = Cell::GATES, S = Cell::SAVED, PHASES = Cell::BACKWARD_PHASES;
  const int64_t F = l.features, H = l.units, wide = padded(H);
  Share share(l, part);
  const Columns mine = share.units;
  const Columns inputs = part.of_units ? cut(F, part.index, part.count) : Columns{0, F};
  const Units units{mine.begin, mine.end, H};
  const float *kernel = packed + G * H * inputs.begin;
  const float *recurrent = packed + G * H * (padded(F) + mine.begin);
  Room whole{workspace};
  const BackwardRoom<Cell> room(l, share.samples.size(), whole);
  if (begin == 0) std::fill_n(room.ones, wide, 1.0f);

  for (int64_t phase = begin; phase < end; phase++) {
    const int64_t t = step_of(l, l.timesteps - 1 - phase / PHASES);
    const bool turned = phase / PHASES % 2;
    share.at(t);
    const int64_t real = share.real.size();
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    auto dz_row = [&](int64_t b) { return gradients(l, phase / PHASES, b, S); };
    auto unit_row = [&](int64_t j) {
      const int64_t b = share.real[j];
      BackRow r{h + b * H,
                moved(c, b * H),
                l.saved + (t * l.batch + b) * S * H,
                l.dh0 + b * H,
                moved(l.dc0, b * H),
                dz_row(b),
                {}};
      for (int s = 0; s < SLOTS; s++)
        r.mask[s] = factors(l.slots[s], t, b, mine, room.mask + s * wide, room.ones);
      return r;
    };
    // Gradients of this step stand side by side, a row for each real sample.
    auto side_by_side = [&] {
      if (!l.running) return dz_row(share.first);
      for (int64_t j = 0; j < real; j++) std::copy_n(dz_row(share.real[j]), S * H, room.dz + j * S * H);
      return room.dz;
    };
    // What the gates from `k` to `last` give back through their part of a transposed matrix.
    auto through = [&](const float *dz, int k, int last, bool of_h) {
      const bool two = part_of<Cell>(last - 1, of_h) != last - 1;  // the last gate's lies elsewhere
      const int64_t n = of_h ? H : F;
      const Columns columns = of_h ? mine : inputs;
      bool add = false;
      for (int split : {last - two, last})
        if (const int64_t gates = split - k; gates > 0) {
          const Matrix a{dz + part_of<Cell>(k + gates - 1, of_h) * H - (gates - 1) * H, S * H, 1};
          multiply(real, gates * H, columns, a, of_h ? recurrent : kernel, k * H, G * H, room.back,
                   padded(n), add, turned);
          k = split, add = true;
        }
    };
    // Adds it, for the first `gates`, through the masks that stood before the matrix.
    auto give_back = [&](const float *dz, int gates, bool of_h, auto to) {
      const int64_t masks = of_h ? l.h_masks : l.x_masks, n = of_h ? H : F;
      const Mask *mask = of_h ? l.h_mask : l.x_mask;
      const Columns columns = of_h ? mine : inputs;
      const int groups = masks > 1 ? gates : 1;
      for (int k = 0; k < groups; k++) {
        through(dz, k, groups > 1 ? k + 1 : gates, of_h);
        for (int64_t j = 0; j < real; j++) {
          const int64_t b = share.real[j];
          const float *from = room.back + j * padded(n), *m = factors(mask[k], t, b, columns, room.mask);
          float *sum = to(b);
          if (m)
            for (int64_t u = columns.begin; u < columns.end; u++) sum[u] += from[u] * m[u];
          else
            for (int64_t u = columns.begin; u < columns.end; u++) sum[u] += from[u];
        }
      }
    };

    if (phase % PHASES == 0) {
      for (int64_t b : share.samples)
        if (const float *outside = row(l.dh, t, b))
          for (int64_t u = mine.begin; u < mine.end; u++) l.dh0[b * H + u] += outside[u];
      for (int64_t b : share.padding)
        for (int s = 0; s < S; s++)
          std::fill(dz_row(b) + s * H + mine.begin, dz_row(b) + s * H + mine.end, 0.0f);
      for (int64_t j = 0; j < real; j++) Cell::back(unit_row(j), units);
    }
    if constexpr (Cell::RESETS_BEFORE)
      if (phase % PHASES == 1) {
        through(side_by_side(), G - 1, G, true);
        for (int64_t j = 0; j < real; j++) {
          const Mask &of_n = of_gate(l.h_mask, l.h_masks, G - 1);
          const float *h_mask =
              factors(of_n, t, share.real[j], mine, room.mask + SLOTS * wide, room.ones);
          Cell::back_reset(unit_row(j), room.back + j * wide, h_mask, units);
        }
      }
    if (phase % PHASES < PHASES - 1) continue;
    const float *dz = side_by_side();
    for (bool of_h : {turned, !turned})
      if (of_h) {
        give_back(dz, G - Cell::RESETS_BEFORE, true, [&](int64_t b) { return l.dh0 + b * H; });
      } else if (l.dx.at) {
        for (int64_t b : share.samples)
          std::fill(row(l.dx, t, b) + inputs.begin, row(l.dx, t, b) + inputs.end, 0.0f);
        give_back(dz, G, false, [&](int64_t b) { return row(l.dx, t, b); });
      }
  }
}

// How far apart rows stand whose columns are read: an odd number of cache lines, or those of a column
// would all want the same few places in the cache.
int64_t apart_in_cache(int64_t n) { return (vectors(n) | 1) * LANES; }

constexpr int64_t WIDTH = WIDE * LANES, BLOCK = 128;  // columns of a panel, rows of one product

// Some columns of a gate: their gradients so far, and what those before the activations are in a block
// of rows, for W and for U; the same but for the n of a GRU.
struct Panel {
  int gate;
  Columns columns;
  float *of_x, *of_h;
  float *dz_x, *dz_h;
};

template <class Cell> struct GradientRoom {
  float *x, *h, *mask, *ones, *bias;
  std::vector<Panel> panels;

  GradientRoom(const Layer &l, Part part, Room &room)
      : x(room.take(BLOCK * apart_in_cache(l.features))),
        h(room.take(BLOCK * apart_in_cache(l.units))),
        mask(room.take(std::max(l.features, l.units))),
        ones(room.take(l.units)),
        bias(room.take(Cell::SAVED * l.units)) {
    const int64_t each = (l.units + WIDTH - 1) / WIDTH, all = Cell::GATES * each;
    for (int64_t n = part.index * all / part.count; n < (part.index + 1) * all / part.count; n++) {
      const int gate = n / each;
      const int64_t first = n % each * WIDTH;
      const bool two = part_of<Cell>(gate, true) != part_of<Cell>(gate, false);
      float *dz_x = room.take(BLOCK * WIDTH), *dz_h = two ? room.take(BLOCK * WIDTH) : dz_x;
      panels.push_back({gate, {first, std::min(first + WIDTH, l.units)}, room.take(l.features * WIDTH),
                        room.take(l.units * WIDTH), dz_x, dz_h});
    }
  }
};

// The gradients of the weights: products of the rows of steps, BLOCK at most at a time. A part has
// panels of columns that lie side by side.
template <class Cell>
void gradient(const Layer &l, const float *, Part part, int64_t begin, int64_t end, float *workspace) {
  constexpr int G = Cell::GATES, S = Cell::SAVED;
  const int64_t F = l.features, H = l.units, x_row = apart_in_cache(F), h_row = apart_in_cache(H);
  const bool apart = l.x_masks > 1 || l.h_masks > 1 || Cell::RESETS_BEFORE;
  Room whole{workspace};
  const GradientRoom<Cell> room(l, part, whole);
  if (begin == 0) {
    std::fill_n(workspace, whole.taken, 0.0f);
    std::fill_n(room.ones, H, 1.0f);
  }

  struct {
    int64_t n, t, b;
  } at[BLOCK];
  for (int64_t next = begin * l.batch; next < end * l.batch;) {
    int64_t rows = 0;
    for (; next < end * l.batch && rows < BLOCK; next++) {
      const int64_t n = next / l.batch, b = next % l.batch, t = step_of(l, l.timesteps - 1 - n);
      if (!l.running || l.running[b * l.timesteps + t]) at[rows++] = {n, t, b};
    }
    // Row by row: along a column, each step would be in another page of memory.
    for (int64_t j = 0; j < rows; j++) {
      const float *of_row = gradients(l, at[j].n, at[j].b, S);
      auto take = [&](const Panel &p, int slot, float *to) {
        const int64_t count = p.columns.count();
        const float *from = of_row + slot * H + p.columns.begin;
        float *total = room.bias + slot * H + p.columns.begin;
        std::copy_n(from, count, to + j * padded(count));
        for (int64_t u = 0; u < count; u++) total[u] += from[u];
      };
      for (const Panel &p : room.panels) {
        take(p, part_of<Cell>(p.gate, false), p.dz_x);
        if (p.dz_h != p.dz_x) take(p, part_of<Cell>(p.gate, true), p.dz_h);
      }
    }
    int there = -1;  // the gate whose rows are in room.x and room.h
    for (const Panel &p : room.panels) {
      if (there < 0 || (apart && there != p.gate)) {
        there = p.gate;
        for (int64_t j = 0; j < rows; j++) {
          const auto [n, t, b] = at[j];
          const Mask &x_mask = of_gate(l.x_mask, l.x_masks, there);
          const Mask &h_mask = of_gate(l.h_mask, l.h_masks, there);
          const float *h = before(l.h0, l.h, t, l) + b * H;
          read(room.x + j * x_row, row(l.x, t, b), factors(x_mask, t, b, {0, F}, room.mask), F);
          read(room.h + j * h_row, h, factors(h_mask, t, b, {0, H}, room.mask), H);
          if constexpr (Cell::RESETS_BEFORE)
            if (there == G - 1)
              Cell::reset(room.h + j * h_row, l.saved + ((t * l.batch + b) * S + 1) * H,
                          factors(l.slots[1], t, b, {0, H}, room.mask, room.ones), {0, H, H});
        }
      }
      const Columns panel{0, p.columns.count()};
      multiply(F, rows, panel, {room.x, 1, x_row}, p.dz_x, 0, rows, p.of_x, WIDTH, true, false);
      multiply(H, rows, panel, {room.h, 1, h_row}, p.dz_h, 0, rows, p.of_h, WIDTH, true, false);
    }
  }
  if (end < l.timesteps) return;
  for (const Panel &p : room.panels) {
    const auto [first, last] = p.columns;
    auto give = [&](int64_t rows, const float *sum, const Strided<float> &to) {
      transfer(rows, p.columns.count(), {sum, WIDTH, 1}, to.at + (p.gate * H + first) * to.column, to.row,
               to.column);
    };
    give(F, p.of_x, l.dkernel);
    give(H, p.of_h, l.drecurrent);
    for (bool of_h : {false, true}) {
      const int64_t slot = part_of<Cell>(p.gate, of_h) * H;
      std::copy(room.bias + slot + first, room.bias + slot + last, l.dbias + slot + first);
    }
  }
}

// run(cell), with the template constants from the layer.
template <template <bool, bool> class Cell, class Run> auto with_noises(const Layer &l, Run run) {
  if (drops(l)) return keeps(l) ? run(Cell<true, true>()) : run(Cell<true, false>());
  return keeps(l) ? run(Cell<false, true>()) : run(Cell<false, false>());
}
template <class Run> auto with_cell(const Layer &l, Run run) {
  switch (l.cell) {
    case LSTM: return with_noises<Lstm>(l, run);
    case GRU: return with_noises<Gru>(l, run);
    case GRU_RESET_BEFORE: return with_noises<GruResetBefore>(l, run);
    default: return with_noises<SimpleRnn>(l, run);
  }
}
#define PASS(name)                                                                            \
  void name##_any(const Layer &l, const float *packed, Part part, int64_t begin, int64_t end, \
                  float *workspace) {                                                         \
    with_cell(l, [&](auto cell) {                                                             \
      name<decltype(cell)>(l, packed, part, begin, end, workspace);                           \
    });                                                                                       \
  }
PASS(forward)
PASS(backward)
PASS(gradient)

int64_t phases(const Layer &l, bool backward) {
  return with_cell(l, [&](auto cell) { return backward ? cell.BACKWARD_PHASES : cell.FORWARD_PHASES; });
}

int64_t workspace_size(const Layer &l, int64_t samples) {
  return with_cell(l, [&](auto cell) {
    Room forward{nullptr}, backward{nullptr};
    ForwardRoom<decltype(cell)>(l, samples, forward);
    BackwardRoom<decltype(cell)>(l, samples, backward);
    return std::max(forward.taken, backward.taken);
  });
}

int64_t gradient_size(const Layer &l, Part part) {
  return with_cell(l, [&](auto cell) {
    Room room{nullptr};
    GradientRoom<decltype(cell)>(l, part, room);
    return room.taken;
  });
}

// Steps together have the rows of one product.
int64_t dz_steps(const Layer &l) {
  return std::clamp<int64_t>(BLOCK / std::max<int64_t>(l.batch, 1), 1, std::max<int64_t>(l.timesteps, 1));
}

int64_t dz_size(const Layer &l) {
  return with_cell(l, [&](auto cell) { return dz_steps(l) * l.batch * cell.SAVED * l.units; });
}

int64_t gates_of(const Layer &l) { return l.cell == LSTM ? 4 : l.cell == SIMPLE_RNN ? 1 : 3; }

int64_t packed_size(const Layer &l) {
  const int64_t G = gates_of(l), F = l.features, H = l.units;
  return G * std::max((F + H) * padded(H), H * (padded(F) + padded(H)));
}

// Forward reads rows of x and h side by side; backward takes the transposed matrices, one after the
// other.
void pack_both(const Layer &l, bool backward, int64_t parts, float *packed, int64_t index,
               int64_t count) {
  const int64_t G = gates_of(l), F = l.features, H = l.units;
  auto some = [&](Matrix matrix, int64_t rows, int64_t gates, int64_t columns, float *to,
                  int64_t first_row, int64_t all_rows) {
    pack(matrix, index * rows / count, (index + 1) * rows / count, gates, columns, parts, to, first_row,
         all_rows);
  };
  const auto [W, w_row, w_column] = l.kernel;
  const auto [U, u_row, u_column] = l.recurrent;
  if (backward) {
    some({W, w_column, w_row}, G * H, 1, F, packed, 0, G * H);
    some({U, u_column, u_row}, G * H, 1, H, packed + G * H * padded(F), 0, G * H);
  } else {
    some({W, w_row, w_column}, F, G, H, packed, 0, F + H);
    some({U, u_row, u_column}, H, G, H, packed, F, F + H);
  }
}

}  // namespace

#define NAMED(isa) kernels_##isa
#define NAME_OF(isa) NAMED(isa)
#define TEXT(isa) #isa
#define TEXT_OF(isa) TEXT(isa)
extern const Kernels NAME_OF(LAPSE_ISA);
const Kernels NAME_OF(LAPSE_ISA) = {
    TEXT_OF(LAPSE_ISA), forward_any, backward_any, gradient_any, phases, workspace_size, gradient_size,
    dz_steps,           dz_size,     packed_size,  pack_both,    words,  coins,          multiply_adds};

}  // namespace lapse
