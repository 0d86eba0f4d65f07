// From the first step to the last.
#pragma once
#include "cells.h"
#include "share.h"

namespace lapse {
namespace {

// Phases of a step. Where r multiplies h before U, r of all units must be ready first.
template <class Cell> constexpr int forward_phases = 1 + Cell::RESETS_BEFORE;

// How many different versions of x and h the gates read at a step.
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
  constexpr int G = Cell::GATES, S = Cell::SAVED, PHASES = forward_phases<Cell>;
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
    const bool turned = phase / PHASES % 2;  // so that a step begins with the weights that the last one used
    share.at(t);
    const int64_t real = share.real.size();
    const float *h = before(l.h0, l.h, t, l), *c = before(l.c0, l.c, t, l);
    float *h_new = l.h + t * l.batch * H, *c_new = moved(l.c, t * l.batch * H);
    const float *y = before(nullptr, l.y, t, l);
    float *y_new = moved(l.y, t * l.batch * H);
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
      const ByRow a{reading(0, groups > 1 ? k : 0), groups * depth}, of_h{a.at + F, a.row};
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
          const float *saved = l.saved + (t * l.batch + b) * S * H;
          Cell::reset(reading(j, G - 1) + F, saved + H, mask, {0, H, H});
        }
        product(G - 1);
      }
    }
    if (!steps) continue;
    for (int64_t j = 0; j < real; j++) {
      const Row r = unit_row(j);
      Cell::step(r, units);
      if (float *of_b = moved(y_new, share.real[j] * H))
        each_unit(mine, [&](int64_t u, auto lanes) {
          store(of_b + u, load(r.h_new + u, lanes) * load(r.mask[OUTPUT] + u, lanes), lanes);
        });
    }
    for (int64_t b : share.padding) {
      auto hold = [&](const float *old, float *now) {
        std::copy_n(old + b * H + mine.begin, mine.count(), now + b * H + mine.begin);
      };
      hold(h, h_new);
      if (c_new) hold(c, c_new);
      if (y)
        hold(y, y_new);
      else if (y_new)
        std::fill_n(y_new + b * H + mine.begin, mine.count(), 0.0f);
    }
  }
}

}  // namespace
}  // namespace lapse
