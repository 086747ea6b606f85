// Device memory, memory of the host that is pinned, and copies.
//
// A block of device memory is one piece of anonymous memory, mapped twice.
// The address that torch_npu knows has no access rights: host code that
// follows it crashes, as on a card, and the crash is explained. The kernels
// use the other mapping.

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "stub.h"

namespace cann_stub {
namespace {

const size_t PAGE = 4096;

struct Block {
  size_t bytes;
  int device;
  char *view;
};

struct Memory {
  std::shared_mutex mutex;
  std::map<uintptr_t, Block> device;
  std::map<uintptr_t, size_t> pinned;
  std::map<int, size_t> held;
};

Memory &memory() {
  static Memory *all = new Memory;
  return *all;
}

template <class Blocks>
typename Blocks::iterator find_block(Blocks &blocks, const void *address) {
  auto key = reinterpret_cast<uintptr_t>(address);
  auto found = blocks.upper_bound(key);
  return found == blocks.begin() ? blocks.end() : --found;
}

// Tells which device memory the host has touched; only functions that are
// allowed in a signal handler, hence no lock.
void explain_crash(int number, siginfo_t *info, void *) {
  for (const auto &entry : memory().device) {
    auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    if (address < entry.first || address >= entry.first + entry.second.bytes) {
      continue;
    }
    char text[160];
    int length = snprintf(
        text, sizeof text,
        "CANN stub: host code has touched memory of npu:%d, byte %zu of a "
        "block of %zu. A card cannot do that.\n",
        entry.second.device, static_cast<size_t>(address - entry.first),
        entry.second.bytes);
    (void)!write(STDERR_FILENO, text, length);
  }
  signal(number, SIG_DFL);
}

void watch_for_crashes() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction before;
    sigaction(SIGSEGV, nullptr, &before);
    // A handler that is there already (faulthandler's) says enough.
    if (before.sa_handler != SIG_DFL) return;
    struct sigaction action = {};
    action.sa_sigaction = explain_crash;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
  });
}

aclError allocate(void **pointer, size_t bytes) {
  int device = current_device();
  if (device < 0) return fail(ACL_ERROR_RT_CONTEXT_NULL, "no device is set");
  watch_for_crashes();
  bytes = bytes ? (bytes + PAGE - 1) / PAGE * PAGE : PAGE;
  std::unique_lock<std::shared_mutex> lock(memory().mutex);
  size_t &held = memory().held[device];
  if (held + bytes > settings().memory) {
    return fail(ACL_ERROR_RT_MEMORY_ALLOCATION,
                "npu:" + std::to_string(device) + " has no " +
                    std::to_string(bytes) + " bytes left");
  }
  int file = memfd_create("cann_stub", MFD_CLOEXEC);
  void *view = MAP_FAILED, *address = MAP_FAILED;
  if (file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) == 0) {
    view = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_NORESERVE, file, 0);
    address = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE,
                   file, 0);
  }
  if (file >= 0) close(file);
  if (view == MAP_FAILED || address == MAP_FAILED) {
    return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host gives no memory");
  }
  held += bytes;
  memory().device[reinterpret_cast<uintptr_t>(address)] = {
      bytes, device, static_cast<char *>(view)};
  count_memory(device, held);
  *pointer = address;
  return ACL_SUCCESS;
}

const char *direction_of(const void *to, const void *from) {
  bool into = device_of(to) >= 0, out = device_of(from) >= 0;
  return into ? (out ? "device to device" : "host to device")
              : (out ? "device to host" : "host to host");
}

}  // namespace

char *host_view(const void *address) {
  std::shared_lock<std::shared_mutex> lock(memory().mutex);
  auto found = find_block(memory().device, address);
  auto given = static_cast<char *>(const_cast<void *>(address));
  if (found == memory().device.end()) return given;
  size_t offset = reinterpret_cast<uintptr_t>(address) - found->first;
  return offset < found->second.bytes ? found->second.view + offset : given;
}

int device_of(const void *address) {
  std::shared_lock<std::shared_mutex> lock(memory().mutex);
  auto found = find_block(memory().device, address);
  if (found == memory().device.end()) return -1;
  size_t offset = reinterpret_cast<uintptr_t>(address) - found->first;
  return offset < found->second.bytes ? found->second.device : -1;
}

}  // namespace cann_stub

using namespace cann_stub;

