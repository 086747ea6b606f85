// Operators of optimisers: over lists of tensors, loss scaling, fused Adam.

#include "arguments.h"

using namespace cann_stub;

namespace {

template <class Compute>
void each(const Outs &out, Compute compute) {
  for (size_t i = 0; i < out.size(); ++i) out[i].set(compute(i));
}

Tensor number(const Tensor &values) { return values.reshape({}); }

}  // namespace

// Lists: with the number as a tensor, and V2 with it as a scalar ------------

OPERATOR(aclnnForeachCopy, (Ins a, Outs out), {
  each(out, [&](size_t i) { return a[i]; });
})
OPERATOR(aclnnForeachZeroInplace, (Outs a), {
  for (const Out &one : a) Tensor(one).zero_();
})
OPERATOR(aclnnForeachNeg, (Ins a, Outs out), {
  each(out, [&](size_t i) { return at::neg(up(a[i])); });
})
OPERATOR(aclnnForeachReciprocal, (Ins a, Outs out), {
  each(out, [&](size_t i) { return at::reciprocal(up(a[i])); });
})
OPERATOR(aclnnForeachSqrt, (Ins a, Outs out), {
  each(out, [&](size_t i) { return at::sqrt(up(a[i])); });
})
OPERATOR(aclnnForeachNorm, (Ins a, Scalar order, Outs out), {
  each(out, [&](size_t i) { return at::norm(up(a[i]), order); });
})

OPERATOR(aclnnForeachAddScalar, (Ins a, In b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) + number(b); });
})
OPERATOR(aclnnForeachAddScalarV2, (Ins a, Scalar b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) + b; });
})
OPERATOR(aclnnForeachAddScalarList, (Ins a, Scalars b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) + b[i]; });
})
OPERATOR(aclnnForeachAddList, (Ins a, Ins b, In alpha, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) + up(b[i]) * number(alpha); });
})
OPERATOR(aclnnForeachAddListV2, (Ins a, Ins b, Scalar alpha, Outs out), {
  each(out, [&](size_t i) { return at::add(up(a[i]), up(b[i]), alpha); });
})
OPERATOR(aclnnForeachSubScalarV2, (Ins a, Scalar b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) - b; });
})
OPERATOR(aclnnForeachSubListV2, (Ins a, Ins b, Scalar alpha, Outs out), {
  each(out, [&](size_t i) { return at::sub(up(a[i]), up(b[i]), alpha); });
})
OPERATOR(aclnnForeachMulScalar, (Ins a, In b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) * number(b); });
})
OPERATOR(aclnnForeachMulScalarV2, (Ins a, Scalar b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) * b; });
})
OPERATOR(aclnnForeachMulScalarList, (Ins a, Scalars b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) * b[i]; });
})
OPERATOR(aclnnForeachMulList, (Ins a, Ins b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) * up(b[i]); });
})
OPERATOR(aclnnForeachDivScalarV2, (Ins a, Scalar b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) / b; });
})
OPERATOR(aclnnForeachDivScalarList, (Ins a, Scalars b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) / b[i]; });
})
OPERATOR(aclnnForeachDivList, (Ins a, Ins b, Outs out), {
  each(out, [&](size_t i) { return up(a[i]) / up(b[i]); });
})
OPERATOR(aclnnForeachLerpScalar, (Ins a, Ins b, Scalar weight, Outs out), {
  each(out, [&](size_t i) { return at::lerp(up(a[i]), up(b[i]), weight); });
})
OPERATOR(aclnnForeachAddcmulScalarV2,
         (Ins a, Ins b, Ins c, Scalar value, Outs out), {
  each(out, [&](size_t i) {
    return at::addcmul(up(a[i]), up(b[i]), up(c[i]), value);
  });
})
OPERATOR(aclnnForeachAddcdivScalarV2,
         (Ins a, Ins b, Ins c, Scalar value, Outs out), {
  each(out, [&](size_t i) {
    return at::addcdiv(up(a[i]), up(b[i]), up(c[i]), value);
  });
})
OPERATOR(aclnnForeachAddcdivList,
         (Ins a, Ins b, Ins c, In values, Outs out), {
  each(out, [&](size_t i) {
    return at::addcdiv(up(a[i]), up(b[i]), up(c[i]), values[i].item());
  });
})
OPERATOR(aclnnForeachAddcdivScalarList,
         (Ins a, Ins b, Ins c, In values, Outs out), {
  each(out, [&](size_t i) {
    return at::addcdiv(up(a[i]), up(b[i]), up(c[i]), values[i].item());
  });
})

// Loss scaling --------------------------------------------------------------

OPERATOR(aclnnForeachNonFiniteCheckAndUnscale,
         (Outs gradients, Out found, In inverse), {
  for (const Out &one : gradients) {
    if (!at::isfinite(up(one)).all().item<bool>()) Tensor(found).fill_(1);
    one.set(up(one) * number(inverse));
  }
})
OPERATOR(aclnnAmpUpdateScale,
         (In, In, In found, double growth, double backoff, int64_t interval,
          Out scale, Out tracker), {
  Tensor new_scale = scale, new_tracker = tracker;
  at::_amp_update_scale_(new_scale, new_tracker, found, growth, backoff,
                         interval);
})

// Adam in one kernel ---------------------------------------------------------

OPERATOR(aclnnApplyAdamWV2,
         (Out weight, Out mean, Out square, Out largest, In gradient, In step,
          float rate, float beta1, float beta2, float decay, float epsilon,
          bool amsgrad, bool maximize), {
  Tensor slope = maximize ? -up(gradient) : up(gradient);
  double number_of_step = step.item<double>() + 1;
  double scale1 = 1 - std::pow(static_cast<double>(beta1), number_of_step);
  double scale2 = 1 - std::pow(static_cast<double>(beta2), number_of_step);
  Tensor(weight).mul_(1 - rate * decay);
  Tensor(mean).mul_(beta1).add_(slope, 1 - beta1);
  Tensor(square).mul_(beta2).addcmul_(slope, slope, 1 - beta2);
  Tensor second = square;
  if (amsgrad) {
    largest.set(at::maximum(largest, square));
    second = largest;
  }
  Tensor divisor = second.sqrt().div_(std::sqrt(scale2)).add_(epsilon);
  Tensor(weight).addcdiv_(mean, divisor, -rate / scale1);
})
