// The three passes, compiled once for each instruction set; LAPSE_ISA names this one.
#include "backward.h"
#include "forward.h"
#include "gradient.h"
#include "philox.h"

namespace lapse {
namespace {

bool drops(const Layer &layer) {
  return std::any_of(layer.slots, layer.slots + KEEP_C, [](const Mask &mask) { return mask.at; });
}
bool keeps(const Layer &layer) { return layer.slots[KEEP_C].at || layer.slots[KEEP_H].at; }

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
  return with_cell(l, [&](auto cell) {
    return backward ? backward_phases<decltype(cell)> : forward_phases<decltype(cell)>;
  });
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

// The steps whose rows fill one product.
int64_t dz_steps(const Layer &l) {
  return std::clamp<int64_t>(BLOCK / std::max<int64_t>(l.batch, 1), 1, std::max<int64_t>(l.timesteps, 1));
}

int64_t dz_size(const Layer &l) {
  return with_cell(l, [&](auto cell) { return dz_steps(l) * RING * l.batch * cell.SAVED * l.units; });
}

int64_t gates_of(const Layer &l) { return l.cell == LSTM ? 4 : l.cell == SIMPLE_RNN ? 1 : 3; }

int64_t packed_size(const Layer &l) {
  const int64_t G = gates_of(l), F = l.features, H = l.units;
  return G * std::max((F + H) * padded(H), H * (padded(F) + padded(H)));
}

// Forward multiplies rows of x and h in one product; backward has one for each transposed matrix.
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
