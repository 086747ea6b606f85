// HCCL's functions. A collective is a task of the stream that it is given.

#include <hccl/hccl.h>

#include <cstring>

#include "group.h"
#include "reduce.h"

using namespace cann_stub;

namespace {

Group *group_of(HcclComm handle) { return static_cast<Group *>(handle); }

HcclResult start(const char *name, HcclComm group, aclrtStream stream,
                 std::vector<Access> accesses, std::function<void()> work) {
  if (!group) return HCCL_E_PTR;
  count_collective(name);
  aclError error = launch(
      stream, {std::string("Hccl") + name, accesses, std::move(work)});
  return error ? HCCL_E_RUNTIME : HCCL_SUCCESS;
}

HcclResult refuse_dtype(const char *name, HcclDataType type) {
  fail(ACL_ERROR_RT_PARAM_INVALID, std::string("HCCL: ") + name +
                                       " does not take the data type " +
                                       std::to_string(type));
  return HCCL_E_NOT_SUPPORT;
}

Access reads(const void *begin, size_t bytes) {
  return {begin, bytes, false};
}

Access writes(const void *begin, size_t bytes) {
  return {begin, bytes, true};
}

// Reduces everybody's slot into a target, in the order of the ranks.
void reduce_slots(Group *group, char *target, size_t bytes,
                  HcclDataType type, HcclReduceOp op) {
  std::memcpy(target, group->slot(0), bytes);
  for (uint32_t rank = 1; rank < group->size; ++rank) {
    reduce(target, group->slot(rank), bytes / width_of(type), type, op);
  }
}

std::vector<uint64_t> numbers(const void *values, uint32_t count) {
  auto *begin = static_cast<const uint64_t *>(values);
  return std::vector<uint64_t>(begin, begin + count);
}

uint64_t largest_end(const std::vector<uint64_t> &counts,
                     const std::vector<uint64_t> &offsets) {
  uint64_t end = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    end = std::max(end, offsets[i] + counts[i]);
  }
  return end;
}

}  // namespace

extern "C" {

// Communicators --------------------------------------------------------------

// The number of ranks is not known yet: there is room for all.
HcclResult HcclGetRootInfo(HcclRootInfo *info) {
  std::memset(info, 0, sizeof *info);
  Address address = Group::make(MOST_RANKS);
  if (address.file < 0) return HCCL_E_MEMORY;
  std::memcpy(info->internal, &address, sizeof address);
  return HCCL_SUCCESS;
}

HcclResult HcclCommInitRootInfo(uint32_t size, const HcclRootInfo *info,
                                uint32_t rank, HcclComm *group) {
  if (size > MOST_RANKS) return HCCL_E_PARA;
  Address address;
  std::memcpy(&address, info->internal, sizeof address);
  *group = Group::join(address, size, rank, current_device());
  return *group ? HCCL_SUCCESS : HCCL_E_TIMEOUT;
}

HcclResult HcclCommInitRootInfoConfig(uint32_t size,
                                      const HcclRootInfo *info, uint32_t rank,
                                      const HcclCommConfig *,
                                      HcclComm *group) {
  return HcclCommInitRootInfo(size, info, rank, group);
}

HcclResult HcclCreateSubCommConfig(HcclComm *whole, uint32_t size,
                                   uint32_t *, uint64_t id, uint32_t rank,
                                   HcclCommConfig *, HcclComm *part) {
  Address address;
  if (rank == 0) {
    address = Group::make(size);
    group_of(*whole)->publish(id, address);
  } else if (!group_of(*whole)->find(id, &address)) {
    return HCCL_E_TIMEOUT;
  }
  *part = Group::join(address, size, rank, current_device());
  return *part ? HCCL_SUCCESS : HCCL_E_TIMEOUT;
}

// A group is kept: a stream may still hold a task of it.
HcclResult HcclCommDestroy(HcclComm) { return HCCL_SUCCESS; }

uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }

HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue value) {
  if (config == HCCL_DETERMINISTIC) {
    note_setting("hccl_deterministic", std::to_string(value.value));
  }
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommName(HcclComm group, char *name) {
  std::strncpy(name, group_of(group)->name.c_str(), COMM_NAME_MAX_LENGTH - 1);
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankSize(HcclComm group, uint32_t *size) {
  *size = group_of(group)->size;
  return HCCL_SUCCESS;
}

HcclResult HcclGetRankId(HcclComm group, uint32_t *rank) {
  *rank = group_of(group)->rank;
  return HCCL_SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm group, HcclResult *error) {
  bool broken = group && group_of(group)->is_broken();
  *error = broken ? HCCL_E_REMOTE : HCCL_SUCCESS;
  return HCCL_SUCCESS;
}

const char *HcclGetErrorString(HcclResult code) {
  switch (code) {
    case HCCL_SUCCESS: return "no error";
    case HCCL_E_TIMEOUT: return "timeout";
    case HCCL_E_REMOTE: return "a remote rank has failed";
    case HCCL_E_NOT_SUPPORT: return "feature not supported";
    default: return "HCCL error";
  }
}

// Collectives ----------------------------------------------------------------

HcclResult HcclBarrier(HcclComm handle, aclrtStream stream) {
  Group *group = group_of(handle);
  return start("Barrier", handle, stream, {}, [=] { group->barrier(); });
}

HcclResult HcclAllReduce(void *from, void *to, uint64_t count,
                         HcclDataType type, HcclReduceOp op, HcclComm handle,
                         aclrtStream stream) {
  if (!can_reduce(type)) return refuse_dtype("AllReduce", type);
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *source = host_view(from), *target = host_view(to);
  return start("AllReduce", handle, stream,
               {reads(from, bytes), writes(to, bytes)}, [=] {
    group->exchange("AllReduce", source, bytes,
                    [&](size_t offset, size_t length) {
      reduce_slots(group, target + offset, length, type, op);
    });
  });
}

HcclResult HcclReduce(void *from, void *to, uint64_t count,
                      HcclDataType type, HcclReduceOp op, uint32_t root,
                      HcclComm handle, aclrtStream stream) {
  if (!can_reduce(type)) return refuse_dtype("Reduce", type);
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *source = host_view(from), *target = host_view(to);
  return start("Reduce", handle, stream,
               {reads(from, bytes), writes(to, bytes)}, [=] {
    group->exchange("Reduce", source, bytes,
                    [&](size_t offset, size_t length) {
      if (group->rank != root) return;
      reduce_slots(group, target + offset, length, type, op);
    });
  });
}

HcclResult HcclBroadcast(void *data, uint64_t count, HcclDataType type,
                         uint32_t root, HcclComm handle,
                         aclrtStream stream) {
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *place = host_view(data);
  bool gives = group->rank == root;
  return start("Broadcast", handle, stream, {{data, bytes, !gives}}, [=] {
    group->exchange("Broadcast", gives ? place : nullptr, bytes,
                    [&](size_t offset, size_t length) {
      if (!gives) std::memcpy(place + offset, group->slot(root), length);
    });
  });
}

HcclResult HcclAllGather(void *from, void *to, uint64_t count,
                         HcclDataType type, HcclComm handle,
                         aclrtStream stream) {
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *source = host_view(from), *target = host_view(to);
  return start("AllGather", handle, stream,
               {reads(from, bytes), writes(to, bytes * group->size)}, [=] {
    group->exchange("AllGather", source, bytes,
                    [&](size_t offset, size_t length) {
      for (uint32_t rank = 0; rank < group->size; ++rank) {
        std::memcpy(target + rank * bytes + offset, group->slot(rank),
                    length);
      }
    });
  });
}

HcclResult HcclAllGatherV(void *from, uint64_t count, void *to,
                          const void *counts, const void *offsets,
                          HcclDataType type, HcclComm handle,
                          aclrtStream stream) {
  Group *group = group_of(handle);
  size_t width = width_of(type);
  auto sizes = numbers(counts, group->size);
  auto places = numbers(offsets, group->size);
  char *source = host_view(from), *target = host_view(to);
  return start("AllGatherV", handle, stream,
               {reads(from, count * width),
                writes(to, largest_end(sizes, places) * width)}, [=] {
    for (uint32_t giver = 0; giver < group->size; ++giver) {
      bool gives = group->rank == giver;
      group->exchange("AllGatherV", gives ? source : nullptr,
                      sizes[giver] * width,
                      [&](size_t offset, size_t length) {
        std::memcpy(target + places[giver] * width + offset,
                    group->slot(giver), length);
      });
    }
  });
}

HcclResult HcclReduceScatter(void *from, void *to, uint64_t count,
                             HcclDataType type, HcclReduceOp op,
                             HcclComm handle, aclrtStream stream) {
  if (!can_reduce(type)) return refuse_dtype("ReduceScatter", type);
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *source = host_view(from), *target = host_view(to);
  return start("ReduceScatter", handle, stream,
               {reads(from, bytes * group->size), writes(to, bytes)}, [=] {
    for (uint32_t taker = 0; taker < group->size; ++taker) {
      group->exchange("ReduceScatter", source + taker * bytes, bytes,
                      [&](size_t offset, size_t length) {
        if (group->rank != taker) return;
        reduce_slots(group, target + offset, length, type, op);
      });
    }
  });
}

HcclResult HcclReduceScatterV(void *from, const void *counts,
                              const void *offsets, void *to, uint64_t count,
                              HcclDataType type, HcclReduceOp op,
                              HcclComm handle, aclrtStream stream) {
  if (!can_reduce(type)) return refuse_dtype("ReduceScatterV", type);
  Group *group = group_of(handle);
  size_t width = width_of(type);
  auto sizes = numbers(counts, group->size);
  auto places = numbers(offsets, group->size);
  char *source = host_view(from), *target = host_view(to);
  return start("ReduceScatterV", handle, stream,
               {reads(from, largest_end(sizes, places) * width),
                writes(to, count * width)}, [=] {
    for (uint32_t taker = 0; taker < group->size; ++taker) {
      group->exchange("ReduceScatterV", source + places[taker] * width,
                      sizes[taker] * width,
                      [&](size_t offset, size_t length) {
        if (group->rank != taker) return;
        reduce_slots(group, target + offset, length, type, op);
      });
    }
  });
}

HcclResult HcclScatter(void *from, void *to, uint64_t count,
                       HcclDataType type, uint32_t root, HcclComm handle,
                       aclrtStream stream) {
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  bool gives = group->rank == root;
  char *source = gives ? host_view(from) : nullptr;
  char *target = host_view(to);
  return start("Scatter", handle, stream,
               {reads(from, gives ? bytes * group->size : 0),
                writes(to, bytes)}, [=] {
    for (uint32_t taker = 0; taker < group->size; ++taker) {
      group->exchange("Scatter", gives ? source + taker * bytes : nullptr,
                      bytes, [&](size_t offset, size_t length) {
        if (group->rank != taker) return;
        std::memcpy(target + offset, group->slot(root), length);
      });
    }
  });
}

HcclResult HcclAlltoAll(const void *from, uint64_t count, HcclDataType type,
                        const void *to, uint64_t, HcclDataType,
                        HcclComm handle, aclrtStream stream) {
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *source = host_view(from), *target = host_view(to);
  return start("AlltoAll", handle, stream,
               {reads(from, bytes * group->size),
                writes(to, bytes * group->size)}, [=] {
    for (uint32_t taker = 0; taker < group->size; ++taker) {
      group->exchange("AlltoAll", source + taker * bytes, bytes,
                      [&](size_t offset, size_t length) {
        if (group->rank != taker) return;
        for (uint32_t giver = 0; giver < group->size; ++giver) {
          std::memcpy(target + giver * bytes + offset, group->slot(giver),
                      length);
        }
      });
    }
  });
}

HcclResult HcclAlltoAllV(const void *from, const void *send_counts,
                         const void *send_offsets, HcclDataType type,
                         const void *to, const void *receive_counts,
                         const void *receive_offsets, HcclDataType,
                         HcclComm handle, aclrtStream stream) {
  Group *group = group_of(handle);
  size_t width = width_of(type);
  auto sizes = numbers(send_counts, group->size);
  auto places = numbers(send_offsets, group->size);
  auto due = numbers(receive_counts, group->size);
  auto targets = numbers(receive_offsets, group->size);
  char *source = host_view(from), *target = host_view(to);
  return start("AlltoAllV", handle, stream,
               {reads(from, largest_end(sizes, places) * width),
                writes(to, largest_end(due, targets) * width)}, [=] {
    // Who gives how much to whom is known to these two only, so it goes
    // from box to box, and what is for oneself is copied.
    uint32_t size = group->size, rank = group->rank;
    std::memcpy(target + targets[rank] * width, source + places[rank] * width,
                sizes[rank] * width);
    for (uint32_t giver = 0; giver < size; ++giver) {
      for (uint32_t taker = 0; taker < size; ++taker) {
        if (giver == taker) continue;
        if (rank == giver) {
          group->send(taker, source + places[taker] * width,
                      sizes[taker] * width);
        } else if (rank == taker) {
          group->receive(giver, target + targets[giver] * width,
                         due[giver] * width);
        }
      }
    }
  });
}

// Messages between two ranks -------------------------------------------------

HcclResult HcclSend(void *from, uint64_t count, HcclDataType type,
                    uint32_t to, HcclComm handle, aclrtStream stream) {
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *source = host_view(from);
  return start("Send", handle, stream, {reads(from, bytes)},
               [=] { group->send(to, source, bytes); });
}

HcclResult HcclRecv(void *to, uint64_t count, HcclDataType type,
                    uint32_t from, HcclComm handle, aclrtStream stream) {
  Group *group = group_of(handle);
  size_t bytes = count * width_of(type);
  char *target = host_view(to);
  return start("Recv", handle, stream, {writes(to, bytes)},
               [=] { group->receive(from, target, bytes); });
}

// One after the other; what is sent waits for its taker, so the takers of a
// batch have to be in the order of the givers.
HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t count,
                             HcclComm group, aclrtStream stream) {
  for (uint32_t i = 0; i < count; ++i) {
    const HcclSendRecvItem &item = items[i];
    auto transfer =
        item.sendRecvType == HCCL_SEND ? HcclSend : HcclRecv;
    HcclResult result = transfer(item.buf, item.count, item.dataType,
                                 item.remoteRank, group, stream);
    if (result) return result;
  }
  return HCCL_SUCCESS;
}

}  // extern "C"
