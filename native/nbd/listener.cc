// SPDX-License-Identifier: Apache-2.0
#include "nbd/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "common/check.h"
#include "nbd/sockets.h"

namespace ovs::nbd {

namespace {

constexpr uint32_t kAcceptsPerTurn = 16;
constexpr uint32_t kTimerMs = 250;
constexpr size_t kReadBytes = 4096;

}  // namespace

struct Listener::Socket {
  Listener* listener;
  int fd;
  std::string path;  // To remove at the end; empty for none.
  bool paused;       // Until the next tick of the timer: there were no descriptors left.
  uv_poll_t poll;
};

struct Listener::Talk {
  Talk(Listener* owner, int socket, std::string name)
      : listener(owner), fd(socket), peer(std::move(name)), negotiation(owner->exports_) {}

  Listener* listener;
  int fd;
  std::string peer;
  Negotiation negotiation;
  std::string unread;
  uv_poll_t poll;
  uint64_t deadline_ms = 0;
};

Listener::Listener(uv_loop_t* loop, uint32_t request_bytes_max, uint32_t negotiation_ms,
                   ListenerEvents* events)
    : loop_(loop), negotiation_ms_(negotiation_ms), events_(events) {
  exports_.request_bytes_max = request_bytes_max;
  OVS_CHECK(uv_timer_init(loop, &timer_) == 0);
  timer_.data = this;
  uv_unref(reinterpret_cast<uv_handle_t*>(&timer_));
}

std::string Listener::ListenUnix(const std::string& path) {
  std::string error;
  const int fd = OpenUnix(path, &error);
  if (fd >= 0) Watch(fd, path);
  return error;
}

std::string Listener::ListenTcp(const std::string& host, uint16_t* port) {
  std::string error;
  const int fd = OpenTcp(host, port, &error);
  if (fd >= 0) Watch(fd, "");
  return error;
}

std::string Listener::ListenFd(int fd) {
  bool listening = false;
  if (!IsStreamSocket(fd, &listening)) return "the descriptor is not a stream socket";
  if (!listening) return Converse(fd);
  SetNonBlocking(fd);
  Watch(fd, "");
  return "";
}

std::string Listener::Converse(int fd) {
  bool listening = false;
  if (!IsStreamSocket(fd, &listening) || listening) return "the descriptor is not a connection";
  SetNonBlocking(fd);
  Begin(fd, PeerOf(fd));
  return "";
}

void Listener::Watch(int fd, const std::string& path) {
  auto* socket = new Socket{this, fd, path, false, {}};
  OVS_CHECK(uv_poll_init(loop_, &socket->poll, fd) == 0);
  socket->poll.data = socket;
  handles_++;
  sockets_.push_back(socket);
  OVS_CHECK(uv_poll_start(&socket->poll, UV_READABLE, OnSocket) == 0);
}

void Listener::OnSocket(uv_poll_t* poll, int, int) {
  auto* socket = static_cast<Socket*>(poll->data);
  socket->listener->Accept(socket);
}

void Listener::StartTimer() {
  if (timing_) return;
  timing_ = true;
  OVS_CHECK(uv_timer_start(&timer_, OnTimer, kTimerMs, kTimerMs) == 0);
}

void Listener::Accept(Socket* socket) {
  for (uint32_t i = 0; i < kAcceptsPerTurn; i++) {
    const int fd = accept4(socket->fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      Begin(fd, PeerOf(fd));
      if (events_ == nullptr) return;
      continue;
    }
    if (errno == EMFILE || errno == ENFILE) {
      // Without a descriptor the client cannot even be turned away: it waits for the next tick.
      socket->paused = true;
      uv_poll_stop(&socket->poll);
      StartTimer();
      events_->OnRefused("unknown", "no descriptors are left for new connections");
    }
    return;
  }
}

void Listener::Begin(int fd, std::string peer) {
  if (talks_.size() >= kNegotiatingMax) {
    Refuse(talks_.front(), "too many connections negotiate, and this was the oldest");
  }
  if (events_ == nullptr) {
    close(fd);
    return;
  }
  Tune(fd);
  auto* talk = new Talk(this, fd, std::move(peer));
  OVS_CHECK(uv_poll_init(loop_, &talk->poll, fd) == 0);
  talk->poll.data = talk;
  talk->deadline_ms = uv_now(loop_) + negotiation_ms_;
  handles_++;
  talks_.push_back(talk);
  StartTimer();
  Step(talk);
}

void Listener::OnTalk(uv_poll_t* poll, int status, int) {
  auto* talk = static_cast<Talk*>(poll->data);
  if (status < 0) {
    talk->listener->Refuse(talk, uv_strerror(status));
  } else {
    talk->listener->Step(talk);
  }
}

/** Sends and reads until it must wait, has agreed or has ended. */
void Listener::Step(Talk* talk) {
  using State = Negotiation::State;
  Negotiation& negotiation = talk->negotiation;
  while (true) {
    const int sent = Send(talk) ? 0 : errno;
    if (sent == EAGAIN) break;
    if (sent != 0) {
      Refuse(talk, uv_strerror(-sent));
      return;
    }
    if (negotiation.state() == State::Ended) {
      Refuse(talk, negotiation.reason());
      return;
    }
    if (negotiation.state() == State::Done) {
      Agree(talk);
      return;
    }
    if (talk->unread.empty() && !Receive(talk)) {
      if (errno == EAGAIN) break;
      Refuse(talk, errno == 0 ? "closed by the client" : uv_strerror(-errno));
      return;
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(talk->unread.data());
    talk->unread.erase(0, negotiation.Feed(bytes, talk->unread.size()));
  }
  const int events = negotiation.output().empty() ? UV_READABLE : UV_WRITABLE;
  OVS_CHECK(uv_poll_start(&talk->poll, events, OnTalk) == 0);
}

/** True when all output is gone; else errno says why not. */
bool Listener::Send(Talk* talk) {
  std::string& output = talk->negotiation.output();
  while (!output.empty()) {
    const ssize_t sent = send(talk->fd, output.data(), output.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    output.erase(0, static_cast<size_t>(sent));
  }
  return true;
}

/** True when there are new bytes; else errno says why not, 0 for the end of the stream. */
bool Listener::Receive(Talk* talk) {
  char bytes[kReadBytes];
  ssize_t got;
  do {
    got = recv(talk->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got == 0) errno = 0;
  if (got <= 0) return false;
  talk->unread.assign(bytes, static_cast<size_t>(got));
  return true;
}

void Listener::Agree(Talk* talk) {
  Agreement agreement;
  agreement.fd = talk->fd;
  agreement.name = talk->negotiation.name();
  agreement.mode = talk->negotiation.mode();
  agreement.allocation = talk->negotiation.allocation();
  agreement.unread = std::move(talk->unread);
  agreement.peer = talk->peer;
  talk->fd = -1;
  Release(talk);
  if (events_ == nullptr) {
    close(agreement.fd);
    return;
  }
  events_->OnNegotiated(std::move(agreement));
}

void Listener::Refuse(Talk* talk, const std::string& reason) {
  const std::string peer = talk->peer;
  const std::string words = reason;
  Release(talk);
  if (events_ != nullptr) events_->OnRefused(peer, words);
}

void Listener::Release(Talk* talk) {
  talks_.remove(talk);
  uv_poll_stop(&talk->poll);
  uv_close(reinterpret_cast<uv_handle_t*>(&talk->poll), [](uv_handle_t* handle) {
    auto* closing = static_cast<Talk*>(handle->data);
    Listener* listener = closing->listener;
    delete closing;
    listener->HandleClosed();
  });
  if (talk->fd >= 0) close(talk->fd);
}

void Listener::OnTimer(uv_timer_t* timer) {
  auto* listener = static_cast<Listener*>(timer->data);
  const uint64_t now_ms = uv_now(listener->loop_);
  while (!listener->talks_.empty() && listener->talks_.front()->deadline_ms <= now_ms) {
    listener->Refuse(listener->talks_.front(), "it did not finish negotiating in time");
  }
  if (listener->events_ == nullptr) return;
  for (Socket* socket : listener->sockets_) {
    if (!socket->paused) continue;
    socket->paused = false;
    OVS_CHECK(uv_poll_start(&socket->poll, UV_READABLE, OnSocket) == 0);
  }
  if (!listener->talks_.empty()) return;
  listener->timing_ = false;
  uv_timer_stop(timer);
}

void Listener::Close(std::function<void()> closed) {
  OVS_CHECK(events_ != nullptr);
  events_ = nullptr;
  closed_ = std::move(closed);
  while (!talks_.empty()) Release(talks_.front());
  for (Socket* socket : sockets_) {
    uv_close(reinterpret_cast<uv_handle_t*>(&socket->poll), [](uv_handle_t* handle) {
      auto* closing = static_cast<Socket*>(handle->data);
      Listener* listener = closing->listener;
      delete closing;
      listener->HandleClosed();
    });
    close(socket->fd);
    if (!socket->path.empty()) unlink(socket->path.c_str());
  }
  sockets_.clear();
  uv_close(reinterpret_cast<uv_handle_t*>(&timer_),
           [](uv_handle_t* handle) { static_cast<Listener*>(handle->data)->HandleClosed(); });
}

void Listener::HandleClosed() {
  OVS_CHECK(handles_ > 0);
  if (--handles_ > 0) return;
  std::function<void()> closed = std::move(closed_);
  delete this;
  if (closed) closed();
}

}  // namespace ovs::nbd
