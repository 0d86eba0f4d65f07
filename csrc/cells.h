// One step of each cell for one sample, forward and backward, unit by unit; cells.py has the equations
// with the same names. DROPS: masks multiply the gates or the state. KEEPS: states keep old values. With
// either, every mask of its slots is a row of units; a slot without noise has a row of ones.
#pragma once
#include "recurrent.h"
#include "vector.h"

namespace lapse {
namespace {

// The units from `begin`, where a vector begins, to `end`, of `all`.
struct Units {
  int64_t begin, end, all;
};

struct Row {
  const float *z;  // x W + h U, part k at z + k * wide
  int64_t wide;
  const float *bias;   // [S*H]
  const float *h, *c;  // before the step
  float *h_new, *c_new, *saved;
  const float *mask[SLOTS];

  template <class Lanes> vector part(int k, int64_t units, int64_t u, Lanes lanes) const {
    return load(z + k * wide + u, lanes) + load(bias + k * units + u, lanes);
  }
};

struct BackRow {
  const float *h, *c, *saved;
  float *dh, *dc;  // in: of the states after the step; out: of those before, without U's part
  float *dz;       // [S*H]
  const float *mask[SLOTS];
};

template <bool DROPS, class Lanes>
inline vector drop(vector value, const float *mask, int64_t u, Lanes lanes) {
  if constexpr (DROPS) return value * load(mask + u, lanes);
  return value;
}

// Moves from old to now as far as the mask says. At 1 and 0 it selects now or old, because arithmetic
// with the other one, if that is far larger or infinite, would change the result.
template <bool KEEPS, class Lanes>
inline vector update(vector old, vector now, const float *mask, int64_t u, Lanes lanes) {
  if constexpr (!KEEPS) return now;
  const vector m = load(mask + u, lanes), between = m * now + (1 - m) * old;
  return m == 1 ? now : m == 0 ? old : between;
}

// The gradient of a new state before its mask and `update`; `kept` is the gradient of the old state.
template <bool DROPS, bool KEEPS, class Lanes>
inline vector state_back(const BackRow &r, vector &kept, int64_t u, Lanes lanes) {
  vector dh = load(r.dh + u, lanes);
  if constexpr (KEEPS) {
    const vector k_h = load(r.mask[KEEP_H] + u, lanes);
    kept = (1 - k_h) * dh;
    dh *= k_h;
  }
  return drop<DROPS>(dh, r.mask[STATE], u, lanes);
}

template <bool DROPS, bool KEEPS> struct Lstm {
  static constexpr int GATES = 4, SAVED = 4;
  static constexpr bool RESETS_BEFORE = false;

  static void step(const Row r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector i = sigmoid(r.part(0, units.all, u, lanes)), f = sigmoid(r.part(1, units.all, u, lanes)),
                   g = tanh(r.part(2, units.all, u, lanes)), o = sigmoid(r.part(3, units.all, u, lanes)),
                   c = load(r.c + u, lanes);
      const vector c_new = drop<DROPS>(f, r.mask[1], u, lanes) * c +
                           drop<DROPS>(i, r.mask[0], u, lanes) * drop<DROPS>(g, r.mask[2], u, lanes);
      const vector h_new = drop<DROPS>(o, r.mask[3], u, lanes) * tanh(c_new);
      store(r.saved + u, i, lanes);
      store(r.saved + units.all + u, f, lanes);
      store(r.saved + 2 * units.all + u, g, lanes);
      store(r.saved + 3 * units.all + u, o, lanes);
      store(r.c_new + u, update<KEEPS>(c, c_new, r.mask[KEEP_C], u, lanes), lanes);
      if constexpr (KEEPS)
        store(r.h_new + u, update<KEEPS>(load(r.h + u, lanes), h_new, r.mask[KEEP_H], u, lanes), lanes);
      else
        store(r.h_new + u, h_new, lanes);
    });
  }

