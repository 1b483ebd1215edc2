// SPDX-License-Identifier: Apache-2.0
// The hub for JavaScript. Same names and order as src/native/transport.ts, which checks the
// arguments; here they are asserted. One session is one hub on the loop of its environment: a
// single uv_poll on the hub's epoll descriptor, one callback a wake-up. A session holds the arena
// and the shared block by references until it is stopped, by `stop` or by the environment's end;
// it keeps the loop alive while anything is open.

#include <node_api.h>
#include <uv.h>

#include <memory>
#include <string>

#include "common/check.h"
#include "transport/core/hub.h"

namespace {

using ovs::transport::Hub;

constexpr napi_type_tag kSessionTag = {0x6f76732d7472616e, 0x73706f72742d6875};
constexpr size_t kArgumentsMax = 5;

void Must(napi_status status) { OVS_CHECK(status == napi_ok); }

struct Session {
  napi_env env = nullptr;
  uv_poll_t poll = {};
  std::unique_ptr<Hub> hub;
  napi_ref arena = nullptr;
  napi_ref shared = nullptr;
  napi_ref on_events = nullptr;
  napi_async_cleanup_hook_handle cleanup = nullptr;
  bool is_closing = false;
  int owners = 2;  // JavaScript's external and the loop's handle.
};

void Disown(Session* session) {
  if (--session->owners == 0) delete session;
}

/// Ends everything at once; the memory of the handle lives until the loop lets go of it.
void StopSession(Session* session) {
  if (session->is_closing) return;
  session->is_closing = true;
  uv_close(reinterpret_cast<uv_handle_t*>(&session->poll), [](uv_handle_t* handle) {
    auto* closed = static_cast<Session*>(handle->data);
    Must(napi_remove_async_cleanup_hook(closed->cleanup));
    Disown(closed);
  });
  session->hub.reset();
  Must(napi_delete_reference(session->env, session->arena));
  Must(napi_delete_reference(session->env, session->shared));
  Must(napi_delete_reference(session->env, session->on_events));
}

void UpdateRef(Session* session) {
  if (session->is_closing) return;
  auto* handle = reinterpret_cast<uv_handle_t*>(&session->poll);
  if (session->hub->busy()) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

void Call(Session* session, size_t count) {
  napi_env env = session->env;
  napi_handle_scope scope;
  Must(napi_open_handle_scope(env, &scope));
  napi_value callback, receiver, argument, result;
  Must(napi_get_reference_value(env, session->on_events, &callback));
  Must(napi_get_global(env, &receiver));
  Must(napi_create_uint32(env, static_cast<uint32_t>(count), &argument));
  const napi_status status =
      napi_make_callback(env, nullptr, receiver, callback, 1, &argument, &result);
  bool is_thrown = false;
  if (status != napi_ok) Must(napi_is_exception_pending(env, &is_thrown));
  if (is_thrown) {
    napi_value error;
    Must(napi_get_and_clear_last_exception(env, &error));
    napi_fatal_exception(env, error);
  }
  Must(napi_close_handle_scope(env, scope));
}

void OnReadable(uv_poll_t* handle, int, int) {
  auto* session = static_cast<Session*>(handle->data);
  const size_t count = session->hub->Wake();
  if (count > 0) Call(session, count);
  UpdateRef(session);
}

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

  std::string Text(size_t i) const {
    size_t bytes = 0;
    Must(napi_get_value_string_utf8(env_, values_[i], nullptr, 0, &bytes));
    std::string text(bytes, '\0');
    Must(napi_get_value_string_utf8(env_, values_[i], text.data(), bytes + 1, &bytes));
    return text;
  }

  uint8_t* Buffer(size_t i, size_t* bytes) const {
    void* data = nullptr;
    Must(napi_get_arraybuffer_info(env_, values_[i], &data, bytes));
    return static_cast<uint8_t*>(data);
  }

  Session& GetSession() const {
    bool is_tagged = false;
    Must(napi_check_object_type_tag(env_, values_[0], &kSessionTag, &is_tagged));
    OVS_CHECK(is_tagged);
    void* session = nullptr;
    Must(napi_get_value_external(env_, values_[0], &session));
    OVS_CHECK(!static_cast<Session*>(session)->is_closing);
    return *static_cast<Session*>(session);
  }

 private:
  napi_env env_;
  napi_value values_[kArgumentsMax];
};

napi_value Number(napi_env env, double number) {
  napi_value value;
  Must(napi_create_double(env, number, &value));
  return value;
}

/// (arena, poolOffset, poolBytes, shared, onEvents) → session
napi_value Open(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 5);
  size_t arena_bytes = 0;
  size_t shared_bytes = 0;
  uint8_t* arena = arguments.Buffer(0, &arena_bytes);
  uint8_t* shared = arguments.Buffer(3, &shared_bytes);
  OVS_CHECK(shared_bytes == ovs::transport::kSharedBytes);
  auto* session = new Session();
  session->env = env;
  session->hub =
      std::make_unique<Hub>(arena, arena_bytes, arguments.Size(1), arguments.Size(2), shared);
  Must(napi_create_reference(env, arguments.Value(0), 1, &session->arena));
  Must(napi_create_reference(env, arguments.Value(3), 1, &session->shared));
  Must(napi_create_reference(env, arguments.Value(4), 1, &session->on_events));
  uv_loop_t* loop = nullptr;
  Must(napi_get_uv_event_loop(env, &loop));
  OVS_CHECK(uv_poll_init(loop, &session->poll, session->hub->fd()) == 0);
  session->poll.data = session;
  OVS_CHECK(uv_poll_start(&session->poll, UV_READABLE, OnReadable) == 0);
  uv_unref(reinterpret_cast<uv_handle_t*>(&session->poll));
  Must(napi_add_async_cleanup_hook(
      env,
      [](napi_async_cleanup_hook_handle, void* data) { StopSession(static_cast<Session*>(data)); },
      session, &session->cleanup));
  napi_value external;
  Must(napi_create_external(
      env, session, [](napi_env, void* data, void*) { Disown(static_cast<Session*>(data)); },
      nullptr, &external));
  Must(napi_type_tag_object(env, external, &kSessionTag));
  return external;
}

