// SPDX-License-Identifier: Apache-2.0
#include "nbd/server.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <utility>

#include "common/check.h"

namespace ovs::nbd {

namespace {

constexpr uint32_t kInputVectors = 64;
constexpr uint32_t kOutputVectors = 256;
constexpr uint32_t kTimerMs = 1000;

}  // namespace

struct Server::Connection {
  Connection(Server* owner, int socket, uint32_t number, uint32_t target, Mode mode,
             bool allocation)
      : server(owner), fd(socket), session(*owner->engine_, number, target, mode, allocation) {
    session.owner = this;
  }

  Server* server;
  int fd;
  Session session;
  uv_poll_t poll;
  int events = 0;  // What the poll handle waits for now.
  std::string reason;
  uint64_t seen_progress = 0;
  uint32_t still_ms = 0;
};

Server::Server(uv_loop_t* loop, std::unique_ptr<Engine> engine, ServerLimits limits,
               ServerEvents* events)
    : loop_(loop), engine_(std::move(engine)), limits_(limits), events_(events) {
  OVS_CHECK(uv_check_init(loop, &check_) == 0);
  OVS_CHECK(uv_idle_init(loop, &idle_) == 0);
  OVS_CHECK(uv_timer_init(loop, &timer_) == 0);
  check_.data = this;
  idle_.data = this;
  timer_.data = this;
  // Only sockets keep a process alive.
  uv_unref(reinterpret_cast<uv_handle_t*>(&check_));
  uv_unref(reinterpret_cast<uv_handle_t*>(&idle_));
  uv_unref(reinterpret_cast<uv_handle_t*>(&timer_));
}

size_t Server::ConnectionsOf(uint32_t target) const {
  size_t count = 0;
  for (const auto& [number, connection] : connections_) {
    if (connection->session.target() == target) count++;
  }
  return count;
}

uint32_t Server::Adopt(int fd, uint32_t target, Mode mode, bool allocation, const uint8_t* unread,
                       size_t unread_bytes) {
  OVS_CHECK(events_ != nullptr);
  OVS_CHECK(fd >= 0);
  if (connections_.size() >= limits_.connections) {
    close(fd);
    return 0;
  }
  const uint32_t number = next_connection_++;
  if (next_connection_ == 0) next_connection_ = 1;
  auto* connection = new Connection(this, fd, number, target, mode, allocation);
  OVS_CHECK(uv_poll_init(loop_, &connection->poll, fd) == 0);
  connection->poll.data = connection;
  connections_[number] = connection;
  connection->session.Preload(unread, unread_bytes);
  engine_->MarkDirty(&connection->session);
  Settle();
  return number;
}

void Server::OnPoll(uv_poll_t* poll, int status, int events) {
  auto* connection = static_cast<Connection*>(poll->data);
  Server* server = connection->server;
  if (status < 0) {
    connection->session.End(uv_strerror(status));
  } else {
    if ((events & UV_READABLE) && connection->session.wants_input()) server->Receive(connection);
    if (events & UV_WRITABLE) server->Send(connection);
    server->engine_->MarkDirty(&connection->session);
  }
  server->Settle();
}

void Server::Receive(Connection* connection) {
  iovec vectors[kInputVectors];
  Session& session = connection->session;
  const uint32_t count = session.InputVectors(vectors, kInputVectors);
  ssize_t got;
  do {
    got = readv(connection->fd, vectors, static_cast<int>(count));
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    session.Received(static_cast<size_t>(got));
  } else if (got == 0) {
    connection->reason = "closed by the client without a disconnect request";
    session.Drain();
  } else if (errno != EAGAIN) {
    connection->reason = uv_strerror(-errno);
    session.End(connection->reason.c_str());
  }
}

void Server::Send(Connection* connection) {
  iovec vectors[kOutputVectors];
  Session& session = connection->session;
  while (session.has_output()) {
    const uint32_t count = session.OutputVectors(vectors, kOutputVectors);
    size_t total = 0;
    for (uint32_t i = 0; i < count; i++) total += vectors[i].iov_len;
    msghdr message = {};
    message.msg_iov = vectors;
    message.msg_iovlen = count;
    ssize_t sent;
    do {
      sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
      if (errno == EAGAIN) return;
      connection->reason = uv_strerror(-errno);
      session.End(connection->reason.c_str());
      return;
    }
    session.Sent(static_cast<size_t>(sent));
    if (static_cast<size_t>(sent) < total) return;
  }
}

/** Sends, closes or changes what is waited for, as the session's state asks. */
void Server::Service(Connection* connection) {
  Session& session = connection->session;
  if (session.has_output() && !(connection->events & UV_WRITABLE)) Send(connection);
  if (session.finished()) {
    CloseConnection(connection);
    return;
  }
  const int events =
      (session.wants_input() ? UV_READABLE : 0) | (session.has_output() ? UV_WRITABLE : 0);
  if (events == connection->events) return;
  connection->events = events;
  if (events == 0) {
    OVS_CHECK(uv_poll_stop(&connection->poll) == 0);
  } else {
    OVS_CHECK(uv_poll_start(&connection->poll, events, OnPoll) == 0);
  }
}

/** Serves everyone whose state changed, and whom that set free, until all is quiet. */
void Server::Settle() {
  std::vector<Session*>& dirty = engine_->dirty();
  do {
    while (!dirty.empty()) {
      Session* session = dirty.back();
      dirty.pop_back();
      session->dirty = false;
      Service(static_cast<Connection*>(session->owner));
    }
    engine_->Pump();
  } while (!dirty.empty());
  if (engine_->ready() > 0 || !closed_events_.empty()) Schedule();
  if (engine_->waiting() > 0 && !timing_) {
    timing_ = true;
    OVS_CHECK(uv_timer_start(&timer_, OnTimer, kTimerMs, kTimerMs) == 0);
  }
}

void Server::Schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  OVS_CHECK(uv_check_start(&check_, OnCheck) == 0);
  // An idle handle keeps the loop from sleeping before the check phase.
  OVS_CHECK(uv_idle_start(&idle_, [](uv_idle_t*) {}) == 0);
}

