// The two-phase operators of libopapi, declared with one macro.
//
//   OPERATOR(aclnnAdd, (In a, In b, Scalar alpha, Out out), {
//     out.copy_(at::add(up(a), up(b), alpha));
//   })
//
// makes aclnnAddGetWorkspaceSize, which takes the arguments and returns an
// executor, and aclnnAdd, which puts the executor into a stream. No header
// has the prototypes: the types of the call in torch_npu are the signature,
// and they have to be met exactly (float is not double, int not int64_t). A
// tensor is In or Out, a list of tensors Ins or Outs; what an operator
// changes in place is Out.
#pragma once

#include <ATen/ATen.h>
#include <acl/acl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../runtime/stub.h"

namespace cann_stub {

using at::Scalar;
using at::Tensor;

struct In : Tensor {
  using Tensor::Tensor;
  In() = default;
  In(const Tensor &tensor) : Tensor(tensor) {}
};

struct Out : Tensor {
  Out() = default;
  Out(const Tensor &tensor) : Tensor(tensor) {}
  void set(const Tensor &values) const {
    if (defined()) Tensor(*this).copy_(values);
  }
};

using Ins = std::vector<In>;
using Outs = std::vector<Out>;
using Ints = std::vector<int64_t>;
using Bools = std::vector<bool>;
using Scalars = std::vector<Scalar>;
using MaybeScalar = std::optional<Scalar>;

// What torch_npu hands over. The kind stands first in each object, so that
// an argument of another kind than the signature says is an error with a
// name and not a crash.
enum class Kind : int { TENSOR = 0xac1001, SCALAR, INTS, BOOLS, FLOATS,
                        TENSORS, SCALARS };

template <Kind K>
struct Handle {
  static constexpr Kind own_kind = K;
  Kind kind = K;
};

}  // namespace cann_stub

struct aclTensor : cann_stub::Handle<cann_stub::Kind::TENSOR> {
  at::Tensor view;                // of the same memory, for the kernels
  cann_stub::Access access;       // at the device's address
};
struct aclScalar : cann_stub::Handle<cann_stub::Kind::SCALAR> {
  at::Scalar value;
};
struct aclIntArray : cann_stub::Handle<cann_stub::Kind::INTS> {
  cann_stub::Ints value;
};
struct aclBoolArray : cann_stub::Handle<cann_stub::Kind::BOOLS> {
  cann_stub::Bools value;
};
struct aclFloatArray : cann_stub::Handle<cann_stub::Kind::FLOATS> {
  std::vector<float> value;
};
struct aclTensorList : cann_stub::Handle<cann_stub::Kind::TENSORS> {
  std::vector<const aclTensor *> value;
};
struct aclScalarList : cann_stub::Handle<cann_stub::Kind::SCALARS> {
  std::vector<const aclScalar *> value;
};

struct aclOpExecutor {
  cann_stub::Task task;
  std::string dtype;
};

namespace cann_stub {

// What the first phase finds out about a call.
struct Call {
  std::string name;
  std::string dtype;  // of the first tensor
  std::vector<Access> accesses;