  static void back(const BackRow r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector i = load(r.saved + u, lanes), f = load(r.saved + units.all + u, lanes),
                   g = load(r.saved + 2 * units.all + u, lanes), o = load(r.saved + 3 * units.all + u, lanes),
                   c = load(r.c + u, lanes);
      const vector i_m = drop<DROPS>(i, r.mask[0], u, lanes), f_m = drop<DROPS>(f, r.mask[1], u, lanes),
                   g_m = drop<DROPS>(g, r.mask[2], u, lanes), o_m = drop<DROPS>(o, r.mask[3], u, lanes);
      const vector tanh_c = tanh(f_m * c + i_m * g_m);
      vector dh = load(r.dh + u, lanes), dc = load(r.dc + u, lanes), kept_h = {}, kept_c = {};
      if constexpr (KEEPS) {
        const vector k_h = load(r.mask[KEEP_H] + u, lanes), k_c = load(r.mask[KEEP_C] + u, lanes);
        kept_h = (1 - k_h) * dh, kept_c = (1 - k_c) * dc;
        dh *= k_h, dc *= k_c;
      }
      dc += dh * o_m * (1 - tanh_c * tanh_c);
      store(r.dz + u, drop<DROPS>(dc * g_m, r.mask[0], u, lanes) * i * (1 - i), lanes);
      store(r.dz + units.all + u, drop<DROPS>(dc * c, r.mask[1], u, lanes) * f * (1 - f), lanes);
      store(r.dz + 2 * units.all + u, drop<DROPS>(dc * i_m, r.mask[2], u, lanes) * (1 - g * g), lanes);
      store(r.dz + 3 * units.all + u, drop<DROPS>(dh * tanh_c, r.mask[3], u, lanes) * o * (1 - o), lanes);
      store(r.dh + u, kept_h, lanes);
      store(r.dc + u, kept_c + dc * f_m, lanes);
    });
  }
};

// What both GRUs share: h goes from old to n, by z.
template <bool DROPS, bool KEEPS, class Lanes>
inline void mix(const Row &r, vector z, vector n, int64_t u, Lanes lanes) {
  const vector h = load(r.h + u, lanes), z_m = drop<DROPS>(z, r.mask[0], u, lanes);
  const vector h_new = z_m * h + (1 - z_m) * drop<DROPS>(n, r.mask[2], u, lanes);
  const vector dropped = drop<DROPS>(h_new, r.mask[STATE], u, lanes);
  store(r.h_new + u, update<KEEPS>(h, dropped, r.mask[KEEP_H], u, lanes), lanes);
}

// Stores the gradients of z, before its sigmoid, and of h; returns that of n, before its tanh.
template <bool DROPS, bool KEEPS, class Lanes>
inline vector mix_back(const BackRow &r, vector z, vector n, int64_t u, Lanes lanes) {
  const vector h = load(r.h + u, lanes), z_m = drop<DROPS>(z, r.mask[0], u, lanes);
  vector kept = {}, dh = state_back<DROPS, KEEPS>(r, kept, u, lanes);
  const vector dz = dh * (h - drop<DROPS>(n, r.mask[2], u, lanes));
  store(r.dz + u, drop<DROPS>(dz, r.mask[0], u, lanes) * z * (1 - z), lanes);
  store(r.dh + u, kept + dh * z_m, lanes);
  return drop<DROPS>(dh * (1 - z_m), r.mask[2], u, lanes) * (1 - n * n);
}

