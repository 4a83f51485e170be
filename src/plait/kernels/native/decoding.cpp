// Decoding: few rows at a time and no gradients. Weights are read once, as they lie: packing them
// would cost more than the products. What is small stays on one thread.
#include <ATen/core/List.h>
#include <torch/library.h>

#include <cmath>
#include <numeric>
#include <thread>

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

// Rows that are read at once. On plain vectors it is one: a processor foresees by itself what is
// read in order, and two rows in turn took a quarter longer.
constexpr int64_t kAtOnce = kLanesOnly ? 1 : kLane;

// The dot products of x (K) with sixteen rows (16 × K) that follow each other.
template <typename W, typename T>
[[gnu::always_inline]] inline Floats dots16(const W* rows, const T* x, int64_t K) {
  Floats sums[kLane] = {};
  for (int64_t first = 0; first < kLane; first += kAtOnce) {
    Floats part[kAtOnce] = {};
    for (int64_t k = 0; k < K; k += 16) {
      Floats factor = load16(x + k);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kAtOnce; ++i) {
        if (!kLanesOnly) __builtin_prefetch(rows + (kLane + i) * K + k);
        part[i] += load16(rows + (first + i) * K + k) * factor;
      }
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kAtOnce; ++i) sums[first + i] = part[i];
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
template <typename From, typename To>
void turned(const From* from, const float* cos, const float* sin, int64_t d, float factor, To* to) {
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
template <typename T, typename Held>
void attend(const T* q, const Held* keys, const Held* values, int64_t held, int64_t d, T* out) {
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

// Appends the key and the value (d) of one head, turned by their angles, to the `held` that are
// there, and writes what its queries (count × d) see in them. They are turned in slot 3 of scratch.
template <typename T, typename Held>
void attend_group(const T* queries, int64_t count, const T* key, const T* value, const float* cos,
                  const float* sin, Held* keys, Held* values, int64_t held, int64_t d, T* out) {
  turned(key, cos, sin, d, 1.0f, keys + held * d);
  copy_row(values + held * d, value, d);
  T* query = scratch<T>(3, d);
  for (int64_t head = 0; head < count; ++head) {
    turned(queries + head * d, cos, sin, d, 1 / std::sqrt(float(d)), query);
    attend(query, keys, values, held + 1, d, out + head * d);
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
      int64_t first = i * (H / G) * d, own = i * room * d;
      attend_group(queries + first, H / G, key + i * d, value + i * d, at_cos, at_sin,
                   all_keys + own, all_values + own, held, d, out + first);
    });
  });
  return y;
}

namespace {

// The threads of one token. One of them leads and does in order what is small; what it shares is
// done by those that are awake, and none is waited for that has not begun: on a busy machine some
// sleep.
class Crew {
 public:
  // Calls work(i) for i below `count`, each of which reads `bytes`.
  template <typename Work>
  void share(int64_t count, int64_t bytes, const Work& work) {
    int64_t each = std::max<int64_t>(1, kTask / bytes), tasks = (count + each - 1) / each;
    auto task = [&](int64_t n) {
      for (int64_t i = n * each; i < std::min(count, (n + 1) * each); ++i) work(i);
    };
    work_ = &task;
    call_ = [](const void* of, int64_t n) { (*static_cast<const decltype(task)*>(of))(n); };
    unfinished_.store(tasks, std::memory_order_relaxed);
    open_.store(tasks, std::memory_order_release);
    while (take()) {
    }
    for (int64_t tries = 0; unfinished_.load(std::memory_order_acquire); ++tries) rest(tries);
  }

  // Runs lead(), with the other threads at its call.
  template <typename Lead>
  void run(const Lead& lead) {
    int64_t threads = at::get_num_threads();
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t) {
      if (begin == 0) {
        Ended ended{over_};
        lead();
      }
      for (int64_t tries = 0; !over_.load(std::memory_order_acquire); ++tries) {
        if (take()) tries = 0;
        rest(tries);
      }
    });
  }

 private:
  static constexpr int64_t kTask = 64 << 10;

  // A task that is taken keeps the leader waiting, so what it is called with stays.
  bool take() {
    int64_t left = open_.load(std::memory_order_acquire);
    while (left > 0) {
      if (open_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) {
        call_(work_, left - 1);
        unfinished_.fetch_sub(1, std::memory_order_release);
        return true;
      }
    }
    return false;
  }

  // However the leader ends, the others do too.
  struct Ended {
    std::atomic<bool>& over;
    ~Ended() { over.store(true, std::memory_order_release); }
  };

  static void rest(int64_t tries) {
    if (tries > 1000) std::this_thread::yield();
  }

  const void* work_ = nullptr;
  void (*call_)(const void*, int64_t) = nullptr;
  alignas(64) std::atomic<int64_t> open_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  alignas(64) std::atomic<bool> over_{false};
};

