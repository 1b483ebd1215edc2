// SPDX-License-Identifier: Apache-2.0
// The erasure core for JavaScript. Same names and order as src/native/erasure.ts, which checks the
// arguments; here they are asserted. A session is one arena of one thread; its functions take byte
// offsets. Large jobs run on libuv's worker pool, several at a time: the job pins the session (and
// so the arena) and the checksum array by references until its completion, and the environment's
// clean-up hook waits until no worker thread is inside a job.

#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "common/check.h"
#include "erasure/core/erasure.h"

namespace {

using namespace ovs::erasure;

constexpr napi_type_tag kSessionTag = {0x6f76732d65726173, 0x7572652d73657373};
constexpr size_t kArgumentsMax = 10;

/// What worker threads may touch of an environment. No N-API in it: it may outlive the environment.
class Work {
 public:
  void Begin() {
    std::lock_guard lock(mutex_);
    running_++;
  }
  void End() {
    std::lock_guard lock(mutex_);
    running_--;
    idle_.notify_all();
  }
  void WaitIdle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  int running_ = 0;
};

/// One environment (thread) that loaded the addon.
struct Instance {
  std::shared_ptr<Work> work = std::make_shared<Work>();
};

struct Session {
  uint8_t* base = nullptr;
  size_t bytes = 0;
  napi_ref buffer = nullptr;
  TableCache tables;
};

void Must(napi_status status) { OVS_CHECK(status == napi_ok); }

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info, size_t expected) : env_(env) {
    size_t count = kArgumentsMax;
    Must(napi_get_cb_info(env, info, &count, values_, nullptr, nullptr));
    OVS_CHECK(count == expected);
  }

  napi_value Value(size_t i) const { return values_[i]; }

  size_t Size(size_t i) const {
    double value = 0;
    Must(napi_get_value_double(env_, values_[i], &value));
    OVS_CHECK(value >= 0 && value <= 9007199254740991.0);
    return static_cast<size_t>(value);
  }

  uint32_t Word(size_t i) const {
    uint32_t value = 0;
    Must(napi_get_value_uint32(env_, values_[i], &value));
    return value;
  }

  bool Bool(size_t i) const {
    bool value = false;
    Must(napi_get_value_bool(env_, values_[i], &value));
    return value;
  }

  bool IsNull(size_t i) const {
    napi_valuetype type;
    Must(napi_typeof(env_, values_[i], &type));
    return type == napi_null;
  }

  template <typename T>
  T* Array(size_t i, napi_typedarray_type type, size_t* length) const {
    napi_typedarray_type actual;
    void* data = nullptr;
    Must(napi_get_typedarray_info(env_, values_[i], &actual, length, &data, nullptr, nullptr));
    OVS_CHECK(actual == type);
    return static_cast<T*>(data);
  }

  uint32_t* Words(size_t i, size_t* length) const {
    return Array<uint32_t>(i, napi_uint32_array, length);
  }
  uint8_t* Bytes(size_t i, size_t* length) const {
    return Array<uint8_t>(i, napi_uint8_array, length);
  }

  Session& GetSession() const {
    bool tagged = false;
    Must(napi_check_object_type_tag(env_, values_[0], &kSessionTag, &tagged));
    OVS_CHECK(tagged);
    void* session = nullptr;
    Must(napi_get_value_external(env_, values_[0], &session));
    return *static_cast<Session*>(session);
  }

 private:
  napi_env env_;
  napi_value values_[kArgumentsMax] = {};
};

uint8_t* Range(Session& session, size_t at, size_t bytes) {
  OVS_CHECK(at <= session.bytes && bytes <= session.bytes - at);
  return session.base + at;
}

napi_value Number(napi_env env, double value) {
  napi_value result;
  Must(napi_create_double(env, value, &result));
  return result;
}

// ---- Jobs on the worker pool ----

struct Job {
  std::shared_ptr<Work> work;
  std::atomic<bool> ended{false};
  napi_async_work handle = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref pins[2] = {};
  std::shared_ptr<const Tables> tables;
  bool rebuilds = false;
  EncodeJob encode;
  RebuildJob rebuild;
};

void Execute(napi_env, void* data) {
  Job* job = static_cast<Job*>(data);
  if (job->rebuilds) {
    Rebuild(job->rebuild);
  } else {
    Encode(job->encode);
  }
  job->ended = true;
  job->work->End();
}

