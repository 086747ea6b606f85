// Streams, events, and the host that waits for them.
//
// A stream is a queue with a thread of its own, so that what is read before
// it has been computed is wrong here as on a card. CANN_STUB_DELAY makes
// that certain: each task waits so long before it begins.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "stub.h"

namespace cann_stub {
namespace {

using Moment = std::chrono::steady_clock::time_point;

// An event wait is none if so much has been launched since: on a card the
// event has long been reached.
const uint64_t LONG_AGO = 100;

class Stream {
 public:
  Stream(int device, int number) : device(device), number(number) {}

  // The caller holds the order's lock.
  void push(std::function<void()> work) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!started_) {
      started_ = true;
      // Not joined: a stream that hangs must not keep the process from
      // ending.
      std::thread([this] { run(); }).detach();
    }
    tasks_.push_back(std::move(work));
    ++pushed_;
    more_.notify_one();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    uint64_t until = pushed_;
    idle_.wait(lock, [&] { return done_ >= until; });
  }

  bool is_idle() {
    std::lock_guard<std::mutex> lock(mutex_);
    return done_ == pushed_;
  }

  void set_error(const TaskError &error) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (error_.code == ACL_SUCCESS) error_ = error;
  }

  TaskError error() {
    std::lock_guard<std::mutex> lock(mutex_);
    return error_;
  }

  std::string name() const {
    return "stream " + std::to_string(number) + " of npu:" +
           std::to_string(device);
  }

  const int device, number;
  Clock clock;  // under the order's lock
  uint64_t launches = 0;
  uint32_t overflow_switch = 0;

 private:
  void run() {
    use_device(device);
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        more_.wait(lock, [&] { return !tasks_.empty(); });
        work = std::move(tasks_.front());
        tasks_.pop_front();
      }
      work();
      work = nullptr;  // lets go of what it holds before it counts as done
      std::lock_guard<std::mutex> lock(mutex_);
      ++done_;
      idle_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable more_, idle_;
  std::deque<std::function<void()>> tasks_;
  uint64_t pushed_ = 0, done_ = 0;
  bool started_ = false;
  TaskError error_ = {ACL_SUCCESS, ""};
};

struct EventState {
  std::mutex mutex;
  std::condition_variable reached;
  uint64_t recorded = 0, done = 0;
  Moment moment;
  // Under the order's lock: what who waits for it comes to know.
  Clock clock;
  Stream *stream = nullptr;
  uint64_t launches = 0;

  bool is_reached() {
    std::lock_guard<std::mutex> lock(mutex);
    return done >= recorded;
  }

  void wait(uint64_t until) {
    std::unique_lock<std::mutex> lock(mutex);
    reached.wait(lock, [&] { return done >= until; });
  }
};

// A destroyed event lives on in the streams that wait for it.
using Event = std::shared_ptr<EventState>;

// The order in which the host has launched everything, and what it knows.
struct Order {
  std::mutex mutex;
  std::set<Stream *> streams;
  std::map<int, Stream *> defaults;
  int numbers = 0;
  Clock host;
};

Order &order() {
  static Order *all = new Order;
  return *all;
}

Stream *make_stream(int device) {
  auto *stream = new Stream(device, order().numbers++);
  order().streams.insert(stream);
  return stream;
}

Stream *find_stream(aclrtStream handle) {
  if (handle) return static_cast<Stream *>(handle);
  int device = std::max(current_device(), 0);
  std::lock_guard<std::mutex> lock(order().mutex);
  Stream *&stream = order().defaults[device];
  if (!stream) stream = make_stream(device);
  return stream;
}

Event &event_of(aclrtEvent handle) { return *static_cast<Event *>(handle); }

// The caller holds the order's lock.
void advance(Stream *stream) {
  join(stream->clock, order().host);
  size_t number = stream->number;
  if (stream->clock.size() <= number) stream->clock.resize(number + 1);
  ++stream->clock[number];
}

