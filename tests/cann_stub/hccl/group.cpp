// Meeting in shared memory: joining, the barrier, and what is done about
// ranks that are late or dead.

#include "group.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <utility>

namespace cann_stub {
namespace {

size_t slots_begin() { return (sizeof(Shared) + 4095) / 4096 * 4096; }

size_t whole(uint32_t size) { return slots_begin() + size * SLOT; }

// A process that has ended and was not yet waited for counts as dead.
bool is_alive(int32_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return false;
  size_t end = text.rfind(')');
  return end == text.npos || end + 2 >= text.size() || text[end + 2] != 'Z';
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  std::chrono::duration<double> passed =
      std::chrono::steady_clock::now() - start;
  return passed.count();
}

}  // namespace

Group::Group(Shared *shared, uint32_t size, uint32_t rank, std::string name)
    : size(size),
      rank(rank),
      name(std::move(name)),
      shared_(shared),
      slots_(reinterpret_cast<char *>(shared) + slots_begin()) {}

Address Group::make(uint32_t size) {
  // Stays open for the ranks that are still to come.
  int file = memfd_create("cann_stub_hccl", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(whole(size)))) {
    return {0, -1};
  }
  return {getpid(), file};
}

Group *Group::join(Address address, uint32_t size, uint32_t rank,
                   int device) {
  std::string path = "/proc/" + std::to_string(address.process) + "/fd/" +
                     std::to_string(address.file);
  int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  void *memory = MAP_FAILED;
  if (file >= 0) {
    memory = mmap(nullptr, whole(size), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
  }
  if (memory == MAP_FAILED) {
    fail(ACL_ERROR_RT_RESOURCE_ALLOC_FAIL,
         "EI0006: HCCL: the first rank is gone");
    return nullptr;
  }
  auto *group = new Group(static_cast<Shared *>(memory), size, rank,
                          "hccl-" + std::to_string(address.process) + "-" +
                              std::to_string(address.file));
  Shared *shared = group->shared_;
  shared->ranks[rank].process = getpid();
  shared->ranks[rank].device = device;
  ++shared->joined;
  try {
    group->wait_until(
        "joining", [&] { return shared->joined >= size; },
        number_of("HCCL_CONNECT_TIMEOUT", 120),
        "EI0006: Getting socket times out");
  } catch (const TaskError &error) {
    fail(error.code, error.message);
    return nullptr;
  }
  for (uint32_t other = 0; other < size; ++other) {
    if (other == rank || shared->ranks[other].device != device) continue;
    fail(ACL_ERROR_RT_PARAM_INVALID,
         "HCCL: ranks share a device: " + std::to_string(rank) + " and " +
             std::to_string(other) + " have npu:" + std::to_string(device));
    return nullptr;
  }
  return group;
}

std::string Group::find_dead() const {
  for (uint32_t other = 0; other < size; ++other) {
    int32_t process = shared_->ranks[other].process;
    if (process && !is_alive(process)) return std::to_string(other);
  }
  return "";
}

void Group::wait_until(const char *what, const std::function<bool()> &done,
                       double limit, const char *code) {
  auto start = std::chrono::steady_clock::now();
  int pause = 20;  // microseconds; longer the longer it takes
  for (int round = 1; !done(); ++round) {
    usleep(pause);
    pause = std::min(pause * 5 / 4, 1000);
    std::string dead = round % 64 ? "" : find_dead();
    // What a rank did before it died counts.
    if (done()) return;
    bool late = seconds_since(start) > limit;
    if (!shared_->broken && dead.empty() && !late) continue;
    shared_->broken = 1;
    std::string reason = !dead.empty() ? "rank " + dead + " has died"
                         : late        ? "a rank did not come in time"
                                       : "another rank has given up";
    throw TaskError{late ? ACL_ERROR_RT_FFTS_PLUS_TIMEOUT
                         : ACL_ERROR_RT_SUSPECT_REMOTE_ERROR,
                    std::string(code) + ": HCCL, rank " +
                        std::to_string(rank) + ", " + what + ": " + reason};
  }
}

void Group::barrier() {
  uint32_t before = shared_->generation;
  if (++shared_->arrived == size) {
    shared_->arrived = 0;
    ++shared_->generation;
    return;
  }
  wait_until(
      "waiting for the others",
      [&] { return shared_->generation != before; },
      number_of("HCCL_EXEC_TIMEOUT", 1836),
      "EI0002: The wait execution of the Notify register times out");
}

void Group::exchange(const char *collective, const char *source,
                     size_t bytes,
                     const std::function<void(size_t, size_t)> &read) {
  auto &own = shared_->ranks[rank];
  own.bytes = bytes;
  std::strncpy(own.collective, collective, sizeof own.collective - 1);
  size_t offset = 0;
  do {
    size_t length = std::min(SLOT, bytes - offset);
    if (source && length) {
      std::memcpy(slots_ + rank * SLOT, source + offset, length);
    }
    barrier();
    for (uint32_t other = 0; other < size && offset == 0; ++other) {
      const auto &its = shared_->ranks[other];
      if (its.bytes == bytes && !std::strcmp(its.collective, collective)) {
        continue;
      }
      shared_->broken = 1;
      throw TaskError{ACL_ERROR_RT_PARAM_INVALID,
                      "HCCL: rank " + std::to_string(rank) + " is in " +
                          collective + " of " + std::to_string(bytes) +
                          " bytes, rank " + std::to_string(other) + " in " +
                          its.collective + " of " +
                          std::to_string(its.bytes)};
    }
    read(offset, length);
    barrier();
    offset += length;
  } while (offset < bytes);
}

void Group::send(uint32_t to, const char *source, size_t bytes) {
  auto &box = shared_->boxes[rank][to];
  for (size_t offset = 0; offset < bytes; offset += BOX) {
    wait_until("sending", [&] { return box.sent == box.taken; },
               number_of("HCCL_EXEC_TIMEOUT", 1836), "EI0002");
    std::memcpy(box.data, source + offset, std::min(BOX, bytes - offset));
    ++box.sent;
  }
}

void Group::receive(uint32_t from, char *target, size_t bytes) {
  auto &box = shared_->boxes[from][rank];
  for (size_t offset = 0; offset < bytes; offset += BOX) {
    wait_until("receiving", [&] { return box.sent != box.taken; },
               number_of("HCCL_EXEC_TIMEOUT", 1836), "EI0002");
    std::memcpy(target + offset, box.data, std::min(BOX, bytes - offset));
    ++box.taken;
  }
}

void Group::publish(uint64_t id, Address address) {
  for (auto &child : shared_->children) {
    if (child.id) continue;
    child.address = address;
    child.id = id + 1;
    return;
  }
}

bool Group::find(uint64_t id, Address *address) {
  try {
    wait_until(
        "looking for a part of the group",
        [&] {
          for (auto &child : shared_->children) {
            if (child.id != id + 1) continue;
            *address = child.address;
            return true;
          }
          return false;
        },
        number_of("HCCL_CONNECT_TIMEOUT", 120), "EI0006");
  } catch (const TaskError &error) {
    fail(error.code, error.message);
    return false;
  }
  return true;
}

}  // namespace cann_stub
