// Experts as tasks: each takes up to 512 rows of one expert through both projections on one thread,
// block by block, so that everything between the products stays in its cache. Weight gradients are
// tasks of their own, one matrix each.
#include <torch/library.h>

#include <numeric>
#include <tuple>

#include "products.h"

namespace plait {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kTaskRows = 512;
constexpr int64_t kFew = 2;  // rows of a task that are not worth packing a matrix

// The normal distribution function, by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7);
// `bell` is exp(−x²/2).
[[gnu::always_inline]] inline Floats normal_cdf(Floats x, Floats bell) {
  Floats z = most_of(x, -x) * 0.70710678f;
  Floats t = 1.0f / (1.0f + 0.3275911f * z);
  Floats p = 1.061405429f * t - 1.453152027f;
  p = ((p * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f;
  Floats tail = 0.5f * p * t * bell;
  return where(x < 0.0f, tail, 1.0f - tail);
}

// a(i, …) receives gate · activation(h) of one row, sixteen columns at a time.
template <typename Sink>
[[gnu::always_inline]] inline void activate(bool swiglu, const float* h, float gate, int64_t F,
                                            Sink a) {
  for (int64_t i = 0; i < F; i += 16) {
    Floats x = load16(h + i);
    if (swiglu) {
      a(i, gate * x * sigmoid16(x) * load16(h + F + i));
    } else {
      a(i, gate * x * normal_cdf(x, exp16(-0.5f * x * x)));
    }
  }
}

// From da (gradient of a) and h of one row: a again, dh, and the gradient of the gate, returned.
template <typename T, typename Sink, typename OtherSink>
[[gnu::always_inline]] inline float activate_backward(bool swiglu, const float* da, const T* h,
                                                      float gate, int64_t F, Sink a,
                                                      OtherSink dh) {
  Floats dgate{};
  for (int64_t i = 0; i < F; i += 16) {
    Floats slope = load16(da + i), x = load16(h + i);
    if (swiglu) {
      Floats up = load16(h + F + i), s = sigmoid16(x), silu = x * s, d = gate * slope;
      dgate += slope * silu * up;
      a(i, gate * silu * up);
      dh(i, d * up * s * (1.0f + x - silu));
      dh(F + i, d * silu);
    } else {
      Floats bell = exp16(-0.5f * x * x), cdf = normal_cdf(x, bell);
      dgate += slope * x * cdf;
      a(i, gate * x * cdf);
      dh(i, gate * slope * (cdf + x * 0.39894228f * bell));
    }
  }
  return sum_of(dgate);
}

struct Task {
  int64_t expert, first, last;
  bool down;
};

// The T·K (token, slot) pairs sorted by expert.
struct Sorted {
  std::vector<int32_t> pairs;  // sorted row -> pair
  std::vector<int32_t> rows;   // pair -> sorted row
  std::vector<int64_t> start;  // expert -> first row
  int64_t K;

  Sorted(const at::Tensor& ids, int64_t experts)
      : pairs(size_t(ids.numel())), rows(pairs.size()), start(size_t(experts) + 1), K(ids.size(1)) {
    const int64_t* id = ids.const_data_ptr<int64_t>();
    for (size_t p = 0; p < pairs.size(); ++p) {
      TORCH_CHECK_INDEX(id[p] >= 0 && id[p] < experts, "expert ", id[p], " of ", experts);
      ++start[size_t(id[p]) + 1];
    }
    std::partial_sum(start.begin(), start.end(), start.begin());
    auto next = start;
    for (size_t p = 0; p < pairs.size(); ++p) {
      rows[p] = int32_t(next[size_t(id[p])]++);
      pairs[size_t(rows[p])] = int32_t(p);
    }
  }

  int64_t token(int64_t row) const { return pairs[size_t(row)] / K; }

  // Row tasks of equal length within an expert, the longest first.
  std::vector<Task> tasks() const {
    std::vector<Task> all;
    for (size_t e = 0; e + 1 < start.size(); ++e) {
      int64_t count = start[e + 1] - start[e], parts = (count + kTaskRows - 1) / kTaskRows;
      for (int64_t i = 0; i < parts; ++i) {
        all.push_back({int64_t(e), start[e] + count * i / parts, start[e] + count * (i + 1) / parts,
                       false});
      }
    }
    return longest_first(std::move(all));
  }

  // One task for each weight matrix of each expert, those without rows included.
  std::vector<Task> weight_tasks() const {
    std::vector<Task> all;
    for (size_t e = 0; e + 1 < start.size(); ++e) {
      for (bool down : {false, true}) all.push_back({int64_t(e), start[e], start[e + 1], down});
    }
    return longest_first(std::move(all));
  }

  static std::vector<Task> longest_first(std::vector<Task> all) {
    std::stable_sort(all.begin(), all.end(), [](const Task& a, const Task& b) {
      return a.last - a.first > b.last - b.first;
    });
    return all;
  }
};

// y[t] = Σ_k o[rows[t, k]]: sums in float32, always in the order of the slots.
template <typename T, typename Out>
void combine(const T* o, const Sorted& sorted, int64_t tokens, int64_t D, Out* y) {
  at::parallel_for(0, tokens, 64, [&](int64_t begin, int64_t end) {
    float* sum = scratch<float>(0, D);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t k = 0; k < sorted.K; ++k) {
        const T* __restrict row = o + int64_t(sorted.rows[size_t(t * sorted.K + k)]) * D;
        if (k == 0) {
          for (int64_t i = 0; i < D; ++i) sum[i] = load(row[i]);
        } else {
          for (int64_t i = 0; i < D; ++i) sum[i] += load(row[i]);
        }
      }
      copy_row(y + t * D, sum, D);
    }
  });
}

// Dot products of one input row with every row of a weight matrix: for tasks of kFew rows.
template <typename T, typename W>
void matrix_times_row(const W* weights, const T* __restrict x, int64_t N, int64_t K, float* out) {
  for (int64_t n = 0; n < N; ++n) {
    const W* __restrict w = weights + n * K;
    float lanes[16] = {};
    for (int64_t k = 0; k < K; k += 16) {
      for (int64_t l = 0; l < 16; ++l) lanes[l] += load(w[k + l]) * load(x[k + l]);
    }
    out[n] = std::accumulate(lanes, lanes + 16, 0.0f);
  }
}

struct Sizes {
  int64_t T, D, E, X, F;
  bool swiglu;
};

template <typename T, typename W>
void forward(const Sizes& s, const Sorted& sorted, const T* x, const float* gates, const W* up,
             const W* down, T* h, T* o) {
  run<T>(sorted.tasks(), [&](const Task& task) {
    const W* up_e = up + task.expert * s.X * s.D;
    const W* down_e = down + task.expert * s.D * s.F;
    if (task.last - task.first <= kFew) {
      float* h_row = scratch<float>(0, s.X);
      T* a_row = scratch<T>(1, s.F);
      float* o_row = scratch<float>(2, s.D);
      for (int64_t row = task.first; row < task.last; ++row) {
        matrix_times_row(up_e, x + sorted.token(row) * s.D, s.X, s.D, h_row);
        activate(s.swiglu, h_row, gates[sorted.pairs[size_t(row)]], s.F,
                 [&](int64_t i, Floats a) { store16(a_row + i, a); });
        if (h) copy_row(h + row * s.X, h_row, s.X);
        matrix_times_row(down_e, a_row, s.D, s.F, o_row);
        copy_row(o + row * s.D, o_row, s.D);
      }
      return;
    }
    auto* packed_up = scratch<Packed<T>>(0, s.X * s.D);
    auto* packed_down = scratch<Packed<T>>(1, s.D * s.F);
    pack_transposed<T>(up_e, s.D, s.X, packed_up);
    pack_transposed<T>(down_e, s.F, s.D, packed_down);
    auto x_block = Rows<T>::in_scratch(2, kBlock, s.D);
    auto a_block = Rows<T>::in_scratch(3, kBlock, s.F);
    int64_t h_stride = stride_of<float>(s.X), o_stride = stride_of<float>(s.D);
    float* h_block = scratch<float>(4, kBlock * h_stride);
    float* o_block = scratch<float>(5, kBlock * o_stride);
    for (int64_t first = task.first; first < task.last; first += kBlock) {
      int64_t rows = std::min(kBlock, task.last - first), padded = round_up(rows, 16);
      for (int64_t r = 0; r < rows; ++r) x_block.copy(r, x + sorted.token(first + r) * s.D);
      product<T>(padded, s.X, s.D, x_block, packed_up, h_block, h_stride, false);
      for (int64_t r = 0; r < rows; ++r) {
        const float* h_row = h_block + r * h_stride;
        activate(s.swiglu, h_row, gates[sorted.pairs[size_t(first + r)]], s.F,
                 [&](int64_t i, Floats a) { a_block.put(r, i, a); });
        if (h) stream_row(h + (first + r) * s.X, h_row, s.X);
      }
      product<T>(padded, s.D, s.F, a_block, packed_down, o_block, o_stride, false);
      for (int64_t r = 0; r < rows; ++r) {
        copy_row(o + (first + r) * s.D, o_block + r * o_stride, s.D);
      }
    }
  });
}

template <typename T, typename W>
void backward_rows(const Sizes& s, const Sorted& sorted, const T* dy, const float* gates,
                   const W* up, const W* down, const T* h, T* a, T* dh, T* dx, float* dgates) {
  run<T>(sorted.tasks(), [&](const Task& task) {
    const W* up_e = up + task.expert * s.X * s.D;
    const W* down_e = down + task.expert * s.D * s.F;
    auto* packed_up = scratch<Packed<T>>(0, s.X * s.D);
    auto* packed_down = scratch<Packed<T>>(1, s.D * s.F);
    pack<T>([&](int64_t k) { return up_e + k * s.D; }, s.X, s.D, packed_up);
    pack<T>([&](int64_t k) { return down_e + k * s.F; }, s.D, s.F, packed_down);
    auto dy_block = Rows<T>::in_scratch(2, kBlock, s.D);
    auto dh_block = Rows<T>::in_scratch(3, kBlock, s.X);
    int64_t a_stride = stride_of<float>(s.F), x_stride = stride_of<float>(s.D);
    float* da_block = scratch<float>(4, kBlock * a_stride);
    float* dx_block = scratch<float>(5, kBlock * x_stride);
    for (int64_t first = task.first; first < task.last; first += kBlock) {
      int64_t rows = std::min(kBlock, task.last - first), padded = round_up(rows, 16);
      for (int64_t r = 0; r < rows; ++r) dy_block.copy(r, dy + sorted.token(first + r) * s.D);
      product<T>(padded, s.F, s.D, dy_block, packed_down, da_block, a_stride, false);
      for (int64_t r = 0; r < rows; ++r) {
        int32_t pair = sorted.pairs[size_t(first + r)];
        T *a_row = a + (first + r) * s.F, *dh_row = dh + (first + r) * s.X;
        dgates[pair] = activate_backward(
            s.swiglu, da_block + r * a_stride, h + (first + r) * s.X, gates[pair], s.F,
            [&](int64_t i, Floats value) { store16(a_row + i, value); },
            [&](int64_t i, Floats value) {
              dh_block.put(r, i, value);
              store16(dh_row + i, value);
            });
      }
      product<T>(padded, s.D, s.X, dh_block, packed_up, dx_block, x_stride, false);
      for (int64_t r = 0; r < rows; ++r) {
        copy_row(dx + (first + r) * s.D, dx_block + r * x_stride, s.D);
      }
    }
  });
}

// gradient (M × N) = Σ over the task's rows of left(row) ⊗ right(row), in float32.
template <typename T, typename W, typename Left, typename Right>
void weight_gradient(const Task& task, int64_t M, int64_t N, Left left, Right right, W* gradient) {
  if (task.first == task.last) {
    std::memset(gradient, 0, size_t(M * N) * sizeof(W));
    return;
  }
  auto columns = Columns<T>::in_scratch(0, M, kTaskRows);
  auto* packed = scratch<Packed<T>>(1, N * kTaskRows);
  int64_t stride = stride_of<float>(N);
  float* block = scratch<float>(2, kBlock * stride);
  float* sums = reinterpret_cast<float*>(gradient);
  if constexpr (!std::is_same_v<W, float>) sums = scratch<float>(3, M * N);
  for (int64_t first = task.first; first < task.last; first += kTaskRows) {
    int64_t rows = std::min(kTaskRows, task.last - first);
    columns.read([&](int64_t k) { return left(first + k); }, rows, M);
    pack<T>([&](int64_t k) { return right(first + k); }, rows, N, packed);
    for (int64_t m = 0; m < M; m += kBlock) {
      int64_t count = std::min(kBlock, M - m);
      product<T>(count, N, round_up(rows, kGranule), columns.from(m), packed, block, stride, false);
      for (int64_t r = 0; r < count; ++r) {
        if (first == task.first) {
          stream_row(sums + (m + r) * N, block + r * stride, N);
        } else {
          add_row(sums + (m + r) * N, block + r * stride, N);
        }
      }
    }
  }
  if constexpr (!std::is_same_v<W, float>) copy_row(gradient, sums, M * N);
}

template <typename T, typename W>
void backward_weights(const Sizes& s, const Sorted& sorted, const T* x, const T* dy, const T* a,
                      const T* dh, W* dup, W* ddown) {
  run<T>(sorted.weight_tasks(), [&](const Task& task) {
    if (task.down) {
      weight_gradient<T>(
          task, s.D, s.F, [&](int64_t row) { return dy + sorted.token(row) * s.D; },
          [&](int64_t row) { return a + row * s.F; }, ddown + task.expert * s.D * s.F);
    } else {
      weight_gradient<T>(
          task, s.X, s.D, [&](int64_t row) { return dh + row * s.X; },
          [&](int64_t row) { return x + sorted.token(row) * s.D; }, dup + task.expert * s.X * s.D);
    }
  });
}

Sizes sizes_of(const at::Tensor& x, const at::Tensor& up, const at::Tensor& down, bool swiglu) {
  Sizes s{x.size(0), x.size(1), up.size(0), up.size(1), down.size(2), swiglu};
  TORCH_CHECK(s.D % kGranule == 0 && s.F % kGranule == 0, "widths must be multiples of 32");
  TORCH_CHECK(s.X == (swiglu ? 2 : 1) * s.F && up.size(2) == s.D && down.size(1) == s.D &&
                  down.size(0) == s.E,
              "up ", up.sizes(), " and down ", down.sizes(), " do not fit x ", x.sizes());
  for (const auto& t : {x, up, down}) TORCH_CHECK(t.is_contiguous(), "must be contiguous");
  return s;
}

template <typename T>
at::Tensor combined(const at::Tensor& o, const Sorted& sorted, const Sizes& s, at::ScalarType out) {
  auto y = at::empty({s.T, s.D}, o.options().dtype(out));
  const T* rows = o.const_data_ptr<T>();
  if (out == at::kFloat) {
    combine(rows, sorted, s.T, s.D, y.mutable_data_ptr<float>());
  } else {
    combine(rows, sorted, s.T, s.D, y.mutable_data_ptr<BFloat16>());
  }
  return y;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> experts_forward(const at::Tensor& x, const at::Tensor& ids,
                                                   const at::Tensor& gates, const at::Tensor& up,
                                                   const at::Tensor& down, bool swiglu,
                                                   at::ScalarType out, bool keep) {
  Sizes s = sizes_of(x, up, down, swiglu);
  Sorted sorted(ids, s.E);
  auto h = at::empty({keep ? ids.numel() : 0, s.X}, x.options());
  auto o = at::empty({ids.numel(), s.D}, x.options());
  at::Tensor y;
  with_types(x, up, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    forward<T, W>(s, sorted, x.const_data_ptr<T>(), gates.const_data_ptr<float>(),
                  up.const_data_ptr<W>(), down.const_data_ptr<W>(),
                  keep ? h.mutable_data_ptr<T>() : nullptr, o.mutable_data_ptr<T>());
    y = combined<T>(o, sorted, s, out);
  });
  return {y, h};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> experts_backward(
    const at::Tensor& dy, const at::Tensor& x, const at::Tensor& ids, const at::Tensor& gates,
    const at::Tensor& h, const at::Tensor& up, const at::Tensor& down, bool swiglu,
    at::ScalarType out, bool needs_weights) {
  Sizes s = sizes_of(x, up, down, swiglu);
  Sorted sorted(ids, s.E);
  auto a = at::empty({ids.numel(), s.F}, x.options());
  auto dh = at::empty(h.sizes(), h.options());
  auto dx_rows = at::empty({ids.numel(), s.D}, x.options());
  auto dgates = at::empty(ids.sizes(), x.options().dtype(at::kFloat));
  auto dup = at::empty(needs_weights ? up.sizes() : at::IntArrayRef{0}, up.options());
  auto ddown = at::empty(needs_weights ? down.sizes() : at::IntArrayRef{0}, down.options());
  at::Tensor dx;
  with_types(x, up, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    backward_rows<T, W>(s, sorted, dy.const_data_ptr<T>(), gates.const_data_ptr<float>(),
                        up.const_data_ptr<W>(), down.const_data_ptr<W>(), h.const_data_ptr<T>(),
                        a.mutable_data_ptr<T>(), dh.mutable_data_ptr<T>(),
                        dx_rows.mutable_data_ptr<T>(), dgates.mutable_data_ptr<float>());
    dx = combined<T>(dx_rows, sorted, s, out);
    if (needs_weights) {
      backward_weights<T, W>(s, sorted, x.const_data_ptr<T>(), dy.const_data_ptr<T>(),
                             a.const_data_ptr<T>(), dh.const_data_ptr<T>(),
                             dup.mutable_data_ptr<W>(), ddown.mutable_data_ptr<W>());
    }
  });
  return {dx, dgates, dup, ddown};
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def("experts_forward(Tensor x, Tensor ids, Tensor gates, Tensor up, Tensor down, bool swiglu, "
        "ScalarType out, bool keep) -> (Tensor, Tensor)");
  m.def("experts_backward(Tensor dy, Tensor x, Tensor ids, Tensor gates, Tensor h, Tensor up, "
        "Tensor down, bool swiglu, ScalarType out, bool needs_weights) "
        "-> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("experts_forward", &plait::experts_forward);
  m.impl("experts_backward", &plait::experts_backward);
}
