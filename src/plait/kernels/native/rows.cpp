// What is done row by row between the products: the softmax of the loss with its gradient, RMSNorm.
#include <torch/library.h>

#include <cmath>
#include <tuple>

#include "products.h"

namespace plait {
namespace {

// Partial sums over rows are kept for this many groups whatever the number of threads is, so that
// the total does not depend on it.
constexpr int64_t kGroups = 16;

template <typename Work>
void with_type(const at::Tensor& x, Work work) {
  x.scalar_type() == at::kBFloat16 ? work(BFloat16{}) : work(float{});
}

template <typename T>
void cross_entropy_rows(int64_t N, int64_t V, const int64_t* targets, float scale, bool gradient,
                        T* logits, float* losses) {
  int64_t whole = V / 16 * 16;
  at::parallel_for(0, N, 8, [&](int64_t begin, int64_t end) {
    float* e = scratch<float>(0, round_up(V, 16));
    for (int64_t n = begin; n < end; ++n) {
      T* row = logits + n * V;
      if (targets[n] < 0) {
        losses[n] = 0;
        if (gradient) std::memset(row, 0, size_t(V) * sizeof(T));
        continue;
      }
      float most = largest(row, V);
      Floats sums{};
      for (int64_t i = 0; i < whole; i += 16) {
        Floats x = exp16(load16(row + i) - most);
        sums += x;
        store16(e + i, x);
      }
      float sum = sum_of(sums);
      for (int64_t i = whole; i < V; ++i) sum += e[i] = std::exp(load(row[i]) - most);
      losses[n] = std::log(sum) + most - load(row[targets[n]]);
      if (!gradient) continue;
      float factor = scale / sum;
      float hit = e[targets[n]] * factor - scale;
      for (int64_t i = 0; i < whole; i += 16) store16(row + i, load16(e + i) * factor);
      for (int64_t i = whole; i < V; ++i) store(row[i], e[i] * factor);
      store(row[targets[n]], hit);
    }
  });
}

template <typename T>
void norm_forward(int64_t N, int64_t D, const T* x, const float* weight, float eps, T* y,
                  float* scales) {
  at::parallel_for(0, N, 32, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* __restrict from = x + n * D;
      T* __restrict to = y + n * D;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < D; ++i) sum += load(from[i]) * load(from[i]);
      float scale = 1.0f / std::sqrt(sum / float(D) + eps);
      scales[n] = scale;
      for (int64_t i = 0; i < D; ++i) store(to[i], load(from[i]) * scale * weight[i]);
    }
  });
}

template <typename T>
void norm_backward(int64_t N, int64_t D, const T* dy, const T* x, const float* weight,
                   const float* scales, T* dx, float* dweight) {
  std::vector<float> partial(size_t(kGroups * D));
  at::parallel_for(0, kGroups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      float* __restrict sums = partial.data() + group * D;
      for (int64_t n = N * group / kGroups; n < N * (group + 1) / kGroups; ++n) {
        const T* __restrict from = x + n * D;
        const T* __restrict d = dy + n * D;
        T* __restrict to = dx + n * D;
        float scale = scales[n], dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < D; ++i) dot += load(d[i]) * weight[i] * load(from[i]);
        float correction = dot * scale * scale / float(D);
        for (int64_t i = 0; i < D; ++i) {
          float value = load(from[i]), slope = load(d[i]);
          store(to[i], scale * (slope * weight[i] - value * correction));
          sums[i] += slope * value * scale;
        }
      }
    }
  });
  for (int64_t i = 0; i < D; ++i) {
    dweight[i] = 0;
    for (int64_t group = 0; group < kGroups; ++group) dweight[i] += partial[size_t(group * D + i)];
  }
}

}  // namespace

// Losses in nats (0 where the target is negative); with `gradient` the logits become `scale` times
// the gradient of the loss's sum.
at::Tensor cross_entropy_(at::Tensor& logits, const at::Tensor& targets, double scale,
                          bool gradient) {
  auto losses = at::empty(targets.sizes(), logits.options().dtype(at::kFloat));
  const int64_t* target = targets.const_data_ptr<int64_t>();
  TORCH_CHECK_INDEX(std::all_of(target, target + targets.numel(),
                                [&](int64_t t) { return t < logits.size(1); }),
                    "a target lies outside the vocabulary of ", logits.size(1));
  with_type(logits, [&](auto type) {
    using T = decltype(type);
    cross_entropy_rows(logits.size(0), logits.size(1), target, float(scale), gradient,
                       logits.mutable_data_ptr<T>(), losses.mutable_data_ptr<float>());
  });
  return losses;
}

std::tuple<at::Tensor, at::Tensor> rms_norm_forward(const at::Tensor& x, const at::Tensor& weight,
                                                    double eps) {
  auto y = at::empty(x.sizes(), x.options());
  auto scales = at::empty({x.numel() / x.size(-1)}, x.options().dtype(at::kFloat));
  with_type(x, [&](auto type) {
    using T = decltype(type);
    norm_forward(scales.numel(), x.size(-1), x.const_data_ptr<T>(), weight.const_data_ptr<float>(),
                 float(eps), y.mutable_data_ptr<T>(), scales.mutable_data_ptr<float>());
  });
  return {y, scales};
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy, const at::Tensor& x,
                                                     const at::Tensor& weight,
                                                     const at::Tensor& scales) {
  auto dx = at::empty(x.sizes(), x.options());
  auto dweight = at::empty(weight.sizes(), weight.options());
  with_type(x, [&](auto type) {
    using T = decltype(type);
    norm_backward(scales.numel(), x.size(-1), dy.const_data_ptr<T>(), x.const_data_ptr<T>(),
                  weight.const_data_ptr<float>(), scales.const_data_ptr<float>(),
                  dx.mutable_data_ptr<T>(), dweight.mutable_data_ptr<float>());
  });
  return {dx, dweight};
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def("cross_entropy_(Tensor(a!) logits, Tensor targets, float scale, bool gradient) -> Tensor");
  m.def("rms_norm_forward(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor scales) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("cross_entropy_", &plait::cross_entropy_);
  m.impl("rms_norm_forward", &plait::rms_norm_forward);
  m.impl("rms_norm_backward", &plait::rms_norm_backward);
}
