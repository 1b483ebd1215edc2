// SPDX-License-Identifier: Apache-2.0
// The Node face of the store: numbers name stores and snapshots, all waiting happens on libuv's
// pool, an answer is one ArrayBuffer. Arguments were checked in src/native/kv.ts.
//
// Lifetimes: a job holds its store (and snapshot) by shared pointers, and Node waits for jobs
// before it takes an environment down. Stores that are still open then are closed with the
// addon's instance data.
#include <napi.h>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/check.h"
#include "kv/core/kv.h"

namespace {

using ovs::kv::Code;
using ovs::kv::Outcome;
using ovs::kv::SnapshotRef;
using ovs::kv::Store;
using ovs::kv::Tier;

struct Opened {
  std::shared_ptr<Store> store;
  std::map<uint32_t, SnapshotRef> snapshots;
};

class Addon;

// One piece of work for the pool and the function that gets its outcome:
// done(code, message or null, ArrayBuffer or null).
struct Job {
  Addon* addon = nullptr;
  napi_async_work work = nullptr;
  napi_ref done = nullptr;
  std::function<Outcome(Job*)> run;
  std::function<void(Job*)> finish;
  Outcome outcome;
  std::string answer;
  bool answers = false;
  std::shared_ptr<Store> opened;
};

std::string_view BytesOf(const Napi::Value& value) {
  OVS_CHECK(value.IsTypedArray());
  const auto array = value.As<Napi::Uint8Array>();
  return {reinterpret_cast<const char*>(array.Data()), array.ByteLength()};
}

// The first `number` elements of an array of byte arrays. False when the environment is being ended
// (a worker that is terminated): reading an element fails then, and nothing can be thrown either.
bool ElementsOf(const Napi::Array& array, uint32_t number, std::vector<std::string_view>* bytes) {
  bytes->reserve(number);
  for (uint32_t i = 0; i < number; i++) {
    napi_value element = nullptr;
    if (napi_get_element(array.Env(), array, i, &element) != napi_ok) return false;
    bytes->push_back(BytesOf(Napi::Value(array.Env(), element)));
  }
  return true;
}

std::string PathOf(const Napi::Value& value) {
  OVS_CHECK(value.IsString());
  return value.As<Napi::String>().Utf8Value();
}

uint32_t NumberOf(const Napi::Value& value) {
  OVS_CHECK(value.IsNumber());
  return value.As<Napi::Number>().Uint32Value();
}

// Never ToBoolean(): it asks JavaScript, which fails in an environment that is being ended, and
// what it then answers aborts the process when it is looked at.
bool FlagOf(const Napi::Value& value) {
  OVS_CHECK(value.IsBoolean());
  return value.As<Napi::Boolean>().Value();
}

uint64_t BytesCountOf(const Napi::Value& value) {
  OVS_CHECK(value.IsNumber());
  return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
}

Napi::Value CopyOut(Napi::Env env, const char* data, size_t bytes) {
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, bytes);
  if (bytes > 0 && !buffer.IsEmpty()) std::memcpy(buffer.Data(), data, bytes);
  return buffer;
}

void Execute(napi_env, void* data) {
  Job* job = static_cast<Job*>(data);
  job->outcome = job->run(job);
}

// Bytes as an ArrayBuffer; false when the environment makes no values any more.
bool MakeAnswer(napi_env env, const std::string& bytes, napi_value* answer) {
  void* target = nullptr;
  if (napi_create_arraybuffer(env, bytes.size(), &target, answer) != napi_ok) return false;
  if (!bytes.empty()) std::memcpy(target, bytes.data(), bytes.size());
  return true;
}

// Calls `done`. An environment that is ending runs no JavaScript: every call here may fail, and
// then nobody is left to tell. (node-addon-api would abort the process, hence the plain calls.)
void Tell(napi_env env, Job* job) {
  napi_value done, receiver, null, arguments[3];
  if (napi_get_reference_value(env, job->done, &done) != napi_ok) return;
  if (napi_get_undefined(env, &receiver) != napi_ok) return;
  if (napi_get_null(env, &null) != napi_ok) return;
  const Outcome& outcome = job->outcome;
  arguments[1] = arguments[2] = null;
  if (napi_create_uint32(env, static_cast<uint32_t>(outcome.code), &arguments[0]) != napi_ok)
    return;
  if (!outcome.message.empty() &&
      napi_create_string_utf8(env, outcome.message.data(), outcome.message.size(), &arguments[1]) !=
          napi_ok) {
    return;
  }
  if (job->answers && outcome.Ok() && !MakeAnswer(env, job->answer, &arguments[2])) return;
  napi_call_function(env, receiver, done, 3, arguments, nullptr);
}

