// Philox4x32-10, the bits of src/lapse/philox.py.
#pragma once
#include <algorithm>
#include <cstdint>

namespace {

// Of the word of each counter (unit / 4, sample, step, gate): out [samples][steps][gates][width].
template <class Out, class Of>
inline void philox(const uint32_t key[2], const uint32_t *samples, int64_t sample_count,
                   const uint32_t *steps, int64_t step_count, const uint32_t *gates,
                   int64_t gate_count, int64_t width, Out *out, Of of) {
  constexpr int64_t QUADS = 16;  // counters that go side by side through the rounds
  Out drawn[QUADS][4];
  for (int64_t s = 0; s < sample_count; s++)
    for (int64_t t = 0; t < step_count; t++)
      for (int64_t g = 0; g < gate_count; g++, out += width)
        for (int64_t first = 0; first < width; first += 4 * QUADS) {
          for (int64_t q = 0; q < QUADS; q++) {
            uint32_t c0 = uint32_t(first / 4 + q), c1 = samples[s], c2 = steps[t], c3 = gates[g];
            uint32_t k0 = key[0], k1 = key[1];
            for (int round = 0; round < 10; round++) {
              const uint64_t p0 = uint64_t(c0) * 0xD2511F53u, p1 = uint64_t(c2) * 0xCD9E8D57u;
              c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
              c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
              k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
            }
            drawn[q][0] = of(c0), drawn[q][1] = of(c1), drawn[q][2] = of(c2), drawn[q][3] = of(c3);
          }
          std::copy_n(&drawn[0][0], std::min(4 * QUADS, width - first), out + first);
        }
}

inline void words(const uint32_t key[2], const uint32_t *samples, int64_t sample_count,
                  const uint32_t *steps, int64_t step_count, const uint32_t *gates,
                  int64_t gate_count, int64_t width, uint32_t *out) {
  philox(key, samples, sample_count, steps, step_count, gates, gate_count, width, out,
         [](uint32_t word) { return word; });
}

// Masks that keep, times `scale`, where the word is at least `threshold`.
inline void coins(const uint32_t key[2], const uint32_t *samples, int64_t sample_count,
                  const uint32_t *steps, int64_t step_count, const uint32_t *gates,
                  int64_t gate_count, int64_t width, uint32_t threshold, float scale, float *out) {
  philox(key, samples, sample_count, steps, step_count, gates, gate_count, width, out,
         [=](uint32_t word) { return word >= threshold ? scale : 0.0f; });
}

}  // namespace
