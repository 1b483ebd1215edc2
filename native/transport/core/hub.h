// SPDX-License-Identifier: Apache-2.0
// All sockets of a thread, behind one epoll descriptor. The caller watches `fd()`; when it is
// readable it calls Wake, which reads what is there and describes it in the shared arrays. What the
// caller decides it writes into the shared log, in order, and hands over by Apply, once a turn.
// The hub never calls anybody, so nothing can happen to a connection in the middle of a step.
//
//   sockets ─► Wake ─► events[], metas[] ─► (JavaScript) ─► log[] ─► Apply ─► sockets
//                                                                       └──► done[]: tokens sent
//
// Ids of connections are slot + kConnectionsMax × generation: an id is never valid twice.
// Expected trouble is a Fault in a Closed event; our own mistakes are checks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transport/core/expect.h"
#include "transport/core/outbox.h"
#include "transport/core/parser.h"
#include "transport/core/pool.h"

namespace ovs::transport {

inline constexpr size_t kConnectionsMax = 4096;
inline constexpr size_t kEventsMax = 1024;
inline constexpr size_t kEventWords = 12;
inline constexpr size_t kMetasBytes = 1 << 20;
inline constexpr size_t kLogWords = 128 * 1024;
inline constexpr size_t kDoneMax = 4096;
inline constexpr size_t kPiecesMax = 16384;

// The shared block: events, log, done (words), then metas (bytes), then queued (doubles).
inline constexpr size_t kEventsAt = 0;
inline constexpr size_t kLogAt = kEventsAt + 4 * kEventsMax * kEventWords;
inline constexpr size_t kDoneAt = kLogAt + 4 * kLogWords;
inline constexpr size_t kQueuedAt = kDoneAt + 4 * kDoneMax;
inline constexpr size_t kMetasAt = kQueuedAt + 8 * kConnectionsMax;
inline constexpr size_t kSharedBytes = kMetasAt + kMetasBytes;
static_assert(kQueuedAt % 8 == 0);

/// Word 0 of an event; word 1 is the connection (or, for Sent, the token).
enum class EventKind : uint32_t {
  Frame = 1,  // 2 kind | priority << 8, 3 operation | status << 16, 4-5 request id, 6 timeout,
              // 7 meta offset, 8 meta bytes, 9 pool offset or 0, 10 payload bytes
  Sent = 2,
  Closed = 3,     // 2 fault, 3 errno
  Connected = 4,  // the other side accepted; nothing is read before Reading
  Accepted = 5,   // 2 listener
};

/// Word 0 of an entry of the log; word 1 is the connection (or, for Release, the offset).
enum class LogKind : uint32_t {
  Send = 1,    // 2 kind | priority << 8, 3 operation | status << 16, 4-5 request id, 6 timeout,
               // 7 meta bytes, 8 pieces, 9 token; then pieces (offset, bytes), then meta
  Expect = 2,  // 2-3 request id, 4 pieces; then pieces
  Release = 3,
  Reading = 4,  // 2 on
};

struct Connection;

class Hub {
 public:
  /// `arena` and `shared` outlive the hub.
  Hub(uint8_t* arena, size_t arena_bytes, size_t pool_offset, size_t pool_bytes, uint8_t* shared);
  ~Hub();
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  int fd() const { return epoll_; }
  /// Listeners and connections that are open.
  size_t open_count() const { return open_; }
  /// Something is open, or an end was not told yet.
  bool busy() const { return open_ > 0 || !ended_.empty() || !sent_.empty(); }
  size_t pool_free_bytes() const { return pool_.free_bytes(); }

  /// Id of a listener, or -errno. A socket file that nobody listens on is replaced; the new one is
  /// for this user only. Port 0: the system chooses one.
  int64_t ListenUnix(const std::string& path);
  int64_t ListenTcp(const std::string& ip, uint16_t port);
  int ListenerPort(uint32_t listener) const;
  void CloseListener(uint32_t listener);

  /// Id of a connection that is being made (Connected or Closed follows), or -errno; EAGAIN: the
  /// listener's queue is full, try again.
  int64_t ConnectUnix(const std::string& path);
  int64_t ConnectTcp(const std::string& ip, uint16_t port);

  /// Address of the other side of a TCP connection; "" for others.
  std::string Peer(uint32_t id) const;

  /// Reads what has come; returns the number of events.
  size_t Wake();

  /// Obeys the first `words` of the log; with `flush` sends what is staged. Returns the number of
  /// tokens in done[]; kDoneMax: ask again with no words.
  size_t Apply(size_t words, bool flush);

  /// True when the response's payload is arriving in the expected memory right now (then the
  /// connection must be closed to stop it); else the expectation is gone.
  bool Forget(uint32_t id, uint64_t request);

  /// Closes at once; memory that was lent is free when this returns. Sent and Closed events follow.
  void Close(uint32_t id);

 private:
  friend struct Connection;
  struct Listener {
    int fd = -1;
    std::string path;
    uint64_t inode = 0;
  };
  struct Ending {
    uint32_t id;
    Fault fault;
    int error;
  };

  static size_t SlotOf(uint32_t id) { return id % kConnectionsMax; }
  Connection* Find(uint32_t id) const;
  Connection* Add(int fd);
  int64_t AddListener(int fd, const std::string& path);
  int64_t Connecting(int fd, int result);
  void Shut(Connection* c, Fault fault, int error);
  void Watch(Connection* c);
  void Accept(uint32_t listener);
  void OnSocket(Connection* c, uint32_t flags);
  void FinishConnect(Connection* c);
  void Receive(Connection* c);
  bool Feed(Connection* c, const uint8_t* data, size_t bytes, bool kept);
  void SendNow(Connection* c);
  void Stage(Connection* c);
  void Retry(Connection* c);
  void Signal();
  uint32_t* AddEvent(EventKind kind, uint32_t subject);
  void EmitEnded();
  size_t ApplySend(const uint32_t* entry, size_t left);
  size_t ApplyExpect(const uint32_t* entry, size_t left);
  void ApplyReading(uint32_t id, bool on);
  void ApplyRelease(uint32_t offset);
  void ReadPieces(const uint32_t* words, size_t count);

  uint8_t* const arena_;
  const size_t arena_bytes_;
  uint32_t* const events_;
  uint32_t* const log_;
  uint32_t* const done_;
  double* const queued_;
  uint8_t* const metas_;
  Pool pool_;
  int epoll_;
  int wake_;
  int spare_;  // A descriptor kept for refusing connections when there are none left.
  size_t open_ = 0;
  size_t event_count_ = 0;
  size_t metas_used_ = 0;
  bool signalled_ = false;
  std::vector<std::unique_ptr<Connection>> slots_;
  std::vector<uint32_t> generations_;
  std::vector<uint16_t> free_slots_;
  std::vector<Listener> listeners_;
  std::vector<uint32_t> staged_;   // Connections with something to send at the turn's end.
  std::vector<uint32_t> retry_;    // Connections that hold bytes or may go on reading.
  std::vector<uint32_t> starved_;  // Connections that wait for room in the pool, in order.
  std::vector<uint32_t> sent_;     // Tokens not told yet.
  std::vector<Ending> ended_;      // Connections whose end was not told yet.
  std::vector<std::unique_ptr<Connection>> graves_;
  std::vector<Piece> pieces_;
  std::vector<uint8_t> scratch_;
};

}  // namespace ovs::transport
