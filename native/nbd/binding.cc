// SPDX-License-Identifier: Apache-2.0
// The addon's face, in the order of src/native/nbd.ts: class Server (sockets in transmission),
// class Listener (sockets in negotiation). Holds no state of its own: every environment has its
// instances. Arguments are checked in TypeScript; here they are asserted.
#include <napi.h>
#include <unistd.h>
#include <uv.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "nbd/listener.h"
#include "nbd/server.h"
#include "nbd/sockets.h"

namespace ovs::nbd {

namespace {

uv_loop_t* LoopOf(napi_env env) {
  uv_loop_t* loop = nullptr;
  OVS_CHECK(napi_get_uv_event_loop(env, &loop) == napi_ok);
  return loop;
}

uint32_t Number(const Napi::Value& value) {
  OVS_CHECK(value.IsNumber());
  return value.As<Napi::Number>().Uint32Value();
}

// Never ToBoolean(): it asks JavaScript, which fails in an environment that is being ended, and
// what it then answers aborts the process when it is looked at.
bool Flag(const Napi::Value& value) {
  OVS_CHECK(value.IsBoolean());
  return value.As<Napi::Boolean>().Value();
}

std::string Text(const Napi::Value& value) {
  OVS_CHECK(value.IsString());
  return value.As<Napi::String>().Utf8Value();
}

/**
 * Calls into JavaScript from the loop. An exception there is fatal, as in any event handler. False
 * when the environment is going away and runs nothing any more.
 */
bool Call(const Napi::FunctionReference& function, const std::vector<napi_value>& arguments) {
  Napi::Env env = function.Env();
  napi_value result;
  const napi_status status = napi_make_callback(env, nullptr, env.Global(), function.Value(),
                                                arguments.size(), arguments.data(), &result);
  if (status == napi_ok) return true;
  napi_value error;
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return false;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
  return true;
}

/**
 * Ties a native object to its environment: when that goes away first, the object is closed, and
 * the environment waits until its handles are. `T` deletes itself after Close().
 */
template <typename T>
class Tie {
 public:
  Tie(napi_env env, T* object) : object_(object) {
    OVS_CHECK(napi_add_async_cleanup_hook(env, OnCleanup, this, &hook_) == napi_ok);
  }

  T* object() const { return object_; }

  /** Closes the object; `closed` runs at the end, but not when the environment goes away. */
  void Close(std::function<void()> closed) {
    OVS_CHECK(object_ != nullptr);
    T* object = std::exchange(object_, nullptr);
    object->Close([this, closed] {
      napi_async_cleanup_hook_handle hook = hook_;
      const bool dying = dying_;
      delete this;
      napi_remove_async_cleanup_hook(hook);
      if (closed && !dying) closed();
    });
  }

 private:
  static void OnCleanup(napi_async_cleanup_hook_handle, void* data) {
    auto* tie = static_cast<Tie*>(data);
    tie->dying_ = true;
    // When it was closing already, the end of that removes the hook.
    if (tie->object_ != nullptr) tie->Close(nullptr);
  }

  T* object_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  bool dying_ = false;
};

}  // namespace

/** new Server(memory, offset, slots, arrays, limits, onReady, onClosed) */
class ServerWrap : public Napi::ObjectWrap<ServerWrap>, public ServerEvents {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(
        env, "Server",
        {InstanceMethod("setTarget", &ServerWrap::SetTarget),
         InstanceMethod("forgetTarget", &ServerWrap::ForgetTarget),
         InstanceMethod("adopt", &ServerWrap::Adopt), InstanceMethod("flush", &ServerWrap::Flush),
         InstanceMethod("drain", &ServerWrap::Drain),
         InstanceMethod("destroy", &ServerWrap::Destroy),
         InstanceMethod("connections", &ServerWrap::Connections),
         InstanceMethod("counters", &ServerWrap::ReadCounters),
         InstanceMethod("close", &ServerWrap::Close)});
  }

  explicit ServerWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ServerWrap>(info) {
    OVS_CHECK(info.Length() == 7);
    auto memory = info[0].As<Napi::ArrayBuffer>();
    const uint32_t offset = Number(info[1]);
    const uint32_t slots = Number(info[2]);
    OVS_CHECK(uint64_t{offset} + uint64_t{slots} * kSlotBytes <= memory.ByteLength());
    auto list = info[3].As<Napi::Array>();
    auto limits = info[4].As<Napi::Object>();
    on_ready_ = Napi::Persistent(info[5].As<Napi::Function>());
    on_closed_ = Napi::Persistent(info[6].As<Napi::Function>());
    pinned_ = Napi::Persistent(Napi::Array::New(info.Env(), 2));
    pinned_.Value().Set(0u, memory);
    pinned_.Value().Set(1u, list);
    uint8_t* base = static_cast<uint8_t*>(memory.Data()) + offset;
    auto engine = std::make_unique<Engine>(base, offset, slots, Arrays(list, slots));
    const ServerLimits given = {Number(limits.Get("connections")), Number(limits.Get("stallMs"))};
    tie_ =
        new Tie<Server>(info.Env(), new Server(LoopOf(info.Env()), std::move(engine), given, this));
    Ref();  // Until it is closed.
  }

