// The simulated device: PrivateUse1, eight indices, all memory on the host.
//
// An NPU tensor is an ordinary tensor whose storage says "npu:i". An operator
// is run by the CPU's own kernel on *aliases*: CPU tensors over the same
// memory. So numbers are those of the CPU to the bit, and what matters to the
// bundle can be checked at each call: that tensors are on one device, that no
// forked process touches a device, and who waits for whom.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isinf.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pthread.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cfloat>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::IValue;
using c10::Storage;
using c10::StorageImpl;

constexpr auto kNpu = c10::DeviceType::PrivateUse1;
constexpr DeviceIndex kMostDevices = 8;

// What Python has set, and what is counted --------------------------------

std::vector<int64_t> visible = {0, 1, 2, 3, 4, 5, 6, 7};
bool saturates = false;
std::atomic<bool> initialized{false};
std::atomic<bool> bad_fork{false};
std::atomic<bool> overflowed{false};
std::atomic<int64_t> operators{0};
std::mutex collectives_mutex;
std::map<std::string, int64_t> collectives;
// Called with the kind of each wait of the host; it finds the line of Python.
py::object* on_host_sync = nullptr;

void note_host_sync(const std::string& kind) {
  if (on_host_sync == nullptr) return;
  py::gil_scoped_acquire gil;
  (*on_host_sync)(kind);
}

DeviceIndex count_devices() {
  return static_cast<DeviceIndex>(visible.size());
}

void check_index(DeviceIndex index) {
  TORCH_CHECK(
      index >= 0 && index < count_devices(),
      "npu:", int(index), " is not there: invalid device ID, ",
      int(count_devices()), " are visible");
}

void initialize() {
  TORCH_CHECK(
      !bad_fork,
      "Cannot re-initialize NPU in forked subprocess. To use NPU with "
      "multiprocessing, you must use the 'spawn' start method");
  if (initialized.exchange(true)) return;
  pthread_atfork(nullptr, nullptr, [] { bad_fork = true; });
}

// Streams -------------------------------------------------------------------

// Everything is done when the call returns. What is kept track of is what a
// card would have been free to do in another order: of each stream, how far
// the others were when it waited for them last; of each block of memory, which
// streams have used it, and when.
using Place = std::pair<DeviceIndex, c10::StreamId>;
using Clock = std::map<Place, int64_t>;

struct Block {
  Place owner;
  Place writer;
  int64_t written = 0;
  Clock uses;
  std::set<Place> recorded;
};

std::mutex streams_mutex;
// False as long as there are default streams only: then nothing can go wrong.
std::atomic<bool> several_streams{false};
// Never destroyed: memory is freed until the very end.
auto& clocks = *new std::map<Place, Clock>;  // of a stream; itself included
auto& seen_by_host = *new Clock;
auto& blocks = *new std::unordered_map<const void*, Block>;
// By the stream that freed memory goes back to: what may still be using it.
auto& freed = *new std::map<Place, Clock>;
thread_local std::array<c10::StreamId, kMostDevices> current_streams = {};

Place place_of(const c10::Stream& stream) {
  return {stream.device_index(), stream.id()};
}

Place current_place(DeviceIndex index) {
  return {index, current_streams.at(index)};
}

std::string words(const Place& place) {
  return "stream " + std::to_string(place.second) + " of npu:" +
      std::to_string(int(place.first));
}

void merge(Clock& into, const Clock& from) {
  for (const auto& entry : from) {
    auto& time = into[entry.first];
    time = std::max(time, entry.second);
  }
}

int64_t time_in(const Clock& clock, const Place& place) {
  auto found = clock.find(place);
  return found == clock.end() ? 0 : found->second;
}

// Whether all that a stream does from here on comes after a moment of another.
bool comes_after(const Place& place, const Place& other, int64_t moment) {
  return place == other || time_in(clocks[place], other) >= moment ||
      time_in(seen_by_host, other) >= moment;
}

void host_waits_for(const Place& place) {
  std::lock_guard<std::mutex> lock(streams_mutex);
  merge(seen_by_host, clocks[place]);
}

void host_waits_for_device(DeviceIndex index) {
  std::lock_guard<std::mutex> lock(streams_mutex);
  for (const auto& entry : clocks) {
    if (entry.first.first == index) merge(seen_by_host, entry.second);
  }
}

// One more call in the current stream of a device.
void tick(DeviceIndex index) {
  if (!several_streams) return;
  std::lock_guard<std::mutex> lock(streams_mutex);
  auto place = current_place(index);
  ++clocks[place][place];
}

