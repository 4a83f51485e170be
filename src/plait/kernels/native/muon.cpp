// Muon's step as tasks, one matrix each: momentum, the nearest half-orthogonal matrix by the
// quintic Newton–Schulz iteration, and the update, while the matrix stays in one thread's cache.
#include <torch/library.h>

#include <cmath>

#include "products.h"

namespace plait {
namespace {

constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;  // as in optim/muon.py
constexpr float kLeastNorm = 1e-7f;

// A matrix of floats that products write to. Where an operand is plain float32 it is one itself.
struct Square {
  float* data;
  int64_t columns, stride;

  Square(int slot, int64_t rows, int64_t columns)
      : data(scratch<float>(slot, rows * stride_of<float>(columns))),
        columns(columns),
        stride(stride_of<float>(columns)) {}
  float* row(int64_t i) const { return data + i * stride; }
};

// `x` as a left-hand side; `slot` is where it is made if its numbers must be taken apart or
// rounded.
template <typename T>
Rows<T> left(const Square& x, int64_t rows, int slot) {
  if constexpr (std::is_same_v<Piece<T>, float>) {
    return {x.data, x.columns};
  } else {
    auto to = Rows<T>::in_scratch(slot, rows, x.columns);
    for (int64_t r = 0; r < rows; ++r) to.copy(r, x.row(r));
    return to;
  }
}

// The first `columns` of a transposed matrix, in squares of sixteen.
inline void transposed(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                       float* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i += 16) {
    for (int64_t j = 0; j < columns; j += 16) {
      Units v[16];
      for (int64_t r = 0; r < 16; ++r) v[r] = read<Units>(from + (i + r) * from_stride + j);
      transpose(v);
      for (int64_t r = 0; r < 16; ++r) write(to + (j + r) * to_stride + i, v[r]);
    }
  }
}

// C (n × n) = A · packed B where that is symmetric: blocks from the diagonal down, then their
// mirrors.
template <typename T>
void symmetric_product(int64_t n, int64_t K, Rows<T> A, const Packed<T>* B, const Square& C) {
  for (int64_t j = 0; j < n; j += kPanel) {
    int64_t width = std::min(kPanel, n - j);
    product<T>(n - j, width, K, A.from(j), B + j * K, C.row(j) + j, C.stride, false);
  }
  for (int64_t j = 0; j < n; j += 16) {
    int64_t below = j / kPanel * kPanel + kPanel;  // the panel's own square is complete
    if (below < n) {
      transposed(C.row(below) + j, C.stride, n - below, 16, C.row(j) + below, C.stride);
    }
  }
}

template <typename T>
void pack_rows(const Square& x, int64_t rows, Packed<T>* to) {
  pack<T>([&](int64_t k) { return static_cast<const float*>(x.row(k)); }, rows, x.columns, to);
}

// p = a I + b g + c g², from g² in p.
inline void polynomial(int64_t n, const Square& g, const Square& p) {
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < n; i += 16) {
      store16(p.row(r) + i, kB * load16(g.row(r) + i) + kC * load16(p.row(r) + i));
    }
    p.row(r)[r] += kA;
  }
}

// Orthogonalises x (n × m, n ≤ m): singular values near 1. The iteration multiplies x from the left
// by polynomials of its gram matrix g, so in float32 they are multiplied up alone (q), and x once.
template <typename T>
void iterate_gram(int64_t n, int64_t m, int64_t steps, const Square& x, const Square& result) {
  Square g(1, n, n), p(2, n, n), q(3, n, n), next(4, n, n);
  auto* packed = scratch<Packed<T>>(5, n * m);
  auto* packed_p = scratch<Packed<T>>(6, n * n);
  pack_transposed<T>(x.data, m, n, packed, x.stride);
  symmetric_product<T>(n, m, left<T>(x, n, 7), packed, g);
  for (int64_t step = 0; step < steps; ++step) {
    pack_rows<T>(g, n, packed);
    symmetric_product<T>(n, n, left<T>(g, n, 7), packed, p);
    polynomial(n, g, p);
    auto p_left = left<T>(p, n, 8);
    if (step + 1 < steps) {
      symmetric_product<T>(n, n, p_left, packed, next);
      pack_rows<T>(p, n, packed_p);
      symmetric_product<T>(n, n, left<T>(next, n, 7), packed_p, g);
    }
    if (step == 0) {
      for (int64_t r = 0; r < n; ++r) copy_row(q.row(r), p.row(r), n);
    } else {
      pack_rows<T>(q, n, packed);
      symmetric_product<T>(n, n, p_left, packed, q);
    }
  }
  pack_rows<T>(x, n, packed);
  product<T>(n, m, n, left<T>(q, n, 7), packed, result.data, result.stride, false);
}