  ~ServerWrap() override = default;

  void OnReady(uint32_t count) override {
    Napi::HandleScope scope(Env());
    Call(on_ready_, {Napi::Number::New(Env(), count)});
  }

  void OnClosed(uint32_t connection, uint32_t target, const std::string& reason) override {
    Napi::HandleScope scope(Env());
    Call(on_closed_, {Napi::Number::New(Env(), connection), Napi::Number::New(Env(), target),
                      Napi::String::New(Env(), reason)});
  }

 private:
  /** A typed array of at least `count` elements of type T. */
  template <typename T>
  static T* Column(const Napi::Array& list, uint32_t index, size_t count) {
    auto array = list.Get(index).As<Napi::TypedArray>();
    OVS_CHECK(array.ElementSize() == sizeof(T));
    OVS_CHECK(array.ElementLength() >= count);
    return reinterpret_cast<T*>(static_cast<uint8_t*>(array.ArrayBuffer().Data()) +
                                array.ByteOffset());
  }

  static SlotArrays Arrays(const Napi::Array& list, uint32_t slots) {
    SlotArrays arrays;
    arrays.kind = Column<uint8_t>(list, 0, slots);
    arrays.flags = Column<uint16_t>(list, 1, slots);
    arrays.offset = Column<double>(list, 2, slots);
    arrays.length = Column<double>(list, 3, slots);
    arrays.memory = Column<uint32_t>(list, 4, slots);
    arrays.crcs = Column<uint32_t>(list, 5, size_t{slots} * kSlotClusters);
    arrays.cookie_low = Column<uint32_t>(list, 6, slots);
    arrays.cookie_high = Column<uint32_t>(list, 7, slots);
    arrays.connection = Column<uint32_t>(list, 8, slots);
    arrays.target = Column<uint32_t>(list, 9, slots);
    arrays.ready = Column<uint32_t>(list, 10, slots);
    arrays.staged = Column<uint32_t>(list, 11, size_t{slots} * 2);
    return arrays;
  }

  Server& server() const {
    OVS_CHECK(tie_ != nullptr);
    return *tie_->object();
  }

  /** (id, sizeBytes, readOnly, alive) */
  Napi::Value SetTarget(const Napi::CallbackInfo& info) {
    const auto size = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
    server().engine().SetTarget(Number(info[0]), size, Flag(info[2]), Flag(info[3]));
    return info.Env().Undefined();
  }

  /** (id) */
  Napi::Value ForgetTarget(const Napi::CallbackInfo& info) {
    server().engine().ForgetTarget(Number(info[0]));
    return info.Env().Undefined();
  }

  /** (fd, id, mode, allocation, unread) → connection number, 0 when refused. Takes fd. */
  Napi::Value Adopt(const Napi::CallbackInfo& info) {
    auto unread = info[4].As<Napi::Uint8Array>();
    const uint32_t mode = Number(info[2]);
    OVS_CHECK(mode <= static_cast<uint32_t>(Mode::Extended));
    const uint32_t number = server().Adopt(info[0].As<Napi::Number>().Int32Value(), Number(info[1]),
                                           static_cast<Mode>(mode), Flag(info[3]), unread.Data(),
                                           unread.ElementLength());
    return Napi::Number::New(info.Env(), number);
  }

  /** (count) */
  Napi::Value Flush(const Napi::CallbackInfo& info) {
    server().Flush(Number(info[0]));
    return info.Env().Undefined();
  }

  /** (id) */
  Napi::Value Drain(const Napi::CallbackInfo& info) {
    server().Drain(Number(info[0]));
    return info.Env().Undefined();
  }

  /** (id) */
  Napi::Value Destroy(const Napi::CallbackInfo& info) {
    server().Destroy(Number(info[0]), "the export was closed before all was answered");
    return info.Env().Undefined();
  }

  /** (id) → connections of that target */
  Napi::Value Connections(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(),
                             static_cast<double>(server().ConnectionsOf(Number(info[0]))));
  }

  /** (Float64Array of 8): requests, errors, bytes in, bytes out, waits, free, waiting, connections
   */
  Napi::Value ReadCounters(const Napi::CallbackInfo& info) {
    auto into = info[0].As<Napi::Float64Array>();
    OVS_CHECK(into.ElementLength() == 8);
    const Counters& counters = server().engine().counters();
    into[0] = static_cast<double>(counters.requests);
    into[1] = static_cast<double>(counters.errors);
    into[2] = static_cast<double>(counters.bytes_in);
    into[3] = static_cast<double>(counters.bytes_out);
    into[4] = static_cast<double>(counters.waits);
    into[5] = server().engine().free();
    into[6] = static_cast<double>(server().engine().waiting());
    into[7] = static_cast<double>(server().connections());
    return info.Env().Undefined();
  }

  /** (): ends all connections. Afterwards only the object's memory is left. */
  Napi::Value Close(const Napi::CallbackInfo& info) {
    OVS_CHECK(tie_ != nullptr);
    std::exchange(tie_, nullptr)->Close([this] { Unref(); });
    return info.Env().Undefined();
  }

  Tie<Server>* tie_ = nullptr;
  Napi::FunctionReference on_ready_;
  Napi::FunctionReference on_closed_;
  Napi::Reference<Napi::Array> pinned_;
};

