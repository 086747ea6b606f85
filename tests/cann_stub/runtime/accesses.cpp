// Finds tasks of two streams that use the same memory in no certain order.
//
// Each stream has a clock: how far it, and every other stream, has come by
// what it has waited for. A task that writes what a task of another stream
// uses, or reads what that one writes, must know that one to be done. What
// the allocator hands out again is the same memory, so a forgotten
// record_stream is found too.

#include "stub.h"

#include <algorithm>
#include <mutex>

namespace cann_stub {
namespace {

struct Use {
  uint64_t time = 0;  // 0: nobody
  std::string task;
};

struct Span {
  uintptr_t end;
  int writer;
  Use write;
  std::map<int, Use> reads;  // by stream
};

std::mutex &mutex() {
  static auto *one = new std::mutex;
  return *one;
}

// By address of the first byte; spans do not overlap.
std::map<uintptr_t, Span> &spans() {
  static auto *all = new std::map<uintptr_t, Span>;
  return *all;
}

// Makes a span begin at an address that lies within one.
void split(uintptr_t at) {
  auto after = spans().lower_bound(at);
  if (after == spans().begin()) return;
  auto before = std::prev(after);
  if (before->second.end <= at) return;
  Span rest = before->second;
  before->second.end = at;
  spans().emplace(at, rest);
}

bool is_known(int stream, uint64_t time, const Clock &clock) {
  size_t number = stream;
  return time <= (number < clock.size() ? clock[number] : 0);
}

std::string complain(const std::string &task, int stream, const char *does,
                     int other, const Use &use, const char *did) {
  return task + " in stream " + std::to_string(stream) + " " + does +
         " memory that " + use.task + " in stream " + std::to_string(other) +
         " " + did + ", and has not waited for it (wait_stream, wait_event; "
         "or record_stream before the memory was freed)";
}

}  // namespace

void join(Clock &clock, const Clock &other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) {
    clock[i] = std::max(clock[i], other[i]);
  }
}

std::string note_access(const Access &access, int stream, const Clock &clock,
                        const std::string &task) {
  auto begin = reinterpret_cast<uintptr_t>(access.begin);
  auto end = begin + access.bytes;
  if (begin == end) return "";
  std::lock_guard<std::mutex> lock(mutex());
  split(begin);
  split(end);
  auto first = spans().lower_bound(begin);
  auto last = spans().lower_bound(end);
  const char *does = access.writes ? "writes" : "reads";
  for (auto i = first; i != last; ++i) {
    const Span &span = i->second;
    if (span.writer != stream &&
        !is_known(span.writer, span.write.time, clock)) {
      return complain(task, stream, does, span.writer, span.write, "writes");
    }
    if (!access.writes) continue;
    for (const auto &read : span.reads) {
      if (read.first != stream &&
          !is_known(read.first, read.second.time, clock)) {
        return complain(task, stream, does, read.first, read.second, "reads");
      }
    }
  }
  Use use = {clock[stream], task};
  if (access.writes) {
    spans().erase(first, last);
    spans().emplace(begin, Span{end, stream, use, {}});
    return "";
  }
  // Reads are kept beside the last write, which stays as it is.
  uintptr_t at = begin;
  std::vector<std::pair<uintptr_t, uintptr_t>> gaps;
  for (auto i = first; i != last; ++i) {
    if (at < i->first) gaps.emplace_back(at, i->first);
    i->second.reads[stream] = use;
    at = i->second.end;
  }
  if (at < end) gaps.emplace_back(at, end);
  for (const auto &gap : gaps) {
    spans().emplace(gap.first,
                    Span{gap.second, stream, {}, {{stream, use}}});
  }
  return "";
}

void forget_accesses(const void *begin, size_t bytes) {
  auto first = reinterpret_cast<uintptr_t>(begin);
  std::lock_guard<std::mutex> lock(mutex());
  split(first);
  split(first + bytes);
  spans().erase(spans().lower_bound(first),
                spans().lower_bound(first + bytes));
}

}  // namespace cann_stub