  void add(const aclTensor *tensor, bool writes);
};

template <class Object>
const Object *checked(const Object *object) {
  if (object && object->kind != Object::own_kind) {
    throw std::invalid_argument("an argument is of another kind");
  }
  return object;
}

// Argument<T>: what stands for T in the call, and how it becomes a T.
template <class T>
struct Argument {
  using Raw = T;
  static T take(Raw raw, Call &) { return raw; }
};

template <class T, bool writes>
struct TensorArgument {
  using Raw = const aclTensor *;
  static T take(Raw raw, Call &call) {
    call.add(checked(raw), writes);
    return raw ? T(raw->view) : T();
  }
};
template <>
struct Argument<In> : TensorArgument<In, false> {};
template <>
struct Argument<Out> : TensorArgument<Out, true> {};

template <class T, bool writes>
struct ListArgument {
  using Raw = const aclTensorList *;
  static std::vector<T> take(Raw raw, Call &call) {
    std::vector<T> all;
    if (!checked(raw)) return all;
    for (const aclTensor *one : raw->value) {
      all.push_back(TensorArgument<T, writes>::take(one, call));
    }
    return all;
  }
};
template <>
struct Argument<Ins> : ListArgument<In, false> {};
template <>
struct Argument<Outs> : ListArgument<Out, true> {};

template <class T, class Object>
struct PlainArgument {
  using Raw = const Object *;
  static T take(Raw raw, Call &) { return checked(raw) ? raw->value : T(); }
};
template <>
struct Argument<Scalar> : PlainArgument<Scalar, aclScalar> {};
template <>
struct Argument<MaybeScalar> : PlainArgument<MaybeScalar, aclScalar> {};
template <>
struct Argument<Ints> : PlainArgument<Ints, aclIntArray> {};
template <>
struct Argument<Bools> : PlainArgument<Bools, aclBoolArray> {};
template <>
struct Argument<Scalars> {
  using Raw = const aclScalarList *;
  static Scalars take(Raw raw, Call &) {
    Scalars all;
    if (!checked(raw)) return all;
    for (const aclScalar *one : raw->value) all.push_back(one->value);
    return all;
  }
};

// On a chip that saturates: no inf and no NaN in what was computed.
void saturate(const Out &values);
void saturate(const Outs &values);
template <class T>
void saturate(const T &) {}

int prepare(const Call &call, std::function<void()> work,
            uint64_t *workspace, aclOpExecutor **executor);
int refuse_call(const char *name, const std::exception &error);
int run_executor(aclOpExecutor *executor, void *stream);

template <class Function, Function function>
struct FirstPhase;

template <class... T, void (*kernel)(T...)>
struct FirstPhase<void (*)(T...), kernel> {
  static const char *name;

  static int call(typename Argument<T>::Raw... raw, uint64_t *workspace,
                  aclOpExecutor **executor) {
    try {
      Call call{name, "", {}};
      // Braces: in the order of the arguments.
      std::tuple<T...> arguments{Argument<T>::take(raw, call)...};
      return prepare(
          call,
          [arguments] {
            std::apply(kernel, arguments);
            if (!settings().saturates) return;
            std::apply([](const auto &...one) { (saturate(one), ...); },
                       arguments);
          },
          workspace, executor);
    } catch (const std::exception &error) {
      return refuse_call(name, error);
    }
  }
};

// Half precision is computed in fp32 and rounded once, as a chip's units
// add up.
inline Tensor up(const Tensor &values) {
  bool half = values.defined() && (values.scalar_type() == at::kHalf ||
                                   values.scalar_type() == at::kBFloat16);
  return half ? values.to(at::kFloat) : values;
}

inline std::optional<Tensor> maybe(const Tensor &values) {
  return values.defined() ? std::optional<Tensor>(values) : std::nullopt;
}

}  // namespace cann_stub

// The first phase is found at run time under a name without a type; ifunc
// gives that name to a function of any type.
#define OPERATOR(NAME, PARAMETERS, ...)                                       \
  static void NAME##_kernel PARAMETERS __VA_ARGS__                            \
  template <>                                                                 \
  const char *cann_stub::FirstPhase<decltype(&NAME##_kernel),                 \
                                    &NAME##_kernel>::name = #NAME;            \
  extern "C" {                                                                \
  void *NAME##_first() {                                                      \
    return reinterpret_cast<void *>(                                          \
        &cann_stub::FirstPhase<decltype(&NAME##_kernel),                      \
                               &NAME##_kernel>::call);                        \
  }                                                                           \
  void NAME##GetWorkspaceSize() __attribute__((ifunc(#NAME "_first")));       \
  int NAME(void *, uint64_t, aclOpExecutor *executor, void *stream) {         \
    return cann_stub::run_executor(executor, stream);                         \
  }                                                                           \
  }