template <bool DROPS, bool KEEPS> struct Gru {
  static constexpr int GATES = 3, SAVED = 4;
  static constexpr bool RESETS_BEFORE = false;

  static void step(const Row r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector z = sigmoid(r.part(0, units.all, u, lanes)), s = sigmoid(r.part(1, units.all, u, lanes)),
                   h_n = r.part(3, units.all, u, lanes),
                   n = tanh(r.part(2, units.all, u, lanes) + drop<DROPS>(s, r.mask[1], u, lanes) * h_n);
      store(r.saved + u, z, lanes);
      store(r.saved + units.all + u, s, lanes);
      store(r.saved + 2 * units.all + u, n, lanes);
      store(r.saved + 3 * units.all + u, h_n, lanes);
      mix<DROPS, KEEPS>(r, z, n, u, lanes);
    });
  }

  static void back(const BackRow r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector z = load(r.saved + u, lanes), s = load(r.saved + units.all + u, lanes),
                   n = load(r.saved + 2 * units.all + u, lanes), h_n = load(r.saved + 3 * units.all + u, lanes);
      const vector dn = mix_back<DROPS, KEEPS>(r, z, n, u, lanes);
      const vector ds = drop<DROPS>(dn * h_n, r.mask[1], u, lanes);
      store(r.dz + units.all + u, ds * s * (1 - s), lanes);
      store(r.dz + 2 * units.all + u, dn, lanes);
      store(r.dz + 3 * units.all + u, dn * drop<DROPS>(s, r.mask[1], u, lanes), lanes);
    });
  }
};

// r multiplies h before U does, so the product with U for n needs r first: `gate`, `reset`, the product,
// then `step`. Backward: `back`, the product with the transpose, then `back_reset`.
template <bool DROPS, bool KEEPS> struct GruResetBefore {
  static constexpr int GATES = 3, SAVED = 3;
  static constexpr bool RESETS_BEFORE = true;

  static void gate(const Row r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      store(r.saved + units.all + u, sigmoid(r.part(1, units.all, u, lanes)), lanes);
    });
  }

  // h as n reads it, times r.
  static void reset(float *h, const float *s, const float *mask, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      store(h + u, load(h + u, lanes) * drop<DROPS>(load(s + u, lanes), mask, u, lanes), lanes);
    });
  }

  static void step(const Row r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector z = sigmoid(r.part(0, units.all, u, lanes)), n = tanh(r.part(2, units.all, u, lanes));
      store(r.saved + u, z, lanes);
      store(r.saved + 2 * units.all + u, n, lanes);
      mix<DROPS, KEEPS>(r, z, n, u, lanes);
    });
  }

  static void back(const BackRow r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector z = load(r.saved + u, lanes), n = load(r.saved + 2 * units.all + u, lanes);
      store(r.dz + 2 * units.all + u, mix_back<DROPS, KEEPS>(r, z, n, u, lanes), lanes);
    });
  }

  // `d` is the gradient of r * h, and h_mask the mask of h in that product.
  static void back_reset(const BackRow r, const float *d, const float *h_mask, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector s = load(r.saved + units.all + u, lanes),
                   dh = load(d + u, lanes) * load(h_mask + u, lanes);
      const vector ds = drop<DROPS>(dh * load(r.h + u, lanes), r.mask[1], u, lanes);
      store(r.dz + units.all + u, ds * s * (1 - s), lanes);
      store(r.dh + u, load(r.dh + u, lanes) + dh * drop<DROPS>(s, r.mask[1], u, lanes), lanes);
    });
  }
};

template <bool DROPS, bool KEEPS> struct SimpleRnn {
  static constexpr int GATES = 1, SAVED = 1;
  static constexpr bool RESETS_BEFORE = false;

  static void step(const Row r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector n = tanh(r.part(0, units.all, u, lanes));
      store(r.saved + u, n, lanes);
      const vector dropped = drop<DROPS>(n, r.mask[STATE], u, lanes);
      if constexpr (KEEPS)
        store(r.h_new + u, update<KEEPS>(load(r.h + u, lanes), dropped, r.mask[KEEP_H], u, lanes), lanes);
      else
        store(r.h_new + u, dropped, lanes);
    });
  }

  static void back(const BackRow r, Units units) {
    each_unit(units, [&](int64_t u, auto lanes) {
      const vector n = load(r.saved + u, lanes);
      vector kept = {}, dh = state_back<DROPS, KEEPS>(r, kept, u, lanes);
      store(r.dz + u, dh * (1 - n * n), lanes);
      store(r.dh + u, kept, lanes);
    });
  }
};

}  // namespace
}  // namespace lapse
