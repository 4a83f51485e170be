// Decoding: few rows at a time and no gradients. Weights are read once, as they lie: packing them
// would cost more than the products. What is small stays on one thread.
#include <torch/library.h>

#include <cmath>
#include <numeric>

#include "products.h"

namespace plait {
namespace {

constexpr int64_t kLane = 16;
// What one thread should at least read; less is not worth waking another.
constexpr int64_t kShare = 256 << 10;

// Calls work(i) for i below `count`, each of which reads `bytes`.
template <typename Work>
void share(int64_t count, int64_t bytes, Work work) {
  at::parallel_for(0, count, std::max<int64_t>(1, kShare / bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) work(i);
  });
}

// The dot products of x (K) with sixteen rows (16 × K) that follow each other.
template <typename W, typename T>
[[gnu::always_inline]] inline Floats dots16(const W* rows, const T* x, int64_t K) {
  Floats sums[kLane] = {};
  for (int64_t k = 0; k < K; k += 16) {
    Floats factor = load16(x + k);
    for (int64_t i = 0; i < kLane; ++i) {
      __builtin_prefetch(rows + (kLane + i) * K + k);
      sums[i] += load16(rows + i * K + k) * factor;
    }
  }
  Units lanes[kLane];
  for (int64_t i = 0; i < kLane; ++i) lanes[i] = bits(sums[i]);
  transpose(lanes);
  Floats total{};
  for (Units lane : lanes) total += floats(lane);
  return total;
}

Floats activated(bool swiglu, Floats x, Floats up) {
  if (swiglu) return x * sigmoid16(x) * up;
  float lanes[kLane];
  store16(lanes, x);
  for (float& lane : lanes) lane *= 0.5f * (1 + std::erf(lane * float(M_SQRT1_2)));
  return load16(lanes);
}

// to = factor · from, turned by the angles of its position if there are some.
template <typename T>
void turned(const T* from, const float* cos, const float* sin, int64_t d, float factor, T* to) {
  if (!cos) {
    for (int64_t i = 0; i < d; i += 16) store16(to + i, factor * load16(from + i));
    return;
  }
  int64_t half = d / 2;
  for (int64_t i = 0; i < half; i += 16) {
    Floats x = load16(from + i), y = load16(from + half + i);
    store16(to + i, factor * (x * load16(cos + i) - y * load16(sin + i)));
    store16(to + half + i, factor * (y * load16(cos + half + i) + x * load16(sin + half + i)));
  }
}

// One query over `held` keys and values (held × d): softmax(q kᵀ) v. Room for keys is in sixteens.
template <typename T>
void attend(const T* q, const T* keys, const T* values, int64_t held, int64_t d, T* out) {
  int64_t padded = round_up(held, kLane);
  float* scores = scratch<float>(0, padded);
  for (int64_t j = 0; j < padded; j += kLane) store16(scores + j, dots16(keys + j * d, q, d));
  float most = largest(scores, held);
  Floats sums{};
  for (int64_t j = 0; j < padded; j += kLane) {
    Floats e = first16(exp16(load16(scores + j) - most), held - j);
    store16(scores + j, e);
    sums += e;
  }
  float share = 1 / sum_of(sums);
  for (int64_t i = 0; i < d; i += 16) {
    Floats sum{};
    for (int64_t j = 0; j < held; ++j) sum += scores[j] * load16(values + j * d + i);
    store16(out + i, sum * share);
  }
}

// Calls work(T{}) for the one type of activations and weights.
template <typename Work>
void with_one_type(const at::Tensor& x, const at::Tensor& weights, Work work) {
  TORCH_CHECK(x.scalar_type() == weights.scalar_type(), "types differ");
  with_type(x, work);
}

}  // namespace

// x (…, K) times the transpose of a weight matrix (N × K).
at::Tensor few_rows_linear(const at::Tensor& x, const at::Tensor& weight) {
  int64_t N = weight.size(0), K = weight.size(1), rows = x.numel() / K;
  auto sizes = x.sizes().vec();
  sizes.back() = N;
  auto y = at::empty(sizes, x.options());
  with_one_type(x, weight, [&](auto type) {
    using T = decltype(type);
    const T *from = x.const_data_ptr<T>(), *w = weight.const_data_ptr<T>();
    T* to = y.mutable_data_ptr<T>();
    share(N / kLane, kLane * K * int64_t(sizeof(T)), [&](int64_t block) {
      for (int64_t r = 0; r < rows; ++r) {
        store16(to + r * N + block * kLane, dots16(w + block * kLane * K, from + r * K, K));
      }
    });
  });
  return y;
}

