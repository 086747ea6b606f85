// The stand-in's knobs, all of them in the environment.

#include <cstdlib>
#include <sstream>

#include "stub.h"

namespace cann_stub {
namespace {

std::string text_of(const char *name, const char *fallback) {
  const char *value = std::getenv(name);
  return value && *value ? value : fallback;
}

bool is_one_of(const std::string &chip, std::vector<std::string> names) {
  for (const auto &name : names) {
    if (chip == "Ascend" + name) return true;
  }
  return false;
}

Settings read_settings() {
  Settings all;
  all.devices = static_cast<int>(number_of("CANN_STUB_DEVICES", 8));
  all.chip = text_of("CANN_STUB_SOC", "Ascend910B3");
  all.cann = text_of("CANN_STUB_CANN", "9.1.0");
  all.memory = static_cast<size_t>(number_of("CANN_STUB_MEMORY", 65536)) << 20;
  all.threads = text_of("CANN_STUB_STREAMS", "threads") != "inline";
  all.delay = static_cast<int>(number_of("CANN_STUB_DELAY", 0));
  all.refuse_races = text_of("CANN_STUB_RACES", "refuse") != "ignore";
  all.trace = !text_of("CANN_STUB_TRACE", "").empty();
  all.log = text_of("CANN_STUB_LOG", "");
  // "Ascend910B" alone is the first chip's smallest form; 910B1 and later
  // are the second generation.
  all.first_generation =
      all.chip.compare(0, 10, "Ascend310P") == 0 ||
      is_one_of(all.chip, {"910A", "910B", "910ProA", "910ProB",
                           "910PremiumA"});
  all.saturates =
      all.first_generation || text_of("INF_NAN_MODE_ENABLE", "1") == "0";
  return all;
}

}  // namespace

double number_of(const char *name, double fallback) {
  const char *value = std::getenv(name);
  return value && *value ? std::atof(value) : fallback;
}

const Settings &settings() {
  // Never destroyed: streams may still run while the process ends.
  static const Settings *all = new Settings(read_settings());
  return *all;
}

aclError visible_devices(int *count) {
  const char *value = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  *count = settings().devices;
  if (!value || !*value) return ACL_SUCCESS;
  std::stringstream words(value);
  std::string word;
  int last = -1, seen = 0;
  while (std::getline(words, word, ',')) {
    bool digits =
        !word.empty() && word.find_first_not_of("0123456789") == word.npos;
    int number = digits ? std::atoi(word.c_str()) : -1;
    *count = 0;
    if (number < 0 || number >= settings().devices) {
      return fail(ACL_ERROR_RT_INVALID_DEVICEID,
                  "ASCEND_RT_VISIBLE_DEVICES: device '" + word +
                      "' is invalid");
    }
    if (number <= last) {
      return fail(ACL_ERROR_RT_INVALID_DEVICEID,
                  "ASCEND_RT_VISIBLE_DEVICES: devices are not in ascending "
                  "order");
    }
    last = number;
    ++seen;
  }
  *count = seen;
  return ACL_SUCCESS;
}

}  // namespace cann_stub