// A call in the current stream uses a block.
void note_use(DeviceIndex index, const void* memory, bool writes) {
  if (!several_streams || memory == nullptr) return;
  std::lock_guard<std::mutex> lock(streams_mutex);
  const auto place = current_place(index);
  auto known = blocks.find(memory);
  if (known == blocks.end()) {
    // From before there were several: of the default stream.
    Block block;
    block.owner = block.writer = {index, 0};
    known = blocks.emplace(memory, block).first;
  }
  auto& block = known->second;
  TORCH_CHECK(
      comes_after(place, block.writer, block.written),
      words(place), " uses what ", words(block.writer),
      " writes, and has not waited for it");
  if (writes) {
    for (const auto& use : block.uses) {
      TORCH_CHECK(
          comes_after(place, use.first, use.second),
          words(place), " writes to what ", words(use.first),
          " uses, and has not waited for it");
    }
    block.writer = place;
    block.written = clocks[place][place];
  }
  block.uses[place] = clocks[place][place];
}

// The current stream gets a block; it may be one that was freed.
void note_allocation(DeviceIndex index, const void* memory) {
  if (!several_streams || memory == nullptr) return;
  std::lock_guard<std::mutex> lock(streams_mutex);
  const auto place = current_place(index);
  auto& pending = freed[place];
  for (auto use = pending.begin(); use != pending.end();) {
    TORCH_CHECK(
        comes_after(place, use->first, use->second),
        words(place), " gets memory that ", words(use->first),
        " may still be using: record_stream was not called before the memory "
        "was freed");
    use = pending.erase(use);
  }
  Block block;
  block.owner = block.writer = place;
  block.written = clocks[place][place];
  blocks[memory] = block;
}

void note_free(const void* memory) {
  if (!several_streams || memory == nullptr) return;
  std::lock_guard<std::mutex> lock(streams_mutex);
  auto known = blocks.find(memory);
  if (known == blocks.end()) return;
  const auto& block = known->second;
  for (const auto& use : block.uses) {
    if (use.first == block.owner || block.recorded.count(use.first)) continue;
    auto& moment = freed[block.owner][use.first];
    moment = std::max(moment, use.second);
  }
  blocks.erase(known);
}

// Devices -------------------------------------------------------------------

thread_local DeviceIndex current = 0;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kNpu; }
  Device exchangeDevice(Device device) const override {
    Device before(kNpu, current);
    setDevice(device);
    return before;
  }
  Device getDevice() const override { return Device(kNpu, current); }
  void setDevice(Device device) const override {
    if (device.index() == current) return;
    check_index(device.index());
    current = device.index();
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    current = device.index();
  }
  DeviceIndex deviceCount() const noexcept override {
    return count_devices();
  }
  c10::Stream getStream(Device device) const override {
    auto index = device.has_index() ? device.index() : current;
    return c10::Stream(
        c10::Stream::UNSAFE, Device(kNpu, index), current_streams.at(index));
  }
  c10::Stream getDefaultStream(Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getNewStream(Device device, int) const override {
    static std::atomic<c10::StreamId> made{0};
    initialize();
    several_streams = true;
    return c10::Stream(c10::Stream::UNSAFE, device, ++made);
  }
  c10::Stream getStreamFromGlobalPool(Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = getStream(stream.device());
    current_streams.at(stream.device_index()) = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream& stream) const override {
    note_host_sync("synchronize");
    host_waits_for(place_of(stream));
  }
  void synchronizeDevice(const DeviceIndex index) const override {
    note_host_sync("synchronize");
    host_waits_for_device(index);
  }
  // An event is a copy of its stream's clock.
  void destroyEvent(void* event, const DeviceIndex) const noexcept override {
    delete (Clock*)event;
  }
  void record(void** event, const c10::Stream& stream, const DeviceIndex,
              const c10::EventFlag) const override {
    std::lock_guard<std::mutex> lock(streams_mutex);
    if (*event == nullptr) *event = new Clock;
    *(Clock*)*event = clocks[place_of(stream)];
  }
  void block(void* event, const c10::Stream& stream) const override {
    std::lock_guard<std::mutex> lock(streams_mutex);
    if (event != nullptr) merge(clocks[place_of(stream)], *(Clock*)event);
  }
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void* event) const override {
    std::lock_guard<std::mutex> lock(streams_mutex);
    if (event != nullptr) merge(seen_by_host, *(Clock*)event);
  }
  void recordDataPtrOnStream(
      const c10::DataPtr& memory, const c10::Stream& stream) const override {
    std::lock_guard<std::mutex> lock(streams_mutex);
    auto known = blocks.find(memory.get());
    if (known == blocks.end()) return;
    known->second.recorded.insert(place_of(stream));
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

Device complete(std::optional<Device> device) {
  TORCH_INTERNAL_ASSERT(!device || device->type() == kNpu);
  auto index = device && device->has_index() ? device->index() : current;
  check_index(index);
  return Device(kNpu, index);
}

// Memory --------------------------------------------------------------------

// What a relabelled block holds on to; says when one of the NPU is freed.
template <typename Owner>
struct Held {
  Owner owner;
  const void* memory;
  ~Held() { note_free(memory); }
};

// Gives a block of memory another device, without moving it. `owner` is held
// as long as the block is.
template <typename Owner>
c10::DataPtr relabel(void* memory, Owner owner, Device device) {
  const bool is_npu = device.type() == kNpu;
  auto* held = new Held<Owner>{std::move(owner), is_npu ? memory : nullptr};
  if (is_npu) note_allocation(device.index(), memory);
  return {
      memory, held, [](void* context) { delete (Held<Owner>*)context; },
      device};
}

struct NpuAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    initialize();
    check_index(current);
    auto block = c10::GetCPUAllocator()->allocate(bytes);
    void* memory = block.get();
    return relabel(memory, std::move(block), Device(kNpu, current));
  }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }
};

