// Objects that torch_npu makes for its arguments, and how a call is run.

#include "arguments.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <limits>

namespace cann_stub {
namespace {

at::ScalarType dtype_of(aclDataType type) {
  switch (type) {
    case ACL_FLOAT: return at::kFloat;
    case ACL_FLOAT16: return at::kHalf;
    case ACL_BF16: return at::kBFloat16;
    case ACL_DOUBLE: return at::kDouble;
    case ACL_INT8: return at::kChar;
    case ACL_UINT8: return at::kByte;
    case ACL_INT16: return at::kShort;
    case ACL_INT32: return at::kInt;
    case ACL_INT64: return at::kLong;
    case ACL_BOOL: return at::kBool;
    case ACL_COMPLEX64: return at::kComplexFloat;
    case ACL_COMPLEX128: return at::kComplexDouble;
    default:
      throw std::invalid_argument("no kernel takes the dtype " +
                                  std::to_string(type));
  }
}

// "Float" -> "float", as in reports.
std::string dtype_name(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return "float32";
    case at::kHalf: return "float16";
    case at::kBFloat16: return "bfloat16";
    case at::kDouble: return "float64";
    case at::kChar: return "int8";
    case at::kByte: return "uint8";
    case at::kShort: return "int16";
    case at::kInt: return "int32";
    case at::kLong: return "int64";
    case at::kBool: return "bool";
    default: return c10::toString(type);
  }
}

size_t bytes_spanned(const Tensor &view) {
  if (view.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t i = 0; i < view.dim(); ++i) {
    last += (view.size(i) - 1) * view.stride(i);
  }
  return (last + 1) * view.element_size();
}

}  // namespace

void Call::add(const aclTensor *tensor, bool writes) {
  if (!tensor) return;
  const Tensor &view = tensor->view;
  if (dtype.empty()) dtype = dtype_name(view.scalar_type());
  if (settings().first_generation && view.scalar_type() == at::kBFloat16) {
    throw std::invalid_argument(settings().chip + " has no bfloat16");
  }
  Access access = tensor->access;
  if (access.bytes && device_of(access.begin) < 0) {
    throw std::invalid_argument(
        "an argument of shape " + c10::str(view.sizes()) +
        " lies in the host's memory");
  }
  access.writes = writes;
  accesses.push_back(access);
}

void saturate(const Out &values) {
  if (!values.defined() || !values.numel()) return;
  if (values.scalar_type() != at::kFloat &&
      values.scalar_type() != at::kHalf) {
    return;
  }
  if (at::isfinite(values).all().item<bool>()) return;
  raise_overflow(current_device());
  double largest = values.scalar_type() == at::kHalf
                       ? 65504.0
                       : std::numeric_limits<float>::max();
  Tensor(values).nan_to_num_(0.0, largest, -largest);
}

void saturate(const Outs &values) {
  for (const Out &one : values) saturate(one);
}

int refuse_call(const char *name, const std::exception &error) {
  return fail(ACL_ERROR_INVALID_PARAM, std::string(name) + ": " +
                                           error.what());
}

int prepare(const Call &call, std::function<void()> work,
            uint64_t *workspace, aclOpExecutor **executor) {
  *workspace = 0;
  *executor =
      new aclOpExecutor{{call.name, call.accesses, std::move(work)},
                        call.dtype};
  return ACL_SUCCESS;
}

int run_executor(aclOpExecutor *executor, void *stream) {
  std::unique_ptr<aclOpExecutor> owned(executor);
  Task &task = owned->task;
  int device = stream_device(stream);
  for (const Access &access : task.accesses) {
    int other = device_of(access.begin);
    if (access.bytes && other != device) {
      return fail(ACL_ERROR_INVALID_PARAM,
                  task.name + " on npu:" + std::to_string(device) +
                      " has an argument on npu:" + std::to_string(other));
    }
  }
  count_kernel(task.name, owned->dtype);
  auto work = std::move(task.work);
  task.work = [work] {
    // Plain kernels of the CPU, whatever the thread that asked was doing.
    at::NoGradGuard no_grad;
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(
        c10::autocast_dispatch_keyset);
    work();
  };
  return launch(stream, std::move(task));
}

}  // namespace cann_stub

