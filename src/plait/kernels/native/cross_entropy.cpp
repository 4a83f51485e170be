// The head and its loss in chunks of tokens. Of a chunk's logits, each task makes 128 rows, block by
// block of the vocabulary, and keeps their exponentials, relative to the largest logit until then.
// Once the sums are known it scales them to the logits' gradient and multiplies that by the weights.
// Then tasks over the vocabulary add up the gradient of the weights in float32.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "products.h"
#include "vectors.h"

namespace plait {
namespace {

constexpr int64_t kRows = 128;
constexpr int64_t kColumns = 256;  // of the vocabulary, in one go
constexpr int64_t kOutputs = 128;  // rows of the weight gradient in one task
constexpr int64_t kChunk = 1024;   // tokens whose logits exist at a time

std::vector<int64_t> steps(int64_t end, int64_t step) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < end; i += step) all.push_back(i);
  return all;
}

template <typename T, typename W>
struct Head {
  int64_t tokens, D, V;
  const T* h;
  const W* weight;
  const int64_t* targets;
  float scale;
  bool gradient;
  float* losses;
  T* dh;
  W* dweight;
  T* scoring;  // weights packed for logits = h · weightᵀ
  T* summing;  // blocks of weights packed for dh = dlogits · weight

  void pack_weights() const {
    run(steps(V, kColumns), [&](int64_t v) {
      int64_t columns = std::min(kColumns, V - v);
      pack_transposed(weight + v * D, D, columns, scoring + v * D);
      if (gradient) {
        pack([&](int64_t k) { return weight + (v + k) * D; }, columns, D, summing + v * D);
      }
    });
  }

  // From one token's row to the next: not a power of two, whose multiples share cache sets.
  int64_t stride() const { return V + kGranule; }

  // One task: losses of up to 128 tokens from `first` on; their dh, and their dlogits in the place
  // that is given for exponentials.
  void rows(int64_t first, int64_t count, T* exponentials) const {
    int64_t blocks = (V + kColumns - 1) / kColumns;
    float* block = scratch<float>(0, kRows * kColumns);
    float* most_until = scratch<float>(4, kRows * blocks);
    T* padded_h = scratch<T>(1, kRows * D);
    float* dh_block = scratch<float>(2, kRows * D);
    T* dlogits = scratch<T>(3, kRows * kColumns);  // packed: rows V apart would share cache sets
    std::memcpy(padded_h, h + first * D, size_t(count * D) * sizeof(T));
    float most[kRows], sum[kRows] = {}, hit[kRows] = {};
    std::fill(most, most + kRows, -std::numeric_limits<float>::infinity());
    int64_t padded = round_up(count, 16);
    for (int64_t v = 0; v < V; v += kColumns) {
      int64_t columns = std::min(kColumns, V - v);
      product(padded, columns, D, padded_h, D, scoring + v * D, block, columns, false);
      for (int64_t r = 0; r < count; ++r) {
        const float* x = block + r * columns;
        float before = most[r];
        most[r] = std::max(before, largest(x, columns));
        most_until[r * blocks + v / kColumns] = most[r];
        Floats sums{};
        for (int64_t i = 0; i < columns; i += 16) {
          Floats e = exp16(load16(x + i) - most[r]);
          sums += e;
          if (gradient) store16(exponentials + r * stride() + v + i, e);
        }
        sum[r] = sum[r] * std::exp(before - most[r]) + sum_of(sums);
        int64_t target = targets[first + r] - v;
        if (target >= 0 && target < columns) hit[r] = x[target];
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      losses[first + r] = targets[first + r] < 0 ? 0 : most[r] + std::log(sum[r]) - hit[r];
    }
    if (!gradient) return;
    for (int64_t v = 0; v < V; v += kColumns) {
      int64_t columns = std::min(kColumns, V - v);
      for (int64_t r = 0; r < count; ++r) {
        T* e = exponentials + r * stride() + v;
        T* d = dlogits + r * columns;
        int64_t target = targets[first + r] - v;
        float factor = scale / sum[r] * std::exp(most_until[r * blocks + v / kColumns] - most[r]);
        if (targets[first + r] < 0) factor = 0;
        for (int64_t i = 0; i < columns; i += 16) store16(d + i, load16(e + i) * factor);
        if (target >= 0 && target < columns) store(d[target], load(d[target]) - scale);
        copy_row(e, d, columns);
      }
      product(padded, D, columns, dlogits, columns, summing + v * D, dh_block, D, v > 0);
    }
    for (int64_t r = 0; r < count; ++r) copy_row(dh + (first + r) * D, dh_block + r * D, D);
  }

  // One task: rows [v, v + count) of the weight gradient, from a chunk's dlogits and packed h.
  void weights(int64_t v, int64_t count, int64_t chunk, const T* dlogits, const T* packed_h,
               float* sums, bool add) const {
    int64_t padded = round_up(chunk, kGranule);
    T* transposed = scratch<T>(0, kOutputs * padded);
    transpose_rows<T>([&](int64_t r) { return dlogits + r * stride() + v; }, chunk, count, transposed);
    product(count, D, padded, transposed, padded, packed_h, sums + v * D, D, add);
  }

  void operator()() const {
    int64_t chunk = std::min(round_up(tokens, kRows), kChunk);
    constexpr bool in_place = std::is_same_v<W, float>;
    auto type = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
    auto dlogits = at::empty({gradient ? chunk : 0, stride()}, type);
    auto packed_h = at::empty({gradient ? chunk : 0, D}, type);
    auto sums = at::empty({gradient && !in_place ? V : 0, D}, at::kFloat);
    T* dlogits_ = dlogits.template mutable_data_ptr<T>();
    T* packed_h_ = packed_h.template mutable_data_ptr<T>();
    float* total = sums.template mutable_data_ptr<float>();
    if constexpr (in_place) total = dweight;
    pack_weights();
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      int64_t size = std::min(chunk, tokens - begin);
      run(steps(size, kRows), [&](int64_t r) {
        rows(begin + r, std::min(kRows, size - r), dlogits_ + r * stride());
      });
      if (!gradient) continue;
      pack([&](int64_t k) { return h + (begin + k) * D; }, size, D, packed_h_);
      run(steps(V, kOutputs), [&](int64_t v) {
        weights(v, std::min(kOutputs, V - v), size, dlogits_, packed_h_, total,
                begin > 0);
      });
    }
    if (gradient && !in_place) {
      run(steps(V, kOutputs), [&](int64_t v) {
        copy_row(dweight + v * D, total + v * D, std::min(kOutputs, V - v) * D);
      });
    }
  }
};

}  // namespace

