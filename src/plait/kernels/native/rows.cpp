// What is done row by row between the products: the softmax of the loss with its gradient, RMSNorm.
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>

#include "products.h"

namespace plait {
namespace {

// Partial sums over rows are kept for this many groups whatever the number of threads is, so that
// the total does not depend on it.
constexpr int64_t kGroups = 16;
constexpr int64_t kNormBlock = 1 << 14;  // numbers that are summed in float32

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

template <typename X, typename Y>
void norm_forward(int64_t N, int64_t D, const X* x, const float* weight, float eps, Y* y,
                  float* scales) {
  int64_t whole = D / 16 * 16;
  at::parallel_for(0, N, 32, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const X* __restrict from = x + n * D;
      Y* __restrict to = y + n * D;
      Floats squares{};
      for (int64_t i = 0; i < whole; i += 16) squares += load16(from + i) * load16(from + i);
      float sum = sum_of(squares);
      for (int64_t i = whole; i < D; ++i) sum += load(from[i]) * load(from[i]);
      float scale = 1.0f / std::sqrt(sum / float(D) + eps);
      scales[n] = scale;
      for (int64_t i = 0; i < whole; i += 16) {
        store16(to + i, load16(from + i) * scale * load16(weight + i));
      }
      for (int64_t i = whole; i < D; ++i) store(to[i], load(from[i]) * scale * weight[i]);
    }
  });
}

template <typename X, typename Y>
void norm_backward(int64_t N, int64_t D, const Y* dy, const X* x, const float* weight,
                   const float* scales, X* dx, float* dweight) {
  int64_t whole = D / 16 * 16;
  std::vector<float> partial(size_t(kGroups * D));
  at::parallel_for(0, kGroups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      float* __restrict sums = partial.data() + group * D;
      for (int64_t n = N * group / kGroups; n < N * (group + 1) / kGroups; ++n) {
        const X* __restrict from = x + n * D;
        const Y* __restrict d = dy + n * D;
        X* __restrict to = dx + n * D;
        Floats products{};
        for (int64_t i = 0; i < whole; i += 16) {
          products += load16(d + i) * load16(weight + i) * load16(from + i);
        }
        float scale = scales[n], dot = sum_of(products);
        for (int64_t i = whole; i < D; ++i) dot += load(d[i]) * weight[i] * load(from[i]);
        float correction = dot * scale * scale / float(D);
        for (int64_t i = 0; i < whole; i += 16) {
          Floats value = load16(from + i), slope = load16(d + i);
          store16(to + i, scale * (slope * load16(weight + i) - value * correction));
          store16(sums + i, load16(sums + i) + slope * value * scale);
        }
        for (int64_t i = whole; i < D; ++i) {
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

// The root of the sum of squares over all tensors, float32; summed in blocks of a fixed size, so that
// the number of threads does not matter.
at::Tensor total_norm(at::TensorList tensors) {
  struct Block {
    const float* from;
    int64_t size;
  };
  std::vector<Block> blocks;
  for (const auto& tensor : tensors) {
    TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.is_contiguous());
    const float* from = tensor.const_data_ptr<float>();
    for (int64_t i : steps(tensor.numel(), kNormBlock)) {
      blocks.push_back({from + i, std::min(kNormBlock, tensor.numel() - i)});
    }
  }
  std::vector<double> sums(blocks.size());
  at::parallel_for(0, int64_t(blocks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* from = blocks[size_t(b)].from;
      int64_t size = blocks[size_t(b)].size, i = 0;
      Floats lanes[4] = {};
      for (; i + 64 <= size; i += 64) {
        for (int64_t l = 0; l < 4; ++l) lanes[l] += load16(from + i + 16 * l) * load16(from + i + 16 * l);
      }
      double sum = sum_of((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]));
      for (; i < size; ++i) sum += double(from[i]) * from[i];
      sums[size_t(b)] = sum;
    }
  });
  double sum = 0;
  for (double part : sums) sum += part;
  return at::full({}, std::sqrt(sum), at::kFloat);
}

// Every number of all tensors, float32, times a factor.
void scale_(at::TensorList tensors, double factor) {
  struct Block {
    float* from;
    int64_t size;
  };
  std::vector<Block> blocks;
  for (const auto& tensor : tensors) {
    TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.is_contiguous());
    float* from = tensor.mutable_data_ptr<float>();
    for (int64_t i : steps(tensor.numel(), kNormBlock)) {
      blocks.push_back({from + i, std::min(kNormBlock, tensor.numel() - i)});
    }
  }
  at::parallel_for(0, int64_t(blocks.size()), 8, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      scale_row(blocks[size_t(b)].from, float(factor), blocks[size_t(b)].size);
    }
  });
}

std::tuple<at::Tensor, at::Tensor> rms_norm_forward(const at::Tensor& x, const at::Tensor& weight,
                                                    double eps, at::ScalarType out) {
  auto y = at::empty(x.sizes(), x.options().dtype(out));
  auto scales = at::empty({x.numel() / x.size(-1)}, x.options().dtype(at::kFloat));
  with_type(x, [&](auto from) {
    with_type(y, [&](auto to) {
      norm_forward(scales.numel(), x.size(-1), x.const_data_ptr<decltype(from)>(),
                   weight.const_data_ptr<float>(), float(eps), y.mutable_data_ptr<decltype(to)>(),
                   scales.mutable_data_ptr<float>());
    });
  });
  return {y, scales};
}

std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy, const at::Tensor& x,
                                                     const at::Tensor& weight,
                                                     const at::Tensor& scales) {
  auto dx = at::empty(x.sizes(), x.options());
  auto dweight = at::empty(weight.sizes(), weight.options());
  with_type(x, [&](auto from) {
    using X = decltype(from);
    with_type(dy, [&](auto slope) {
      norm_backward(scales.numel(), x.size(-1), dy.const_data_ptr<decltype(slope)>(),
                    x.const_data_ptr<X>(), weight.const_data_ptr<float>(),
                    scales.const_data_ptr<float>(), dx.mutable_data_ptr<X>(),
                    dweight.mutable_data_ptr<float>());
    });
  });
  return {dx, dweight};
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def("cross_entropy_(Tensor(a!) logits, Tensor targets, float scale, bool gradient) -> Tensor");
  m.def("total_norm(Tensor[] tensors) -> Tensor");
  m.def("scale_(Tensor(a!)[] tensors, float factor) -> ()");
  m.def("rms_norm_forward(Tensor x, Tensor weight, float eps, ScalarType out) -> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor scales) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("cross_entropy_", &plait::cross_entropy_);
  m.impl("total_norm", &plait::total_norm);
  m.impl("scale_", &plait::scale_);
  m.impl("rms_norm_forward", &plait::rms_norm_forward);
  m.impl("rms_norm_backward", &plait::rms_norm_backward);
}