using namespace cann_stub;

extern "C" {

aclTensor *aclCreateTensor(const int64_t *sizes, uint64_t dimensions,
                           aclDataType type, const int64_t *strides,
                           int64_t offset, aclFormat, const int64_t *,
                           uint64_t, void *data) {
  try {
    at::ScalarType dtype = dtype_of(type);
    char *begin =
        static_cast<char *>(data) + offset * c10::elementSize(dtype);
    auto *tensor = new aclTensor;
    tensor->view = at::from_blob(
        host_view(begin), at::IntArrayRef(sizes, dimensions),
        at::IntArrayRef(strides, dimensions),
        at::TensorOptions().dtype(dtype));
    tensor->access = {begin, bytes_spanned(tensor->view), false};
    return tensor;
  } catch (const std::exception &error) {
    fail(ACL_ERROR_INVALID_PARAM, error.what());
    return nullptr;
  }
}

aclScalar *aclCreateScalar(void *value, aclDataType type) {
  auto *scalar = new aclScalar;
  switch (type) {
    case ACL_BOOL: scalar->value = *static_cast<bool *>(value); break;
    case ACL_FLOAT: scalar->value = *static_cast<float *>(value); break;
    case ACL_DOUBLE: scalar->value = *static_cast<double *>(value); break;
    case ACL_FLOAT16: scalar->value = *static_cast<at::Half *>(value); break;
    case ACL_BF16:
      scalar->value = *static_cast<at::BFloat16 *>(value);
      break;
    case ACL_INT32: scalar->value = *static_cast<int32_t *>(value); break;
    case ACL_COMPLEX64:
      scalar->value = *static_cast<c10::complex<float> *>(value);
      break;
    case ACL_COMPLEX128:
      scalar->value = *static_cast<c10::complex<double> *>(value);
      break;
    default: scalar->value = *static_cast<int64_t *>(value);
  }
  return scalar;
}

aclIntArray *aclCreateIntArray(const int64_t *values, uint64_t count) {
  auto *array = new aclIntArray;
  array->value.assign(values, values + count);
  return array;
}

aclFloatArray *aclCreateFloatArray(const float *values, uint64_t count) {
  auto *array = new aclFloatArray;
  array->value.assign(values, values + count);
  return array;
}

aclBoolArray *aclCreateBoolArray(const bool *values, uint64_t count) {
  auto *array = new aclBoolArray;
  array->value.assign(values, values + count);
  return array;
}

aclTensorList *aclCreateTensorList(const aclTensor *const *values,
                                   uint64_t count) {
  auto *list = new aclTensorList;
  list->value.assign(values, values + count);
  return list;
}

aclScalarList *aclCreateScalarList(const aclScalar *const *values,
                                   uint64_t count) {
  auto *list = new aclScalarList;
  list->value.assign(values, values + count);
  return list;
}

int aclDestroyTensor(const aclTensor *tensor) {
  delete tensor;
  return ACL_SUCCESS;
}

int aclDestroyScalar(const aclScalar *scalar) {
  delete scalar;
  return ACL_SUCCESS;
}

int aclDestroyIntArray(const aclIntArray *array) {
  delete array;
  return ACL_SUCCESS;
}

int aclDestroyFloatArray(const aclFloatArray *array) {
  delete array;
  return ACL_SUCCESS;
}

int aclDestroyBoolArray(const aclBoolArray *array) {
  delete array;
  return ACL_SUCCESS;
}

// A list owns what is in it.
int aclDestroyTensorList(const aclTensorList *list) {
  if (list) {
    for (const aclTensor *one : list->value) delete one;
  }
  delete list;
  return ACL_SUCCESS;
}

int aclDestroyScalarList(const aclScalarList *list) {
  if (list) {
    for (const aclScalar *one : list->value) delete one;
  }
  delete list;
  return ACL_SUCCESS;
}

int aclGetViewShape(const aclTensor *tensor, int64_t **sizes,
                    uint64_t *count) {
  auto shape = tensor->view.sizes();
  *count = shape.size();
  *sizes = new int64_t[shape.size()];
  std::copy(shape.begin(), shape.end(), *sizes);
  return ACL_SUCCESS;
}

}  // extern "C"