void Complete(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<Job> job(static_cast<Job*>(data));
  napi_delete_async_work(env, job->work);
  if (status == napi_cancelled) job->outcome = {Code::kFailed, "the environment is ending"};
  if (job->finish) job->finish(job.get());
  job->run = nullptr;  // Lets go of the store: `done` may close it.
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  Tell(env, job.get());
  napi_delete_reference(env, job->done);
  napi_close_handle_scope(env, scope);
}

class Addon : public Napi::Addon<Addon> {
 public:
  Addon(Napi::Env, Napi::Object exports) {
    DefineAddon(exports, {
                             InstanceMethod("open", &Addon::Open),
                             InstanceMethod("write", &Addon::Write),
                             InstanceMethod("get", &Addon::Get),
                             InstanceMethod("getMany", &Addon::GetMany),
                             InstanceMethod("range", &Addon::Range),
                             InstanceMethod("snapshot", &Addon::Snapshot),
                             InstanceMethod("release", &Addon::Release),
                             InstanceMethod("checkpoint", &Addon::Checkpoint),
                             InstanceMethod("stats", &Addon::Stats),
                             InstanceMethod("close", &Addon::Close),
                         });
  }

  ~Addon() {
    for (auto& [id, opened] : stores_) {
      opened.snapshots.clear();
      opened.store->Close();
    }
  }

 private:
  Opened& Find(const Napi::Value& id) {
    const auto found = stores_.find(NumberOf(id));
    OVS_CHECK(found != stores_.end());
    return found->second;
  }

  static SnapshotRef FindSnapshot(const Opened& opened, const Napi::Value& id) {
    const uint32_t number = NumberOf(id);
    if (number == 0) return nullptr;
    const auto found = opened.snapshots.find(number);
    OVS_CHECK(found != opened.snapshots.end());
    return found->second;
  }

  void Queue(const Napi::CallbackInfo& info, size_t done, std::unique_ptr<Job> job) {
    OVS_CHECK(info[done].IsFunction());
    const Napi::Env env = info.Env();
    job->addon = this;
    const Napi::String name = Napi::String::New(env, "ovs:kv");
    Job* raw = job.release();
    napi_status status = napi_create_reference(env, info[done], 1, &raw->done);
    OVS_CHECK(status == napi_ok);
    status = napi_create_async_work(env, nullptr, name, Execute, Complete, raw, &raw->work);
    OVS_CHECK(status == napi_ok);
    status = napi_queue_async_work(env, raw->work);
    OVS_CHECK(status == napi_ok);
  }

  // open(path, cacheBytes, writeBufferBytes, create, done) → id, usable when done said ok.
  Napi::Value Open(const Napi::CallbackInfo& info) {
    const uint32_t id = ++last_;
    auto job = std::make_unique<Job>();
    ovs::kv::Settings settings;
    settings.cache_bytes = BytesCountOf(info[1]);
    settings.write_buffer_bytes = BytesCountOf(info[2]);
    settings.create = FlagOf(info[3]);
    job->run = [path = PathOf(info[0]), settings](Job* job) {
      return Store::Open(path, settings, &job->opened);
    };
    job->finish = [id](Job* job) {
      if (job->opened) job->addon->stores_[id].store = std::move(job->opened);
    };
    Queue(info, 4, std::move(job));
    return Napi::Number::New(info.Env(), id);
  }

  // write(id, batches, count, sync, done) → null, or what is wrong with a batch. Copies them.
  Napi::Value Write(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    OVS_CHECK(info[1].IsArray());
    std::vector<std::string_view> batches;
    if (!ElementsOf(info[1].As<Napi::Array>(), NumberOf(info[2]), &batches)) return {};
    size_t bytes = ovs::kv::kBatchHeaderBytes + 32;
    for (const std::string_view batch : batches) bytes += batch.size();
    std::string group;
    group.reserve(bytes);
    group.assign(ovs::kv::kBatchHeaderBytes, '\0');
    uint32_t total = 0;
    for (const std::string_view batch : batches) {
      uint32_t count = 0;
      const char* invalid = ovs::kv::InvalidBatch(batch, &count);
      if (invalid != nullptr) return Napi::String::New(env, invalid);
      group.append(batch.substr(ovs::kv::kBatchHeaderBytes));
      total += count;
    }
    std::memcpy(group.data() + 8, &total, 4);
    auto job = std::make_unique<Job>();
    const bool sync = FlagOf(info[3]);
    job->run = [store = Find(info[0]).store, group = std::move(group), sync](Job*) mutable {
      return store->Write(std::move(group), sync);
    };
    Queue(info, 4, std::move(job));
    return env.Null();
  }

