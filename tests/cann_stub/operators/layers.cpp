// Operators of neural networks: products, convolution, normalisation,
// interpolation, losses.

#include "arguments.h"

using namespace cann_stub;

namespace {

// The first generation's cube unit knows half precision only: what the call
// permits is rounded on the way in. hf32 of the later chips is not modelled.
Tensor cube(const Tensor &values, int8_t mode) {
  bool permitted = mode == 1 || mode == 2;
  if (settings().first_generation && permitted && values.defined() &&
      values.scalar_type() == at::kFloat) {
    return values.to(at::kHalf).to(at::kFloat);
  }
  return up(values);
}

std::array<bool, 3> three(const Bools &mask) {
  return {mask[0], mask[1], mask[2]};
}

template <class Triple>
void set_masked(const Bools &mask, const Out &a, const Out &b, const Out &c,
                const Triple &all) {
  if (mask[0]) a.set(std::get<0>(all));
  if (mask[1]) b.set(std::get<1>(all));
  if (mask[2]) c.set(std::get<2>(all));
}

}  // namespace

OPERATOR(aclnnMatmul, (In a, In b, Out out, int8_t mode), {
  out.set(at::matmul(cube(a, mode), cube(b, mode)));
})
OPERATOR(aclnnMm, (In a, In b, Out out, int8_t mode), {
  out.set(at::mm(cube(a, mode), cube(b, mode)));
})
OPERATOR(aclnnBatchMatMul, (In a, In b, Out out, int8_t mode), {
  out.set(at::bmm(cube(a, mode), cube(b, mode)));
})
OPERATOR(aclnnAddmm,
         (In bias, In a, In b, Scalar beta, Scalar alpha, Out out,
          int8_t mode), {
  out.set(at::addmm(up(bias), cube(a, mode), cube(b, mode), beta, alpha));
})

OPERATOR(aclnnConvolution,
         (In input, In weight, In bias, Ints stride, Ints padding,
          Ints dilation, bool transposed, Ints output_padding,
          int64_t groups, Out out, int8_t mode), {
  out.set(at::convolution(cube(input, mode), cube(weight, mode),
                          maybe(up(bias)), stride, padding, dilation,
                          transposed, output_padding, groups));
})
OPERATOR(aclnnConvolutionBackward,
         (In gradient, In input, In weight, Ints bias_sizes, Ints stride,
          Ints padding, Ints dilation, bool transposed, Ints output_padding,
          int64_t groups, Bools mask, int8_t mode, Out to_input,
          Out to_weight, Out to_bias), {
  at::OptionalIntArrayRef sizes;
  if (!bias_sizes.empty()) sizes = at::IntArrayRef(bias_sizes);
  set_masked(mask, to_input, to_weight, to_bias,
             at::convolution_backward(
                 cube(gradient, mode), cube(input, mode), cube(weight, mode),
                 sizes, stride, padding, dilation, transposed,
                 output_padding, groups, three(mask)));
})

OPERATOR(aclnnBatchNorm,
         (In input, In weight, In bias, Out mean, Out variance,
          bool training, double momentum, double epsilon, Out out,
          Out saved_mean, Out saved_scale), {
  auto all = at::native_batch_norm(up(input), maybe(weight), maybe(bias),
                                   maybe(mean), maybe(variance), training,
                                   momentum, epsilon);
  out.set(std::get<0>(all));
  if (!training) return;
  saved_mean.set(std::get<1>(all));
  saved_scale.set(std::get<2>(all));
})
OPERATOR(aclnnBatchNormBackward,
         (In gradient, In input, In weight, In mean, In variance,
          In saved_mean, In saved_scale, bool training, double epsilon,
          Bools mask, Out to_input, Out to_weight, Out to_bias), {
  set_masked(mask, to_input, to_weight, to_bias,
             at::native_batch_norm_backward(
                 up(gradient), up(input), maybe(weight), maybe(mean),
                 maybe(variance), maybe(saved_mean), maybe(saved_scale),
                 training, epsilon, three(mask)));
})

OPERATOR(aclnnUpsampleNearest2d, (In input, Ints size, Out out), {
  out.set(at::upsample_nearest2d(up(input), size));
})
OPERATOR(aclnnUpsampleNearest2dV2,
         (In input, Ints size, float, float, Out out), {
  out.set(at::upsample_nearest2d(up(input), size));
})
OPERATOR(aclnnUpsampleNearest2dBackward,
         (In gradient, Ints output_size, Ints input_size, double, double,
          Out out), {
  out.set(at::upsample_nearest2d_backward(up(gradient), output_size,
                                          input_size));
})

OPERATOR(aclnnSoftmax, (In a, int64_t dim, Out out), {
  out.set(at::softmax(up(a), dim));
})
OPERATOR(aclnnLogSoftmax, (In a, int64_t dim, Out out), {
  out.set(at::log_softmax(up(a), dim));
})
OPERATOR(aclnnMseLoss, (In a, In b, int64_t reduction, Out out), {
  out.set(at::mse_loss(up(a), up(b), reduction));
})
OPERATOR(aclnnMseLossBackward,
         (In gradient, In a, In b, int64_t reduction, Out out), {
  out.set(at::mse_loss_backward(up(gradient), up(a), up(b), reduction));
})
