#include "reduce.h"

#include <cstdint>
#include <cstring>

namespace cann_stub {
namespace {

template <class To, class From>
To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

struct Half {
  uint16_t stored;

  float load() const {
    uint32_t sign = (stored & 0x8000u) << 16;
    uint32_t exponent = stored >> 10 & 31, fraction = stored & 1023;
    if (exponent == 0) {
      float tiny = fraction * 0x1p-24f;
      return sign ? -tiny : tiny;
    }
    uint32_t wide = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
    return bits<float>(sign | wide | fraction << 13);
  }

  void store(float value) {
    uint32_t all = bits<uint32_t>(value);
    uint16_t sign = all >> 16 & 0x8000;
    float size = bits<float>(all & 0x7fffffffu);
    if (value != value) {
      stored = sign | 0x7e00;
    } else if (size >= 65520.0f) {
      stored = sign | 0x7c00;
    } else if (size < 0x1p-14f) {
      // Adding a power of two rounds to the multiples of 2^-24.
      stored = sign | (bits<uint32_t>(size + 0.5f) & 0x7ffu);
    } else {
      uint32_t magnitude = bits<uint32_t>(size);
      // To the nearest, ties to even; a carry goes into the exponent.
      magnitude += 0xfff + (magnitude >> 13 & 1);
      stored = sign | ((magnitude >> 13) - (112 << 10));
    }
  }
};

struct Brain {
  uint16_t stored;

  float load() const { return bits<float>(uint32_t(stored) << 16); }

  void store(float value) {
    uint32_t all = bits<uint32_t>(value);
    stored = value != value ? 0x7fc0
                            : (all + 0x7fff + (all >> 16 & 1)) >> 16;
  }
};

template <class T>
struct Plain {
  T stored;
  T load() const { return stored; }
  void store(T value) { stored = value; }
};

template <class T>
T combine(T a, T b, HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_SUM: return a + b;
    case HCCL_REDUCE_PROD: return a * b;
    case HCCL_REDUCE_MAX: return a != a || a > b ? a : b;  // NaN stays
    default: return a != a || a < b ? a : b;
  }
}

template <class Element>
void reduce_all(char *target, const char *source, size_t count,
                HcclReduceOp op) {
  auto *a = reinterpret_cast<Element *>(target);
  auto *b = reinterpret_cast<const Element *>(source);
  for (size_t i = 0; i < count; ++i) {
    a[i].store(combine(a[i].load(), b[i].load(), op));
  }
}

}  // namespace

size_t width_of(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_UINT8: return 1;
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_UINT16:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16: return 2;
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_UINT32:
    case HCCL_DATA_TYPE_FP32: return 4;
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_UINT64:
    case HCCL_DATA_TYPE_FP64: return 8;
    default: return 0;
  }
}

bool can_reduce(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16:
    case HCCL_DATA_TYPE_FP32: return true;
    default: return false;
  }
}

void reduce(char *target, const char *source, size_t count,
            HcclDataType type, HcclReduceOp op) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
      return reduce_all<Plain<int8_t>>(target, source, count, op);
    case HCCL_DATA_TYPE_INT16:
      return reduce_all<Plain<int16_t>>(target, source, count, op);
    case HCCL_DATA_TYPE_INT32:
      return reduce_all<Plain<int32_t>>(target, source, count, op);
    case HCCL_DATA_TYPE_INT64:
      return reduce_all<Plain<int64_t>>(target, source, count, op);
    case HCCL_DATA_TYPE_FP16:
      return reduce_all<Half>(target, source, count, op);
    case HCCL_DATA_TYPE_BFP16:
      return reduce_all<Brain>(target, source, count, op);
    default:
      return reduce_all<Plain<float>>(target, source, count, op);
  }
}

}  // namespace cann_stub
