#include "llama/hf_model.h"

#include <stdlib.h>
#include <string.h>

#include "ops/convert.h"

/* One Hugging Face tensor: rows [row, row + rows) of a tensor of the parameter table. */
typedef struct HfTensor {
  int64_t unit;
  const ParamSpec *spec;
  const HfSlice *slice;
  char name[160];
  int dims;
  int64_t shape[2];
} HfTensor;

static HfTensor hf_tensor(int64_t unit, const ParamSpec *spec, const HfSlice *slice) {
  HfTensor t = {};
  t.unit = unit;
  t.spec = spec;
  t.slice = slice;
  t.dims = spec->dims;
  t.shape[0] = slice->rows;
  t.shape[1] = spec->cols;
  params_hf_name(t.name, slice, unit);
  return t;
}

/* What a tensor of the parameter table has beside its weight. */
typedef enum TensorKind { WEIGHT, GRADIENT, MOMENT1, MOMENT2, ABSMAX1, ABSMAX2, MASTER, KINDS } TensorKind;
static const char *const kind_suffix[KINDS] = {
    "", "", ".exp_avg", ".exp_avg_sq", ".exp_avg.absmax", ".exp_avg_sq.absmax", ".master"};

/* The optimizer's kinds begin with MOMENT1; not every run has all of them. */
static bool has_kind(const Model *m, int kind) {
  const RunShape *r = &m->schedule->shape;
  return kind == MASTER ? r->master : kind == ABSMAX1 || kind == ABSMAX2 ? r->moments == DT_U8 : true;
}

static DType kind_dtype(const Model *m, TensorKind kind) {
  const RunShape *r = &m->schedule->shape;
  return kind == WEIGHT ? r->dtype : kind == MOMENT1 || kind == MOMENT2 ? r->moments : DT_FP32;
}

/* The tensor of that kind as it is in a file: scales of 8-bit moments are a vector. */
static HfTensor of_kind(const HfTensor *weight, TensorKind kind) {
  HfTensor t = *weight;
  strcat(t.name, kind_suffix[kind]);
  if (kind == ABSMAX1 || kind == ABSMAX2) {
    t.dims = 1;
    t.shape[0] = t.slice->blocks;
    t.shape[1] = 1;
  }
  return t;
}

/* True when tensors of that kind are in host memory. */
static bool kind_on_host(const Model *m, TensorKind kind, int64_t unit) {
  const Schedule *s = m->schedule;
  bool gathered = s->host_gradients[unit] != NO_BUFFER;
  const BufferId ids[KINDS] = {s->weights[unit], gathered ? s->host_gradients[unit] : s->gradients[unit],
                               s->moment1[unit], s->moment2[unit],
                               s->absmax1[unit], s->absmax2[unit],
                               s->master[unit]};
  return plan_buffer_space(s->plan, ids[kind]) == SPACE_HOST;
}

static void *kind_data(const Model *m, TensorKind kind, const HfTensor *t) {
  char *tensor = NULL;
  switch (kind) {
  case WEIGHT: tensor = (char *)model_weight(m, t->unit, t->spec); break;
  case GRADIENT: tensor = (char *)model_step_gradient(m, t->unit, t->spec); break;
  case MOMENT1: tensor = (char *)model_moment1(m, t->unit, t->spec); break;
  case MOMENT2: tensor = (char *)model_moment2(m, t->unit, t->spec); break;
  case ABSMAX1: return model_absmax1(m, t->unit, t->slice);
  case ABSMAX2: return model_absmax2(m, t->unit, t->slice);
  case MASTER: tensor = (char *)model_master(m, t->unit, t->spec); break;
  case KINDS: break;
  }
  CHECK(tensor, "%s has no tensor of kind %d", t->name, kind);
  return tensor + (size_t)(t->slice->row * t->spec->cols) * dtype_size(kind_dtype(m, kind));
}

/* Calls f for every Hugging Face tensor of the model, in the order of the file; stops at the first failure.
 */
typedef bool (*HfVisit)(Model *m, const HfTensor *t, void *context, Error *e);
static bool visit_tensors(Model *m, HfVisit f, void *context, Error *e) {
  int64_t embedding = params_embedding_unit(&m->params), L = m->params.L;
  for (int64_t i = 0; i < params_units(&m->params); i++) {
    int64_t unit = i == 0 ? embedding : i <= L ? i - 1 : i; /* the embedding first */
    int count;
    const ParamSpec *specs = params_of_unit(&m->params, unit, &count);
    for (int p = 0; p < count; p++)
      for (int s = 0; s < specs[p].slice_count && specs[p].rows; s++) {
        HfTensor t = hf_tensor(unit, &specs[p], &specs[p].slices[s]);
        if (!f(m, &t, context, e)) return false;
      }
  }
  return true;
}

