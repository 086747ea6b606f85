// Devices, contexts, errors, what can be asked of a chip, and the old
// operator interface, of which only the overflow flag is here.

#include <unistd.h>

#include <acl/acl_op_compiler.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "stub.h"

namespace cann_stub {
namespace {

const int MOST_DEVICES = 64;
const int CORES = 20;  // of a card; nothing here depends on it

struct Context {
  int device;
};

Context *context_of(int device) {
  static Context *all = [] {
    auto *made = new Context[MOST_DEVICES];
    for (int i = 0; i < MOST_DEVICES; ++i) made[i].device = i;
    return made;
  }();
  return all + device;
}

thread_local int current = -1;
thread_local std::string message;
std::atomic<bool> overflow[MOST_DEVICES];
std::atomic<bool> initialised{false};

using Options = std::map<int, int64_t>;
std::mutex options_mutex;
Options &options() {
  static auto *all = new Options;
  return *all;
}

}  // namespace

aclError fail(aclError code, const std::string &text) {
  message = "CANN stub: " + text;
  trace("error " + std::to_string(code) + ": " + text);
  return code;
}

int current_device() { return current; }
void use_device(int device) { current = device; }
void raise_overflow(int device) { overflow[device < 0 ? 0 : device] = true; }

}  // namespace cann_stub

using namespace cann_stub;

extern "C" {

aclError aclInit(const char *) {
  if (initialised.exchange(true)) return ACL_ERROR_REPEAT_INITIALIZE;
  int count;
  return visible_devices(&count);
}

aclError aclFinalize() {
  initialised = false;
  return ACL_SUCCESS;
}

// Devices ------------------------------------------------------------------

aclError aclrtGetDeviceCount(uint32_t *count) {
  int visible;
  aclError error = visible_devices(&visible);
  *count = visible;
  return error;
}

aclError aclrtSetDevice(int32_t device) {
  int count;
  aclError error = visible_devices(&count);
  if (error) return error;
  if (device < 0 || device >= count) {
    return fail(ACL_ERROR_RT_INVALID_DEVICEID,
                "invalid device ID " + std::to_string(device) + ", " +
                    std::to_string(count) + " are visible");
  }
  start_report();
  if (current != device) note_setting("device", std::to_string(device));
  current = device;
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t) { return ACL_SUCCESS; }

aclError aclrtGetDevice(int32_t *device) {
  if (current < 0) return ACL_ERROR_RT_CONTEXT_NULL;
  *device = current;
  return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext *context) {
  if (current < 0) return ACL_ERROR_RT_CONTEXT_NULL;
  *context = context_of(current);
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  if (!context) return fail(ACL_ERROR_INVALID_PARAM, "context is null");
  current = static_cast<Context *>(context)->device;
  return ACL_SUCCESS;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags,
                                 int32_t *active) {
  if (flags) *flags = 0;
  *active = current == device;
  return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t, int32_t) {
  *can = 1;
  return ACL_SUCCESS;
}

aclError aclrtDeviceEnablePeerAccess(int32_t, uint32_t) {
  return ACL_SUCCESS;
}

aclError aclrtDeviceGetBareTgid(int32_t *process) {
  *process = getpid();
  return ACL_SUCCESS;
}

// What a chip says of itself ------------------------------------------------

const char *aclrtGetSocName() { return settings().chip.c_str(); }

aclError aclsysGetCANNVersion(aclCANNPackageName,
                              aclCANNPackageVersion *version) {
  std::memset(version, 0, sizeof *version);
  std::snprintf(version->version, sizeof version->version, "%s",
                settings().cann.c_str());
  return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t, aclDeviceInfo, int64_t *value) {
  *value = CORES;
  return ACL_SUCCESS;
}

aclError aclrtGetDeviceInfo(uint32_t, aclrtDevAttr, int64_t *value) {
  *value = CORES;
  return ACL_SUCCESS;
}

// Options -------------------------------------------------------------------

aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  std::lock_guard<std::mutex> lock(options_mutex);
  options()[option] = value;
  return ACL_SUCCESS;
}

aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  return aclrtSetSysParamOpt(option, value);
}

aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) {
  std::lock_guard<std::mutex> lock(options_mutex);
  *value = options()[option];
  return ACL_SUCCESS;
}

aclError aclrtCtxGetSysParamOpt(aclSysParamOpt option, int64_t *value) {
  return aclrtGetSysParamOpt(option, value);
}

aclError aclSetCompileopt(aclCompileOpt option, const char *value) {
  const char *name = option == ACL_OP_JIT_COMPILE      ? "jit_compile"
                     : option == ACL_PRECISION_MODE    ? "precision_mode"
                     : option == ACL_OP_DETERMINISTIC  ? "deterministic"
                                                       : nullptr;
  if (name) note_setting(name, value);
  return ACL_SUCCESS;
}

