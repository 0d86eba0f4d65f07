// From the last step to the first: the gradients of the states, of x, and before the activations.
#pragma once
#include "cells.h"
#include "share.h"

namespace lapse {
namespace {

// Phases of a step. Each product needs dz of all units.
template <class Cell> constexpr int backward_phases = 2 + Cell::RESETS_BEFORE;

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
  constexpr int G = Cell::GATES, S = Cell::SAVED, PHASES = backward_phases<Cell>;
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
    // The gradients of this step without gaps: a row for each real sample.
    auto side_by_side = [&] {
      if (!l.running) return dz_row(share.first);
      for (int64_t j = 0; j < real; j++) std::copy_n(dz_row(share.real[j]), S * H, room.dz + j * S * H);
      return room.dz;
    };
    // The product of the gradients of gates `k` to `last` with their part of a transposed matrix.
    auto through = [&](const float *dz, int k, int last, bool of_h) {
      const bool two = part_of<Cell>(last - 1, of_h) != last - 1;  // the last gate's dz lies elsewhere
      const int64_t n = of_h ? H : F;
      const Columns columns = of_h ? mine : inputs;
      bool adds = false;
      for (int split : {last - two, last})
        if (const int64_t gates = split - k; gates > 0) {
          const ByRow a{dz + part_of<Cell>(k + gates - 1, of_h) * H - (gates - 1) * H, S * H};
          multiply(real, gates * H, columns, a, of_h ? recurrent : kernel, k * H, G * H, room.back,
                   padded(n), adds, turned);
          k = split, adds = true;
        }
    };
    // Adds that product, for the first `gates` gates, times the masks of what the matrix read.
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
      // Adds the gradient of an output to that of its h.
      auto to_h = [&](int64_t b, const float *outside) {
        const float *m = factors(l.slots[OUTPUT], t, b, mine, room.mask, room.ones);
        for (int64_t u = mine.begin; u < mine.end; u++) l.dh0[b * H + u] += outside[u] * m[u];
      };
      // Adds the gradient of an output to those that wait for the real step before.
      auto hold = [&](int64_t b) {
        const float *outside = row(l.dh, t, b);
        float *sum = l.held + b * H;
        for (int64_t u = mine.begin; u < mine.end; u++) sum[u] += outside[u];
        return sum;
      };
      if (l.held) {
        for (int64_t b : share.padding) hold(b);
        for (int64_t b : share.real) {
          float *sum = hold(b);
          to_h(b, sum);
          std::fill(sum + mine.begin, sum + mine.end, 0.0f);
        }
      } else if (l.dh.at) {
        for (int64_t b : share.samples) to_h(b, row(l.dh, t, b));
      }
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

}  // namespace
}  // namespace lapse
