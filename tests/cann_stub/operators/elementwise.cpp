// Operators that compute element by element: copies, arithmetic,
// comparisons, choices.

#include "arguments.h"

using namespace cann_stub;

namespace {

std::optional<std::string_view> rounding(int mode) {
  if (mode == 1) return "trunc";
  if (mode == 2) return "floor";
  return std::nullopt;
}

}  // namespace

// Copies and fills ----------------------------------------------------------

OPERATOR(aclnnInplaceCopy, (Out to, In from), { to.set(from); })
OPERATOR(aclnnCast, (In a, aclDataType, Out out), { out.set(a); })
OPERATOR(aclnnInplaceZero, (Out a), { Tensor(a).zero_(); })
OPERATOR(aclnnInplaceOne, (Out a), { Tensor(a).fill_(1); })
OPERATOR(aclnnInplaceFillScalar, (Out a, Scalar value), {
  Tensor(a).fill_(value);
})
OPERATOR(aclnnInplaceFillTensor, (Out a, In value), {
  Tensor(a).fill_(value.reshape({}));
})
OPERATOR(aclnnArange, (Scalar start, Scalar end, Scalar step, Out out), {
  // Never one element more than there is room for.
  out.set(at::arange(start, end, step).slice(0, 0, out.numel()));
})

// One argument --------------------------------------------------------------

