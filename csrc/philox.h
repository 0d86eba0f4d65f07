// Philox4x32-10, the bits of src/lapse/philox.py.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "recurrent.h"

namespace lapse {
namespace {

constexpr int64_t QUADS = 16;  // counters that go side by side through the rounds

struct Counter {
  uint32_t quad, sample, step, gate;
};

// What `of` makes of the four words of the counters at(0), at(1), ...
template <class At, class Of, class Drawn>
inline void rounds(const uint32_t *key, At at, Of of, Drawn *drawn) {
  for (int64_t q = 0; q < QUADS; q++) {
    auto [c0, c1, c2, c3] = at(q);
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
      const uint64_t p0 = uint64_t(c0) * 0xD2511F53u, p1 = uint64_t(c2) * 0xCD9E8D57u;
      c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
      c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    drawn[q] = of(c0, c1, c2, c3);
  }
}

// In rows of units; a row shorter than the counters that go side by side shares them with the next ones.
template <class Out, class Of>
inline void philox(const Counters &rows, int64_t begin, int64_t end, Out *out, Of of) {
  decltype(of(0, 0, 0, 0)) drawn[QUADS];
  static_assert(sizeof(drawn[0]) == 4 * sizeof(Out));
  const int64_t gates = rows.gate_count, steps = rows.step_count, width = rows.width;
  auto counter = [&](int64_t row, int64_t quad) {
    return Counter{uint32_t(quad), rows.samples[row / gates / steps], rows.steps[row / gates % steps],
                   rows.gates[row % gates]};
  };
  const int64_t quads = (width + 3) / 4;
  if (quads > QUADS / 2) {
    for (int64_t row = begin; row < end; row++) {
      const Counter first = counter(row, 0);
      for (int64_t quad = 0; quad < quads; quad += QUADS) {
        auto at = [&](int64_t q) {
          return Counter{uint32_t(quad + q), first.sample, first.step, first.gate};
        };
        rounds(rows.key, at, of, drawn);
        std::memcpy(out + row * width + 4 * quad, drawn,
                    std::min(4 * QUADS, width - 4 * quad) * sizeof(Out));
      }
    }
    return;
  }
  for (int64_t next = begin * quads; next < end * quads; next += QUADS) {
    const int64_t count = std::min(QUADS, end * quads - next);
    Counter counters[QUADS] = {};
    for (int64_t q = 0; q < count; q++) counters[q] = counter((next + q) / quads, (next + q) % quads);
    rounds(rows.key, [&](int64_t q) { return counters[q]; }, of, drawn);
    for (int64_t q = 0; q < count; q++) {
      const int64_t row = (next + q) / quads, first = (next + q) % quads * 4;
      std::memcpy(out + row * width + first, drawn + q, std::min<int64_t>(4, width - first) * sizeof(Out));
    }
  }
}

struct Four {
  uint32_t words[4];
};

inline void words(const Counters &rows, int64_t begin, int64_t end, uint32_t *out) {
  philox(rows, begin, end, out, [](uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return Four{{a, b, c, d}};
  });
}

// Four bytes are made as one number, which vectors have lanes for.
inline void coins(const Counters &rows, int64_t begin, int64_t end, uint32_t threshold,
                  uint8_t *out) {
  constexpr int FIRST = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 0 : 24, NEXT = FIRST ? -8 : 8;
  philox(rows, begin, end, out, [=](uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return uint32_t(a >= threshold) << FIRST | uint32_t(b >= threshold) << (FIRST + NEXT) |
           uint32_t(c >= threshold) << (FIRST + 2 * NEXT) |
           uint32_t(d >= threshold) << (FIRST + 3 * NEXT);
  });
}

}  // namespace
}  // namespace lapse