NpuAllocator npu_allocator;
REGISTER_ALLOCATOR(kNpu, &npu_allocator);

// Pinned memory of the host is known by its addresses.
std::mutex pinned_mutex;
std::map<const char*, size_t> pinned_blocks;

bool is_pinned_memory(const void* address) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  auto after = pinned_blocks.upper_bound((const char*)address);
  if (after == pinned_blocks.begin()) return false;
  auto block = std::prev(after);
  return (const char*)address < block->first + block->second;
}

struct PinnedBlock {
  c10::DataPtr memory;
  PinnedBlock(c10::DataPtr block, size_t bytes) : memory(std::move(block)) {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned_blocks[(const char*)memory.get()] = bytes;
  }
  PinnedBlock(const PinnedBlock&) = delete;
  ~PinnedBlock() {
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned_blocks.erase((const char*)memory.get());
  }
};

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    initialize();
    auto block = c10::GetCPUAllocator()->allocate(bytes);
    void* memory = block.get();
    if (memory == nullptr) return block;
    auto owner = std::make_shared<PinnedBlock>(std::move(block), bytes);
    return relabel(memory, std::move(owner), Device(c10::kCPU));
  }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }
};

PinnedAllocator pinned_allocator;

// Random numbers ------------------------------------------------------------

// A generator for each device; its numbers come from a CPU generator, which
// is what the CPU's kernels are given.
struct NpuGenerator final : c10::GeneratorImpl {
  at::Generator host;
  NpuGenerator(DeviceIndex index, at::Generator host)
      : GeneratorImpl(
            Device(kNpu, index),
            c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        host(std::move(host)) {}
  void set_current_seed(uint64_t seed) override {
    host.set_current_seed(seed);
  }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override {
    host.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host.unsafeGetGeneratorImpl()->get_state();
  }
  NpuGenerator* clone_impl() const override {
    return new NpuGenerator(device().index(), host.clone());
  }
};

at::Generator new_generator(DeviceIndex index) {
  return at::make_generator<NpuGenerator>(
      index, at::detail::createCPUGenerator());
}

const at::Generator& default_generator(DeviceIndex index) {
  static std::vector<at::Generator> all = [] {
    std::vector<at::Generator> made;
    for (DeviceIndex i = 0; i < kMostDevices; ++i) {
      made.push_back(new_generator(i));
    }
    return made;
  }();
  return all.at(index < 0 ? current : index);
}

// What torch asks an accelerator --------------------------------------------

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return count_devices() > 0; }
  bool hasPrimaryContext(DeviceIndex) const override {
    return initialized && !bad_fork;
  }
  void init() const override { initialize(); }
  DeviceIndex deviceCount() const override { return count_devices(); }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex index) const override {
    Guard().setDevice(Device(kNpu, index));
  }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    return Guard().exchangeDevice(Device(kNpu, index)).index();
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return index < 0 ? current : exchangeDevice(index);
  }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return new_generator(index < 0 ? current : index);
  }
  at::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned_allocator;
  }
  bool isPinnedPtr(const void* address) const override {
    return is_pinned_memory(address);
  }
  void resizePrivateUse1Bytes(const Storage& storage, size_t bytes)
      const override {
    auto* impl = storage.unsafeGetStorageImpl();
    c10::DeviceGuard guard(impl->device());
    auto block = npu_allocator.allocate(bytes);
    std::memcpy(
        block.get(), impl->data(), std::min(bytes, impl->nbytes()));
    impl->set_data_ptr_noswap(std::move(block));
    impl->set_nbytes(bytes);
  }
};

// Aliases -------------------------------------------------------------------

// CPU tensors that stand for the NPU tensors of one call.
class Aliases {
 public:
  explicit Aliases(Device device) : device_(device) {}