size_t aclGetCompileoptSize(aclCompileOpt) { return 64; }

aclError aclGetCompileopt(aclCompileOpt, char *value, size_t length) {
  if (length) value[0] = 0;
  return ACL_SUCCESS;
}

aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
  note_setting("saturation_mode", std::to_string(mode));
  return ACL_SUCCESS;
}

aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }

aclError aclrtSetOpExecuteTimeOutV2(uint64_t, uint64_t *actual) {
  if (actual) *actual = 0;
  return ACL_SUCCESS;
}

aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) {
  return ACL_SUCCESS;
}

// Errors, and reports of a device that never has one ------------------------

const char *aclGetRecentErrMsg() {
  // Valid until this thread asks again.
  thread_local std::string given;
  given.swap(message);
  message.clear();
  return given.c_str();
}

aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtGetLastError(aclrtLastErrLevel) { return ACL_SUCCESS; }
aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }

aclError aclrtProcessReport(int32_t) {
  usleep(1000);
  return ACL_SUCCESS;
}

void aclAppLog(aclLogLevel, const char *, const char *, uint32_t,
               const char *, ...) {}

// The overflow flag of the chips that saturate, and the old operators -------

aclError aclrtGetOverflowStatus(void *status, size_t bytes,
                                aclrtStream stream) {
  int device = stream_device(stream);
  char *target = host_view(status);
  return launch(stream, {"GetOverflowStatus", {{status, bytes, true}}, [=] {
                           std::memset(target, 0, bytes);
                           target[0] = overflow[device];
                         }});
}

aclError aclrtResetOverflowStatus(aclrtStream stream) {
  int device = stream_device(stream);
  return launch(stream, {"ResetOverflowStatus", {}, [=] {
                           overflow[device] = false;
                         }});
}

struct aclDataBuffer {
  void *address;
  size_t bytes;
};

aclDataBuffer *aclCreateDataBuffer(void *address, size_t bytes) {
  return new aclDataBuffer{address, bytes};
}

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

// Descriptions of arguments: nothing here reads them.
aclTensorDesc *aclCreateTensorDesc(aclDataType, int, const int64_t *,
                                   aclFormat) {
  return reinterpret_cast<aclTensorDesc *>(new char);
}

void aclDestroyTensorDesc(const aclTensorDesc *description) {
  delete reinterpret_cast<const char *>(description);
}

aclopAttr *aclopCreateAttr() {
  return reinterpret_cast<aclopAttr *>(new char);
}

void aclopDestroyAttr(const aclopAttr *attribute) {
  delete reinterpret_cast<const char *>(attribute);
}

aclError aclopCompileAndExecute(
    const char *name, int inputs, const aclTensorDesc *const[],
    const aclDataBuffer *const input[], int, const aclTensorDesc *const[],
    aclDataBuffer *const[], const aclopAttr *, aclopEngineType,
    aclopCompileType, const char *, aclrtStream stream) {
  const std::string operation = name;
  int device = stream_device(stream);
  if (operation == "NPUClearFloatStatus" ||
      operation == "NPUClearFloatStatusV2") {
    count_kernel(operation, "float32");
    return launch(stream, {operation, {}, [=] { overflow[device] = false; }});
  }
  if (operation == "NPUGetFloatStatus" && inputs == 1) {
    // Writes where its argument lies.
    void *status = input[0]->address;
    auto *target = reinterpret_cast<float *>(host_view(status));
    count_kernel(operation, "float32");
    return launch(stream,
                  {operation, {{status, sizeof(float), true}}, [=] {
                     target[0] = overflow[device] ? 1.0f : 0.0f;
                   }});
  }
  count_missing(operation);
  return fail(ACL_ERROR_OP_NOT_FOUND,
              operation + ": the old operator interface has no kernels here "
                          "(turn jit_compile off)");
}

aclError aclopCompileAndExecuteV2(const char *name, int inputs,
                                  aclTensorDesc *[], aclDataBuffer *input[],
                                  int, aclTensorDesc *[], aclDataBuffer *[],
                                  aclopAttr *, aclopEngineType engine,
                                  aclopCompileType type, const char *,
                                  aclrtStream stream) {
  return aclopCompileAndExecute(name, inputs, nullptr, input, 0, nullptr,
                                nullptr, nullptr, engine, type, nullptr,
                                stream);
}

long cann_stub_missing(const char *name) {
  count_missing(name);
  return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
              std::string(name) + " is not in the stand-in");
}

}  // extern "C"
