// One recurrent layer over whole sequences, forward and backward: the specification.
//
// All arrays are float32, row-major, allocated by the caller. T timesteps, B batch, F features, H
// units; G gates: 4 for LSTM (i f g o), 3 for GRU (z r n), 1 for SimpleRNN. S parts are kept apart a
// unit and step: the gates, and for GRU, whose r acts on what U made of h for n, that too.
// GRU_RESET_BEFORE is the GRU whose r acts on h before U does. The equations are those of
// src/lapse/cells.py; a mask multiplies where its slot does there.
#pragma once
#include <cstdint>

namespace lapse {

enum Cell { LSTM, GRU, GRU_RESET_BEFORE, SIMPLE_RNN };

// Rows of numbers for each step and sample: row (t, b) starts at at[t * time + b * batch].
struct Rows {
  float *at;  // null: there are none
  int64_t time, batch;
};

// A matrix: rows `row` apart, the numbers of one `column` apart; quick if one of them is 1.
template <class Number> struct Strided {
  Number *at;
  int64_t row, column;
};

// Rows of factors. Noise that is drawn for every step takes a byte a number: it keeps, and multiplies
// by `scale`, where that is 1, and drops where it is 0.
struct Mask {
  const void *at;  // of float, or of uint8_t; null: no noise
  int64_t time, batch;
  bool bytes;
  float scale;
};

enum Slot { GATE_0, GATE_1, GATE_2, GATE_3, STATE, KEEP_C, KEEP_H, OUTPUT, SLOTS };

// Blocks of dz that take turns. A block that all cores have read is written again when it has left their
// caches: to take each line back from them is slow where cores are far apart.
constexpr int64_t RING = 4;

struct Layer {
  Cell cell;
  int64_t timesteps, batch, features, units;
  bool reverse;            // from the last step to the first; what is "before" a step is then behind it
  const uint8_t *running;  // [B][T] 1 at real steps, 0 in padding, which holds the states; null: all 1

  Rows x;                     // of F
  int64_t x_masks, h_masks;   // how many of the next two: 0 none, 1 for all gates, G one a gate
  Mask x_mask[4], h_mask[4];  // of F, of H: on x before W, and on h before U
  Mask slots[SLOTS];          // of H: on the gates in order; s; k_c; k_h; y
  Strided<const float> kernel, recurrent;  // W [F][G*H], U [H][G*H]
  const float *bias;          // [S*H], for GRU that of the n of h last; forward only
  const float *h0, *c0;       // [B][H] states before the first step; c is LSTM's

  float *h, *c;  // [T][B][H] states after each step, written by forward
  float *y;      // [T][B][H] h through its mask, written by forward at real steps; null without one
  float *saved;  // [T][B][S*H] what backward needs, written by forward at real steps

  Rows dh;                  // of H: gradient of h from outside, or with its mask that of y
  float *dh0, *dc0;         // [B][H] in: gradient of the last states; out: of the first
  float *dz;                // [dz_steps * RING][B][S*H] gradients before the gates' activations: those
  int64_t dz_steps;         // of the n-th step back stand at n % (dz_steps * RING)
  Rows dx;                  // of F; written at all steps, if not null
  Strided<float> dkernel;     // [F][G*H] these three by `gradient`, which needs dz
  Strided<float> drecurrent;  // [H][G*H]
  float *dbias;               // [S*H]
};

// Where random words are drawn, in the words of src/lapse/masks.py: a row for each sample, step and
// gate, of which those of `gates` hold kind, direction and layer as well.
struct Counters {
  uint32_t key[2];                          // the seed, its low half first
  const uint32_t *samples, *steps, *gates;  // [samples], [step_count], [gate_count]
  int64_t step_count, gate_count, width;    // `width` words a row
};

// The index-th of `count` shares of a layer: some of its samples, or some of its units.
struct Part {
  int64_t index, count;
  bool of_units;
};

// A pass runs a part from `begin` to `end`: forward and backward count phases, some for each step, and
// gradient the steps back whose dz is there; its parts are columns of the weights. Parts of samples
// never wait for each other; those of units must all have done a phase before any of them begins the
// next. `packed` and `workspace` are aligned to 64 bytes; each part keeps a workspace of its own.
using Pass = void (*)(const Layer &, const float *packed, Part, int64_t begin, int64_t end,
                      float *workspace);

struct Kernels {
  const char *name;
  Pass forward, backward, gradient;
  int64_t (*phases)(const Layer &, bool backward);  // of a step
  // In floats: what forward and backward need for a part with so many samples, and gradient.
  int64_t (*workspace_size)(const Layer &, int64_t samples);
  int64_t (*gradient_size)(const Layer &, Part);
  int64_t (*dz_steps)(const Layer &);  // as many as suit gradient, and the size of dz then
  int64_t (*dz_size)(const Layer &);
  int64_t (*packed_size)(const Layer &);
  // Kernel and recurrent as a pass wants them that is split into parts of units, or 1; the index-th of
  // `count` shares of the work.
  void (*pack)(const Layer &, bool backward, int64_t parts, float *packed, int64_t index, int64_t count);
  // Random words, and whether each is at least `threshold`: rows [samples][steps][gates] of `width`,
  // from row `begin` to `end`. See philox.h.
  void (*words)(const Counters &, int64_t begin, int64_t end, uint32_t *out);
  void (*coins)(const Counters &, int64_t begin, int64_t end, uint32_t threshold, uint8_t *out);
  // `rounds` of multiply-adds in registers, for the benchmark's floor: how many operations they were.
  int64_t (*multiply_adds)(int64_t rounds);
};

}  // namespace lapse
