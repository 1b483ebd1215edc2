// SPDX-License-Identifier: Apache-2.0
#include "transport/core/hub.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/check.h"
#include "transport/core/connection.h"
#include "transport/core/sockets.h"

namespace ovs::transport {

namespace {

constexpr size_t kScratchBytes = 64 * 1024;
constexpr size_t kReadBudget = 4 << 20;  // Bytes of one connection in one wake-up.
constexpr int kPlacesMax = 256;
constexpr int kAcceptMax = 64;
constexpr int kReadyMax = 256;
constexpr uint64_t kListenerMark = uint64_t{1} << 32;
constexpr uint64_t kWakeMark = uint64_t{2} << 32;

uint64_t InodeOf(const std::string& path) {
  struct stat stat = {};
  return lstat(path.c_str(), &stat) == 0 ? stat.st_ino : 0;
}

}  // namespace

Hub::Hub(uint8_t* arena, size_t arena_bytes, size_t pool_offset, size_t pool_bytes, uint8_t* shared)
    : arena_(arena),
      arena_bytes_(arena_bytes),
      events_(reinterpret_cast<uint32_t*>(shared + kEventsAt)),
      log_(reinterpret_cast<uint32_t*>(shared + kLogAt)),
      done_(reinterpret_cast<uint32_t*>(shared + kDoneAt)),
      queued_(reinterpret_cast<double*>(shared + kQueuedAt)),
      metas_(shared + kMetasAt),
      pool_(pool_offset, pool_bytes),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      spare_(open("/dev/null", O_RDONLY | O_CLOEXEC)),
      slots_(kConnectionsMax),
      generations_(kConnectionsMax, 0),
      scratch_(kScratchBytes) {
  OVS_CHECK(epoll_ >= 0 && wake_ >= 0 && pool_offset + pool_bytes <= arena_bytes);
  epoll_event event = {EPOLLIN, {.u64 = kWakeMark}};
  OVS_CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event) == 0);
  for (size_t slot = kConnectionsMax; slot > 0; slot--) {
    free_slots_.push_back(static_cast<uint16_t>(slot - 1));
  }
}

Hub::~Hub() {
  for (auto& connection : slots_) {
    if (connection) close(connection->fd);
  }
  for (uint32_t i = 0; i < listeners_.size(); i++) CloseListener(i);
  if (spare_ >= 0) close(spare_);
  close(wake_);
  close(epoll_);
}

// Listeners.

int64_t Hub::AddListener(int fd, const std::string& path) {
  if (fd < 0) return fd;
  const auto id = static_cast<uint32_t>(listeners_.size());
  listeners_.push_back({fd, path, path.empty() ? 0 : InodeOf(path)});
  epoll_event event = {EPOLLIN, {.u64 = kListenerMark | id}};
  OVS_CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0);
  open_++;
  return id;
}

int64_t Hub::ListenUnix(const std::string& path) {
  return AddListener(ListenUnixSocket(path), path);
}

int64_t Hub::ListenTcp(const std::string& ip, uint16_t port) {
  return AddListener(ListenTcpSocket(ip, port), "");
}

int Hub::ListenerPort(uint32_t listener) const {
  OVS_CHECK(listener < listeners_.size());
  return BoundPort(listeners_[listener].fd);
}

void Hub::CloseListener(uint32_t id) {
  OVS_CHECK(id < listeners_.size());
  Listener& listener = listeners_[id];
  if (listener.fd < 0) return;
  close(listener.fd);
  listener.fd = -1;
  open_--;
  // Only our own file: another process may have put its own there meanwhile.
  if (!listener.path.empty() && InodeOf(listener.path) == listener.inode) {
    unlink(listener.path.c_str());
  }
}

void Hub::Accept(uint32_t id) {
  const Listener& listener = listeners_[id];
  for (int i = 0; i < kAcceptMax && event_count_ < kEventsMax && listener.fd >= 0; i++) {
    const int fd = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno != EMFILE && errno != ENFILE) return;
      // Without a descriptor the caller would wait for ever and this loop would spin.
      close(spare_);
      close(accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
      spare_ = open("/dev/null", O_RDONLY | O_CLOEXEC);
      continue;
    }
    Connection* c = Add(fd);
    if (c == nullptr) {
      close(fd);
      continue;
    }
    TuneSocket(fd);
    Watch(c);
    AddEvent(EventKind::Accepted, c->id)[2] = id;
  }
}

// Connections.

Connection* Hub::Find(uint32_t id) const {
  Connection* c = slots_[Hub::SlotOf(id)].get();
  return c != nullptr && c->id == id ? c : nullptr;
}

