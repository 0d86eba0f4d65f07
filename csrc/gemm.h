// C = A P, where P is a matrix packed into panels of columns: [panel][row][vectors * LANES]. Each gate
// starts a panel of its own, so that gates can read different A; so does each part of the columns, so
// that threads can share them.
#pragma once
#include <type_traits>

#include "vector.h"

namespace {

inline int64_t vectors(int64_t columns) { return (columns + LANES - 1) / LANES; }
inline int64_t padded(int64_t columns) { return vectors(columns) * LANES; }

struct Columns {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// The index-th of `parts` shares of columns, cut between vectors.
inline Columns cut(int64_t columns, int64_t index, int64_t parts) {
  const int64_t all = vectors(columns);
  return {index * all / parts * LANES, std::min(columns, (index + 1) * all / parts * LANES)};
}

inline int64_t panels(Columns columns) { return (vectors(columns.count()) + WIDE - 1) / WIDE; }

// The index-th panel; all panels have about the same width.
inline Columns panel(Columns columns, int64_t index) {
  const Columns found = cut(columns.count(), index, panels(columns));
  return {columns.begin + found.begin, columns.begin + padded(found.end)};
}

// A matrix as the caller has it: element (m, n) is at[m * row + n * step].
struct Matrix {
  const float *at;
  int64_t row, step;
};

// Copies rows and columns, in blocks that keep both sides in whole cache lines.
inline void transfer(int64_t rows, int64_t columns, Matrix from, float *to, int64_t to_row,
                     int64_t to_step) {
  if (from.step == 1 && to_step == 1) {
    for (int64_t m = 0; m < rows; m++)
      std::copy_n(from.at + m * from.row, columns, to + m * to_row);
    return;
  }
  constexpr int64_t BLOCK = 16;
  for (int64_t m0 = 0; m0 < rows; m0 += BLOCK)
    for (int64_t n0 = 0; n0 < columns; n0 += BLOCK)
      for (int64_t n = n0; n < std::min(n0 + BLOCK, columns); n++)
        for (int64_t m = m0; m < std::min(m0 + BLOCK, rows); m++)
          to[m * to_row + n * to_step] = from.at[m * from.row + n * from.step];
}

// Packs rows `begin` to `end` of `matrix`, which has gates * columns columns, for `parts` parts. The
// packed matrix has `all_rows` rows, of which row 0 of `matrix` becomes `first_row`.
inline void pack(Matrix matrix, int64_t begin, int64_t end, int64_t gates, int64_t columns,
                 int64_t parts, float *packed, int64_t first_row, int64_t all_rows) {
  for (int64_t part = 0; part < parts; part++)
    for (int64_t gate = 0; gate < gates; gate++)
      for (int64_t n = 0; n < panels(cut(columns, part, parts)); n++) {
        const auto [first, last] = panel(cut(columns, part, parts), n);
        const int64_t width = last - first, real = std::min(width, columns - first);
        float *to = packed + (first_row + begin) * width;
        const float *from = matrix.at + begin * matrix.row + (gate * columns + first) * matrix.step;
        transfer(end - begin, real, {from, matrix.row, matrix.step}, to, width, 1);
        for (int64_t m = 0; m < end - begin; m++)
          std::fill(to + m * width + real, to + (m + 1) * width, 0.0f);
        packed += all_rows * width;
      }
}

// A [rows][depth], whose rows are `row` apart, or whose columns are `column` apart.
struct ByRow {
  const float *at;
  int64_t row;
  float operator()(int64_t m, int64_t k) const { return at[m * row + k]; }
  ByRow from(int64_t m) const { return {at + m * row, row}; }
};
struct ByColumn {
  const float *at;
  int64_t column;
  float operator()(int64_t m, int64_t k) const { return at[m + k * column]; }
  ByColumn from(int64_t m) const { return {at + m, column}; }
};

// Whether the sums lie outside the caches near a core. Products with A by columns compute the gradients
// of the weights, which have more sums than fit there.
template <class A> constexpr bool FAR = std::is_same_v<A, ByColumn>;

// c [ROWS][VECTORS] = or += A P. Meanwhile it prefetches from `ahead`, `pace` floats further with each k:
// a panel into the second-level cache, where it fits, or a few rows of FAR sums.
template <int ROWS, int VECTORS, class A>
inline void tile(int64_t depth, A a, const float *panel, float *c, int64_t c_row, bool adds,
                 const float *ahead, int64_t pace) {
  vector sum[ROWS][VECTORS];
  // Loops over `sum` are unrolled early, because otherwise compilers keep it in memory.
#define EACH_SUM                                         \
  _Pragma("GCC unroll 8") for (int m = 0; m < ROWS; m++) \
      _Pragma("GCC unroll 3") for (int v = 0; v < VECTORS; v++)
  EACH_SUM sum[m][v] = adds ? *(const vector *)(c + m * c_row + v * LANES) : vector{};
  for (int64_t k = 0; k < depth; k++, panel += VECTORS * LANES, ahead += pace) {
    if constexpr (FAR<A>)
      __builtin_prefetch(ahead, 1, 3);
    else
      __builtin_prefetch(ahead, 0, 2);
    EACH_SUM sum[m][v] += *(const vector *)(panel + v * LANES) * a(m, k);
  }
  EACH_SUM *(vector *)(c + m * c_row + v * LANES) = sum[m][v];
#undef EACH_SUM
}

// All rows, in tiles of about the same height. Together they prefetch the `next` panel; with FAR sums
// each tile prefetches those of the tile after it.
template <int VECTORS, class A>
inline void tiles(int64_t rows, int64_t depth, A a, const float *panel, float *c, int64_t c_row,
                  bool adds, const float *next) {
  int64_t left = (rows + TALL - 1) / TALL;
  const int64_t of_next = left > 1 ? VECTORS * LANES / left : 0;
  for (; left; left--) {
    const int64_t height = (rows + left - 1) / left;
    const float *ahead = FAR<A> ? c + height * c_row : next;
    const int64_t pace = FAR<A> ? (height * c_row + depth - 1) / depth : of_next;
    switch (height) {
#define TILE(n)                                                                             \
  case n:                                                                                   \
    if constexpr (n <= TALL) tile<n, VECTORS>(depth, a, panel, c, c_row, adds, ahead, pace); \
    break;
      TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8)
#undef TILE
    }
    rows -= height, a = a.from(height), c += height * c_row, next += depth * of_next;
  }
}

// c [rows][columns, padded] = or += a [rows][depth] times `depth` rows, from `first_row` on, of some
// columns of a matrix that was packed with `all_rows`; c and packed are aligned. With `turned` the
// panels come in reverse order, because after a product in forward order the last ones are still in the
// cache.
template <class A>
inline void multiply(int64_t rows, int64_t depth, Columns columns, A a, const float *packed,
                     int64_t first_row, int64_t all_rows, float *c, int64_t c_row, bool adds,
                     bool turned) {
  for (int64_t count = panels(columns), n = 0; n < count; n++) {
    const auto [first, last] = panel(columns, turned ? count - 1 - n : n);
    const int64_t width = last - first;
    const float *from = packed + all_rows * (first - columns.begin) + first_row * width;
    const float *next = from + (turned ? -1 : 1) * all_rows * width;
    switch (width / LANES) {
      case 1: tiles<1>(rows, depth, a, from, c + first, c_row, adds, next); break;
      case 2: tiles<2>(rows, depth, a, from, c + first, c_row, adds, next); break;
#if defined(__AVX512F__)
      case 3: tiles<3>(rows, depth, a, from, c + first, c_row, adds, next); break;
#endif
    }
  }
}

// Enough chains to hide the latency of one. The sums are stored, or compilers would remove all of it.
inline int64_t multiply_adds(int64_t rounds) {
  constexpr int CHAINS = 12;
  vector sum[CHAINS], factor = all(0.5f), added = all(0.25f);
  for (int k = 0; k < CHAINS; k++) sum[k] = all(float(k));  // equal ones would be computed once
  for (int64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
    for (int k = 0; k < CHAINS; k++) sum[k] = sum[k] * factor + added;
  }
  [[maybe_unused]] volatile float sink;
  for (int k = 0; k < CHAINS; k++) sink = sum[k][0];
  return rounds * CHAINS * LANES * 2;
}

}  // namespace
