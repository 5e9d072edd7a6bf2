/* The mini-sequences (Mini-Sequence Transformer, arXiv 2407.15892, sections 3.2 and 3.3): the MLP and the LM
 * head treat every token by itself, so they run as loops over chunks of rows, and what is wide (2 FF, V)
 * exists for one chunk only. Rows are flat (B*T), the last chunk may be shorter, and nothing changes in the
 * numbers: weight gradients accumulate over the chunks in fp32, and the loss is divided by the valid targets
 * of the whole optimizer step.
 *
 * Everything here works on row-major [rows, width] memory of storage type dt. */
#ifndef MST_CHUNK_CUH
#define MST_CHUNK_CUH

#include "device/device.h"
#include "ops/activation.h"    /* defines: Activation */
#include "ops/cross_entropy.h" /* defines: cross_entropy_forward, cross_entropy_forward_backward */
#include "ops/glu.h"           /* defines: glu_forward, glu_backward */
#include "ops/linear.h"        /* defines: Linear, linear_forward, linear_backward_* */
#include "ops/rmsnorm.h"       /* defines: rmsnorm_forward, rmsnorm_backward */

/* ---- how many rows ---- */

typedef bool (*ChunkFits)(const void *context, int64_t rows);

/* Rows of an automatic mini-sequence: the most, from `least` up to `most`, for which fits() holds; `least`
 * when none does. The chunks are then evened out, so that the last one is not a scrap. fits() must be
 * monotonic: what fits at some rows fits at fewer. */
static inline int64_t mst_choose_rows(int64_t rows, int64_t least, int64_t most, ChunkFits fits,
                                      const void *context) {
  const int64_t step = 64; /* a multiple that suits the matrix products' tiles */
  if (most > rows) most = rows;
  if (least >= most) return most;
  int64_t low = least, high = most;
  if (fits(context, most)) low = most;
  while (high - low > step) {
    int64_t middle = low + (high - low) / 2;
    if (fits(context, middle))
      low = middle;
    else
      high = middle;
  }
  int64_t chunks = (rows + low - 1) / low;
  int64_t even = ((rows + chunks - 1) / chunks + step - 1) / step * step;
  return even < low ? even : low;
}

/* Row `row` of a matrix of `width` columns. */
static inline void *mst_row(const void *p, int64_t row, int64_t width, DType dt) {
  return (char *)p + (size_t)row * (size_t)width * dtype_size(dt);
}

/* ---- the MLP ---- */

typedef struct Norm {
  const void *w; /* [C] */
  float *dw;     /* [C] fp32 */
  float eps;
} Norm;

typedef struct Mlp {
  int64_t C, FF;
  Activation activation;
  Norm norm;
  Linear gate_up; /* [2 FF, C]: the gate's rows, then the up projection's */
  Linear down;    /* [C, FF] */
} Mlp;

/* The inside of the MLP: memory for one chunk, or for all rows when the backward finds its values there. */
typedef struct MlpInside {
  bool whole; /* false: [chunk, ...], used by every chunk; true: [rows, ...], filled by the forward */
  void *n;    /* [., C] the norm's output; then the gradient of it */
  void *gu;   /* [., 2 FF] gate and up; then the gradient of them */
  void *h;    /* [., FF] act(gate) * up; then the gradient of it */
} MlpInside;

/* The part of the inside that belongs to the chunk that begins at row r. */
static inline MlpInside mlp_inside_at(const MlpInside *in, const Mlp *mlp, int64_t r, DType dt) {
  int64_t row = in->whole ? r : 0;
  MlpInside at = {in->whole, mst_row(in->n, row, mlp->C, dt), mst_row(in->gu, row, 2 * mlp->FF, dt),
                  mst_row(in->h, row, mlp->FF, dt)};
  return at;
}

static inline void mlp_chunk_inside(Device *dev, DType dt, const Mlp *mlp, const MlpInside *at,
                                    const void *x_mid, int64_t n) {
  rmsnorm_forward(dev, dt, at->n, x_mid, mlp->norm.w, n, mlp->C, mlp->norm.eps);
  linear_forward(dev, dt, &mlp->gate_up, at->gu, at->n, n, NULL);
  glu_forward(dev, dt, mlp->activation, at->h, at->gu, n, mlp->FF);
}

