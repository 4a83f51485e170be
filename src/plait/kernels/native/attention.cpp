// Causal attention as tasks: each takes one head of keys and values of one sequence, with the query
// heads that share it, through all its blocks of queries on one thread. A block sees only the keys
// up to its own. Rotary angles are applied while rows are read, and undone in the gradients as they
// are written; probabilities are recomputed in the backward pass from the logarithm of their sums.
#include <torch/library.h>

#include <cmath>
#include <tuple>

#include "products.h"

namespace plait {
namespace {

constexpr int64_t kQueries = 64;
// Queries in one product: what none of them sees is not computed.
constexpr int64_t kStrip = kLanesOnly ? 16 : kQueries;
constexpr float kMasked = -1e30f;

struct Shape {
  int64_t B, S, H, G, d;  // batch, length, query heads, key heads, head width
  float scale;
  const float* cos;  // (B or 1, S, d), or null
  const float* sin;
  int64_t angle_stride;  // from one sequence's angles to the next one's

  int64_t padded() const { return round_up(S, kGranule); }
  int64_t row(int64_t b, int64_t s, int64_t head, int64_t heads) const {
    return ((b * S + s) * heads + head) * d;
  }
};

// to = factor · from turned by the angles of position s; `to` may be wider or narrower in type.
template <typename To, typename From>
void turn(const Shape& shape, int64_t b, int64_t s, float factor, bool back,
          const From* __restrict from, To* __restrict to) {
  int64_t d = shape.d, half = d / 2;
  if (!shape.cos) {
    for (int64_t i = 0; i < d; i += 16) store16(to + i, factor * load16(from + i));
    return;
  }
  const float* cos = shape.cos + b * shape.angle_stride + s * d;
  const float* sin = shape.sin + b * shape.angle_stride + s * d;
  for (int64_t i = 0; i < half; i += 16) {
    Floats x = load16(from + i), y = load16(from + half + i);
    Floats low = back ? load16(sin + half + i) : -load16(sin + i);
    Floats high = back ? -load16(sin + i) : load16(sin + half + i);
    store16(to + i, factor * (x * load16(cos + i) + y * low));
    store16(to + half + i, factor * (y * load16(cos + half + i) + x * high));
  }
}

// The turned keys of one head (padded × d; zero beyond S).
template <typename T>
void read_keys(const Shape& s, int64_t b, int64_t g, const T* k, T* keys) {
  for (int64_t i = 0; i < s.S; ++i) {
    turn(s, b, i, 1.0f, false, k + s.row(b, i, g, s.G), keys + i * s.d);
  }
  std::memset(keys + s.S * s.d, 0, size_t((s.padded() - s.S) * s.d) * sizeof(T));
}

// A block's turned and scaled queries, plain and as the left-hand side of products.
template <typename T>
void read_queries(const Shape& s, int64_t b, int64_t head, int64_t first, int64_t rows, const T* q,
                  T* queries, Rows<T> scoring) {
  for (int64_t r = 0; r < rows; ++r) {
    T* row = queries + r * s.d;
    turn(s, b, first + r, s.scale, false, q + s.row(b, first + r, head, s.H), row);
    scoring.copy(r, row);
  }
}

// The scores of a query up to itself, sixteen at a time: take(i, scores), what comes after it masked.
template <typename Take>
[[gnu::always_inline]] inline void seen_scores(const float* scores, int64_t end, Take take) {
  int64_t last = (end - 1) / 16 * 16;
  for (int64_t i = 0; i < last; i += 16) take(i, load16(scores + i));
  Floats masked = spread(kMasked);
  take(last, where(lanes16() < int32_t(end - last), load16(scores + last), masked));
}

template <typename T>
void forward(const Shape& s, int64_t b, int64_t g, const T* q, const T* k, const T* v, T* out,
             float* lse) {
  int64_t d = s.d, padded = s.padded(), stride = stride_of<float>(padded);
  T* keys = scratch<T>(0, padded * d);
  auto* packed_keys = scratch<Packed<T>>(1, padded * d);
  auto* packed_values = scratch<Packed<T>>(2, padded * d);
  T* queries = scratch<T>(3, kQueries * d);
  auto scoring = Rows<T>::in_scratch(4, kQueries, d);
  float* scores = scratch<float>(5, kQueries * stride);
  auto weights = Rows<T>::in_scratch(6, kQueries, padded);
  float* summed = scratch<float>(7, kQueries * d);
  read_keys(s, b, g, k, keys);
  pack_transposed<T>(keys, d, padded, packed_keys);
  pack<T>([&](int64_t i) { return v + s.row(b, i, g, s.G); }, s.S, d, packed_values);
  for (int64_t head = g * s.H / s.G; head < (g + 1) * s.H / s.G; ++head) {
    for (int64_t first = 0; first < s.S; first += kQueries) {
      int64_t rows = std::min(kQueries, s.S - first);
      read_queries(s, b, head, first, rows, q, queries, scoring);
      float total[kQueries];
      for (int64_t strip = 0; strip < rows; strip += kStrip) {
        int64_t seen = std::min(first + strip + kStrip, padded);
        int64_t last = std::min(strip + kStrip, rows);
        product<T>(kStrip, seen, d, scoring.from(strip), packed_keys, scores + strip * stride,
                   stride, false);
        for (int64_t r = strip; r < last; ++r) {
          const float* row = scores + r * stride;
          int64_t end = first + r + 1;
          Floats mosts = spread(kMasked), sums{};
          seen_scores(row, end, [&](int64_t, Floats x) { mosts = most_of(x, mosts); });
          float most = most_in(mosts);
          seen_scores(row, end, [&](int64_t i, Floats x) {
            Floats e = first16(exp16(x - most), end - i);
            sums += e;
            weights.put(r, i, e);
          });
          weights.clear(r, round_up(end, 16), seen);
          total[r] = sum_of(sums);
          lse[(b * s.H + head) * s.S + first + r] = most + std::log(total[r]);
        }
        product<T>(round_up(last - strip, 16), d, seen, weights.from(strip), packed_values,
                   summed + strip * d, d, false, padded);
      }
      for (int64_t r = 0; r < rows; ++r) {
        T* to = out + s.row(b, first + r, head, s.H);
        float share = 1 / total[r];
        for (int64_t i = 0; i < d; i += 16) store16(to + i, load16(summed + r * d + i) * share);
      }
    }
  }
}

// sums (padded × d) += leftᵀ · packed: what a block of queries from `first` on gives each key.
template <typename T>
void add_to_keys(const Shape& s, int64_t first, int64_t rows, Rows<T> left, const Packed<T>* packed,
                 float* sums) {
  int64_t seen = std::min(first + kQueries, s.padded()), depth = round_up(rows, kGranule);
  auto columns = Columns<T>::of(left, rows, seen, 12, kQueries);  // a slot that backward leaves free
  if constexpr (kLanesOnly) {  // no query before a key sees it
    for (int64_t key = 0; key < std::min(seen, first + rows); key += kStrip) {
      int64_t before = std::max<int64_t>(0, key - first);
      product<T>(kStrip, s.d, rows - before, columns.from(key).after(before),
                 packed + before * kPanel, sums + key * s.d, s.d, true, depth);
    }
  } else {
    product<T>(seen, s.d, depth, columns, packed, sums, s.d, true);
  }
}

template <typename T>
void backward(const Shape& s, int64_t b, int64_t g, const T* q, const T* k, const T* v,
              const T* out, const float* lse, const T* dout, T* dq, T* dk, T* dv) {
  int64_t d = s.d, padded = s.padded(), stride = stride_of<float>(padded);
  T* keys = scratch<T>(0, padded * d);
  auto* scoring_keys = scratch<Packed<T>>(1, padded * d);
  auto* summing_keys = scratch<Packed<T>>(2, padded * d);
  T* values = scratch<T>(3, padded * d);
  auto* scoring_values = scratch<Packed<T>>(4, padded * d);
  T* queries = scratch<T>(5, kQueries * d);
  auto scoring = Rows<T>::in_scratch(6, kQueries, d);
  auto* packed = scratch<Packed<T>>(7, kQueries * d);
  float* scores = scratch<float>(8, kQueries * stride);
  float* dweights = scratch<float>(9, kQueries * stride);
  auto weights = Rows<T>::in_scratch(10, kQueries, padded);
  auto dscores = Rows<T>::in_scratch(11, kQueries, padded);
  auto slopes = Rows<T>::in_scratch(13, kQueries, d);
  float* dqueries = scratch<float>(14, kQueries * d);
  float* dkeys = scratch<float>(15, padded * d);
  float* dvalues = scratch<float>(16, padded * d);
  std::memset(dkeys, 0, size_t(padded * d) * sizeof(float));
  std::memset(dvalues, 0, size_t(padded * d) * sizeof(float));
  read_keys(s, b, g, k, keys);
  pack_transposed<T>(keys, d, padded, scoring_keys);
  pack<T>([&](int64_t i) { return keys + i * d; }, padded, d, summing_keys);
  for (int64_t i = 0; i < s.S; ++i) copy_row(values + i * d, v + s.row(b, i, g, s.G), d);
  std::memset(values + s.S * d, 0, size_t((padded - s.S) * d) * sizeof(T));
  pack_transposed<T>(values, d, padded, scoring_values);
  for (int64_t head = g * s.H / s.G; head < (g + 1) * s.H / s.G; ++head) {
    for (int64_t first = 0; first < s.S; first += kQueries) {
      int64_t rows = std::min(kQueries, s.S - first);
      auto slope = [&](int64_t r) { return dout + s.row(b, first + r, head, s.H); };
      read_queries(s, b, head, first, rows, q, queries, scoring);
      for (int64_t r = 0; r < rows; ++r) slopes.copy(r, slope(r));
      for (int64_t strip = 0; strip < rows; strip += kStrip) {
        int64_t seen = std::min(first + strip + kStrip, padded);
        int64_t last = std::min(strip + kStrip, rows);
        float *strip_scores = scores + strip * stride, *strip_dweights = dweights + strip * stride;
        product<T>(kStrip, seen, d, scoring.from(strip), scoring_keys, strip_scores, stride, false);
        product<T>(kStrip, seen, d, slopes.from(strip), scoring_values, strip_dweights, stride,
                   false);
        for (int64_t r = strip; r < last; ++r) {
          const T* o = out + s.row(b, first + r, head, s.H);
          const float* dweight = dweights + r * stride;
          float offset = lse[(b * s.H + head) * s.S + first + r];
          Floats products{};
          for (int64_t i = 0; i < d; i += 16) products += load16(o + i) * load16(slope(r) + i);
          float mean = sum_of(products);
          int64_t end = first + r + 1, whole = round_up(end, 16);
          seen_scores(scores + r * stride, end, [&](int64_t i, Floats x) {
            Floats w = first16(exp16(x - offset), end - i);
            weights.put(r, i, w);
            dscores.put(r, i, w * (load16(dweight + i) - mean));
          });
          weights.clear(r, whole, seen);
          dscores.clear(r, whole, seen);
        }
        product<T>(round_up(last - strip, 16), d, seen, dscores.from(strip), summing_keys,
                   dqueries + strip * d, d, false, padded);
      }
      pack<T>(slope, rows, d, packed);
      add_to_keys(s, first, rows, weights, packed, dvalues);
      pack<T>([&](int64_t r) { return queries + r * d; }, rows, d, packed);
      add_to_keys(s, first, rows, dscores, packed, dkeys);
      for (int64_t r = 0; r < rows; ++r) {
        turn(s, b, first + r, s.scale, true, dqueries + r * d,
             dq + s.row(b, first + r, head, s.H));
      }
    }
  }
  for (int64_t i = 0; i < s.S; ++i) {
    turn(s, b, i, 1.0f, true, dkeys + i * d, dk + s.row(b, i, g, s.G));
    copy_row(dv + s.row(b, i, g, s.G), dvalues + i * d, d);
  }
}

using Angles = std::optional<at::Tensor>;

Shape shape_of(const at::Tensor& q, const at::Tensor& k, const Angles& cos, const Angles& sin) {
  Shape s{q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), 0, nullptr, nullptr, 0};
  TORCH_CHECK(s.d % kGranule == 0 && s.H % s.G == 0, "head widths must be multiples of 32");
  s.scale = 1.0f / std::sqrt(float(s.d));
  if (cos) {
    s.cos = cos->const_data_ptr<float>();
    s.sin = sin->const_data_ptr<float>();
    s.angle_stride = cos->size(0) == 1 ? 0 : s.S * s.d;
  }
  return s;
}

std::vector<std::pair<int64_t, int64_t>> heads(const Shape& s) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t g = 0; g < s.G; ++g) all.emplace_back(b, g);
  }
  return all;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> attention_forward(const at::Tensor& q, const at::Tensor& k,
                                                     const at::Tensor& v, const Angles& cos,
                                                     const Angles& sin) {
  Shape s = shape_of(q, k, cos, sin);
  auto out = at::empty(q.sizes(), q.options());
  auto lse = at::empty({s.B, s.H, s.S}, q.options().dtype(at::kFloat));
  with_type(q, [&](auto type) {
    using T = decltype(type);
    const T *q_ = q.const_data_ptr<T>(), *k_ = k.const_data_ptr<T>(), *v_ = v.const_data_ptr<T>();
    T* out_ = out.mutable_data_ptr<T>();
    float* lse_ = lse.mutable_data_ptr<float>();
    run<T>(heads(s), [&](auto head) { forward(s, head.first, head.second, q_, k_, v_, out_, lse_); });
  });
  return {out, lse};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor& out, const at::Tensor& lse, const Angles& cos, const Angles& sin) {
  Shape s = shape_of(q, k, cos, sin);
  auto dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
       dv = at::empty(v.sizes(), v.options());
  with_type(q, [&](auto type) {
    using T = decltype(type);
    const T *q_ = q.const_data_ptr<T>(), *k_ = k.const_data_ptr<T>(), *v_ = v.const_data_ptr<T>();
    const T *out_ = out.const_data_ptr<T>(), *dout_ = dout.const_data_ptr<T>();
    const float* lse_ = lse.const_data_ptr<float>();
    T *dq_ = dq.mutable_data_ptr<T>(), *dk_ = dk.mutable_data_ptr<T>(),
      *dv_ = dv.mutable_data_ptr<T>();
    run<T>(heads(s), [&](auto head) {
      backward(s, head.first, head.second, q_, k_, v_, out_, lse_, dout_, dq_, dk_, dv_);
    });
  });
  return {dq, dk, dv};
}

}  // namespace plait

TORCH_LIBRARY_FRAGMENT(plait, m) {
  m.def("attention_forward(Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin) "
        "-> (Tensor, Tensor)");
  m.def("attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
        "Tensor? cos, Tensor? sin) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(plait, CPU, m) {
  m.impl("attention_forward", &plait::attention_forward);
  m.impl("attention_backward", &plait::attention_backward);
}