extern "C" {

aclError aclrtMalloc(void **pointer, size_t bytes, aclrtMemMallocPolicy) {
  return allocate(pointer, bytes);
}

aclError aclrtMallocAlign32(void **pointer, size_t bytes,
                            aclrtMemMallocPolicy) {
  return allocate(pointer, bytes);
}

aclError aclrtFree(void *pointer) {
  std::unique_lock<std::shared_mutex> lock(memory().mutex);
  auto found = memory().device.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == memory().device.end()) {
    return fail(ACL_ERROR_RT_PARAM_INVALID, "free of what is no block");
  }
  Block block = found->second;
  memory().device.erase(found);
  memory().held[block.device] -= block.bytes;
  forget_accesses(pointer, block.bytes);
  munmap(pointer, block.bytes);
  munmap(block.view, block.bytes);
  return ACL_SUCCESS;
}

aclError aclrtMallocHost(void **pointer, size_t bytes) {
  if (posix_memalign(pointer, PAGE, bytes ? bytes : 1)) {
    return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host gives no memory");
  }
  std::unique_lock<std::shared_mutex> lock(memory().mutex);
  memory().pinned[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return ACL_SUCCESS;
}

aclError aclrtMallocHostWithCfg(void **pointer, uint64_t bytes,
                                aclrtMallocConfig *) {
  return aclrtMallocHost(pointer, bytes);
}

aclError aclrtFreeHost(void *pointer) {
  {
    std::unique_lock<std::shared_mutex> lock(memory().mutex);
    memory().pinned.erase(reinterpret_cast<uintptr_t>(pointer));
  }
  free(pointer);
  return ACL_SUCCESS;
}

aclError aclrtPointerGetAttributes(const void *pointer,
                                   aclrtPtrAttributes *attributes) {
  std::memset(attributes, 0, sizeof *attributes);
  int device = device_of(pointer);
  if (device >= 0) {
    attributes->location.id = device;
    attributes->location.type = ACL_MEM_LOCATION_TYPE_DEVICE;
    return ACL_SUCCESS;
  }
  std::shared_lock<std::shared_mutex> lock(memory().mutex);
  auto found = find_block(memory().pinned, pointer);
  bool pinned =
      found != memory().pinned.end() &&
      reinterpret_cast<uintptr_t>(pointer) - found->first < found->second;
  attributes->location.type = pinned ? ACL_MEM_LOCATION_TYPE_HOST
                                     : ACL_MEM_LOCATION_TYPE_UNREGISTERED;
  return ACL_SUCCESS;
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t *free_bytes, size_t *total) {
  std::shared_lock<std::shared_mutex> lock(memory().mutex);
  *total = settings().memory;
  *free_bytes = *total - memory().held[current_device()];
  return ACL_SUCCESS;
}

aclError aclrtMemcpyAsync(void *to, size_t limit, const void *from,
                          size_t bytes, aclrtMemcpyKind, aclrtStream stream) {
  if (bytes > limit) {
    return fail(ACL_ERROR_RT_PARAM_INVALID, "copy: more than there is room");
  }
  count_bytes(direction_of(to, from), bytes);
  char *target = host_view(to), *source = host_view(from);
  return launch(stream, {"copy",
                         {{to, bytes, true}, {from, bytes, false}},
                         [=] { std::memcpy(target, source, bytes); }});
}

// The call returns when the copy is done, and is in no stream's order.
aclError aclrtMemcpy(void *to, size_t limit, const void *from, size_t bytes,
                     aclrtMemcpyKind) {
  if (bytes > limit) {
    return fail(ACL_ERROR_RT_PARAM_INVALID, "copy: more than there is room");
  }
  count_bytes(direction_of(to, from), bytes);
  count_wait("copy");
  std::memcpy(host_view(to), host_view(from), bytes);
  return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void *pointer, size_t limit, int32_t value,
                          size_t bytes, aclrtStream stream) {
  if (bytes > limit) {
    return fail(ACL_ERROR_RT_PARAM_INVALID, "fill: more than there is room");
  }
  char *target = host_view(pointer);
  return launch(stream, {"fill",
                         {{pointer, bytes, true}},
                         [=] { std::memset(target, value, bytes); }});
}

aclError aclrtMemset(void *pointer, size_t limit, int32_t value,
                     size_t bytes) {
  if (bytes > limit) {
    return fail(ACL_ERROR_RT_PARAM_INVALID, "fill: more than there is room");
  }
  std::memset(host_view(pointer), value, bytes);
  return ACL_SUCCESS;
}

}  // extern "C"