Connection* Hub::Add(int fd) {
  if (free_slots_.empty()) return nullptr;
  const size_t slot = free_slots_.back();
  free_slots_.pop_back();
  constexpr uint32_t kGenerations = (uint64_t{1} << 32) / kConnectionsMax;
  generations_[slot] = (generations_[slot] + 1) % kGenerations;
  if (generations_[slot] == 0) generations_[slot] = 1;
  const auto id = static_cast<uint32_t>(slot + kConnectionsMax * generations_[slot]);
  slots_[slot] = std::make_unique<Connection>(*this, id, fd);
  queued_[slot] = 0;
  epoll_event event = {0, {.u64 = id}};
  OVS_CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0);
  open_++;
  return slots_[slot].get();
}

int64_t Hub::Connecting(int fd, int result) {
  if (fd < 0) return fd;
  Connection* c = Add(fd);
  if (c == nullptr) {
    close(fd);
    return -EMFILE;
  }
  TuneSocket(fd);
  // Also one that is connected already is told in the next wake-up, by being writable.
  OVS_CHECK(result == 0 || result == EINPROGRESS);
  c->connecting = true;
  c->paused = true;
  Watch(c);
  return c->id;
}

int64_t Hub::ConnectUnix(const std::string& path) {
  int result = 0;
  const int fd = ConnectUnixSocket(path, result);
  return Connecting(fd, result);
}

int64_t Hub::ConnectTcp(const std::string& ip, uint16_t port) {
  int result = 0;
  const int fd = ConnectTcpSocket(ip, port, result);
  return Connecting(fd, result);
}

std::string Hub::Peer(uint32_t id) const {
  const Connection* c = Find(id);
  return c == nullptr ? "" : PeerAddress(c->fd);
}

void Hub::FinishConnect(Connection* c) {
  int error = 0;
  socklen_t bytes = sizeof error;
  getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
  if (error != 0) {
    Shut(c, Fault::System, error);
    return;
  }
  c->connecting = false;
  AddEvent(EventKind::Connected, c->id);
  Watch(c);
}

/// Waits for what the connection can use now.
void Hub::Watch(Connection* c) {
  uint32_t wanted = c->reads() ? uint32_t{EPOLLIN} : 0;
  if (c->connecting || !c->outbox.empty()) wanted |= EPOLLOUT;
  if (wanted == c->watched) return;
  c->watched = wanted;
  epoll_event event = {wanted, {.u64 = c->id}};
  OVS_CHECK(epoll_ctl(epoll_, EPOLL_CTL_MOD, c->fd, &event) == 0);
}

void Hub::Close(uint32_t id) {
  Connection* c = Find(id);
  if (c != nullptr) Shut(c, Fault::None, 0);
}

/// Ends a connection; `c` lives until the current call of the hub ends.
void Hub::Shut(Connection* c, Fault fault, int error) {
  const size_t slot = Hub::SlotOf(c->id);
  OVS_CHECK(slots_[slot].get() == c);
  close(c->fd);  // From here on the kernel touches no memory of ours.
  c->fd = -1;
  if (c->parser.pool_offset() != 0) ApplyRelease(static_cast<uint32_t>(c->parser.pool_offset()));
  c->outbox.Drop(sent_);
  ended_.push_back({c->id, fault, error});
  queued_[slot] = 0;
  graves_.push_back(std::move(slots_[slot]));
  free_slots_.insert(free_slots_.begin(), static_cast<uint16_t>(slot));
  open_--;
  Signal();
}

bool Hub::Forget(uint32_t id, uint64_t request) {
  Connection* c = Find(id);
  if (c == nullptr) return false;
  if (c->parser.IsFilling(request)) return true;
  c->expected.Erase(request);
  return false;
}

/// Makes the next wake-up come at once.
void Hub::Signal() {
  if (signalled_) return;
  signalled_ = true;
  const uint64_t one = 1;
  OVS_CHECK(write(wake_, &one, sizeof one) == sizeof one);
}

// Waking: what has come.

uint32_t* Hub::AddEvent(EventKind kind, uint32_t subject) {
  OVS_CHECK(event_count_ < kEventsMax);
  uint32_t* event = events_ + kEventWords * event_count_++;
  event[0] = static_cast<uint32_t>(kind);
  event[1] = subject;
  return event;
}

/// Tells of frames that were sent, then of connections that have ended, as far as there is room.
void Hub::EmitEnded() {
  size_t told = 0;
  while (told < sent_.size() && event_count_ < kEventsMax) AddEvent(EventKind::Sent, sent_[told++]);
  sent_.erase(sent_.begin(), sent_.begin() + static_cast<std::ptrdiff_t>(told));
  if (!sent_.empty()) return;
  told = 0;
  while (told < ended_.size() && event_count_ < kEventsMax) {
    const Ending& ending = ended_[told++];
    uint32_t* event = AddEvent(EventKind::Closed, ending.id);
    event[2] = static_cast<uint32_t>(ending.fault);
    event[3] = static_cast<uint32_t>(ending.error);
  }
  ended_.erase(ended_.begin(), ended_.begin() + static_cast<std::ptrdiff_t>(told));
}

