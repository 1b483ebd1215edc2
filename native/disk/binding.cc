// SPDX-License-Identifier: Apache-2.0
// The addon `disk`: N-API around core/. Arguments are checked in TypeScript (src/native/disk.ts)
// and asserted here. One set of rings per environment; nothing is shared between threads but the
// registry of mappings.
#include <fcntl.h>
#include <napi.h>
#include <sys/file.h>
#include <uv.h>

#include <cerrno>
#include <vector>

#include "common/check.h"
#include "disk/core/mapping.h"
#include "disk/core/ring.h"
#include "disk/core/table.h"

namespace {

using ovs::disk::Mapping;

Napi::Value MapMemory(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 2 && info[0].IsNumber() && info[1].IsBoolean());
  size_t bytes = static_cast<size_t>(info[0].As<Napi::Number>().Int64Value());
  Mapping* mapping = Mapping::Create(bytes, info[1].As<Napi::Boolean>().Value());
  if (mapping == nullptr) return info.Env().Null();
  return Napi::ArrayBuffer::New(
      info.Env(), mapping->base(), bytes,
      [](Napi::Env, void*, Mapping* owned) { owned->Release(); }, mapping);
}

// A ring on the event loop of its environment. The loop polls the ring's descriptor; when it is
// readable, all that is done is reported by one call of JavaScript. While something is in flight
// the handle keeps the loop alive.
class RingHandle {
 public:
  RingHandle(napi_env env, ovs::disk::Ring* ring, const Napi::Function& done)
      : env_(env), ring_(ring), done_(Napi::Persistent(done)) {
    uv_loop_t* loop = nullptr;
    OVS_CHECK(napi_get_uv_event_loop(env, &loop) == napi_ok);
    OVS_CHECK(uv_poll_init(loop, &poll_, ring->poll_fd()) == 0);
    poll_.data = this;
    OVS_CHECK(uv_poll_start(&poll_, UV_READABLE, OnReadable) == 0);
    uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
    OVS_CHECK(napi_add_async_cleanup_hook(env, OnCleanup, this, &hook_) == napi_ok);
  }

  void Submit(uint32_t count) {
    OVS_CHECK(!closing_);
    ring_->Submit(count);
    HoldLoop();
  }

  /** Nothing may be in flight. */
  void Close() {
    OVS_CHECK(!closing_ && ring_->in_flight() == 0);
    BeginClose();
  }

 private:
  ~RingHandle() { delete ring_; }

  static void OnReadable(uv_poll_t* poll, int, int) {
    static_cast<RingHandle*>(poll->data)->Report();
  }

  // Completions that arrive while JavaScript works are taken along, but other handles of the loop
  // must get their turn too. They are told in portions, and what a portion's handlers stage leaves
  // at its end: the device, which tends to finish all that it got together at once, works on that
  // while the others are told. With all in one call it idles meanwhile.
  void Report() {
    for (int round = 0; round < kRoundsMax && !closing_; round++) {
      bool last = round == kRoundsMax - 1;
      uint32_t count = ring_->Reap(last ? ovs::disk::kSlots : kPortion);
      if (count == 0) break;
      CallDone(count);
    }
    if (!closing_) HoldLoop();
  }

  void CallDone(uint32_t count) {
    Napi::HandleScope scope(env_);
    napi_value argument;
    napi_value receiver;
    OVS_CHECK(napi_create_uint32(env_, count, &argument) == napi_ok);
    OVS_CHECK(napi_get_global(env_, &receiver) == napi_ok);
    napi_status status =
        napi_make_callback(env_, nullptr, receiver, done_.Value(), 1, &argument, nullptr);
    if (status != napi_pending_exception) return;
    // A handler threw: that ends the process, like every uncaught exception.
    napi_value error;
    if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) {
      napi_fatal_exception(env_, error);
    }
  }

  void HoldLoop() {
    bool busy = ring_->in_flight() > 0;
    if (busy == holding_) return;
    holding_ = busy;
    uv_handle_t* handle = reinterpret_cast<uv_handle_t*>(&poll_);
    if (busy) {
      uv_ref(handle);
    } else {
      uv_unref(handle);
    }
  }

  void BeginClose() {
    closing_ = true;
    done_.Reset();
    uv_close(reinterpret_cast<uv_handle_t*>(&poll_), [](uv_handle_t* handle) {
      RingHandle* self = static_cast<RingHandle*>(handle->data);
      napi_remove_async_cleanup_hook(self->hook_);
      delete self;
    });
  }

  // The environment ends: what the kernel still has is waited for, because it writes to memory
  // that goes away with the environment. A disk that hangs keeps its memory instead.
  static void OnCleanup(napi_async_cleanup_hook_handle, void* data) {
    RingHandle* self = static_cast<RingHandle*>(data);
    if (self->closing_) return;
    self->ring_->Drain(kDrainMs);
    self->BeginClose();
  }

  static constexpr int kRoundsMax = 4;
  static constexpr uint32_t kPortion = 8;
  static constexpr int kDrainMs = 10'000;

  napi_env env_;
  ovs::disk::Ring* ring_;
  Napi::FunctionReference done_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  uv_poll_t poll_{};
  bool holding_ = false;
  bool closing_ = false;
};

// The rings of an environment by number; numbers are not used again.
struct Instance {
  std::vector<RingHandle*> rings;