  Tensor to_cpu(const Tensor& npu) {
    auto* impl = npu.unsafeGetTensorImpl();
    auto known = tensors_.find(impl);
    if (known != tensors_.end()) return known->second.second;
    auto cpu = at::detail::make_tensor<c10::TensorImpl>(
        storage_to_cpu(npu.storage()),
        c10::DispatchKeySet(c10::DispatchKey::CPU), npu.dtype());
    take_geometry(cpu, npu);
    cpu._set_conj(npu.is_conj());
    cpu._set_neg(npu.is_neg());
    if (impl->is_wrapped_number()) {
      cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    tensors_.emplace(impl, std::make_pair(npu, cpu));
    originals_.emplace(cpu.unsafeGetTensorImpl(), npu);
    return cpu;
  }

  // A result: the original that it is, a view of one, or something new.
  Tensor to_npu(const Tensor& cpu) {
    if (!cpu.defined() || cpu.device().type() != c10::kCPU) return cpu;
    auto known = originals_.find(cpu.unsafeGetTensorImpl());
    if (known != originals_.end()) return known->second;
    TORCH_CHECK(
        cpu.layout() == c10::kStrided,
        "the simulated NPU has dense tensors only");
    auto* host = cpu.storage().unsafeGetStorageImpl();
    auto storage = storages_to_npu_.find(host);
    if (storage == storages_to_npu_.end()) {
      Storage made(c10::make_intrusive<StorageImpl>(
          StorageImpl::use_byte_size_t(), host->nbytes(),
          relabel(host->mutable_data(), cpu.storage(), device_),
          &npu_allocator, true));
      storage = storages_to_npu_.emplace(host, made).first;
      made_.push_back(cpu.storage());
    }
    auto npu = at::detail::make_tensor<c10::TensorImpl>(
        Storage(storage->second),
        c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), cpu.dtype());
    take_geometry(npu, cpu);
    npu._set_conj(cpu.is_conj());
    npu._set_neg(cpu.is_neg());
    return npu;
  }

  // What the kernel has done to sizes and memory of its arguments.
  void write_back() {
    for (auto& entry : storages_to_cpu_) {
      auto* npu = entry.first;
      auto* cpu = entry.second.unsafeGetStorageImpl();
      if (cpu->data() == npu->data() && cpu->nbytes() == npu->nbytes()) {
        continue;
      }
      void* memory = cpu->mutable_data();
      auto block = cpu->set_data_ptr(c10::DataPtr());
      auto size = cpu->nbytes();
      npu->set_data_ptr_noswap(
          relabel(memory, std::move(block), npu->device()));
      npu->set_nbytes(size);
    }
    for (auto& entry : tensors_) {
      auto& npu = entry.second.first;
      auto& cpu = entry.second.second;
      if (npu.sizes() != cpu.sizes() || npu.strides() != cpu.strides() ||
          npu.storage_offset() != cpu.storage_offset()) {
        take_geometry(npu, cpu);
      }
    }
  }

 private:
  static void take_geometry(const Tensor& to, const Tensor& from) {
    to.unsafeGetTensorImpl()->set_sizes_and_strides(
        from.sizes(), from.strides(), from.storage_offset());
  }

  Storage storage_to_cpu(const Storage& npu) {
    auto* impl = npu.unsafeGetStorageImpl();
    auto known = storages_to_cpu_.find(impl);
    if (known != storages_to_cpu_.end()) return known->second;
    Storage cpu(c10::make_intrusive<StorageImpl>(
        StorageImpl::use_byte_size_t(), impl->nbytes(),
        relabel(impl->mutable_data(), npu, Device(c10::kCPU)),
        c10::GetCPUAllocator(), true));
    storages_to_cpu_.emplace(impl, cpu);
    storages_to_npu_.emplace(cpu.unsafeGetStorageImpl(), npu);
    return cpu;
  }

  Device device_;
  std::unordered_map<c10::TensorImpl*, std::pair<Tensor, Tensor>> tensors_;
  std::unordered_map<c10::TensorImpl*, Tensor> originals_;
  std::unordered_map<StorageImpl*, Storage> storages_to_cpu_;
  std::unordered_map<StorageImpl*, Storage> storages_to_npu_;
  std::vector<Storage> made_;
};

// Operators -----------------------------------------------------------------

template <typename Function>
void for_each_tensor(const IValue& value, Function function) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) function(value.toTensor());
  } else if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorVector()) {
      if (tensor.defined()) function(tensor);
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<Tensor>& tensor :
         value.toOptionalTensorVector()) {
      if (tensor && tensor->defined()) function(*tensor);
    }
  }
}