/// (session, path) → listener or -errno
napi_value ListenUnix(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  Session& session = arguments.GetSession();
  const int64_t id = session.hub->ListenUnix(arguments.Text(1));
  UpdateRef(&session);
  return Number(env, static_cast<double>(id));
}

/// (session, ip, port) → listener or -errno
napi_value ListenTcp(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 3);
  Session& session = arguments.GetSession();
  const int64_t id =
      session.hub->ListenTcp(arguments.Text(1), static_cast<uint16_t>(arguments.Word(2)));
  UpdateRef(&session);
  return Number(env, static_cast<double>(id));
}

/// (session, listener) → port
napi_value ListenerPort(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  return Number(env, arguments.GetSession().hub->ListenerPort(arguments.Word(1)));
}

/// (session, listener)
napi_value CloseListener(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  Session& session = arguments.GetSession();
  session.hub->CloseListener(arguments.Word(1));
  UpdateRef(&session);
  return nullptr;
}

/// (session, path) → connection or -errno
napi_value ConnectUnix(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  Session& session = arguments.GetSession();
  const int64_t id = session.hub->ConnectUnix(arguments.Text(1));
  UpdateRef(&session);
  return Number(env, static_cast<double>(id));
}

/// (session, ip, port) → connection or -errno
napi_value ConnectTcp(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 3);
  Session& session = arguments.GetSession();
  const int64_t id =
      session.hub->ConnectTcp(arguments.Text(1), static_cast<uint16_t>(arguments.Word(2)));
  UpdateRef(&session);
  return Number(env, static_cast<double>(id));
}

/// (session, connection) → address or ""
napi_value Peer(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  const std::string peer = arguments.GetSession().hub->Peer(arguments.Word(1));
  napi_value text;
  Must(napi_create_string_utf8(env, peer.data(), peer.size(), &text));
  return text;
}

/// (session, words, flush) → tokens in done[]
napi_value Apply(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 3);
  const size_t count = arguments.GetSession().hub->Apply(arguments.Word(1), arguments.Bool(2));
  return Number(env, static_cast<double>(count));
}

/// (session, connection, requestId) → is arriving right now
napi_value Forget(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 3);
  const bool is_arriving = arguments.GetSession().hub->Forget(arguments.Word(1), arguments.Size(2));
  napi_value value;
  Must(napi_get_boolean(env, is_arriving, &value));
  return value;
}

/// (session, connection)
napi_value Close(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 2);
  Session& session = arguments.GetSession();
  session.hub->Close(arguments.Word(1));
  UpdateRef(&session);
  return nullptr;
}

/// (session) → free bytes of the receive pool
napi_value PoolFreeBytes(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 1);
  return Number(env, static_cast<double>(arguments.GetSession().hub->pool_free_bytes()));
}

/// (session)
napi_value Stop(napi_env env, napi_callback_info info) {
  const Arguments arguments(env, info, 1);
  StopSession(&arguments.GetSession());
  return nullptr;
}

void Set(napi_env env, napi_value object, const char* name, napi_value value) {
  Must(napi_set_named_property(env, object, name, value));
}

void SetFunction(napi_env env, napi_value exports, const char* name, napi_callback function) {
  napi_value value;
  Must(napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value));
  Set(env, exports, name, value);
}

napi_value Layout(napi_env env) {
  using namespace ovs::transport;
  napi_value layout;
  Must(napi_create_object(env, &layout));
  Set(env, layout, "sharedBytes", Number(env, kSharedBytes));
  Set(env, layout, "eventsAt", Number(env, kEventsAt));
  Set(env, layout, "eventWords", Number(env, kEventWords));
  Set(env, layout, "logAt", Number(env, kLogAt));
  Set(env, layout, "logWords", Number(env, kLogWords));
  Set(env, layout, "doneAt", Number(env, kDoneAt));
  Set(env, layout, "doneMax", Number(env, kDoneMax));
  Set(env, layout, "queuedAt", Number(env, kQueuedAt));
  Set(env, layout, "connectionsMax", Number(env, kConnectionsMax));
  Set(env, layout, "metasAt", Number(env, kMetasAt));
  return layout;
}

napi_value Init(napi_env env, napi_value exports) {
  Set(env, exports, "layout", Layout(env));
  SetFunction(env, exports, "open", Open);
  SetFunction(env, exports, "listenUnix", ListenUnix);
  SetFunction(env, exports, "listenTcp", ListenTcp);
  SetFunction(env, exports, "listenerPort", ListenerPort);
  SetFunction(env, exports, "closeListener", CloseListener);
  SetFunction(env, exports, "connectUnix", ConnectUnix);
  SetFunction(env, exports, "connectTcp", ConnectTcp);
  SetFunction(env, exports, "peer", Peer);
  SetFunction(env, exports, "apply", Apply);
  SetFunction(env, exports, "forget", Forget);
  SetFunction(env, exports, "close", Close);
  SetFunction(env, exports, "poolFreeBytes", PoolFreeBytes);
  SetFunction(env, exports, "stop", Stop);
  return exports;
}

}  // namespace

NAPI_MODULE(NODE_GYP_MODULE_NAME, Init)