void Server::OnCheck(uv_check_t* check) {
  auto* server = static_cast<Server*>(check->data);
  server->scheduled_ = false;
  uv_check_stop(&server->check_);
  uv_idle_stop(&server->idle_);
  std::vector<ClosedEvent> events;
  events.swap(server->closed_events_);
  for (const ClosedEvent& event : events) {
    if (server->events_ == nullptr) return;
    server->events_->OnClosed(event.connection, event.target, event.reason);
  }
  const uint32_t count = server->events_ == nullptr ? 0 : server->engine_->TakeReady();
  if (count > 0) server->events_->OnReady(count);
}

/** Runs while somebody waits for slots: ends those who hold some and do not move. */
void Server::OnTimer(uv_timer_t* timer) {
  auto* server = static_cast<Server*>(timer->data);
  const bool needed = server->engine_->waiting() > 0;
  for (auto& [number, connection] : server->connections_) {
    Session& session = connection->session;
    const bool still = session.holds_slots_idle() && session.progress == connection->seen_progress;
    connection->seen_progress = session.progress;
    connection->still_ms = needed && still ? connection->still_ms + kTimerMs : 0;
    if (connection->still_ms >= server->limits_.stall_ms) {
      session.End("it held buffers without moving while others waited for them");
    }
  }
  if (!needed) {
    server->timing_ = false;
    uv_timer_stop(timer);
  }
  server->Settle();
}

void Server::Flush(uint32_t count) {
  engine_->Complete(count);
  Settle();
}

void Server::Drain(uint32_t target) {
  for (auto& [number, connection] : connections_) {
    if (connection->session.target() != target) continue;
    if (connection->reason.empty()) connection->reason = "the export was closed";
    connection->session.Drain();
  }
  Settle();
}

void Server::Destroy(uint32_t target, const char* reason) {
  for (auto& [number, connection] : connections_) {
    if (connection->session.target() == target) connection->session.End(reason);
  }
  Settle();
}

void Server::CloseConnection(Connection* connection) {
  Session& session = connection->session;
  const char* reason = session.reason();
  closed_events_.push_back(
      {session.connection(), session.target(), reason != nullptr ? reason : connection->reason});
  session.End(nullptr);
  if (session.dirty) {
    std::erase(engine_->dirty(), &session);
    session.dirty = false;
  }
  connections_.erase(session.connection());
  uv_poll_stop(&connection->poll);
  handles_++;
  uv_close(reinterpret_cast<uv_handle_t*>(&connection->poll), [](uv_handle_t* handle) {
    auto* closing = static_cast<Connection*>(handle->data);
    Server* server = closing->server;
    delete closing;
    server->HandleClosed();
  });
  close(connection->fd);
}

void Server::Close(std::function<void()> closed) {
  OVS_CHECK(events_ != nullptr);
  events_ = nullptr;
  closed_ = std::move(closed);
  while (!connections_.empty()) CloseConnection(connections_.begin()->second);
  auto on_closed = [](uv_handle_t* handle) { static_cast<Server*>(handle->data)->HandleClosed(); };
  uv_close(reinterpret_cast<uv_handle_t*>(&check_), on_closed);
  uv_close(reinterpret_cast<uv_handle_t*>(&idle_), on_closed);
  uv_close(reinterpret_cast<uv_handle_t*>(&timer_), on_closed);
}

void Server::HandleClosed() {
  OVS_CHECK(handles_ > 0);
  if (--handles_ > 0) return;
  std::function<void()> closed = std::move(closed_);
  delete this;
  if (closed) closed();
}

}  // namespace ovs::nbd