void note_use(const Tensor& tensor, bool writes) {
  if (tensor.device().type() != kNpu || !several_streams) return;
  note_use(tensor.device().index(), tensor.storage().data(), writes);
}

// The device of a call; refuses tensors that the real one could not reach.
Device find_device(
    const c10::FunctionSchema& schema, c10::ArrayRef<IValue> arguments) {
  std::optional<Device> device;
  for (const auto& value : arguments) {
    for_each_tensor(value, [&](const Tensor& tensor) {
      if (tensor.device().type() != kNpu) return;
      TORCH_CHECK(
          !device || *device == tensor.device(),
          "Expected all tensors to be on the same device, but found at least "
          "two devices, ", *device, " and ", tensor.device(), "! (",
          schema.name(), ")");
      device = tensor.device();
    });
  }
  if (!device) {
    for (const auto& value : arguments) {
      if (value.isDevice()) device = value.toDevice();
    }
    return complete(device);
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& formal = schema.arguments()[i];
    bool is_written = formal.alias_info() && formal.alias_info()->isWrite();
    for_each_tensor(arguments[i], [&](const Tensor& tensor) {
      if (tensor.device() == *device) return;
      // The host hands over single numbers and indices by itself.
      bool passes = tensor.device().type() == c10::kCPU && !is_written &&
          (tensor.dim() == 0 || formal.name() == "indices");
      TORCH_CHECK(
          passes,
          "Expected all tensors to be on the same device, but found at least "
          "two devices, ", *device, " and ", tensor.device(), "! (argument '",
          formal.name(), "' of ", schema.name(), ")");
    });
  }
  return *device;
}

// Results whose shape or value the host has to wait for.
bool makes_host_wait(const c10::FunctionSchema& schema) {
  static const std::set<std::string> shapes = {
      "aten::nonzero", "aten::masked_select", "aten::_unique",
      "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
      "aten::unique_dim_consecutive", "aten::repeat_interleave",
      "aten::bincount"};
  static const std::set<std::string> known_to_the_host = {
      "aten::is_set_to", "aten::is_pinned"};
  if (shapes.count(schema.name())) return true;
  if (known_to_the_host.count(schema.name())) return false;
  for (const auto& result : schema.returns()) {
    auto kind = result.type()->kind();
    if (kind == c10::TypeKind::NumberType || kind == c10::TypeKind::BoolType ||
        kind == c10::TypeKind::IntType || kind == c10::TypeKind::FloatType) {
      return true;
    }
  }
  return false;
}

template <typename Number>
void saturate_as(const Tensor& tensor, Number largest) {
  auto infinite = tensor.isinf();
  auto undefined = tensor.isnan();
  if (!infinite.any().item<bool>() && !undefined.any().item<bool>()) return;
  overflowed = true;
  at::nan_to_num_(const_cast<Tensor&>(tensor), 0.0, largest, -largest);
}

// As the first Ascend 910: infinite becomes the largest number, NaN 0.
void saturate(const Tensor& cpu) {
  if (!cpu.defined() || cpu.numel() == 0) return;
  if (cpu.scalar_type() == at::kHalf) saturate_as(cpu, 65504.0);
  if (cpu.scalar_type() == at::kFloat) saturate_as(cpu, double(FLT_MAX));
}

// A CPU computes convolutions of halves a hundred times slower. As on the
// chip, products are summed up in fp32, and only the result is rounded.
bool sums_up_in_fp32(const std::string& name) {
  static const std::set<std::string> names = {
      "aten::convolution", "aten::convolution_backward", "aten::mm",
      "aten::addmm", "aten::bmm"};
  return names.count(name) > 0;
}

