// What the parts of the stand-in for CANN know of each other.
#pragma once

#include <acl/acl.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace cann_stub {

// settings.cpp: the environment, read once --------------------------------

struct Settings {
  int devices;            // CANN_STUB_DEVICES
  std::string chip;       // CANN_STUB_SOC
  std::string cann;       // CANN_STUB_CANN, the version
  size_t memory;          // CANN_STUB_MEMORY, bytes of each device
  bool threads;           // CANN_STUB_STREAMS: threads or inline
  int delay;              // CANN_STUB_DELAY, microseconds before each task
  bool refuse_races;      // CANN_STUB_RACES: refuse or ignore
  bool trace;             // CANN_STUB_TRACE
  std::string log;        // CANN_STUB_LOG, folder of the reports
  bool first_generation;  // the chip is older than Atlas A2
  bool saturates;         // no inf and no NaN, but a flag
};

const Settings &settings();

// The devices that ASCEND_RT_VISIBLE_DEVICES leaves over, or an error.
aclError visible_devices(int *count);

// Numbers from the environment.
double number_of(const char *name, double fallback);

// device.cpp: errors and the overflow flag --------------------------------

// Keeps the message for aclGetRecentErrMsg of this thread; returns the code.
aclError fail(aclError code, const std::string &message);

int current_device();
void use_device(int device);
void raise_overflow(int device);

// memory.cpp: where the kernels find device memory ------------------------

// The address at which host code can reach a device's memory; an address of
// the host is returned as it is.
char *host_view(const void *address);

// The device that an address belongs to, -1 for memory of the host.
int device_of(const void *address);

// accesses.cpp: who has to wait for whom ----------------------------------

struct Access {
  const void *begin;
  size_t bytes;
  bool writes;
};

// By number of the stream, how many of its tasks are known to be done.
using Clock = std::vector<uint64_t>;

void join(Clock &clock, const Clock &other);

// Looks whether a task may touch this memory, and remembers that it does.
// Returns what is wrong with it, or an empty text.
std::string note_access(const Access &access, int stream, const Clock &clock,
                        const std::string &task);
void forget_accesses(const void *begin, size_t bytes);

// streams.cpp -------------------------------------------------------------

struct Task {
  std::string name;
  std::vector<Access> accesses;
  std::function<void()> work;  // an exception makes the stream fail
};

// A task that fails with a code of the runtime.
struct TaskError {
  aclError code;
  std::string message;
};

// Puts a task into a stream's queue, unless it may not run there.
aclError launch(aclrtStream stream, Task task);
int stream_device(aclrtStream stream);

// counts.cpp: what is reported --------------------------------------------

void count_kernel(const std::string &name, const std::string &dtype);
void count_collective(const std::string &name);
void count_launch(const std::string &stream, const std::string &task);
void count_bytes(const std::string &direction, size_t bytes);
void count_memory(int device, size_t held);
void count_wait(const std::string &kind);
void count_missing(const std::string &name);
void note_setting(const std::string &name, const std::string &value);
void start_report();

// One line to the error output, if CANN_STUB_TRACE is set.
void trace(const std::string &line);

}  // namespace cann_stub

// Called by the generated functions: CANN has it, the stand-in does not.
extern "C" long cann_stub_missing(const char *name);