// As experts_forward. Rows of one expert share the reading of its weights.
at::Tensor few_rows_experts(const at::Tensor& x, const at::Tensor& ids, const at::Tensor& gates,
                            const at::Tensor& up, const at::Tensor& down, bool swiglu) {
  int64_t E = up.size(0), X = up.size(1), D = up.size(2), F = down.size(2), K = ids.size(1);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const float* gate = gates.const_data_ptr<float>();
  std::vector<int64_t> pairs(size_t(ids.numel()));  // (token, slot), sorted by expert
  std::iota(pairs.begin(), pairs.end(), 0);
  for (int64_t p : pairs) TORCH_CHECK_INDEX(id[p] >= 0 && id[p] < E, "expert ", id[p], " of ", E);
  std::stable_sort(pairs.begin(), pairs.end(), [&](auto a, auto b) { return id[a] < id[b]; });
  std::vector<size_t> first;  // pair with which each used expert begins; at last their number
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (!i || id[pairs[i]] != id[pairs[i - 1]]) first.push_back(i);
  }
  int64_t used = int64_t(first.size());
  first.push_back(pairs.size());
  auto y = at::empty(x.sizes(), x.options());
  float* a = scratch<float>(1, ids.numel() * F);
  float* o = scratch<float>(2, ids.numel() * D);
  with_one_type(x, up, [&](auto type) {
    using T = decltype(type);
    const T *from = x.const_data_ptr<T>(), *w_up = up.const_data_ptr<T>(),
            *w_down = down.const_data_ptr<T>();
    // Calls work(pair, expert, column) for sixteen of N columns of each used expert.
    auto each = [&](int64_t N, int64_t bytes, auto work) {
      share(used * N / kLane, bytes, [&](int64_t task) {
        size_t expert = size_t(task / (N / kLane));
        for (size_t i = first[expert]; i < first[expert + 1]; ++i) {
          work(pairs[i], id[pairs[i]], task % (N / kLane) * kLane);
        }
      });
    };
    each(F, kLane * D * X / F * int64_t(sizeof(T)), [&](int64_t p, int64_t expert, int64_t column) {
      const T *row = from + p / K * D, *w = w_up + (expert * X + column) * D;
      Floats h = dots16(w, row, D), other = swiglu ? dots16(w + F * D, row, D) : Floats{};
      store16(a + p * F + column, gate[p] * activated(swiglu, h, other));
    });
    each(D, kLane * F * int64_t(sizeof(T)), [&](int64_t p, int64_t expert, int64_t column) {
      store16(o + p * D + column, dots16(w_down + (expert * D + column) * F, a + p * F, F));
    });
    T* to = y.mutable_data_ptr<T>();
    for (int64_t t = 0; t < x.size(0); ++t) {
      for (int64_t i = 0; i < D; i += 16) {
        Floats sum{};
        for (int64_t p = t * K; p < (t + 1) * K; ++p) sum += load16(o + p * D + i);
        store16(to + t * D + i, sum);
      }
    }
  });
  return y;
}

// Appends one key and one value (B, 1, G, d), turned by their angles (B or 1, 1, d), to the `held`
// in the buffers (B, G, room, d), and returns what the queries (B, 1, H, d) see in them.
at::Tensor attend_one(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
                      at::Tensor& keys, at::Tensor& values, int64_t held) {
  int64_t B = q.size(0), H = q.size(2), G = k.size(2), d = q.size(3), room = keys.size(2);
  TORCH_CHECK(held < room && room % kLane == 0, "no room for a key");
  TORCH_CHECK(!cos || (cos->is_contiguous() && sin->is_contiguous()), "angles have gaps");
  auto y = at::empty(q.sizes(), q.options());
  const float* angle_cos = cos ? cos->const_data_ptr<float>() : nullptr;
  const float* angle_sin = sin ? sin->const_data_ptr<float>() : nullptr;
  int64_t step = cos && cos->size(0) > 1 ? d : 0;
  with_one_type(q, keys, [&](auto type) {
    using T = decltype(type);
    const T *queries = q.const_data_ptr<T>(), *key = k.const_data_ptr<T>(),
            *value = v.const_data_ptr<T>();
    T *all_keys = keys.mutable_data_ptr<T>(), *all_values = values.mutable_data_ptr<T>(),
      *out = y.mutable_data_ptr<T>();
    share(B * G, held * d * 2 * int64_t(sizeof(T)) + 1, [&](int64_t i) {
      const float* at_cos = angle_cos ? angle_cos + i / G * step : nullptr;
      const float* at_sin = angle_sin ? angle_sin + i / G * step : nullptr;
      T *own_keys = all_keys + i * room * d, *own_values = all_values + i * room * d;
      turned(key + i * d, at_cos, at_sin, d, 1.0f, own_keys + held * d);
      copy_row(own_values + held * d, value + i * d, d);
      T* query = scratch<T>(3, d);
      for (int64_t head = i * (H / G); head < (i + 1) * (H / G); ++head) {
        turned(queries + head * d, at_cos, at_sin, d, 1 / std::sqrt(float(d)), query);
        attend(query, own_keys, own_values, held + 1, d, out + head * d);
      }
    });
  });
  return y;
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def("few_rows_linear(Tensor x, Tensor weight) -> Tensor");
  m.def(
      "few_rows_experts(Tensor x, Tensor ids, Tensor gates, Tensor up, Tensor down, bool swiglu) "
      "-> Tensor");
  m.def(
      "attend_one(Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin, Tensor(a!) keys, "
      "Tensor(b!) values, int held) -> Tensor");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("few_rows_linear", &plait::few_rows_linear);
  m.impl("few_rows_experts", &plait::few_rows_experts);
  m.impl("attend_one", &plait::attend_one);
}
