// A vector as wide as the instruction set has them, by the compilers' vector extension.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 3, TALL = 8;  // lanes of a vector, vectors of a panel, rows of a tile
#elif defined(__AVX2__)
constexpr int LANES = 8, WIDE = 2, TALL = 6;
#else
constexpr int LANES = 4, WIDE = 2, TALL = 6;
#endif

namespace {  // each instruction set has its own; shared inline functions would be merged

typedef float vector __attribute__((vector_size(LANES * sizeof(float))));
typedef vector unaligned __attribute__((aligned(4), may_alias));

struct Full {};  // all lanes, known when compiled; `int` is how many at the end of a row

inline vector load(const float *at, Full) { return *(const unaligned *)at; }
inline void store(float *at, vector v, Full) { *(unaligned *)at = v; }

// A part of a vector; where processors can, in one instruction: through memory, the whole vector would
// wait for its parts.
#if defined(__AVX512F__)
inline vector load(const float *at, int lanes) {
  return (vector)_mm512_maskz_loadu_ps((1u << lanes) - 1, at);
}
inline void store(float *at, vector v, int lanes) {
  _mm512_mask_storeu_ps(at, (1u << lanes) - 1, (__m512)v);
}
#elif defined(__AVX2__)
inline __m256i first(int lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline vector load(const float *at, int lanes) { return (vector)_mm256_maskload_ps(at, first(lanes)); }
inline void store(float *at, vector v, int lanes) {
  _mm256_maskstore_ps(at, first(lanes), (__m256)v);
}
#else
inline vector load(const float *at, int lanes) {
  vector v = {};
  std::memcpy(&v, at, lanes * sizeof(float));
  return v;
}
inline void store(float *at, vector v, int lanes) { std::memcpy(at, &v, lanes * sizeof(float)); }
#endif

inline vector all(float value) { return value - vector{}; }

// Runs body(u, lanes) over units.begin <= u < units.end.
template <class Units, class Body> inline void each_unit(Units units, Body body) {
  int64_t u = units.begin;
  for (; u + LANES <= units.end; u += LANES) body(u, Full{});
  if (u < units.end) body(u, int(units.end - u));
}

// A quotient of polynomials of degree 13 and 6, within 3e-7 of tanh; its coefficients are those of
// Eigen's generic_fast_tanh_float.
inline vector tanh(vector x) {
  const vector end = all(7.90531110763549805f);
  x = x > end ? end : x;
  x = x < -end ? -end : x;
  const vector y = x * x;
  vector p = y * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = y * p + -8.60467152213735e-11f;
  p = y * p + 5.12229709037114e-08f;
  p = y * p + 1.48572235717979e-05f;
  p = y * p + 6.37261928875436e-04f;
  p = y * p + 4.89352455891786e-03f;
  vector q = y * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = y * q + 2.26843463243900e-03f;
  q = y * q + 4.89352518554385e-03f;
  return x * p / q;
}

inline vector sigmoid(vector x) { return 0.5f + 0.5f * tanh(0.5f * x); }

}  // namespace