// y = x / root mean square, times weight; D a multiple of 16.
template <typename W>
void norm(const float* x, const W* weight, float eps, int64_t D, float* y) {
  Floats squares{};
  for (int64_t i = 0; i < D; i += 16) squares += load16(x + i) * load16(x + i);
  float factor = 1.0f / std::sqrt(sum_of(squares) / float(D) + eps);
  for (int64_t i = 0; i < D; i += 16) store16(y + i, load16(x + i) * factor * load16(weight + i));
}

template <typename W>
float dot(const W* row, const float* x, int64_t K) {
  Floats sum{};
  for (int64_t k = 0; k < K; k += 16) sum += load16(row + k) * load16(x + k);
  return sum_of(sum);
}

struct Gating {
  int64_t top_k;
  bool sigmoid, renormalise;
  float scale;
};

// As `plait.model.routing.choose`, for one token: logits (E) become scores, `ids` and `gates` the
// best of them. `bias` (E) counts for choosing alone.
template <typename W>
void choose(float* logits, const W* bias, int64_t E, Gating how, int64_t* ids, float* gates) {
  float most = *std::max_element(logits, logits + E), sum = 0;
  for (int64_t e = 0; e < E; ++e) {
    logits[e] = how.sigmoid ? 1 / (1 + std::exp(-logits[e])) : std::exp(logits[e] - most);
    sum += logits[e];
  }
  if (!how.sigmoid) scale_row(logits, 1 / sum, E);
  float* rank = scratch<float>(4, E);
  for (int64_t e = 0; e < E; ++e) rank[e] = logits[e] + (bias ? load(bias[e]) : 0);
  float kept = 0;
  for (int64_t i = 0; i < how.top_k; ++i) {
    ids[i] = std::max_element(rank, rank + E) - rank;
    kept += gates[i] = logits[ids[i]];
    rank[ids[i]] = -INFINITY;
  }
  float factor = how.renormalise ? how.scale / std::max(kept, 1e-20f) : how.scale;
  scale_row(gates, factor, how.top_k);
}

// What one depth is made of, in the order of `plait.kernels.whole_token.Depth`.
enum Part { kAttentionNorm, kQuery, kKey, kValue, kOutput, kQueryNorm, kKeyNorm, kExpertNorm,
            kRouter, kBias, kUp, kDown, kParts };

}  // namespace