/// Also runs while the environment goes down; there every call may fail, which changes nothing.
void Complete(napi_env env, napi_status, void* data) {
  std::unique_ptr<Job> job(static_cast<Job*>(data));
  if (!job->ended) job->work->End();  // Cancelled before it began.
  napi_delete_async_work(env, job->handle);
  for (napi_ref pin : job->pins) {
    if (pin != nullptr) napi_delete_reference(env, pin);
  }
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value undefined;
  if (napi_get_undefined(env, &undefined) == napi_ok)
    napi_resolve_deferred(env, job->deferred, undefined);
  napi_close_handle_scope(env, scope);
}

/// Runs the job on the pool; returns a promise.
napi_value Start(napi_env env, std::unique_ptr<Job> job, napi_value session, napi_value array) {
  napi_value result;
  Instance* instance = nullptr;
  Must(napi_get_instance_data(env, reinterpret_cast<void**>(&instance)));
  job->work = instance->work;
  Must(napi_create_reference(env, session, 1, &job->pins[0]));
  if (array != nullptr) Must(napi_create_reference(env, array, 1, &job->pins[1]));
  napi_value name;
  Must(napi_create_string_utf8(env, "ovs:erasure", NAPI_AUTO_LENGTH, &name));
  Must(napi_create_promise(env, &job->deferred, &result));
  Must(napi_create_async_work(env, nullptr, name, Execute, Complete, job.get(), &job->handle));
  job->work->Begin();
  Must(napi_queue_async_work(env, job.release()->handle));
  return result;
}

// ---- Functions ----

/// (arena: ArrayBuffer) → session
napi_value Open(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 1);
  auto session = std::make_unique<Session>();
  void* base = nullptr;
  Must(napi_get_arraybuffer_info(env, arguments.Value(0), &base, &session->bytes));
  session->base = static_cast<uint8_t*>(base);
  Must(napi_create_reference(env, arguments.Value(0), 1, &session->buffer));
  napi_value result;
  const auto close = [](napi_env e, void* data, void*) {
    std::unique_ptr<Session> ended(static_cast<Session*>(data));
    napi_delete_reference(e, ended->buffer);
  };
  Must(napi_create_external(env, session.release(), close, nullptr, &result));
  Must(napi_type_tag_object(env, result, &kSessionTag));
  return result;
}

/// (session, arena, bytes, seed) → number
napi_value JsCrc32c(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 4);
  const size_t bytes = arguments.Size(2);
  const uint8_t* data = Range(arguments.GetSession(), arguments.Size(1), bytes);
  return Number(env, Crc32c(data, bytes, arguments.Word(3)));
}

/// (bytes: Uint8Array, seed) → number
napi_value JsCrc32cOf(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  size_t length = 0;
  const uint8_t* data = arguments.Bytes(0, &length);
  return Number(env, Crc32c(data, length, arguments.Word(1)));
}

/// (session, arena, clusters, target: Uint32Array, targetIndex)
napi_value JsCrc32cClusters(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 5);
  const size_t clusters = arguments.Size(2), index = arguments.Size(4);
  size_t length = 0;
  uint32_t* target = arguments.Words(3, &length);
  OVS_CHECK(index <= length && clusters <= length - index);
  Crc32cPages(Range(arguments.GetSession(), arguments.Size(1), clusters * kPageBytes), clusters,
              target + index);
  return nullptr;
}

/// (session, arena, clusters, expected: Uint32Array, expectedIndex) → number
napi_value JsCrc32cVerify(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 5);
  const size_t clusters = arguments.Size(2), index = arguments.Size(4);
  size_t length = 0;
  const uint32_t* expected = arguments.Words(3, &length);
  OVS_CHECK(index <= length && clusters <= length - index);
  const uint8_t* data = Range(arguments.GetSession(), arguments.Size(1), clusters * kPageBytes);
  return Number(env, static_cast<double>(Crc32cVerify(data, clusters, expected + index)));
}

/// (session, pieces: Uint32Array [offset, bytes]…, count, expected: Uint32Array, expectedIndex) →
/// number
napi_value JsCrc32cVerifyPieces(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 5);
  const size_t count = arguments.Size(2);
  size_t words = 0, length = 0;
  const uint32_t* pieces = arguments.Words(1, &words);
  const uint32_t* expected = arguments.Words(3, &length);
  size_t index = arguments.Size(4);
  OVS_CHECK(count <= words / 2 && index <= length);
  size_t before = 0;
  for (size_t i = 0; i < count; i++) {
    const size_t bytes = pieces[2 * i + 1], pages = bytes / kPageBytes;
    OVS_CHECK(bytes % kPageBytes == 0 && pages <= length - index);
    const uint8_t* data = Range(arguments.GetSession(), pieces[2 * i], bytes);
    const int64_t bad = Crc32cVerify(data, pages, expected + index);
    if (bad >= 0) return Number(env, static_cast<double>(before) + static_cast<double>(bad));
    index += pages;
    before += pages;
  }
  return Number(env, -1);
}