size_t Hub::Wake() {
  event_count_ = 0;
  metas_used_ = 0;
  signalled_ = false;
  EmitEnded();
  epoll_event ready[kReadyMax];
  const int count = epoll_wait(epoll_, ready, kReadyMax, 0);
  std::vector<uint32_t> retry;
  retry.swap(retry_);
  for (int i = 0; i < count; i++) {
    const uint64_t mark = ready[i].data.u64;
    if (mark == kWakeMark) {
      uint64_t ignored = 0;
      if (read(wake_, &ignored, sizeof ignored) < 0) OVS_CHECK(errno == EAGAIN);
      // It took the signals of this call too: what they stand for is told below, the next one
      // must be written again.
      signalled_ = false;
    } else if ((mark & kListenerMark) != 0) {
      Accept(static_cast<uint32_t>(mark));
    } else if (Connection* c = Find(static_cast<uint32_t>(mark))) {
      OnSocket(c, ready[i].events);
    }
  }
  for (const uint32_t id : retry) {
    Connection* c = Find(id);
    if (c == nullptr) continue;
    c->retrying = false;
    Receive(c);
  }
  EmitEnded();
  graves_.clear();
  if (!retry_.empty() || !sent_.empty() || !ended_.empty()) Signal();
  return event_count_;
}

void Hub::OnSocket(Connection* c, uint32_t flags) {
  const uint32_t id = c->id;
  if (c->connecting) {
    if (event_count_ < kEventsMax) FinishConnect(c);
    return;
  }
  if ((flags & EPOLLOUT) != 0 && !c->outbox.empty()) SendNow(c);
  // Sent comes before the frames that answer it.
  EmitEnded();
  if (Find(id) == nullptr) return;
  if ((flags & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  if (c->reads()) {
    Receive(c);
  } else if ((flags & (EPOLLHUP | EPOLLERR)) != 0) {
    // Nobody is there to answer to any more. Without this epoll would report it again and again.
    Shut(c, Fault::PeerClosed, 0);
  }
}

/// Hands bytes to the parser; keeps what it does not take. False when reading must stop for now.
bool Hub::Feed(Connection* c, const uint8_t* data, size_t bytes, bool kept) {
  size_t taken = 0;
  const Parser::Stop stop = c->parser.Consume(data, bytes, taken);
  if (stop == Parser::Stop::Broken) {
    Shut(c, c->parser.fault(), 0);
    return false;
  }
  c->stopped = stop != Parser::Stop::Hungry;
  if (kept) {
    c->kept_at += taken;
    if (c->kept_at == c->kept.size()) {
      std::vector<uint8_t>().swap(c->kept);
      c->kept_at = 0;
    }
  } else if (taken < bytes) {
    OVS_CHECK(c->kept.empty());
    c->kept.assign(data + taken, data + bytes);
    c->kept_at = 0;
  }
  if (stop == Parser::Stop::Hungry) return true;
  if (stop == Parser::Stop::NoRoom) {
    c->starved = true;
    starved_.push_back(c->id);
  } else {
    Retry(c);
  }
  Watch(c);
  return false;
}

void Hub::Receive(Connection* c) {
  size_t budget = kReadBudget;
  const size_t events_before = event_count_;
  while (c->reads()) {
    if (c->stopped || !c->kept.empty()) {
      if (!Feed(c, c->kept.data() + c->kept_at, c->kept.size() - c->kept_at, true)) return;
      continue;
    }
    if (budget == 0 || event_count_ == kEventsMax) break;
    iovec places[kPlacesMax];
    const int direct = c->parser.Direct(places, kPlacesMax - 1);
    size_t wanted = 0;
    for (int i = 0; i < direct; i++) wanted += places[i].iov_len;
    // Behind the last byte of a payload the next header may follow at once.
    const bool whole = wanted == c->parser.payload_left();
    if (whole) places[direct] = {scratch_.data(), scratch_.size()};
    const size_t asked = wanted + (whole ? scratch_.size() : 0);
    const ssize_t got = readv(c->fd, places, direct + (whole ? 1 : 0));
    if (got <= 0) {
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) break;
      const bool clean = c->parser.between_frames();
      const Fault ended = clean ? Fault::PeerClosed : Fault::PeerTruncated;
      Shut(c, got == 0 ? ended : Fault::System, got == 0 ? 0 : errno);
      return;
    }
    const auto bytes = static_cast<size_t>(got);
    const size_t placed = std::min(bytes, wanted);
    if (placed > 0) c->parser.DirectDone(placed);
    if (!Feed(c, scratch_.data(), bytes - placed, false)) return;
    // The socket is empty, or there is enough to do: the other side works on the answers to these
    // frames while we work on the next. Level-triggered: epoll reminds us.
    if (bytes < asked || event_count_ > events_before) break;
    budget -= std::min(budget, bytes);
  }
  Watch(c);
}

/// Looks at the connection again in the next wake-up.
void Hub::Retry(Connection* c) {
  if (c->retrying) return;
  c->retrying = true;
  retry_.push_back(c->id);
}

}  // namespace ovs::transport