// The logits (V) after one more token of one sequence, whose keys and values are appended to the
// `held` in the buffers (1, G, room, d) of each depth. `parts` has kParts tensors for each depth,
// some of which may be absent; cos and sin (room, d) are the angles of all places.
at::Tensor decode_token(int64_t token, const at::Tensor& embedding,
                        const c10::List<std::optional<at::Tensor>>& parts,
                        const at::Tensor& final_norm, const at::Tensor& head,
                        const at::Tensor& cos, const at::Tensor& sin, at::TensorList keys,
                        at::TensorList values, int64_t held, double eps,
                        bool swiglu, int64_t top_k, bool sigmoid, bool renormalise, double scale) {
  int64_t depths = int64_t(keys.size()), D = embedding.size(1), V = head.size(0);
  TORCH_CHECK(int64_t(parts.size()) == depths * kParts, "parts are missing");
  TORCH_CHECK_INDEX(token >= 0 && token < embedding.size(0), "token ", token);
  auto logits = at::empty({V}, embedding.options().dtype(at::kFloat));
  with_type(embedding, [&](auto type) {
    using W = decltype(type);
    int64_t G = keys[0].size(1), room = keys[0].size(2), d = keys[0].size(3);
    TORCH_CHECK(held < room && room % kLane == 0, "no room for a key");
    TORCH_CHECK(held < cos.size(0) && held < sin.size(0), "angles are missing");
    auto sized = [&](int64_t depth, Part part, int64_t dimension) {
      std::optional<at::Tensor> found = parts.get(size_t(depth * kParts + part));
      return found ? found->size(dimension) : 0;
    };
    std::vector<const W*> weights(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      std::optional<at::Tensor> part = parts.get(i);
      if (part) weights[i] = part->const_data_ptr<W>();
    }
    int64_t queries = sized(0, kQuery, 0), E = 1, F = 0;
    for (int64_t l = 0; l < depths; ++l) {
      E = std::max(E, sized(l, kUp, 0));
      F = std::max(F, sized(l, kDown, 2));
    }
    int64_t qkv = queries + 2 * G * d, used = std::max<int64_t>(1, top_k);
    float *x = scratch<float>(5, D), *h = scratch<float>(6, D), *q = scratch<float>(7, qkv),
          *attended = scratch<float>(8, queries), *scores = scratch<float>(9, E),
          *gates = scratch<float>(10, used), *a = scratch<float>(11, used * F),
          *o = scratch<float>(13, used * D), *out = logits.mutable_data_ptr<float>();
    int64_t* ids = scratch<int64_t>(12, used);
    const float *at_cos = cos.const_data_ptr<float>() + held * d,
                *at_sin = sin.const_data_ptr<float>() + held * d;
    constexpr int64_t each = kLane * int64_t(sizeof(W));  // bytes of a column of sixteen rows
    Crew crew;
    crew.run([&] {
      copy_row(x, embedding.const_data_ptr<W>() + token * D, D);
      for (int64_t l = 0; l < depths; ++l) {
        const W* const* part = weights.data() + l * kParts;
        norm(x, part[kAttentionNorm], float(eps), D, h);
        crew.share(qkv / kLane, each * D, [&](int64_t block) {
          int64_t row = block * kLane, key = row - queries, value = key - G * d;
          const W* w = key < 0     ? part[kQuery] + row * D
                       : value < 0 ? part[kKey] + key * D
                                   : part[kValue] + value * D;
          store16(q + row, dots16(w, h, D));
        });
        float *k = q + queries, *v = k + G * d;
        if (part[kQueryNorm]) {
          int64_t whole = sized(l, kQueryNorm, 0), of_keys = sized(l, kKeyNorm, 0);
          for (int64_t i = 0; i < queries; i += whole) {
            norm(q + i, part[kQueryNorm], float(eps), whole, q + i);
          }
          for (int64_t i = 0; i < G * d; i += of_keys) {
            norm(k + i, part[kKeyNorm], float(eps), of_keys, k + i);
          }
        }
        W *all_keys = keys[size_t(l)].template mutable_data_ptr<W>(),
          *all_values = values[size_t(l)].template mutable_data_ptr<W>();
        int64_t heads = queries / d / G;
        crew.share(G, 2 * (held + 1) * d * int64_t(sizeof(W)), [&](int64_t g) {
          attend_group(q + g * heads * d, heads, k + g * d, v + g * d, at_cos, at_sin,
                       all_keys + g * room * d, all_values + g * room * d, held, d,
                       attended + g * heads * d);
        });
        crew.share(D / kLane, each * queries, [&](int64_t block) {
          float* to = x + block * kLane;
          const W* w = part[kOutput] + block * kLane * queries;
          store16(to, load16(to) + dots16(w, attended, queries));
        });

        norm(x, part[kExpertNorm], float(eps), D, h);
        int64_t experts = sized(l, kUp, 0), X = sized(l, kUp, 1), inner = sized(l, kDown, 2);
        int64_t chosen = 1;
        ids[0] = 0, gates[0] = 1;
        if (part[kRouter]) {
          crew.share(experts, D * int64_t(sizeof(W)),
                     [&](int64_t e) { scores[e] = dot(part[kRouter] + e * D, h, D); });
          chosen = top_k;
          choose(scores, part[kBias], experts, {top_k, sigmoid, renormalise, float(scale)}, ids,
                 gates);
        }
        crew.share(chosen * inner / kLane, each * D * X / inner, [&](int64_t block) {
          int64_t i = block / (inner / kLane), row = block % (inner / kLane) * kLane;
          const W* w = part[kUp] + (ids[i] * X + row) * D;
          Floats z = dots16(w, h, D), other = swiglu ? dots16(w + inner * D, h, D) : Floats{};
          store16(a + i * inner + row, gates[i] * activated(swiglu, z, other));
        });
        crew.share(chosen * D / kLane, each * inner, [&](int64_t block) {
          int64_t i = block / (D / kLane), row = block % (D / kLane) * kLane;
          const W* w = part[kDown] + (ids[i] * D + row) * inner;
          store16(o + i * D + row, dots16(w, a + i * inner, inner));
        });
        for (int64_t i = 0; i < chosen; ++i) add_row(x, o + i * D, D);
      }
      norm(x, final_norm.const_data_ptr<W>(), float(eps), D, h);
      const W* w = head.const_data_ptr<W>();
      crew.share(V / kLane, each * D, [&](int64_t block) {
        store16(out + block * kLane, dots16(w + block * kLane * D, h, D));
      });
    });
  });
  return logits;
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
  m.def(
      "decode_token(int token, Tensor embedding, Tensor?[] parts, Tensor final_norm, Tensor head, "
      "Tensor cos, Tensor sin, Tensor(a!)[] keys, Tensor(b!)[] values, int held, float eps, "
      "bool swiglu, int top_k, bool sigmoid, bool renormalise, float scale) -> Tensor");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("few_rows_linear", &plait::few_rows_linear);
  m.impl("few_rows_experts", &plait::few_rows_experts);
  m.impl("attend_one", &plait::attend_one);
  m.impl("decode_token", &plait::decode_token);
}