// Waits, and makes the host know what the stream knows.
aclError wait_for(Stream *stream) {
  Clock clock;
  {
    std::lock_guard<std::mutex> lock(order().mutex);
    clock = stream->clock;
  }
  stream->wait();
  std::lock_guard<std::mutex> lock(order().mutex);
  join(order().host, clock);
  TaskError error = stream->error();
  return error.code ? fail(error.code, error.message) : ACL_SUCCESS;
}

void run_task(Stream *stream, const Task &task) {
  if (settings().delay) usleep(settings().delay);
  try {
    task.work();
  } catch (const TaskError &error) {
    stream->set_error(error);
  } catch (const std::exception &error) {
    stream->set_error({ACL_ERROR_RT_AICORE_EXCEPTION,
                       task.name + " has failed: " + error.what()});
  }
}

aclError check_accesses(const Task &task, Stream *stream) {
  for (const Access &access : task.accesses) {
    int device = device_of(access.begin);
    if (device < 0 || access.bytes == 0) continue;
    std::string wrong =
        note_access(access, stream->number, stream->clock, task.name);
    if (!wrong.empty() && settings().refuse_races) {
      return fail(ACL_ERROR_RT_PARAM_INVALID, wrong);
    }
  }
  return ACL_SUCCESS;
}

}  // namespace

aclError launch(aclrtStream handle, Task task) {
  Stream *stream = find_stream(handle);
  TaskError error = stream->error();
  if (error.code) return fail(error.code, error.message);
  trace(stream->name() + ": " + task.name);
  count_launch(stream->name(), task.name);
  {
    std::lock_guard<std::mutex> lock(order().mutex);
    advance(stream);
    ++stream->launches;
    aclError refused = check_accesses(task, stream);
    if (refused) return refused;
    stream->push([stream, task] { run_task(stream, task); });
  }
  if (!settings().threads) stream->wait();
  return ACL_SUCCESS;
}

int stream_device(aclrtStream stream) { return find_stream(stream)->device; }

}  // namespace cann_stub

using namespace cann_stub;

extern "C" {

// Streams ------------------------------------------------------------------

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t,
                                     uint32_t) {
  if (current_device() < 0) {
    return fail(ACL_ERROR_RT_CONTEXT_NULL, "no device is set");
  }
  std::lock_guard<std::mutex> lock(order().mutex);
  *stream = make_stream(current_device());
  return ACL_SUCCESS;
}

aclError aclrtCreateStream(aclrtStream *stream) {
  return aclrtCreateStreamWithConfig(stream, 0, 0);
}

// Its thread stays, and waits for nothing.
aclError aclrtDestroyStream(aclrtStream handle) {
  auto *stream = static_cast<Stream *>(handle);
  stream->wait();
  std::lock_guard<std::mutex> lock(order().mutex);
  order().streams.erase(stream);
  return ACL_SUCCESS;
}

aclError aclrtDestroyStreamForce(aclrtStream stream) {
  return aclrtDestroyStream(stream);
}

aclError aclrtSynchronizeStream(aclrtStream stream) {
  count_wait("stream");
  return wait_for(find_stream(stream));
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) {
  return aclrtSynchronizeStream(stream);
}

aclError aclrtSynchronizeDevice() {
  count_wait("device");
  std::set<Stream *> streams;
  {
    std::lock_guard<std::mutex> lock(order().mutex);
    streams = order().streams;
  }
  aclError error = ACL_SUCCESS;
  for (Stream *stream : streams) {
    if (stream->device != current_device()) continue;
    aclError its = wait_for(stream);
    if (its) error = its;
  }
  return error;
}

aclError aclrtSynchronizeDeviceWithTimeout(int32_t) {
  return aclrtSynchronizeDevice();
}

aclError aclrtStreamQuery(aclrtStream handle, aclrtStreamStatus *status) {
  Stream *stream = find_stream(handle);
  std::lock_guard<std::mutex> lock(order().mutex);
  bool idle = stream->is_idle();
  if (idle) join(order().host, stream->clock);
  *status =
      idle ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtStreamGetId(aclrtStream stream, int32_t *number) {
  *number = find_stream(stream)->number;
  return ACL_SUCCESS;
}

aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag) {
  find_stream(stream)->overflow_switch = flag;
  return ACL_SUCCESS;
}