// The same as it is written: bfloat16 is too coarse for products of gram matrices.
template <typename T>
void iterate(int64_t n, int64_t m, int64_t steps, const Square& x, const Square& result) {
  Square g(1, n, n), p(2, n, n);
  auto* packed = scratch<Packed<T>>(5, n * m);
  const Square *from = &x, *to = &result;
  for (int64_t step = 0; step < steps; ++step) {
    pack_transposed<T>(from->data, m, n, packed, from->stride);
    symmetric_product<T>(n, m, left<T>(*from, n, 7), packed, g);
    pack_rows<T>(g, n, packed);
    symmetric_product<T>(n, n, left<T>(g, n, 7), packed, p);
    polynomial(n, g, p);
    pack_rows<T>(*from, n, packed);
    product<T>(n, m, n, left<T>(p, n, 7), packed, to->data, to->stride, false);
    std::swap(from, to);
  }
  if (from != &result) {
    for (int64_t r = 0; r < n; ++r) copy_row(result.row(r), from->row(r), m);
  }
}

struct Matrix {
  float *parameter, *momentum;
  const float* gradient;
  int64_t rows, columns;
  float rate;
};

struct Rates {
  float momentum, kept;
  int64_t steps;
};

// Returns the squared norm of the direction, which it writes; the momentum is kept as it goes.
inline float take_momentum(const Matrix& a, float momentum, float* direction, int64_t stride) {
  Floats squares{};
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t i = 0; i < a.columns; i += 16) {
      int64_t at = r * a.columns + i;
      Floats slope = load16(a.gradient + at), kept = load16(a.momentum + at);
      kept += (1 - momentum) * (slope - kept);
      store16(a.momentum + at, kept);
      Floats ahead = kept - (kept - slope) * (1 - momentum);
      squares += ahead * ahead;
      store16(direction + r * stride + i, ahead);
    }
  }
  return sum_of(squares);
}

template <typename T>
void step_of(const Matrix& a, const Rates& rates) {
  bool tall = a.rows > a.columns;
  int64_t n = std::min(a.rows, a.columns), m = std::max(a.rows, a.columns);
  Square given(9, a.rows, a.columns), x(0, n, m), result(10, n, m), turned(11, a.rows, a.columns);
  float squares = take_momentum(a, rates.momentum, given.data, given.stride);
  float share = 1 / std::max(std::sqrt(squares), kLeastNorm);
  for (int64_t r = 0; r < a.rows; ++r) scale_row(given.row(r), share, a.columns);
  if (tall) transposed(given.data, given.stride, a.rows, a.columns, x.data, x.stride);
  const Square& start = tall ? x : given;
  if constexpr (std::is_same_v<T, float>) {
    iterate_gram<T>(n, m, rates.steps, start, result);
  } else {
    iterate<T>(n, m, rates.steps, start, result);
  }
  if (tall) transposed(result.data, result.stride, n, m, turned.data, turned.stride);
  const Square& update = tall ? turned : result;
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t i = 0; i < a.columns; i += 16) {
      float* to = a.parameter + r * a.columns + i;
      store16(to, load16(to) * rates.kept - load16(update.row(r) + i) * a.rate);
    }
  }
}

}  // namespace

// Steps of parameters (…, R, C): matrices of `stacked` parts each, with a rate for each parameter;
// `kept` is what weight decay leaves. Products are in `type`.
void muon_step_(at::TensorList parameters, at::TensorList gradients, at::TensorList momenta,
                at::ArrayRef<double> rates, double momentum, double kept, int64_t stacked,
                int64_t steps, at::ScalarType type) {
  std::vector<Matrix> matrices;
  for (size_t p = 0; p < parameters.size(); ++p) {
    for (const auto& t : {parameters[p], gradients[p], momenta[p]}) {
      TORCH_CHECK(t.is_contiguous() && t.scalar_type() == at::kFloat &&
                  t.sizes() == parameters[p].sizes());
    }
    int64_t rows = parameters[p].size(-2) / stacked, columns = parameters[p].size(-1),
            size = rows * columns;
    TORCH_CHECK(rows % kGranule == 0 && columns % kGranule == 0, "sizes must be multiples of 32");
    for (int64_t i = 0; i < parameters[p].numel(); i += size) {
      matrices.push_back(
          {parameters[p].mutable_data_ptr<float>() + i, momenta[p].mutable_data_ptr<float>() + i,
           gradients[p].const_data_ptr<float>() + i, rows, columns, float(rates[p])});
    }
  }
  std::stable_sort(matrices.begin(), matrices.end(), [](const Matrix& a, const Matrix& b) {
    return a.rows * a.columns > b.rows * b.columns;
  });
  Rates how{float(momentum), float(kept), steps};
  if (type == at::kBFloat16) {
    run<BFloat16>(matrices, [&](const Matrix& a) { step_of<BFloat16>(a, how); });
  } else {
    run<float>(matrices, [&](const Matrix& a) { step_of<float>(a, how); });
  }
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def(
      "muon_step_(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] momenta, "
      "float[] rates, float momentum, float kept, int stacked, int steps, ScalarType type) -> ()");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) { m.impl("muon_step_", &plait::muon_step_); }
