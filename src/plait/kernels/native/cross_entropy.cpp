// The head and its loss in chunks of tokens. Tasks over tokens go through the vocabulary block by
// block: logits, their exponentials relative to the largest logit so far, and the gradient of h so far,
// rescaled when a larger logit comes (as flash attention does, arXiv 2205.14135). The exponentials are
// kept; tasks over the vocabulary make the chunk's part of the weights' gradient of them.
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "products.h"

namespace plait {
namespace {

constexpr int64_t kRows = 512;     // tokens of one task at the most
constexpr int64_t kBlock = 128;    // tokens and
constexpr int64_t kDepth = 512;    // tokens in one product of the weight gradient
constexpr int64_t kPart = 64;      // of them, whose gradients are made and transposed in one go
constexpr int64_t kColumns = 256;  // columns of the vocabulary in one product
constexpr int64_t kChunk = 1024;   // tokens whose logits exist at a time
constexpr int64_t kCache = 1 << 19;  // bytes that a task's h and dh may take of a cache of 2 MB

// Asks for the part of n numbers that falls to one of `parts`, to be near when they are needed.
template <typename T>
void prefetch(const T* from, int64_t n, int64_t part, int64_t parts) {
  const char* bytes = reinterpret_cast<const char*>(from);
  int64_t size = n * int64_t(sizeof(T)), end = size * (part + 1) / parts;
  for (int64_t i = size * part / parts / 64 * 64; i < end; i += 64) __builtin_prefetch(bytes + i, 0, 2);
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
  Packed<T>* scoring;  // weights packed for logits = h · weightᵀ
  Packed<T>* summing;  // blocks of weights packed for dh = dlogits · weight

  void pack_weights() const {
    run<T>(steps(V, kColumns), [&](int64_t v) {
      int64_t columns = std::min(kColumns, V - v);
      pack_transposed<T>(weight + v * D, D, columns, scoring + v * D);
      if (gradient) {
        pack<T>([&](int64_t k) { return weight + (v + k) * D; }, columns, D, summing + v * D);
      }
    });
  }

  int64_t blocks() const { return (V + kColumns - 1) / kColumns; }

  // Tokens of one task.
  int64_t height() const {
    int64_t bytes = D * int64_t(kPieces<T> * sizeof(Piece<T>) + sizeof(float));
    return std::clamp(kCache / bytes / kBlock * kBlock, kBlock, kRows);
  }

  // One task: losses and dh of `count` tokens from `first` on; their exponentials, one block of
  // columns after the other `chunk` rows apart, and each block's factor that makes gradients of them.
  void rows(int64_t first, int64_t count, int64_t chunk, T* exponentials, float* factors) const {
    int64_t block_stride = stride_of<float>(kColumns), dh_stride = stride_of<float>(D);
    auto h_rows = Rows<T>::in_scratch(0, height(), D);
    float* dh_rows = scratch<float>(1, height() * dh_stride);
    float* logits = scratch<float>(2, kBlock * block_stride);
    auto block = Rows<T>::in_scratch(3, kBlock, kColumns);
    float most[kRows], sum[kRows] = {}, hit[kRows] = {};
    std::fill(most, most + kRows, -std::numeric_limits<float>::infinity());
    for (int64_t r = 0; r < count; ++r) h_rows.copy(r, h + (first + r) * D);
    for (int64_t v = 0; v < V; v += kColumns) {
      int64_t columns = std::min(kColumns, V - v), ahead = std::min(v + kColumns, V) * D;
      for (int64_t begin = 0; begin < count; begin += kBlock) {
        int64_t end = std::min(begin + kBlock, count), padded = round_up(end - begin, 16);
        product<T>(padded, columns, D, h_rows.from(begin), scoring + v * D, logits, block_stride,
                   false);
        for (int64_t r = begin; r < end; ++r) {
          const float* x = logits + (r - begin) * block_stride;
          float before = most[r], largest_here = largest(x, columns);
          if (largest_here > before) {
            most[r] = largest_here;
            float shrinks = std::exp(before - largest_here);
            sum[r] *= shrinks;
            if (gradient && v) scale_row(dh_rows + r * dh_stride, shrinks, D);
          }
          Floats sums{};
          for (int64_t i = 0; i < columns; i += 16) {
            Floats e = exp16(load16(x + i) - most[r]);
            sums += e;
            if (gradient) {
              store16(exponentials + v * chunk + r * kColumns + i, e);
              block.put(r - begin, i, e);
            }
          }
          sum[r] += sum_of(sums);
          if (gradient) factors[r * blocks() + v / kColumns] = most[r];
          int64_t target = targets[first + r] - v;
          if (target >= 0 && target < columns) hit[r] = x[target];
          prefetch(scoring + ahead, kColumns * D, r, count);
          if (gradient) prefetch(summing + ahead, kColumns * D, r, count);
        }
        if (gradient) {
          product<T>(padded, D, columns, block, summing + v * D, dh_rows + begin * dh_stride,
                     dh_stride, v > 0);
        }
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      int64_t target = targets[first + r];
      losses[first + r] = target < 0 ? 0 : most[r] + std::log(sum[r]) - hit[r];
      if (!gradient) continue;
      float factor = target < 0 ? 0 : scale / sum[r];
      for (int64_t i = 0; i < blocks(); ++i) {
        float& most_until = factors[r * blocks() + i];
        most_until = factor * std::exp(most_until - most[r]);
      }
      const float* from = dh_rows + r * dh_stride;
      const W* own = weight + std::max<int64_t>(target, 0) * D;
      float subtracted = target < 0 ? 0 : scale;
      for (int64_t i = 0; i < D; i += 16) {
        store16(dh + (first + r) * D + i, load16(from + i) * factor - load16(own + i) * subtracted);
      }
    }
  }

  // A block's gradients of the logits of token `first` + r.
  void gradient_row(int64_t v, int64_t columns, int64_t first, int64_t r, const T* exponentials,
                    const float* factors, T* to) const {
    const T* e = exponentials + r * kColumns;
    float factor = factors[r * blocks() + v / kColumns];
    int64_t target = targets[first + r] - v;
    for (int64_t i = 0; i < columns; i += 16) {
      store16(to + i, less16(load16(e + i) * factor, target - i, scale));
    }
  }

  // One task: a block of the weight gradient, from a chunk's exponentials and packed h.
  void weights(int64_t v, int64_t first, int64_t size, const T* exponentials, const float* factors,
               const Packed<T>* packed_h, float* sums) const {
    int64_t columns = std::min(kColumns, V - v), block_stride = stride_of<float>(D);
    T* dlogits = scratch<T>(0, kPart * columns);
    auto by_columns = Columns<T>::in_scratch(1, columns, kDepth);
    float* block = scratch<float>(2, columns * block_stride);
    for (int64_t begin = 0; begin < size; begin += kDepth) {
      int64_t depth = std::min(kDepth, size - begin);
      for (int64_t part = 0; part < depth; part += kPart) {
        int64_t count = std::min(kPart, depth - part);
        for (int64_t i = 0; i < count; ++i) {
          gradient_row(v, columns, first, begin + part + i, exponentials, factors,
                       dlogits + i * columns);
        }
        by_columns.read([&](int64_t i) { return dlogits + i * columns; }, count, columns, part);
      }
      product<T>(columns, D, round_up(depth, kGranule), by_columns, packed_h + begin * D, block,
                 block_stride, begin > 0);
    }
    for (int64_t r = 0; r < columns; ++r) {
      float *to = sums + (v + r) * D, *from = block + r * block_stride;
      first ? add_row(to, from, D) : copy_row(to, from, D);
    }
  }

  void operator()() const {
    int64_t chunk = std::min(tokens, kChunk);
    constexpr bool in_place = std::is_same_v<W, float>;
    auto type = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
    auto exponentials = at::empty({gradient ? blocks() : 0, chunk, kColumns}, type);
    auto factors = at::empty({gradient ? chunk : 0, blocks()}, at::kFloat);
    auto packed_h = packed_room<T>(gradient ? round_up(chunk, kGranule) * D : 0);
    auto sums = at::empty({gradient && !in_place ? V : 0, D}, at::kFloat);
    T* exponentials_ = exponentials.template mutable_data_ptr<T>();
    float* factors_ = factors.template mutable_data_ptr<float>();
    auto* packed_h_ = static_cast<Packed<T>*>(packed_h.mutable_data_ptr());
    float* total = sums.template mutable_data_ptr<float>();
    if constexpr (in_place) total = dweight;
    pack_weights();
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      int64_t size = std::min(chunk, tokens - begin);
      run<T>(steps(size, height()), [&](int64_t r) {
        rows(begin + r, std::min(height(), size - r), chunk, exponentials_ + r * kColumns,
             factors_ + r * blocks());
      });
      if (!gradient) continue;
      run<T>(steps(size, kDepth), [&](int64_t r) {
        pack<T>([&](int64_t k) { return h + (begin + r + k) * D; }, std::min(kDepth, size - r), D,
                packed_h_ + r * D);
      });
      run<T>(steps(V, kColumns), [&](int64_t v) {
        weights(v, begin, size, exponentials_ + v * chunk, factors_, packed_h_, total);
      });
    }
    if (gradient && !in_place) {
      run<T>(steps(V, kColumns), [&](int64_t v) {
        copy_row(dweight + v * D, total + v * D, std::min(kColumns, V - v) * D);
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
    auto scoring = packed_room<T>(V * D), summing = packed_room<T>(gradient ? V * D : 0);
    Head<T, W>{tokens, D, V, h.const_data_ptr<T>(), weight.const_data_ptr<W>(), target,
               float(scale), gradient, losses.mutable_data_ptr<float>(), dh.mutable_data_ptr<T>(),
               dweight.mutable_data_ptr<W>(), static_cast<Packed<T>*>(scoring.mutable_data_ptr()),
               static_cast<Packed<T>*>(summing.mutable_data_ptr())}();
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