/* Elements of the next piece that goes through the staging buffers, of those that are left. */
static int64_t staging_part(int64_t left) {
  const int64_t most = STAGING_ELEMENTS;
  return left < most ? left : most;
}

/* ---- loading ---- */

static const char *shape_text(char buf[128], int dims, const int64_t *shape) {
  size_t at = 0;
  for (int i = 0; i < dims && at < 100; i++)
    at += (size_t)snprintf(buf + at, 128 - at, "%s%lld", i ? ", " : "[", (long long)shape[i]);
  snprintf(buf + at, 128 - at, dims ? "]" : "[]");
  return buf;
}

static bool same_shape(const SafeTensor *found, const HfTensor *t) {
  if (found->dims != t->dims) return false;
  for (int i = 0; i < t->dims; i++)
    if (found->shape[i] != t->shape[i]) return false;
  return true;
}

/* The tensor of that name and shape; NULL and an Error else. */
static const SafeTensor *find_tensor(const SafeTensors *set, const HfTensor *t, Error *e) {
  const char *name = t->name;
  const SafeTensor *found = safetensors_find(set, name);
  char a[128], b[128];
  if (!found)
    error_usage(e,
                "the weights have no tensor %s; expected it with shape %s.\nGive a folder whose "
                "config.json and safetensors belong together.",
                name, shape_text(a, t->dims, t->shape));
  else if (!same_shape(found, t))
    error_usage(e,
                "tensor %s has shape %s; config.json asks for %s.\nGive a folder whose config.json and "
                "safetensors belong together.",
                name, shape_text(a, found->dims, found->shape), shape_text(b, t->dims, t->shape));
  else
    return found;
  return NULL;
}

static bool check_tensor(Model *m, const HfTensor *t, void *context, Error *e) {
  (void)m;
  const SafeTensor *found = find_tensor((const SafeTensors *)context, t, e);
  if (!found || found->dtype != DT_U8) return found != NULL;
  return error_usage(
      e, "tensor %s has dtype U8, expected F32, BF16 or F16. Convert the model to one of them.", t->name);
}

static bool load_tensor(Model *m, const HfTensor *t, void *context, Error *e) {
  (void)e;
  const SafeTensor *found = safetensors_find((const SafeTensors *)context, t->name);
  const Schedule *s = m->schedule;
  float *host = (float *)arena_get(&m->arena, s->host_staging);
  float *staged = (float *)arena_get(&m->arena, s->staging);
  DType dt = s->shape.dtype;
  int64_t first = t->slice->row * t->spec->cols, n = t->slice->rows * t->spec->cols;
  char *weight = (char *)model_weight(m, t->unit, t->spec) + (size_t)first * dtype_size(dt);
  float *master = model_master(m, t->unit, t->spec);
  /* weights that stay on the host are converted in the second half of the device's staging */
  const int64_t most = STAGING_ELEMENTS / 2;
  bool on_host = kind_on_host(m, WEIGHT, t->unit);
  for (int64_t at = 0; at < n; at += most) {
    int64_t part = n - at < most ? n - at : most;
    const char *from = (const char *)found->data + (size_t)at * dtype_size(found->dtype);
    safetensors_to_fp32(host, from, found->dtype, part);
    device_copy(m->dev, staged, host, (size_t)part * sizeof(float), COPY_TO_DEVICE);
    char *here = weight + (size_t)at * dtype_size(dt);
    convert(m->dev, on_host ? (void *)(staged + most) : here, dt, staged, DT_FP32, part);
    if (on_host) device_copy(m->dev, here, staged + most, (size_t)part * dtype_size(dt), COPY_FROM_DEVICE);
    if (master && kind_on_host(m, MASTER, t->unit))
      memcpy(master + first + at, host, (size_t)part * sizeof(float));
    else if (master)
      convert(m->dev, master + first + at, DT_FP32, staged, DT_FP32, part);
  }
  return true;
}

typedef struct NameSearch {
  const char *name;
  bool found;
} NameSearch;

