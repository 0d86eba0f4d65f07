// One recurrent layer over whole sequences, forward and backward: the specification.
//
// All arrays are float32 and row-major. T timesteps, B batch, F features, H units; G gates: 4 for LSTM
// (i f g o), 3 for GRU (z r n), 1 for SimpleRNN. S numbers are saved for each unit and step: the gates,
// and for GRU, whose r multiplies h U, also the n part of h U. GRU_RESET_BEFORE is the GRU whose r
// multiplies h before U does. The equations are those of src/lapse/core/cells.py; a mask multiplies
// where its slot does there. "Before" and "after" a step follow the running order, which is from the
// last step to the first if `reverse`.
#pragma once
#include <cstdint>

namespace lapse {

enum Cell { LSTM, GRU, GRU_RESET_BEFORE, SIMPLE_RNN };

// A row of numbers for each step and sample: row (t, b) starts at at[t * time + b * batch].
struct Rows {
  float *at;  // null: no rows
  int64_t time, batch;
};

// A matrix: element (m, n) is at[m * row + n * column]; fast if one of the strides is 1.
template <class Number> struct Strided {
  Number *at;
  int64_t row, column;
};

// Rows of factors. Noise that is drawn at every step takes one byte for each factor: a byte of 1 keeps
// and multiplies by `scale`, a byte of 0 drops.
struct Mask {
  const void *at;  // of float, or of uint8_t; null: no noise
  int64_t time, batch;
  bool bytes;
  float scale;
};

enum Slot { GATE_0, GATE_1, GATE_2, GATE_3, STATE, KEEP_C, KEEP_H, OUTPUT, SLOTS };

// dz is a ring of so many blocks. All cores read a block; it is written again only after it has left
// their caches, because it is slow to take a cache line back from a core that is far away.
constexpr int64_t RING = 4;

struct Layer {
  Cell cell;
  int64_t timesteps, batch, features, units;
  bool reverse;            // whether to run from the last step to the first
  const uint8_t *running;  // [B][T] 1 at real steps, 0 in padding; null: all 1

  Rows x;                     // of F
  int64_t x_masks, h_masks;   // how many of the next two: 0, 1 for all gates, or G, one for each gate
  Mask x_mask[4], h_mask[4];  // of F, of H: on x before W, and on h before U
  Mask slots[SLOTS];          // of H: on the gates in order; s; k_c; k_h; y
  Strided<const float> kernel, recurrent;  // W [F][G*H], U [H][G*H]
  const float *bias;          // [S*H], for GRU last the bias of the n part of h U; forward only
  const float *h0, *c0;       // [B][H] states before the first step; only LSTM has c

  // Written by forward. In padding a state is the one before the step.
  float *h, *c;  // [T][B][H] states after each step
  // [T][B][H] outputs: at a real step h times its mask, in padding the output of the real step before,
  // and 0 before the first real step. Null where h is the output at every step, because h has no mask
  // and in padding is the same: no step is padding, or the states before the first step are 0.
  float *y;
  float *saved;  // [T][B][S*H] what backward needs; undefined in padding

  Rows dh;                  // of H: gradient of y, or of h where forward had no y
  // [B][H] sums of the gradients of y in padding, which belong to the real step before; 0 before the
  // pass. Null where nothing is summed: without padding, or where dh is the gradient of h.
  float *held;
  float *dh0, *dc0;         // [B][H] in: gradient of the last states; out: of the first
  float *dz;                // [dz_steps * RING][B][S*H] gradients before the gates' activations; the
  int64_t dz_steps;         // n-th step of backward has row n % (dz_steps * RING)
  Rows dx;                  // of F; if not null, written at all steps
  Strided<float> dkernel;     // [F][G*H] `gradient` writes these three, from dz
  Strided<float> drecurrent;  // [H][G*H]
  float *dbias;               // [S*H]
};

// Where random words are drawn, as in src/lapse/core/drawing.py: a row for each sample, step and gate.
// The numbers in `gates` hold stream, direction and layer as well.
struct Counters {
  uint32_t key[2];                          // the seed, its low half first
  const uint32_t *samples, *steps, *gates;  // [samples], [step_count], [gate_count]
  int64_t step_count, gate_count, width;    // `width` words in each row
};

// The index-th of `count` parts of a layer: some of its samples, or some of its units.
struct Part {
  int64_t index, count;
  bool of_units;
};

// A pass runs a part from `begin` to `end`. Forward and backward count phases, a few for each step;
// gradient counts the steps of backward whose dz is ready, and its parts are columns of the weights.
// Parts of samples never wait for each other. Parts of units do: all must finish a phase before any
// begins the next. `packed` and `workspace` are aligned to 64 bytes; each part has its own workspace.
using Pass = void (*)(const Layer &, const float *packed, Part, int64_t begin, int64_t end,
                      float *workspace);

struct Kernels {
  const char *name;
  Pass forward, backward, gradient;
  int64_t (*phases)(const Layer &, bool backward);  // of each step
  // In floats: the workspace of forward and backward for a part with so many samples, and of gradient.
  int64_t (*workspace_size)(const Layer &, int64_t samples);
  int64_t (*gradient_size)(const Layer &, Part);
  int64_t (*dz_steps)(const Layer &);  // as many as suit gradient
  int64_t (*dz_size)(const Layer &);
  int64_t (*packed_size)(const Layer &);
  // Kernel and recurrent in the order in which a pass reads them that is split into `parts` parts of
  // units (1 for parts of samples). This call does the index-th of `count` shares of the work.
  void (*pack)(const Layer &, bool backward, int64_t parts, float *packed, int64_t index, int64_t count);
  // Random words, and whether each is at least `threshold`: rows [samples][steps][gates] of `width`
  // numbers, from row `begin` to `end`. See philox.h.
  void (*words)(const Counters &, int64_t begin, int64_t end, uint32_t *out);
  void (*coins)(const Counters &, int64_t begin, int64_t end, uint32_t threshold, uint8_t *out);
  // `rounds` of multiply-adds in registers, for the benchmark's floor; returns how many operations.
  int64_t (*multiply_adds)(int64_t rounds);
};

}  // namespace lapse