/** new Listener(requestBytesMax, negotiationMs, onNegotiated, onRefused) */
class ListenerWrap : public Napi::ObjectWrap<ListenerWrap>, public ListenerEvents {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Listener",
                       {InstanceMethod("setExports", &ListenerWrap::SetExports),
                        InstanceMethod("listenUnix", &ListenerWrap::ListenUnix),
                        InstanceMethod("listenTcp", &ListenerWrap::ListenTcp),
                        InstanceMethod("listenFd", &ListenerWrap::ListenFd),
                        InstanceMethod("close", &ListenerWrap::Close)});
  }

  explicit ListenerWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ListenerWrap>(info) {
    OVS_CHECK(info.Length() == 4);
    on_negotiated_ = Napi::Persistent(info[2].As<Napi::Function>());
    on_refused_ = Napi::Persistent(info[3].As<Napi::Function>());
    tie_ = new Tie<Listener>(
        info.Env(), new Listener(LoopOf(info.Env()), Number(info[0]), Number(info[1]), this));
    Ref();  // Until it is closed.
  }

  ~ListenerWrap() override = default;

  void OnNegotiated(Agreement agreed) override {
    Napi::HandleScope scope(Env());
    auto unread = Napi::Uint8Array::New(Env(), agreed.unread.size());
    if (!agreed.unread.empty()) {
      std::memcpy(unread.Data(), agreed.unread.data(), agreed.unread.size());
    }
    Call(on_negotiated_,
         {Napi::Number::New(Env(), agreed.fd), Napi::String::New(Env(), agreed.name),
          Napi::Number::New(Env(), static_cast<double>(agreed.mode)),
          Napi::Boolean::New(Env(), agreed.allocation), unread,
          Napi::String::New(Env(), agreed.peer)});
  }

  void OnRefused(const std::string& peer, const std::string& reason) override {
    Napi::HandleScope scope(Env());
    Call(on_refused_, {Napi::String::New(Env(), peer), Napi::String::New(Env(), reason)});
  }

 private:
  Listener& listener() const {
    OVS_CHECK(tie_ != nullptr);
    return *tie_->object();
  }

  /** ([name, description, sizeBytes, flags, …]): replaces the table. */
  Napi::Value SetExports(const Napi::CallbackInfo& info) {
    auto list = info[0].As<Napi::Array>();
    OVS_CHECK(list.Length() % 4 == 0);
    std::vector<Export> exports;
    for (uint32_t i = 0; i < list.Length(); i += 4) {
      Napi::HandleScope scope(info.Env());
      Napi::Value size = list.Get(i + 2);
      exports.push_back({Text(list.Get(i)), Text(list.Get(i + 1)),
                         static_cast<uint64_t>(size.As<Napi::Number>().Int64Value()),
                         static_cast<uint16_t>(Number(list.Get(i + 3)))});
    }
    listener().exports() = std::move(exports);
    return info.Env().Undefined();
  }

  /** (path) → "" or what went wrong */
  Napi::Value ListenUnix(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), listener().ListenUnix(Text(info[0])));
  }

  /** (host, port) → the real port, or what went wrong */
  Napi::Value ListenTcp(const Napi::CallbackInfo& info) {
    uint16_t port = static_cast<uint16_t>(Number(info[1]));
    const std::string error = listener().ListenTcp(Text(info[0]), &port);
    if (!error.empty()) return Napi::String::New(info.Env(), error);
    return Napi::Number::New(info.Env(), port);
  }

  /** (fd) → "" or what went wrong. A listening or a connected socket; takes it. */
  Napi::Value ListenFd(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(),
                             listener().ListenFd(info[0].As<Napi::Number>().Int32Value()));
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    OVS_CHECK(tie_ != nullptr);
    std::exchange(tie_, nullptr)->Close([this] { Unref(); });
    return info.Env().Undefined();
  }

  Tie<Listener>* tie_ = nullptr;
  Napi::FunctionReference on_negotiated_;
  Napi::FunctionReference on_refused_;
};

/** (fd): closes the socket of an agreement that nobody adopts. */
Napi::Value CloseSocket(const Napi::CallbackInfo& info) {
  close(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

Napi::Object Start(Napi::Env env, Napi::Object exports) {
  exports.Set("Server", ServerWrap::Define(env));
  exports.Set("Listener", ListenerWrap::Define(env));
  exports.Set("closeSocket", Napi::Function::New(env, CloseSocket));
  return exports;
}

}  // namespace ovs::nbd

static Napi::Object InitModule(Napi::Env env, Napi::Object exports) {
  return ovs::nbd::Start(env, exports);
}
NODE_API_MODULE(nbd, InitModule)