static bool compare_name(Model *m, const HfTensor *t, void *context, Error *e) {
  (void)m, (void)e;
  NameSearch *search = (NameSearch *)context;
  if (strcmp(t->name, search->name) == 0) search->found = true;
  return true;
}

static bool is_needless(const Model *m, const char *name) {
  return strstr(name, "rotary_emb.inv_freq") || (m->config->tied && strcmp(name, "lm_head.weight") == 0);
}

bool hf_model_check(const Config *c, const SafeTensors *set, Error *e) {
  Model m = {}; /* of a model, what there is before it has memory */
  m.config = c;
  params_table(&m.params, c);
  for (int64_t i = 0; i < safetensors_count(set); i++) {
    const char *name = safetensors_at(set, i)->name;
    NameSearch search = {name, is_needless(&m, name)};
    if (!search.found) visit_tensors(&m, compare_name, &search, e);
    if (!search.found)
      return error_usage(
          e,
          "the weights hold a tensor %s, which a %s model with this config.json does not have.\n"
          "Give a folder whose config.json and safetensors belong together.",
          name, c->family);
  }
  return visit_tensors(&m, check_tensor, (void *)set, e);
}

bool hf_model_load(Model *m, const SafeTensors *set, Error *e) {
  if (!hf_model_check(m->config, set, e)) return false;
  arena_enter(&m->arena, m->schedule->load);
  for (int i = 0; i < SLOTS; i++) m->layer_in_slot[i] = NO_LAYER;
  return visit_tensors(m, load_tensor, (void *)set, e);
}

/* ---- saving ---- */

/* A file of one or more kinds of tensors. */
typedef struct Saving {
  SafeTensorsWriter *writer;
  TensorKind kind;
} Saving;

static bool declare_tensor(Model *m, const HfTensor *weight, void *context, Error *e) {
  (void)e;
  Saving *s = (Saving *)context;
  HfTensor t = of_kind(weight, s->kind);
  safetensors_writer_declare(s->writer, t.name, kind_dtype(m, s->kind), t.dims, t.shape);
  return true;
}

static size_t tensor_bytes(const Model *m, const HfTensor *t, TensorKind kind) {
  return (size_t)(t->shape[0] * t->shape[1]) * dtype_size(kind_dtype(m, kind));
}

static const size_t staging_bytes = STAGING_ELEMENTS * sizeof(float);

static bool write_tensor(Model *m, const HfTensor *weight, void *context, Error *e) {
  Saving *s = (Saving *)context;
  HfTensor t = of_kind(weight, s->kind);
  const char *data = (const char *)kind_data(m, s->kind, &t);
  void *host = arena_get(&m->arena, m->schedule->host_staging);
  size_t bytes = tensor_bytes(m, &t, s->kind);
  if (kind_on_host(m, s->kind, t.unit)) return safetensors_writer_write(s->writer, data, bytes, e);
  for (size_t at = 0; at < bytes; at += staging_bytes) {
    size_t part = bytes - at < staging_bytes ? bytes - at : staging_bytes;
    device_copy(m->dev, host, data + at, part, COPY_FROM_DEVICE);
    if (!safetensors_writer_write(s->writer, host, part, e)) return false;
  }
  return true;
}

/* Closes the file; *hash, if wanted, becomes that of its bytes. */
static bool finish_file(SafeTensorsWriter *w, bool ok, uint64_t *hash, Error *e) {
  if (hash) *hash = safetensors_writer_hash(w);
  return safetensors_writer_close(w, ok, e);
}

bool hf_model_save(Model *m, const char *path, uint64_t *hash, Error *e) {
  device_synchronize(m->dev); /* what is on the host has arrived there */
  arena_enter(&m->arena, m->schedule->load);
  Saving s = {safetensors_writer_new(path), WEIGHT};
  visit_tensors(m, declare_tensor, &s, e);
  bool ok = safetensors_writer_begin(s.writer, e) && visit_tensors(m, write_tensor, &s, e);
  return finish_file(s.writer, ok, hash, e);
}

/* ---- the optimizer ---- */

bool hf_model_save_optimizer(Model *m, const char *path, uint64_t *hash, Error *e) {
  device_synchronize(m->dev);
  arena_enter(&m->arena, m->schedule->load);
  SafeTensorsWriter *w = safetensors_writer_new(path);
  for (int k = MOMENT1; k < KINDS; k++) {
    Saving s = {w, (TensorKind)k};
    if (has_kind(m, k)) visit_tensors(m, declare_tensor, &s, e);
  }
  bool ok = safetensors_writer_begin(w, e);
  for (int k = MOMENT1; k < KINDS && ok; k++) {
    Saving s = {w, (TensorKind)k};
    ok = !has_kind(m, k) || visit_tensors(m, write_tensor, &s, e);
  }
  return finish_file(w, ok, hash, e);
}