aclError aclrtGetStreamOverflowSwitch(aclrtStream stream, uint32_t *flag) {
  *flag = find_stream(stream)->overflow_switch;
  return ACL_SUCCESS;
}

// Functions of the host that run in a stream's order ------------------------

aclError aclrtLaunchCallback(aclrtCallback function, void *data,
                             aclrtCallbackBlockType, aclrtStream stream) {
  return launch(stream, {"callback", {}, [=] { function(data); }});
}

// The headers of torch_npu 2.6 have no name for the type of the function.
aclError aclrtLaunchHostFunc(aclrtStream stream, void (*function)(void *),
                             void *data) {
  return launch(stream, {"callback", {}, [=] { function(data); }});
}

// Events -------------------------------------------------------------------

aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t) {
  *event = new Event(std::make_shared<EventState>());
  return ACL_SUCCESS;
}

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) {
  return aclrtCreateEventExWithFlag(event, flag);
}

aclError aclrtDestroyEvent(aclrtEvent event) {
  delete static_cast<Event *>(event);
  return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream where) {
  Event event = event_of(handle);
  Stream *stream = find_stream(where);
  std::lock_guard<std::mutex> lock(order().mutex);
  advance(stream);
  event->clock = stream->clock;
  event->stream = stream;
  event->launches = stream->launches;
  uint64_t number;
  {
    std::lock_guard<std::mutex> own(event->mutex);
    number = ++event->recorded;
  }
  stream->push([event, number] {
    std::lock_guard<std::mutex> own(event->mutex);
    event->done = std::max(event->done, number);
    event->moment = std::chrono::steady_clock::now();
    event->reached.notify_all();
  });
  return ACL_SUCCESS;
}

// The record that it holds stays: nothing here runs out of events.
aclError aclrtResetEvent(aclrtEvent, aclrtStream) { return ACL_SUCCESS; }

aclError aclrtStreamWaitEvent(aclrtStream where, aclrtEvent handle) {
  Event event = event_of(handle);
  Stream *stream = find_stream(where);
  std::lock_guard<std::mutex> lock(order().mutex);
  advance(stream);
  join(stream->clock, event->clock);
  uint64_t until = event->recorded;
  stream->push([event, until] { event->wait(until); });
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeEvent(aclrtEvent handle) {
  Event event = event_of(handle);
  uint64_t until, since = 0;
  Clock clock;
  {
    std::lock_guard<std::mutex> lock(order().mutex);
    until = event->recorded;
    clock = event->clock;
    if (event->stream) since = event->stream->launches - event->launches;
  }
  if (since < LONG_AGO) count_wait("event");
  event->wait(until);
  std::lock_guard<std::mutex> lock(order().mutex);
  join(order().host, clock);
  TaskError error =
      event->stream ? event->stream->error() : TaskError{ACL_SUCCESS, ""};
  return error.code ? fail(error.code, error.message) : ACL_SUCCESS;
}

aclError aclrtQueryEventStatus(aclrtEvent handle,
                               aclrtEventRecordedStatus *status) {
  Event event = event_of(handle);
  std::lock_guard<std::mutex> lock(order().mutex);
  bool reached = event->is_reached();
  if (reached) join(order().host, event->clock);
  *status = reached ? ACL_EVENT_RECORDED_STATUS_COMPLETE
                    : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent event,
                                   aclrtEventWaitStatus *status) {
  *status = event_of(event)->is_reached() ? ACL_EVENT_WAIT_STATUS_COMPLETE
                                          : ACL_EVENT_WAIT_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float *milliseconds, aclrtEvent start,
                               aclrtEvent end) {
  auto passed = event_of(end)->moment - event_of(start)->moment;
  *milliseconds =
      std::chrono::duration<float, std::milli>(passed).count();
  return ACL_SUCCESS;
}

}  // extern "C"