bool computes(const std::string& name) {
  return name != "aten::fill_" && name != "aten::zero_" &&
      name != "aten::resize_" && name != "aten::_local_scalar_dense";
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  initialize();
  ++operators;
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  auto arguments = torch::jit::last(*stack, count);
  const auto device = find_device(schema, arguments);
  if (makes_host_wait(schema)) {
    note_host_sync(schema.name());
    host_waits_for(current_place(device.index()));
  }
  tick(device.index());
  for (size_t i = 0; i < count; ++i) {
    const auto* alias = schema.arguments()[i].alias_info();
    for_each_tensor(arguments[i], [&](const Tensor& tensor) {
      note_use(tensor, alias && alias->isWrite());
    });
  }

  c10::DeviceGuard device_guard(device);
  at::AutoDispatchBelowADInplaceOrView below;
  Aliases aliases(device);
  const bool widens = sums_up_in_fp32(schema.name());
  bool widened = false;
  auto alias = [&](const Tensor& tensor) {
    bool on_npu = tensor.defined() && tensor.device().type() == kNpu;
    if (!on_npu) return tensor;
    auto cpu = aliases.to_cpu(tensor);
    if (!widens || cpu.scalar_type() != at::kHalf) return cpu;
    widened = true;
    return cpu.to(at::kFloat);
  };
  std::vector<Tensor> written;
  const auto first = stack->size() - count;
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[first + i];
    const auto& formal = schema.arguments()[i];
    if (value.isTensor()) {
      value = alias(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) {
        list.push_back(alias(tensor));
      }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const auto& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor ? alias(*tensor) : tensor);
      }
      value = list;
    } else if (value.isDevice()) {
      value = Device(c10::kCPU);
    } else if (value.isGenerator()) {
      auto* mine = value.toGenerator().unsafeGetGeneratorImpl();
      TORCH_CHECK(
          mine->device().type() == kNpu, "a generator of ", mine->device(),
          " cannot draw on ", device);
      value = static_cast<NpuGenerator*>(mine)->host;
    } else if (
        value.isNone() && formal.name() == "generator") {
      auto* own = default_generator(device.index()).unsafeGetGeneratorImpl();
      value = static_cast<NpuGenerator*>(own)->host;
    }
    if (saturates && formal.alias_info() && formal.alias_info()->isWrite()) {
      for_each_tensor(value, [&](const Tensor& tensor) {
        written.push_back(tensor);
      });
    }
  }

  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  if (widened) {
    for (size_t i = 1; i <= schema.returns().size(); ++i) {
      auto& value = (*stack)[stack->size() - i];
      if (value.isTensor() && value.toTensor().defined()) {
        value = value.toTensor().to(at::kHalf);
      }
    }
  }
  auto results = torch::jit::last(*stack, schema.returns().size());
  if (saturates && computes(schema.name())) {
    for (auto& tensor : written) saturate(tensor);
    for (size_t i = 0; i < results.size(); ++i) {
      if (schema.returns()[i].alias_info() == nullptr) {
        for_each_tensor(results[i], saturate);
      }
    }
  }
  aliases.write_back();
  const auto start = stack->size() - schema.returns().size();
  for (size_t i = start; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = aliases.to_npu(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) {
        list.push_back(aliases.to_npu(tensor));
      }
      value = list;
    }
  }
}

Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<Device> device,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(complete(device));
  return at::detail::empty_generic(
      size, &npu_allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride,
    std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device> device, std::optional<bool>) {
  c10::DeviceGuard guard(complete(device));
  return at::detail::empty_strided_generic(
      size, stride, &npu_allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype));
}

void note_copy(const Tensor& from, const Tensor& to, bool non_blocking) {
  const bool from_host = from.device().type() != kNpu;
  if (!from_host && to.device().type() == kNpu) return;
  const auto& host = from_host ? from : to;
  if (host.numel() == 0) return;
  if (non_blocking && is_pinned_memory(host.const_data_ptr())) return;
  note_host_sync(from_host ? "copy to the device" : "copy to the host");
  host_waits_for(current_place((from_host ? to : from).device().index()));
}

// Between any two devices; the one way that data goes from one to another.
Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  initialize();
  ++operators;
  for (const auto& tensor : {from, to}) {
    if (tensor.device().type() == kNpu) tick(tensor.device().index());
  }
  note_use(from, false);
  note_use(to, true);
  note_copy(from, to, non_blocking);
  at::AutoDispatchBelowADInplaceOrView below;
  Aliases aliases(to.device());
  auto alias = [&](const Tensor& tensor) {
    return tensor.device().type() == kNpu ? aliases.to_cpu(tensor) : tensor;
  };
  auto target = alias(to);
  target.copy_(alias(from));
  if (saturates && to.device().type() == kNpu) saturate(target);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

Tensor& set_storage(
    Tensor& self, Storage source, int64_t offset, at::IntArrayRef size,
    at::IntArrayRef stride) {
  TORCH_CHECK(
      source.device() == self.device(), "a tensor on ", self.device(),
      " cannot hold memory of ", source.device());
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}