typedef struct Loading {
  const SafeTensors *set;
  TensorKind kind;
  int64_t count; /* tensors loaded */
} Loading;

static bool load_exact_tensor(Model *m, const HfTensor *weight, void *context, Error *e) {
  Loading *loading = (Loading *)context;
  HfTensor t = of_kind(weight, loading->kind);
  const SafeTensor *found = find_tensor(loading->set, &t, e);
  if (!found) return false;
  DType wanted = kind_dtype(m, loading->kind);
  if (found->dtype != wanted)
    return error_usage(e, "tensor %s is %s, expected %s.\nGo on with the flags of the run that saved it.",
                       t.name, dtype_name(found->dtype), dtype_name(wanted));
  char *data = (char *)kind_data(m, loading->kind, &t);
  void *host = arena_get(&m->arena, m->schedule->host_staging);
  size_t bytes = tensor_bytes(m, &t, loading->kind);
  loading->count++;
  if (kind_on_host(m, loading->kind, t.unit)) {
    memcpy(data, found->data, bytes);
    return true;
  }
  for (size_t at = 0; at < bytes; at += staging_bytes) {
    size_t part = bytes - at < staging_bytes ? bytes - at : staging_bytes;
    memcpy(host, (const char *)found->data + at, part);
    device_copy(m->dev, data + at, host, part, COPY_TO_DEVICE);
  }
  return true;
}

bool hf_model_load_optimizer(Model *m, const SafeTensors *set, Error *e) {
  arena_enter(&m->arena, m->schedule->load);
  Loading loading = {set, MOMENT1, 0};
  for (int k = MOMENT1; k < KINDS; k++) {
    loading.kind = (TensorKind)k;
    if (has_kind(m, k) && !visit_tensors(m, load_exact_tensor, &loading, e)) return false;
  }
  if (loading.count == safetensors_count(set)) return true;
  return error_usage(e,
                     "found %lld tensors, expected %lld.\nGo on with the flags of the run that saved them.",
                     (long long)safetensors_count(set), (long long)loading.count);
}

/* ---- gradients ---- */

/* Writes int32 values as fp32, which holds them exactly below 2^24: every vocabulary. */
static bool write_ids(Model *m, SafeTensorsWriter *w, const int32_t *ids, int64_t n, Error *e) {
  float *host = (float *)arena_get(&m->arena, m->schedule->host_staging);
  for (int64_t at = 0; at < n; at += STAGING_ELEMENTS) {
    int64_t part = staging_part(n - at);
    for (int64_t i = 0; i < part; i++) host[i] = (float)ids[at + i];
    if (!safetensors_writer_write(w, host, (size_t)part * sizeof(float), e)) return false;
  }
  return true;
}

bool hf_model_dump_gradients(Model *m, const char *path, double loss, const StepBatch *step, Error *e) {
  device_synchronize(m->dev);
  arena_enter(&m->arena, m->schedule->load);
  Saving s = {safetensors_writer_new(path), GRADIENT};
  int64_t one = 1, ids[2] = {step->A * step->B, step->T}, n = ids[0] * ids[1];
  safetensors_writer_declare(s.writer, "loss", DT_FP32, 1, &one);
  safetensors_writer_declare(s.writer, "input_ids", DT_FP32, 2, ids);
  safetensors_writer_declare(s.writer, "labels", DT_FP32, 2, ids);
  bool pack = m->schedule->shape.pack;
  if (pack) safetensors_writer_declare(s.writer, "position_ids", DT_FP32, 2, ids);
  visit_tensors(m, declare_tensor, &s, e);
  float value = (float)loss;
  bool ok = safetensors_writer_begin(s.writer, e) &&
            safetensors_writer_write(s.writer, &value, sizeof value, e) &&
            write_ids(m, s.writer, step->tokens, n, e) && write_ids(m, s.writer, step->targets, n, e) &&
            (!pack || write_ids(m, s.writer, step->positions, n, e)) && visit_tensors(m, write_tensor, &s, e);
  return safetensors_writer_close(s.writer, ok, e);
}
