// The gradients of the weights, from those before the activations.
#pragma once
#include "cells.h"
#include "share.h"

namespace lapse {
namespace {

// The distance between rows whose columns are read: an odd number of cache lines, because otherwise the
// lines of a column would share a few places in the cache.
int64_t apart_in_cache(int64_t n) { return (vectors(n) | 1) * LANES; }

constexpr int64_t WIDTH = WIDE * LANES, BLOCK = 128;  // columns of a panel, rows of one product

// Some columns of a gate: the sums of their gradients, and a block of rows of dz, each for W and for U.
// The two dz are the same except for the n of a GRU.
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

// The gradients of the weights: products over at most BLOCK rows, each of a step and sample. A part has
// neighbouring panels.
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
    if (rows == 0) break;  // the rest is padding
    // Row by row, because along a column each step is in another page of memory. Other cores wrote most
    // of a row, so it is prefetched while the one before is copied; no cache needs to keep it.
    for (int64_t j = 0; j < rows; j++) {
      const float *of_row = gradients(l, at[j].n, at[j].b, S);
      const float *coming = j + 1 < rows ? gradients(l, at[j + 1].n, at[j + 1].b, S) : of_row;
      auto take = [&](const Panel &p, int slot, float *to) {
        const int64_t first = slot * H + p.columns.begin, width = padded(p.columns.count());
        each_unit(Columns{0, p.columns.count()}, [&](int64_t u, auto lanes) {
          __builtin_prefetch(coming + first + u, 0, 0);
          const vector one = load(of_row + first + u, lanes);
          store(to + j * width + u, one, lanes);
          store(room.bias + first + u, load(room.bias + first + u, lanes) + one, lanes);
        });
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
      multiply(F, rows, panel, ByColumn{room.x, x_row}, p.dz_x, 0, rows, p.of_x, WIDTH, true, false);
      multiply(H, rows, panel, ByColumn{room.h, h_row}, p.dz_h, 0, rows, p.of_h, WIDTH, true, false);
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

}  // namespace
}  // namespace lapse