/* x_out [rows, C] = x_mid [rows, C] + down(act(gate(n)) * up(n)), n = norm(x_mid). x_out may be x_mid. */
static inline void mlp_forward(Device *dev, DType dt, const Mlp *mlp, void *x_out, const void *x_mid,
                               int64_t rows, int64_t chunk, const MlpInside *inside) {
  for (int64_t r = 0, n; r < rows; r += n) {
    n = chunk < rows - r ? chunk : rows - r;
    MlpInside at = mlp_inside_at(inside, mlp, r, dt);
    void *in = mst_row(x_mid, r, mlp->C, dt);
    mlp_chunk_inside(dev, dt, mlp, &at, in, n);
    linear_forward(dev, dt, &mlp->down, mst_row(x_out, r, mlp->C, dt), at.h, n, in);
  }
}

/* dx [rows, C]: gradient of x_out, becomes the gradient of x_mid. The weights' gradients are added to. What
 * the forward kept of the inside is used; what it did not is computed again, but not the down projection:
 * 11 products of rows x C x FF for forward and backward, where a rerun of the whole MLP costs 12. */
static inline void mlp_backward(Device *dev, DType dt, const Mlp *mlp, void *dx, const void *x_mid,
                                int64_t rows, int64_t chunk, const MlpInside *inside) {
  for (int64_t r = 0, n; r < rows; r += n) {
    n = chunk < rows - r ? chunk : rows - r;
    MlpInside at = mlp_inside_at(inside, mlp, r, dt);
    void *in = mst_row(x_mid, r, mlp->C, dt), *d = mst_row(dx, r, mlp->C, dt);
    if (!inside->whole) mlp_chunk_inside(dev, dt, mlp, &at, in, n);
    linear_backward_weight(dev, dt, &mlp->down, d, at.h, n);
    linear_backward_input(dev, dt, &mlp->down, at.h, d, n);
    glu_backward(dev, dt, mlp->activation, at.gu, at.h, n, mlp->FF);
    linear_backward_weight(dev, dt, &mlp->gate_up, at.gu, at.n, n);
    linear_backward_input(dev, dt, &mlp->gate_up, at.n, at.gu, n);
    rmsnorm_backward(dev, dt, d, mlp->norm.dw, at.n, in, mlp->norm.w, n, mlp->C, mlp->norm.eps, true);
  }
}

/* ---- the LM head and the loss ---- */

typedef struct LmHead {
  int64_t C, V;
  Norm norm;     /* the model's final norm */
  Linear logits; /* [V, C] */
} LmHead;

/* Memory of one chunk of the head. */
typedef struct HeadInside {
  void *n;      /* [chunk, C] the norm's output; then the gradient of it */
  void *logits; /* [chunk, V]; then the gradient of them */
} HeadInside;

static inline void head_chunk_logits(Device *dev, DType dt, const LmHead *head, const HeadInside *at,
                                     const void *x, int64_t n) {
  rmsnorm_forward(dev, dt, at->n, x, head->norm.w, n, head->C, head->norm.eps);
  linear_forward(dev, dt, &head->logits, at->logits, at->n, n, NULL);
}

/* losses [rows]: of every token, 0 where it has no target. */
static inline void head_forward(Device *dev, DType dt, const LmHead *head, float *losses, const void *x,
                                const int32_t *targets, int64_t rows, int64_t chunk, const HeadInside *at) {
  for (int64_t r = 0, n; r < rows; r += n) {
    n = chunk < rows - r ? chunk : rows - r;
    head_chunk_logits(dev, dt, head, at, mst_row(x, r, head->C, dt), n);
    cross_entropy_forward(dev, dt, losses + r, at->logits, targets + r, n, head->V);
  }
}

/* The same, and x [rows, C] becomes the gradient of sum(losses) * scale with respect to itself; the gradients
 * of the head's weight and norm are added to. Logits are computed once. */
static inline void head_forward_backward(Device *dev, DType dt, const LmHead *head, float *losses, void *x,
                                         const int32_t *targets, int64_t rows, int64_t chunk, float scale,
                                         const HeadInside *at) {
  for (int64_t r = 0, n; r < rows; r += n) {
    n = chunk < rows - r ? chunk : rows - r;
    void *in = mst_row(x, r, head->C, dt);
    head_chunk_logits(dev, dt, head, at, in, n);
    cross_entropy_forward_backward(dev, dt, losses + r, at->logits, targets + r, n, head->V, scale);
    linear_backward_weight(dev, dt, &head->logits, at->logits, at->n, n);
    linear_backward_input(dev, dt, &head->logits, at->n, at->logits, n);
    rmsnorm_backward(dev, dt, in, head->norm.dw, at->n, in, head->norm.w, n, head->C, head->norm.eps, false);
  }
}

#endif
