// Counts what a process asks of its devices, and reports it as JSON.

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <mutex>
#include <sstream>

#include "stub.h"

namespace cann_stub {
namespace {

using Numbers = std::map<std::string, uint64_t>;

struct Counts {
  std::mutex mutex;
  std::map<std::string, Numbers> kernels;  // by name, then dtype
  std::map<std::string, Numbers> streams;  // by name, then task
  Numbers collectives, bytes, waits, missing;
  std::map<int, size_t> peak;
  std::map<std::string, std::vector<std::string>> settings;
  pid_t process = 0;
};

Counts &counts() {
  static Counts *all = new Counts;
  return *all;
}

// The Python line that is running ------------------------------------------

// Python's functions, found in the process: the stand-in serves every
// Python, and needs none to be built.
template <class Function>
Function python(const char *name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

using Object = void *;

struct Python {
  int (*initialised)() = python<int (*)()>("Py_IsInitialized");
  Object (*thread)() = python<Object (*)()>("PyGILState_GetThisThreadState");
  int (*lock)() = python<int (*)()>("PyGILState_Ensure");
  void (*unlock)(int) = python<void (*)(int)>("PyGILState_Release");
  Object (*frame)() = python<Object (*)()>("PyEval_GetFrame");
  Object (*back)(Object) = python<Object (*)(Object)>("PyFrame_GetBack");
  Object (*code)(Object) = python<Object (*)(Object)>("PyFrame_GetCode");
  int (*line)(Object) = python<int (*)(Object)>("PyFrame_GetLineNumber");
  Object (*attribute)(Object, const char *) =
      python<Object (*)(Object, const char *)>("PyObject_GetAttrString");
  const char *(*text)(Object) =
      python<const char *(*)(Object)>("PyUnicode_AsUTF8");
  void (*keep)(Object) = python<void (*)(Object)>("Py_IncRef");
  void (*release)(Object) = python<void (*)(Object)>("Py_DecRef");

  bool is_there() const {
    return initialised && thread && lock && unlock && frame && back && code &&
           line && attribute && text && keep && release && initialised();
  }
};

bool is_library(const std::string &file) {
  return file.find("/torch/") != file.npos ||
         file.find("/torch_npu/") != file.npos || file[0] == '<';
}

// "folder/file.py:line" of a frame, and whether it is torch's own.
std::string place_of(const Python &py, Object frame, bool *library) {
  Object code = py.code(frame);
  Object name = py.attribute(code, "co_filename");
  const char *text = name ? py.text(name) : nullptr;
  std::string file = text ? text : "<unknown>";
  *library = is_library(file);
  for (Object object : {name, code}) {
    if (object) py.release(object);
  }
  size_t cut = file.rfind('/');
  if (cut != file.npos && cut > 0) cut = file.rfind('/', cut - 1);
  if (cut != file.npos) file = file.substr(cut + 1);
  return file + ":" + std::to_string(py.line(frame));
}

// The innermost line that is not torch's, else the innermost one.
std::string python_place() {
  static const Python py;
  if (!py.is_there() || !py.thread()) return "a thread of torch";
  int state = py.lock();
  std::string place = "a thread of torch";
  Object frame = py.frame();
  if (frame) py.keep(frame);
  for (bool first = true; frame; first = false) {
    bool library;
    std::string here = place_of(py, frame, &library);
    if (first || !library) place = here;
    Object outer = library ? py.back(frame) : nullptr;
    py.release(frame);
    frame = outer;
  }
  py.unlock(state);
  return place;
}

// JSON ---------------------------------------------------------------------

std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      out += code;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + '"';
}

std::string json(const std::string &text) { return quoted(text); }
std::string json(uint64_t number) { return std::to_string(number); }

template <class Item>
std::string json(const std::vector<Item> &items) {
  std::string out = "[";
  for (const Item &item : items) {
    out += (out.size() > 1 ? ", " : "") + json(item);
  }
  return out + "]";
}

std::string key_of(const std::string &key) { return key; }
std::string key_of(int key) { return std::to_string(key); }

template <class Key, class Item>
std::string json(const std::map<Key, Item> &items) {
  std::string out = "{";
  for (const auto &item : items) {
    out += (out.size() > 1 ? ", " : "") + quoted(key_of(item.first)) + ": " +
           json(item.second);
  }
  return out + "}";
}

std::vector<std::string> command_line() {
  std::ifstream file("/proc/self/cmdline");
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) {
    words.push_back(word);
  }
  return words;
}

std::string report() {
  const char *rank = std::getenv("RANK");
  std::lock_guard<std::mutex> lock(counts().mutex);
  std::ostringstream out;
  out << "{\"command\": " << json(command_line())
      << ",\n\"rank\": " << (rank && *rank ? std::atoi(rank) : 0)
      << ",\n\"chip\": " << quoted(settings().chip)
      << ",\n\"settings\": " << json(counts().settings)
      << ",\n\"kernels\": " << json(counts().kernels)
      << ",\n\"collectives\": " << json(counts().collectives)
      << ",\n\"streams\": " << json(counts().streams)
      << ",\n\"host_syncs\": " << json(counts().waits)
      << ",\n\"bytes_copied\": " << json(counts().bytes)
      << ",\n\"peak_memory\": " << json(counts().peak)
      << ",\n\"missing\": " << json(counts().missing) << "}\n";
  return out.str();
}

void write_report() {
  if (counts().process != getpid()) return;  // a forked child
  mkdir(settings().log.c_str(), 0777);
  std::string path =
      settings().log + "/" + std::to_string(getpid()) + ".json";
  {
    std::ofstream file(path + ".new");
    file << report();
  }
  std::rename((path + ".new").c_str(), path.c_str());
}

}  // namespace

void count_kernel(const std::string &name, const std::string &dtype) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  ++counts().kernels[name][dtype];
}

void count_collective(const std::string &name) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  ++counts().collectives[name];
}

void count_launch(const std::string &stream, const std::string &task) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  ++counts().streams[stream][task];
}

void count_bytes(const std::string &direction, size_t bytes) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  counts().bytes[direction] += bytes;
}

void count_memory(int device, size_t held) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  size_t &peak = counts().peak[device];
  if (held > peak) peak = held;
}

void count_wait(const std::string &kind) {
  std::string place = python_place();
  trace("host waits (" + kind + "): " + place);
  std::lock_guard<std::mutex> lock(counts().mutex);
  ++counts().waits[kind + ": " + place];
}

void count_missing(const std::string &name) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  ++counts().missing[name];
}

void note_setting(const std::string &name, const std::string &value) {
  std::lock_guard<std::mutex> lock(counts().mutex);
  counts().settings[name].push_back(value);
}

void start_report() {
  static std::once_flag once;
  std::call_once(once, [] {
    counts().process = getpid();
    if (!settings().log.empty()) std::atexit(write_report);
  });
}

void trace(const std::string &line) {
  if (settings().trace) std::cerr << "[cann_stub] " + line + "\n";
}

}  // namespace cann_stub

// For tests inside the process: valid until the next call.
extern "C" const char *cann_stub_report() {
  static std::string *kept = new std::string;
  *kept = cann_stub::report();
  return kept->c_str();
}