#define UNARY(NAME, FUNCTION) \
  OPERATOR(aclnn##NAME, (In a, Out out), { out.set(at::FUNCTION(up(a))); })
#define UNARY_IN_PLACE(NAME, FUNCTION) \
  OPERATOR(aclnnInplace##NAME, (Out a), { a.set(at::FUNCTION(up(a))); })

UNARY(Abs, abs)
UNARY(BitwiseNot, bitwise_not)
UNARY(Ceil, ceil)
UNARY(Exp, exp)
UNARY(Floor, floor)
UNARY(IsFinite, isfinite)
UNARY(IsInf, isinf)
UNARY(Log, log)
UNARY(LogicalNot, logical_not)
UNARY(Neg, neg)
UNARY(Reciprocal, reciprocal)
UNARY(Relu, relu)
UNARY(Round, round)
UNARY(Rsqrt, rsqrt)
UNARY(Sigmoid, sigmoid)
UNARY(Sign, sign)
UNARY(Sqrt, sqrt)
UNARY(Tanh, tanh)
UNARY(Trunc, trunc)
UNARY_IN_PLACE(Relu, relu)
UNARY_IN_PLACE(Sqrt, sqrt)
UNARY_IN_PLACE(Neg, neg)
UNARY_IN_PLACE(Reciprocal, reciprocal)

OPERATOR(aclnnThresholdBackward,
         (In gradient, In a, Scalar threshold, Out out), {
  out.set(at::threshold_backward(up(gradient), up(a), threshold));
})

// Arithmetic of two arguments -----------------------------------------------

OPERATOR(aclnnAdd, (In a, In b, Scalar alpha, Out out), {
  out.set(at::add(up(a), up(b), alpha));
})
OPERATOR(aclnnAdds, (In a, Scalar b, Scalar alpha, Out out), {
  out.set(at::add(up(a), b, alpha));
})
OPERATOR(aclnnInplaceAdd, (Out a, In b, Scalar alpha), {
  a.set(at::add(up(a), up(b), alpha));
})
OPERATOR(aclnnInplaceAdds, (Out a, Scalar b, Scalar alpha), {
  a.set(at::add(up(a), b, alpha));
})
OPERATOR(aclnnSub, (In a, In b, Scalar alpha, Out out), {
  out.set(at::sub(up(a), up(b), alpha));
})
OPERATOR(aclnnSubs, (In a, Scalar b, Scalar alpha, Out out), {
  out.set(at::sub(up(a), b, alpha));
})
OPERATOR(aclnnInplaceSub, (Out a, In b, Scalar alpha), {
  a.set(at::sub(up(a), up(b), alpha));
})
OPERATOR(aclnnInplaceSubs, (Out a, Scalar b, Scalar alpha), {
  a.set(at::sub(up(a), b, alpha));
})
OPERATOR(aclnnRsubs, (In a, Scalar b, Scalar alpha, Out out), {
  out.set(at::rsub(up(a), b, alpha));
})
OPERATOR(aclnnMul, (In a, In b, Out out), { out.set(at::mul(up(a), up(b))); })
OPERATOR(aclnnMuls, (In a, Scalar b, Out out), { out.set(at::mul(up(a), b)); })
OPERATOR(aclnnInplaceMul, (Out a, In b), { a.set(at::mul(up(a), up(b))); })
OPERATOR(aclnnInplaceMuls, (Out a, Scalar b), { a.set(at::mul(up(a), b)); })
OPERATOR(aclnnDiv, (In a, In b, Out out), { out.set(at::div(up(a), up(b))); })
OPERATOR(aclnnDivs, (In a, Scalar b, Out out), { out.set(at::div(up(a), b)); })
OPERATOR(aclnnInplaceDiv, (Out a, In b), { a.set(at::div(up(a), up(b))); })
OPERATOR(aclnnInplaceDivs, (Out a, Scalar b), { a.set(at::div(up(a), b)); })
OPERATOR(aclnnDivMod, (In a, In b, int mode, Out out), {
  out.set(at::div(up(a), up(b), rounding(mode)));
})
OPERATOR(aclnnDivMods, (In a, Scalar b, int mode, Out out), {
  out.set(at::div(up(a), b, rounding(mode)));
})
OPERATOR(aclnnInplaceDivMod, (Out a, In b, int mode), {
  a.set(at::div(up(a), up(b), rounding(mode)));
})
OPERATOR(aclnnInplaceDivMods, (Out a, Scalar b, int mode), {
  a.set(at::div(up(a), b, rounding(mode)));
})
OPERATOR(aclnnRemainderTensorScalar, (In a, Scalar b, Out out), {
  out.set(at::remainder(up(a), b));
})
OPERATOR(aclnnRemainderTensorTensor, (In a, In b, Out out), {
  out.set(at::remainder(up(a), up(b)));
})
OPERATOR(aclnnInplaceRemainderTensorScalar, (Out a, Scalar b), {
  a.set(at::remainder(up(a), b));
})
OPERATOR(aclnnPowTensorScalar, (In a, Scalar b, Out out), {
  out.set(at::pow(up(a), b));
})
OPERATOR(aclnnPowTensorTensor, (In a, In b, Out out), {
  out.set(at::pow(up(a), up(b)));
})
OPERATOR(aclnnPowScalarTensor, (Scalar a, In b, Out out), {
  out.set(at::pow(a, up(b)));
})
OPERATOR(aclnnInplacePowTensorScalar, (Out a, Scalar b), {
  a.set(at::pow(up(a), b));
})
OPERATOR(aclnnMaximum, (In a, In b, Out out), { out.set(at::maximum(a, b)); })
OPERATOR(aclnnMinimum, (In a, In b, Out out), { out.set(at::minimum(a, b)); })
OPERATOR(aclnnClamp, (In a, MaybeScalar low, MaybeScalar high, Out out), {
  out.set(at::clamp(up(a), low, high));
})
OPERATOR(aclnnClampMin, (In a, Scalar low, Out out), {
  out.set(at::clamp_min(up(a), low));
})
OPERATOR(aclnnClampMax, (In a, Scalar high, Out out), {
  out.set(at::clamp_max(up(a), high));
})

// Of three ------------------------------------------------------------------

OPERATOR(aclnnAddcmul, (In a, In b, In c, Scalar value, Out out), {
  out.set(at::addcmul(up(a), up(b), up(c), value));
})
OPERATOR(aclnnInplaceAddcmul, (Out a, In b, In c, Scalar value), {
  a.set(at::addcmul(up(a), up(b), up(c), value));
})
OPERATOR(aclnnAddcdiv, (In a, In b, In c, Scalar value, Out out), {
  out.set(at::addcdiv(up(a), up(b), up(c), value));
})
OPERATOR(aclnnInplaceAddcdiv, (Out a, In b, In c, Scalar value), {
  a.set(at::addcdiv(up(a), up(b), up(c), value));
})
OPERATOR(aclnnLerp, (In a, In b, In weight, Out out), {
  out.set(at::lerp(up(a), up(b), up(weight)));
})
OPERATOR(aclnnLerps, (In a, In b, Scalar weight, Out out), {
  out.set(at::lerp(up(a), up(b), weight));
})
OPERATOR(aclnnInplaceLerp, (Out a, In b, In weight), {
  a.set(at::lerp(up(a), up(b), up(weight)));
})
OPERATOR(aclnnInplaceLerps, (Out a, In b, Scalar weight), {
  a.set(at::lerp(up(a), up(b), weight));
})

// Comparisons and logic -----------------------------------------------------

#define COMPARISON(NAME, FUNCTION)                              \
  OPERATOR(aclnn##NAME##Scalar, (In a, Scalar b, Out out), {    \
    out.set(at::FUNCTION(a, b));                                \
  })                                                            \
  OPERATOR(aclnn##NAME##Tensor, (In a, In b, Out out), {        \
    out.set(at::FUNCTION(a, b));                                \
  })                                                            \
  OPERATOR(aclnnInplace##NAME##Scalar, (Out a, Scalar b), {     \
    a.set(at::FUNCTION(a, b));                                  \
  })                                                            \
  OPERATOR(aclnnInplace##NAME##Tensor, (Out a, In b), {         \
    a.set(at::FUNCTION(a, b));                                  \
  })