/// (session, shape: Uint32Array [k, m, unitBytes, stripes], data, dataBytes, parity, crcs | null,
/// now) → undefined | promise
napi_value JsEncode(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 7);
  Session& session = arguments.GetSession();
  size_t length = 0;
  const uint32_t* shape = arguments.Words(1, &length);
  OVS_CHECK(length == 4);
  EncodeJob encode;
  encode.k = static_cast<int>(shape[0]);
  encode.m = static_cast<int>(shape[1]);
  encode.unit_bytes = shape[2];
  encode.stripes = shape[3];
  const std::shared_ptr<const Tables>& tables = session.tables.Encode(encode.k, encode.m);
  encode.tables = tables.get();
  const size_t fragment_bytes = encode.unit_bytes * encode.stripes;
  encode.data_bytes = arguments.Size(3);
  encode.data = Range(session, arguments.Size(2), encode.data_bytes);
  encode.parity = Range(session, arguments.Size(4), fragment_bytes * shape[1]);
  napi_value crcs = nullptr;
  if (!arguments.IsNull(5)) {
    crcs = arguments.Value(5);
    encode.crcs = arguments.Words(5, &length);
    OVS_CHECK(length == (shape[0] + shape[1]) * (fragment_bytes / kPageBytes));
  }
  if (arguments.Bool(6)) {
    // No memory is taken and no reference counted: an atomic operation behind the coding waits
    // until all parity is written, 0.4 µs of 14 for a small object.
    Encode(encode);
    return nullptr;
  }
  auto job = std::make_unique<Job>();
  job->encode = encode;
  job->tables = tables;
  return Start(env, std::move(job), arguments.Value(0), crcs);
}

/// (session, code: Uint8Array [k, m, …have, …want], memory: Uint32Array [k sources, targets],
/// bytes, now) → undefined | promise
napi_value JsRebuild(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 5);
  Session& session = arguments.GetSession();
  size_t length = 0, places = 0;
  const uint8_t* code = arguments.Bytes(1, &length);
  const uint32_t* memory = arguments.Words(2, &places);
  OVS_CHECK(length >= 2 && length == places + 2 && places > code[0]);
  const size_t k = code[0], wants = places - k;
  RebuildJob rebuild;
  rebuild.bytes = arguments.Size(3);
  const std::shared_ptr<const Tables>& tables =
      session.tables.Rebuild(code[0], code[1], code + 2, code + 2 + k, static_cast<int>(wants));
  rebuild.tables = tables.get();
  for (size_t i = 0; i < k; i++) rebuild.sources[i] = Range(session, memory[i], rebuild.bytes);
  for (size_t j = 0; j < wants; j++)
    rebuild.targets[j] = Range(session, memory[k + j], rebuild.bytes);
  if (arguments.Bool(4)) {
    Rebuild(rebuild);
    return nullptr;
  }
  auto job = std::make_unique<Job>();
  job->rebuilds = true;
  job->rebuild = rebuild;
  job->tables = tables;
  return Start(env, std::move(job), arguments.Value(0), nullptr);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* instance = new Instance();
  const auto drop = [](napi_env, void* data, void*) { delete static_cast<Instance*>(data); };
  Must(napi_set_instance_data(env, instance, drop, nullptr));
  // The hook's argument lives until the process ends only when the hook never runs.
  auto* work = new std::shared_ptr<Work>(instance->work);
  const auto wait = [](void* data) {
    std::unique_ptr<std::shared_ptr<Work>> held(static_cast<std::shared_ptr<Work>*>(data));
    (*held)->WaitIdle();
  };
  Must(napi_add_env_cleanup_hook(env, wait, work));
  const struct {
    const char* name;
    napi_callback function;
  } functions[] = {
      {"open", Open},
      {"crc32c", JsCrc32c},
      {"crc32cOf", JsCrc32cOf},
      {"crc32cClusters", JsCrc32cClusters},
      {"crc32cVerify", JsCrc32cVerify},
      {"crc32cVerifyPieces", JsCrc32cVerifyPieces},
      {"encode", JsEncode},
      {"rebuild", JsRebuild},
  };
  for (const auto& [name, function] : functions) {
    napi_value value;
    Must(napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value));
    Must(napi_set_named_property(env, exports, name, value));
  }
  return exports;
}

}  // namespace

NODE_API_MODULE(erasure, Init)
