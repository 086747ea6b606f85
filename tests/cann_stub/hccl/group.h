// A communicator: ranks of one host that meet in shared memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "../runtime/stub.h"

namespace cann_stub {

const uint32_t MOST_RANKS = 64;
const size_t SLOT = 1 << 20;   // what a rank shows the others at a time
const size_t BOX = 1 << 16;    // the same from one rank to one other
const uint32_t MOST_CHILDREN = 16;

// How to find shared memory that another process has made: through /proc,
// so that nothing is left behind however the processes end.
struct Address {
  int32_t process;
  int32_t file;
};

// What every rank sees; zeros at first.
struct Shared {
  std::atomic<uint32_t> joined;
  std::atomic<uint32_t> arrived;     // at the barrier
  std::atomic<uint32_t> generation;  // of the barrier
  std::atomic<uint32_t> broken;      // somebody has given up
  struct Rank {
    std::atomic<int32_t> process;
    std::atomic<int32_t> device;
    uint64_t bytes;                  // of the collective at hand
    char collective[24];
  } ranks[MOST_RANKS];
  struct Child {
    std::atomic<uint64_t> id;        // + 1; 0 is free
    Address address;
  } children[MOST_CHILDREN];
  struct Box {
    std::atomic<uint32_t> sent, taken;
    char data[BOX];
  } boxes[MOST_RANKS][MOST_RANKS];   // pages that nobody uses cost nothing
};

class Group {
 public:
  // Memory for a new group; the caller is its first rank.
  static Address make(uint32_t size);
  // Waits for all ranks. Null if they do not come; then fail() was called.
  static Group *join(Address address, uint32_t size, uint32_t rank,
                     int device);

  // Waits for all ranks. Throws a TaskError if they do not come.
  void barrier();
  // Shows bytes to all ranks, piece by piece; `read` gets the offset and the
  // length of a piece and finds everybody's in slot(). All ranks must ask for
  // as many bytes in the same collective; `source` may be null.
  void exchange(const char *collective, const char *source, size_t bytes,
                const std::function<void(size_t, size_t)> &read);
  void send(uint32_t to, const char *source, size_t bytes);
  void receive(uint32_t from, char *target, size_t bytes);

  // Lets the ranks of a part of the group find their shared memory.
  void publish(uint64_t id, Address address);
  bool find(uint64_t id, Address *address);

  const char *slot(uint32_t rank) const { return slots_ + rank * SLOT; }
  bool is_broken() const { return shared_->broken; }

  const uint32_t size, rank;
  const std::string name;

 private:
  Group(Shared *shared, uint32_t size, uint32_t rank, std::string name);
  void wait_until(const char *what, const std::function<bool()> &done,
                  double limit, const char *code);
  std::string find_dead() const;

  Shared *shared_;
  char *slots_;
};

}  // namespace cann_stub
