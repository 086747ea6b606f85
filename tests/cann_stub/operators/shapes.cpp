// Operators that reduce, look up, join and rearrange.

#include "arguments.h"

using namespace cann_stub;

namespace {

c10::List<std::optional<Tensor>> index_list(const Ins &indices) {
  c10::List<std::optional<Tensor>> list;
  for (const In &index : indices) {
    bool given = index.defined() && index.numel();
    list.push_back(given ? std::optional<Tensor>(index) : std::nullopt);
  }
  return list;
}

template <class Pair>
void set_both(const Out &values, const Out &indices, const Pair &both) {
  values.set(std::get<0>(both));
  indices.set(std::get<1>(both));
}

}  // namespace

// Reductions ----------------------------------------------------------------

OPERATOR(aclnnReduceSum,
         (In a, Ints dims, bool keep, aclDataType, Out out), {
  auto dtype = out.scalar_type();
  if (dtype == at::kHalf || dtype == at::kBFloat16) dtype = at::kFloat;
  out.set(at::sum(up(a), dims, keep, dtype));
})
OPERATOR(aclnnMean, (In a, Ints dims, bool keep, aclDataType, Out out), {
  out.set(at::mean(up(a), dims, keep));
})
OPERATOR(aclnnMeanV2, (In a, Ints dims, bool keep, bool, Out out), {
  out.set(at::mean(up(a), dims, keep));
})
OPERATOR(aclnnMax, (In a, Out out), { out.set(at::max(up(a))); })
OPERATOR(aclnnMin, (In a, Out out), { out.set(at::min(up(a))); })
OPERATOR(aclnnAmax, (In a, Ints dims, bool keep, Out out), {
  out.set(at::amax(up(a), dims, keep));
})
OPERATOR(aclnnAmin, (In a, Ints dims, bool keep, Out out), {
  out.set(at::amin(up(a), dims, keep));
})
OPERATOR(aclnnMaxDim,
         (In a, int64_t dim, bool keep, Out values, Out indices), {
  set_both(values, indices, at::max(up(a), dim, keep));
})
OPERATOR(aclnnMinDim,
         (In a, int64_t dim, bool keep, Out values, Out indices), {
  set_both(values, indices, at::min(up(a), dim, keep));
})
OPERATOR(aclnnArgMax, (In a, int64_t dim, bool keep, Out out), {
  out.set(at::argmax(up(a), dim, keep));
})
OPERATOR(aclnnTopk,
         (In a, int64_t k, int64_t dim, bool largest, bool sorted,
          Out values, Out indices), {
  set_both(values, indices, at::topk(up(a), k, dim, largest, sorted));
})
OPERATOR(aclnnAll, (In a, Ints dims, bool keep, Out out), {
  out.set(dims.empty() ? at::all(a) : at::all(a, dims, keep));
})
OPERATOR(aclnnAny, (In a, Ints dims, bool keep, Out out), {
  out.set(dims.empty() ? at::any(a) : at::any(a, dims, keep));
})
OPERATOR(aclnnLinalgVectorNorm,
         (In a, Scalar order, Ints dims, bool keep, aclDataType, Out out), {
  out.set(dims.empty() ? at::linalg_vector_norm(up(a), order)
                       : at::linalg_vector_norm(up(a), order, dims, keep));
})

// Looking up ----------------------------------------------------------------

OPERATOR(aclnnGather, (In a, int64_t dim, In index, Out out), {
  out.set(at::gather(a, dim, index));
})
OPERATOR(aclnnScatter,
         (In a, int64_t dim, In index, In source, int64_t reduce, Out out), {
  out.set(reduce ? at::scatter_add(a, dim, index, source)
                 : at::scatter(a, dim, index, source));
})
OPERATOR(aclnnInplaceScatter,
         (Out a, int64_t dim, In index, In source, int64_t reduce), {
  if (reduce) {
    Tensor(a).scatter_add_(dim, index, source);
  } else {
    Tensor(a).scatter_(dim, index, source);
  }
})
OPERATOR(aclnnScatterAdd,
         (In a, int64_t dim, In index, In source, Out out), {
  out.set(at::scatter_add(a, dim, index, source));
})
OPERATOR(aclnnScatterValue,
         (In a, int64_t dim, In index, Scalar value, int64_t, Out out), {
  out.set(at::scatter(a, dim, index, value));
})
OPERATOR(aclnnInplaceScatterValue,
         (Out a, int64_t dim, In index, Scalar value, int64_t), {
  Tensor(a).scatter_(dim, index, value);
})
OPERATOR(aclnnIndex, (In a, Ins indices, Out out), {
  out.set(at::index(a, index_list(indices)));
})
OPERATOR(aclnnIndexPutImpl,
         (Out a, Ins indices, In values, bool accumulate, bool), {
  Tensor(a).index_put_(index_list(indices), values, accumulate);
})
OPERATOR(aclnnIndexSelect, (In a, int64_t dim, In index, Out out), {
  out.set(at::index_select(a, dim, index));
})
// The caller waits for these two and then asks for the shape.
OPERATOR(aclnnNonzero, (In a, Out out), {
  Tensor found = at::nonzero(a);
  out.unsafeGetTensorImpl()->set_sizes_contiguous(found.sizes());
  out.set(found);
})
OPERATOR(aclnnNonzeroV2, (In a, Out out), {
  Tensor found = at::nonzero(a).t().contiguous();
  out.unsafeGetTensorImpl()->set_sizes_contiguous(found.sizes());
  out.set(found);
})

// Joining and rearranging ---------------------------------------------------

OPERATOR(aclnnCat, (Ins all, int64_t dim, Out out), {
  out.set(at::cat(std::vector<Tensor>(all.begin(), all.end()), dim));
})
OPERATOR(aclnnStack, (Ins all, int64_t dim, Out out), {
  out.set(at::stack(std::vector<Tensor>(all.begin(), all.end()), dim));
})
OPERATOR(aclnnRepeat, (In a, Ints counts, Out out), {
  out.set(a.repeat(counts));
})
OPERATOR(aclnnFlip, (In a, Ints dims, Out out), { out.set(a.flip(dims)); })
OPERATOR(aclnnConstantPadNd, (In a, Ints widths, Scalar value, Out out), {
  out.set(at::constant_pad_nd(a, widths, value));
})