void record_stream(Tensor& self, c10::Stream stream) {
  Guard().recordDataPtrOnStream(self.storage().data_ptr(), stream);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("view", at::native::view);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("record_stream", record_stream);
  m.impl("set_.source_Storage", at::native::set_);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  // Left to themselves, convolutions ask for a kernel of this device's own,
  // and the loss calls its variant with `out`, which resizes and warns.
  for (auto name : {"convolution", "convolution_backward", "mse_loss"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  }
}

TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

// Collectives ---------------------------------------------------------------

// What a collective returns; it is over by then.
class Done final : public c10d::Work {
 public:
  Done(std::vector<Tensor> tensors) : tensors_(std::move(tensors)) {
    std::set<DeviceIndex> indices;
    for (const auto& tensor : tensors_) indices.insert(tensor.device().index());
    std::vector<Device> devices;
    for (auto index : indices) devices.emplace_back(kNpu, index);
    future_ = c10::make_intrusive<c10::ivalue::Future>(
        c10::ListType::create(c10::TensorType::get()), devices);
    future_->markCompleted(IValue(tensors_));
  }
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  void synchronize() override {}
  std::vector<Tensor> result() override { return tensors_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return future_;
  }

 private:
  std::vector<Tensor> tensors_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

using Tensors = std::vector<Tensor>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

// hccl: gloo on the same memory, with hccl's own limits.
class Hccl final : public c10d::Backend {
 public:
  Hccl(c10::intrusive_ptr<c10d::Backend> gloo, int rank, int size)
      : Backend(rank, size), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return "hccl"; }
  void setTimeout(std::chrono::milliseconds timeout) override {
    gloo_->setTimeout(timeout);
  }

  WorkPtr broadcast(
      Tensors& tensors, const c10d::BroadcastOptions& options) override {
    count("broadcast");
    auto host = to_host(tensors);
    gloo_->broadcast(host, options)->wait();
    return done(tensors);
  }
  WorkPtr allreduce(
      Tensors& tensors, const c10d::AllreduceOptions& options) override {
    count("allreduce");
    check_reducible(tensors);
    for (auto& host : to_host(tensors)) {
      // gloo lacks these types.
      auto type = host.scalar_type();
      if (type == at::kShort) type = at::kInt;
      if (type == at::kBFloat16) type = at::kFloat;
      Tensors sum = {host.to(type)};
      gloo_->allreduce(sum, options)->wait();
      if (type != host.scalar_type()) host.copy_(sum[0]);
    }
    return done(tensors);
  }
  WorkPtr allreduce_coalesced(
      Tensors& tensors,
      const c10d::AllreduceCoalescedOptions& options) override {
    return allreduce(tensors, options);
  }
  WorkPtr reduce(
      Tensors& tensors, const c10d::ReduceOptions& options) override {
    count("reduce");
    check_reducible(tensors);
    auto host = to_host(tensors);
    gloo_->reduce(host, options)->wait();
    return done(tensors);
  }
  WorkPtr allgather(
      std::vector<Tensors>& outputs, Tensors& inputs,
      const c10d::AllgatherOptions& options) override {
    count("allgather");
    auto host_outputs = to_host(outputs);
    auto host_inputs = to_host(inputs);
    gloo_->allgather(host_outputs, host_inputs, options)->wait();
    return done(outputs);
  }
  WorkPtr _allgather_base(
      Tensor& output, Tensor& input,
      const c10d::AllgatherOptions& options) override {
    count("allgather_base");
    std::vector<Tensors> parts = {in_equal_parts(output, input)};
    Tensors inputs = {input};
    allgather(parts, inputs, options);
    return done(Tensors{output});
  }
  WorkPtr gather(
      std::vector<Tensors>& outputs, Tensors& inputs,
      const c10d::GatherOptions& options) override {
    count("gather");
    auto host_outputs = to_host(outputs);
    auto host_inputs = to_host(inputs);
    gloo_->gather(host_outputs, host_inputs, options)->wait();
    return done(outputs);
  }
  WorkPtr scatter(
      Tensors& outputs, std::vector<Tensors>& inputs,
      const c10d::ScatterOptions& options) override {
    count("scatter");
    auto host_outputs = to_host(outputs);
    auto host_inputs = to_host(inputs);
    gloo_->scatter(host_outputs, host_inputs, options)->wait();
    return done(outputs);
  }
  WorkPtr _reduce_scatter_base(
      Tensor& output, Tensor& input,
      const c10d::ReduceScatterOptions& options) override {
    count("reduce_scatter_base");
    check_reducible({input});
    auto sum = input.clone();
    Tensors sums = {sum};
    c10d::AllreduceOptions reduction;
    reduction.reduceOp = options.reduceOp;
    reduction.timeout = options.timeout;
    allreduce(sums, reduction);
    output.copy_(in_equal_parts(sum, output).at(getRank()));
    return done(Tensors{output});
  }
  WorkPtr barrier(const c10d::BarrierOptions& options) override {
    count("barrier");
    meet();
    gloo_->barrier(options)->wait();
    note_host_sync("barrier");
    return done(Tensors{});
  }

 private:
  static void count(const char* name) {
    std::lock_guard<std::mutex> lock(collectives_mutex);
    ++collectives[name];
  }

  // Each rank needs a device of its own; looked at where ranks first meet.
  void meet() {
    if (met_) return;
    initialize();
    met_ = true;
    auto mine = at::full({1}, visible.at(current), at::kLong);
    std::vector<Tensors> all(1);
    for (int i = 0; i < getSize(); ++i) all[0].push_back(at::empty_like(mine));
    Tensors input = {mine};
    gloo_->allgather(all, input)->wait();
    std::set<int64_t> different;
    for (auto& one : all[0]) different.insert(one.item<int64_t>());
    TORCH_CHECK(
        int(different.size()) == getSize(),
        "hccl: ranks share a device (rank ", getRank(), " is on npu:",
        int(current), "): call set_device before the first collective");
  }

  Tensors to_host(const Tensors& tensors) {
    meet();
    Tensors host;
    for (const auto& tensor : tensors) {
      TORCH_CHECK(
          tensor.device().type() == kNpu, "hccl works on NPU tensors, not on ",
          tensor.device());
      TORCH_CHECK(
          tensor.device().index() == current, "hccl: a tensor on ",
          tensor.device(), ", but the device of this process is npu:",
          int(current));
      tick(current);
      note_use(tensor, true);
      host.push_back(Aliases(tensor.device()).to_cpu(tensor));
    }
    return host;
  }

  std::vector<Tensors> to_host(const std::vector<Tensors>& lists) {
    std::vector<Tensors> host;
    for (const auto& list : lists) host.push_back(to_host(list));
    return host;
  }

  static void check_reducible(const Tensors& tensors) {
    static const std::set<at::ScalarType> able = {
        at::kChar, at::kShort, at::kInt, at::kLong,
        at::kHalf, at::kBFloat16, at::kFloat};
    for (const auto& tensor : tensors) {
      TORCH_CHECK(
          able.count(tensor.scalar_type()),
          "hccl does not reduce ", tensor.scalar_type());
    }
  }

  static Tensors in_equal_parts(const Tensor& whole, const Tensor& part) {
    TORCH_CHECK(whole.is_contiguous(), "hccl wants contiguous memory");
    Tensors parts;
    for (const auto& piece : whole.view({-1}).split(part.numel())) {
      parts.push_back(piece.view(part.sizes()));
    }
    return parts;
  }

  static WorkPtr done(const Tensors& tensors) {
    return c10::make_intrusive<Done>(tensors);
  }
  static WorkPtr done(const std::vector<Tensors>& lists) {
    Tensors all;
    for (const auto& list : lists) {
      all.insert(all.end(), list.begin(), list.end());
    }
    return done(all);
  }

  c10::intrusive_ptr<c10d::Backend> gloo_;
  bool met_ = false;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  // Never destroyed: torch asks it until the very end.
  static auto* hooks = new Hooks;
  at::RegisterPrivateUse1HooksInterface(hooks);

  m.def("set_up", [](std::vector<int64_t> devices, bool saturating) {
    visible = std::move(devices);
    saturates = saturating;
  });
  m.def("on_host_sync", [](py::object callback) {
    on_host_sync = callback.is_none() ? nullptr : new py::object(callback);
  });
  m.def("init", initialize);
  m.def("is_initialized", [] { return initialized && !bad_fork; });
  m.def("is_in_bad_fork", [] { return bad_fork.load(); });
  m.def("device_count", [] { return int(count_devices()); });
  m.def("current_device", [] {
    initialize();
    return int(current);
  });
  m.def("set_device", [](int index) {
    initialize();
    check_index(DeviceIndex(index));
    current = DeviceIndex(index);
  });
  m.def("default_generator", [](int index) {
    check_index(DeviceIndex(index));
    return default_generator(DeviceIndex(index));
  });
  m.def("synchronize", [](int index) {
    initialize();
    Guard().synchronizeDevice(DeviceIndex(index));
  });
  m.def("current_stream", [](int index) {
    return current_streams.at(index);
  });
  m.def("set_stream", [](int index, c10::StreamId stream) {
    current_streams.at(index) = stream;
  });
  // Calls by stream, counted as long as there are several.
  m.def("streams", [] {
    std::lock_guard<std::mutex> lock(streams_mutex);
    std::map<std::string, int64_t> calls;
    for (auto& entry : clocks) {
      calls[words(entry.first)] = time_in(entry.second, entry.first);
    }
    return calls;
  });
  m.def("operators", [] { return operators.load(); });
  m.def("collectives", [] {
    std::lock_guard<std::mutex> lock(collectives_mutex);
    return collectives;
  });
  m.def("overflowed", [] { return overflowed.load(); });
  m.def("clear_overflow", [] { overflowed = false; });
  m.def("hccl", [](c10::intrusive_ptr<c10d::Backend> gloo, int rank, int size)
        -> c10::intrusive_ptr<c10d::Backend> {
    return c10::make_intrusive<Hccl>(std::move(gloo), rank, size);
  });
}