COMPARISON(Eq, eq)
COMPARISON(Ge, ge)
COMPARISON(Gt, gt)
COMPARISON(Le, le)
COMPARISON(Lt, lt)
COMPARISON(Ne, ne)

#define BITWISE(NAME, FUNCTION)                                        \
  OPERATOR(aclnnBitwise##NAME##Scalar, (In a, Scalar b, Out out), {    \
    out.set(at::FUNCTION(a, b));                                       \
  })                                                                   \
  OPERATOR(aclnnBitwise##NAME##Tensor, (In a, In b, Out out), {        \
    out.set(at::FUNCTION(a, b));                                       \
  })                                                                   \
  OPERATOR(aclnnInplaceBitwise##NAME##Scalar, (Out a, Scalar b), {     \
    a.set(at::FUNCTION(a, b));                                         \
  })                                                                   \
  OPERATOR(aclnnInplaceBitwise##NAME##Tensor, (Out a, In b), {         \
    a.set(at::FUNCTION(a, b));                                         \
  })

BITWISE(And, bitwise_and)
BITWISE(Or, bitwise_or)

OPERATOR(aclnnLogicalAnd, (In a, In b, Out out), {
  out.set(at::logical_and(a, b));
})
OPERATOR(aclnnLogicalOr, (In a, In b, Out out), {
  out.set(at::logical_or(a, b));
})
OPERATOR(aclnnEqual, (In a, In b, Out out), {
  Tensor(out).fill_(at::equal(a, b));
})
OPERATOR(aclnnSWhere, (In condition, In a, In b, Out out), {
  out.set(at::where(condition, a, b));
})
OPERATOR(aclnnInplaceMaskedFillScalar, (Out a, In mask, Scalar value), {
  Tensor(a).masked_fill_(mask, value);
})
OPERATOR(aclnnInplaceMaskedFillTensor, (Out a, In mask, In value), {
  Tensor(a).masked_fill_(mask, value.reshape({}));
})
