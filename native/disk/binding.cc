// SPDX-License-Identifier: Apache-2.0
// The addon `disk`: N-API around core/. Arguments are checked in TypeScript (src/native/disk.ts)
// and asserted here. One set of rings per environment; nothing is shared between threads but the
// registry of mappings.
#include <fcntl.h>
#include <napi.h>
#include <sys/file.h>

#include <cerrno>

#include "common/check.h"
#include "disk/core/mapping.h"
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

Napi::Value Flock(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 1 && info[0].IsNumber());
  int fd = info[0].As<Napi::Number>().Int32Value();
  int failed = flock(fd, LOCK_EX | LOCK_NB);
  return Napi::Number::New(info.Env(), failed ? -errno : 0);
}

// fallocate may take long on a fragmented disk, so it runs on the worker pool. Node waits for the
// pool's work before it tears an environment down, and closes the worker's descriptors after that.
class FallocateWork : public Napi::AsyncWorker {
 public:
  FallocateWork(const Napi::Function& done, int fd, int mode, off_t offset, off_t bytes)
      : Napi::AsyncWorker(done), fd_(fd), mode_(mode), offset_(offset), bytes_(bytes) {}

  void Execute() override {
    do {
      result_ = fallocate(fd_, mode_, offset_, bytes_) == 0 ? 0 : -errno;
    } while (result_ == -EINTR);
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    Callback().Call({Napi::Number::New(Env(), result_)});
  }

 private:
  int fd_;
  int mode_;
  off_t offset_;
  off_t bytes_;
  int result_ = 0;
};

void Fallocate(const Napi::CallbackInfo& info) {
  OVS_CHECK(info.Length() == 5 && info[4].IsFunction());
  int mode = info[1].As<Napi::Boolean>().Value() ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0;
  auto* work = new FallocateWork(
      info[4].As<Napi::Function>(), info[0].As<Napi::Number>().Int32Value(), mode,
      info[2].As<Napi::Number>().Int64Value(), info[3].As<Napi::Number>().Int64Value());
  work->Queue();
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Napi::Object layout = Napi::Object::New(env);
  layout.Set("tableBytes", Napi::Number::New(env, ovs::disk::kTableBytes));
  layout.Set("slots", Napi::Number::New(env, ovs::disk::kSlots));
  layout.Set("piecesMax", Napi::Number::New(env, ovs::disk::kPiecesMax));
  exports.Set("layout", layout);
  exports.Set("mapMemory", Napi::Function::New(env, MapMemory, "mapMemory"));
  exports.Set("flock", Napi::Function::New(env, Flock, "flock"));
  exports.Set("fallocate", Napi::Function::New(env, Fallocate, "fallocate"));
  return exports;
}

}  // namespace

NODE_API_MODULE(disk, Init)