  // get(id, snapshot, key, done) → Uint8Array's ArrayBuffer, null for missing, undefined: done
  // comes.
  Napi::Value Get(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Opened& opened = Find(info[0]);
    SnapshotRef snapshot = FindSnapshot(opened, info[1]);
    const std::string_view key = BytesOf(info[2]);
    rocksdb::PinnableSlice value;
    const Outcome outcome = opened.store->Get(snapshot, key, Tier::kMemory, &value);
    if (outcome.Ok()) return CopyOut(env, value.data(), value.size());
    if (outcome.code == Code::kNotFound) return env.Null();
    auto job = std::make_unique<Job>();
    job->answers = true;
    job->run = [store = opened.store, snapshot = std::move(snapshot),
                key = std::string(key)](Job* job) {
      rocksdb::PinnableSlice value;
      Outcome outcome = store->Get(snapshot, key, Tier::kDisk, &value);
      if (outcome.Ok()) job->answer.assign(value.data(), value.size());
      return outcome;
    };
    Queue(info, 3, std::move(job));
    return env.Undefined();
  }

  // getMany(id, snapshot, keys, count, done) → ArrayBuffer, or undefined: done comes.
  Napi::Value GetMany(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Opened& opened = Find(info[0]);
    SnapshotRef snapshot = FindSnapshot(opened, info[1]);
    const std::string_view keys = BytesOf(info[2]);
    const uint32_t count = NumberOf(info[3]);
    if (count <= kSyncKeysMax) {
      std::string answer;
      const Outcome outcome = opened.store->GetMany(snapshot, keys, count, Tier::kMemory, &answer);
      if (outcome.Ok()) return CopyOut(env, answer.data(), answer.size());
    }
    auto job = std::make_unique<Job>();
    job->answers = true;
    job->run = [store = opened.store, snapshot = std::move(snapshot), keys = std::string(keys),
                count](Job* job) {
      return store->GetMany(snapshot, keys, count, Tier::kDisk, &job->answer);
    };
    Queue(info, 4, std::move(job));
    return env.Undefined();
  }

  // range(id, snapshot, first or null, end or null, reverse, limit, done), as getMany.
  Napi::Value Range(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const Opened& opened = Find(info[0]);
    SnapshotRef snapshot = FindSnapshot(opened, info[1]);
    ovs::kv::RangeQuery query;
    query.has_first = !info[2].IsNull();
    query.has_end = !info[3].IsNull();
    if (query.has_first) query.first = BytesOf(info[2]);
    if (query.has_end) query.end = BytesOf(info[3]);
    query.reverse = FlagOf(info[4]);
    query.limit = NumberOf(info[5]);
    // The answer shows the store as it was at the call, whenever the pool comes to it.
    if (!snapshot) snapshot = opened.store->TakeSnapshot();
    auto job = std::make_unique<Job>();
    job->answers = true;
    job->run = [store = opened.store, snapshot = std::move(snapshot), query = std::move(query)](
                   Job* job) { return store->Range(snapshot, query, Tier::kDisk, &job->answer); };
    Queue(info, 6, std::move(job));
    return env.Undefined();
  }

  // snapshot(id) → number of the snapshot.
  Napi::Value Snapshot(const Napi::CallbackInfo& info) {
    Opened& opened = Find(info[0]);
    const uint32_t id = ++last_;
    opened.snapshots[id] = opened.store->TakeSnapshot();
    return Napi::Number::New(info.Env(), id);
  }

  // release(id, snapshot): reads that use it end first, by themselves.
  void Release(const Napi::CallbackInfo& info) {
    const size_t erased = Find(info[0]).snapshots.erase(NumberOf(info[1]));
    OVS_CHECK(erased == 1);
  }

  // checkpoint(id, path, done)
  void Checkpoint(const Napi::CallbackInfo& info) {
    auto job = std::make_unique<Job>();
    job->run = [store = Find(info[0]).store, path = PathOf(info[1])](Job*) {
      return store->Checkpoint(path);
    };
    Queue(info, 2, std::move(job));
  }

  // stats(id, done): the answer is three doubles: disk bytes, memory bytes, keys.
  void Stats(const Napi::CallbackInfo& info) {
    auto job = std::make_unique<Job>();
    job->answers = true;
    job->run = [store = Find(info[0]).store](Job* job) {
      ovs::kv::Stats stats;
      Outcome outcome = store->Measure(&stats);
      const double numbers[3] = {stats.disk_bytes, stats.memory_bytes, stats.keys_estimate};
      job->answer.assign(reinterpret_cast<const char*>(numbers), sizeof(numbers));
      return outcome;
    };
    Queue(info, 1, std::move(job));
  }

  // close(id, done): nothing else of the store is in flight. The id is gone at once.
  void Close(const Napi::CallbackInfo& info) {
    Opened& opened = Find(info[0]);
    opened.snapshots.clear();
    auto job = std::make_unique<Job>();
    OVS_CHECK(opened.store.use_count() == 1);
    job->run = [store = std::move(opened.store)](Job*) { return store->Close(); };
    stores_.erase(NumberOf(info[0]));
    Queue(info, 1, std::move(job));
  }

  static constexpr uint32_t kSyncKeysMax = 256;

  std::map<uint32_t, Opened> stores_;
  uint32_t last_ = 0;
};

}  // namespace

NODE_API_ADDON(Addon)