// Losses in nats (0 where the target is negative), and `scale` times the gradients of their sum.
std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& h,
                                                                    const at::Tensor& weight,
                                                                    const at::Tensor& targets,
                                                                    double scale, bool gradient) {
  int64_t tokens = h.size(0), D = h.size(1), V = weight.size(0);
  TORCH_CHECK(D % kGranule == 0 && V % kGranule == 0 && weight.size(1) == D && tokens > 0);
  TORCH_CHECK(h.is_contiguous() && weight.is_contiguous() && targets.is_contiguous());
  const int64_t* target = targets.const_data_ptr<int64_t>();
  TORCH_CHECK_INDEX(std::all_of(target, target + tokens, [&](int64_t t) { return t < V; }),
                    "a target lies outside the vocabulary of ", V);
  auto losses = at::empty({tokens}, h.options().dtype(at::kFloat));
  auto dh = at::empty({gradient ? tokens : 0, D}, h.options());
  auto dweight = at::empty({gradient ? V : 0, D}, weight.options());
  with_types(h, weight, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    auto scoring = at::empty({V, D}, h.options());
    auto summing = at::empty({gradient ? V : 0, D}, h.options());
    Head<T, W>{tokens, D, V, h.const_data_ptr<T>(), weight.const_data_ptr<W>(), target,
               float(scale), gradient, losses.mutable_data_ptr<float>(), dh.mutable_data_ptr<T>(),
               dweight.mutable_data_ptr<W>(), scoring.mutable_data_ptr<T>(),
               summing.mutable_data_ptr<T>()}();
  });
  return {losses, dh, dweight};
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def("linear_cross_entropy(Tensor h, Tensor weight, Tensor targets, float scale, bool gradient) "
        "-> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("linear_cross_entropy", &plait::linear_cross_entropy);
}