  RingHandle* At(const Napi::Value& id) {
    uint32_t index = id.As<Napi::Number>().Uint32Value();
    OVS_CHECK(index < rings.size() && rings[index] != nullptr);
    return rings[index];
  }
};

Mapping* MappingOf(const Napi::Value& value) {
  OVS_CHECK(value.IsArrayBuffer());
  Napi::ArrayBuffer buffer = value.As<Napi::ArrayBuffer>();
  Mapping* mapping = Mapping::Find(buffer.Data());
  OVS_CHECK(mapping != nullptr && mapping->bytes() == buffer.ByteLength());
  return mapping;
}

Napi::Value RingOpen(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 3 && info[2].IsFunction());
  Mapping* arena = MappingOf(info[0]);
  Mapping* table = MappingOf(info[1]);
  int error = 0;
  ovs::disk::Ring* ring = ovs::disk::Ring::Open(arena, table, &error);
  arena->Release();
  table->Release();
  if (ring == nullptr) return Napi::Number::New(info.Env(), error);
  Instance* instance = info.Env().GetInstanceData<Instance>();
  instance->rings.push_back(new RingHandle(info.Env(), ring, info[2].As<Napi::Function>()));
  return Napi::Number::New(info.Env(), static_cast<double>(instance->rings.size() - 1));
}

void RingSubmit(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 2 && info[1].IsNumber());
  Instance* instance = info.Env().GetInstanceData<Instance>();
  instance->At(info[0])->Submit(info[1].As<Napi::Number>().Uint32Value());
}

void RingClose(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 1 && info[0].IsNumber());
  Instance* instance = info.Env().GetInstanceData<Instance>();
  instance->At(info[0])->Close();
  instance->rings[info[0].As<Napi::Number>().Uint32Value()] = nullptr;
}

Napi::Value Flock(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 1 && info[0].IsNumber());
  int fd = info[0].As<Napi::Number>().Int32Value();
  int failed = flock(fd, LOCK_EX | LOCK_NB);
  return Napi::Number::New(info.Env(), failed ? -errno : 0);
}

// fallocate may take long on a fragmented disk, so it runs on the worker pool. Node waits for the
// pool's work before it tears an environment down, and closes a worker's descriptors after that.
struct FallocateWork {
  napi_async_work work;
  napi_ref done;
  int fd;
  int mode;
  off_t offset;
  off_t bytes;
  int result;

  static void Execute(napi_env, void* data) {
    FallocateWork* self = static_cast<FallocateWork*>(data);
    do {
      int failed = fallocate(self->fd, self->mode, self->offset, self->bytes);
      self->result = failed ? -errno : 0;
    } while (self->result == -EINTR);
  }

  // No status is checked here: an environment that ends runs no JavaScript any more.
  static void Complete(napi_env env, napi_status, void* data) {
    FallocateWork* self = static_cast<FallocateWork*>(data);
    napi_value done = nullptr;
    napi_value receiver = nullptr;
    napi_value result = nullptr;
    napi_get_reference_value(env, self->done, &done);
    napi_get_undefined(env, &receiver);
    napi_create_int32(env, self->result, &result);
    if (done != nullptr) napi_call_function(env, receiver, done, 1, &result, nullptr);
    napi_delete_reference(env, self->done);
    napi_delete_async_work(env, self->work);
    delete self;
  }
};

void Fallocate(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 5 && info[4].IsFunction());
  napi_env env = info.Env();
  FallocateWork* self = new FallocateWork{};
  self->fd = info[0].As<Napi::Number>().Int32Value();
  bool punch = info[1].As<Napi::Boolean>().Value();
  self->mode = punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0;
  self->offset = info[2].As<Napi::Number>().Int64Value();
  self->bytes = info[3].As<Napi::Number>().Int64Value();
  napi_value name = Napi::String::New(env, "ovs:fallocate");
  OVS_CHECK(napi_create_reference(env, info[4], 1, &self->done) == napi_ok);
  OVS_CHECK(napi_create_async_work(env, nullptr, name, FallocateWork::Execute,
                                   FallocateWork::Complete, self, &self->work) == napi_ok);
  OVS_CHECK(napi_queue_async_work(env, self->work) == napi_ok);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Instance);
  Napi::Object layout = Napi::Object::New(env);
  layout.Set("tableBytes", Napi::Number::New(env, ovs::disk::kTableBytes));
  layout.Set("slots", Napi::Number::New(env, ovs::disk::kSlots));
  layout.Set("piecesMax", Napi::Number::New(env, ovs::disk::kPiecesMax));
  exports.Set("layout", layout);
  exports.Set("mapMemory", Napi::Function::New(env, MapMemory, "mapMemory"));
  exports.Set("ringOpen", Napi::Function::New(env, RingOpen, "ringOpen"));
  exports.Set("ringSubmit", Napi::Function::New(env, RingSubmit, "ringSubmit"));
  exports.Set("ringClose", Napi::Function::New(env, RingClose, "ringClose"));
  exports.Set("flock", Napi::Function::New(env, Flock, "flock"));
  exports.Set("fallocate", Napi::Function::New(env, Fallocate, "fallocate"));
  return exports;
}

}  // namespace

NODE_API_MODULE(disk, Init)
